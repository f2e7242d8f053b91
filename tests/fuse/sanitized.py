"""The extension, compiled with sanitizers, under a module of this repository.

    Popen(command(build(folder), "tests.fuse.double", ...), env=environment())

Python's own memory comes from malloc there, so that a request that was freed is seen too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SOURCES = sorted((Path(__file__).parents[2] / "s3vfs" / "fuse" / "native").glob("*.c"))
_FLAGS = "-std=gnu11 -g -O1 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -fno-omit-frame-pointer"
# The folder of the build comes first where the extension is looked for.
_START = """
import runpy, sys
import s3vfs.fuse.native
s3vfs.fuse.native.__path__.insert(0, sys.argv.pop(1))
sys.argv.pop(0)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Sanitizers:
    """Those that can be had together: flags of the compiler, libraries to be loaded first, settings."""

    flags: str
    libraries: tuple[str, ...]
    settings: Mapping[str, str]


MEMORY = Sanitizers(
    "-fsanitize=address,undefined -fno-sanitize-recover=all",
    ("libasan.so", "libubsan.so"),
    {
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",  # an interpreter leaves much behind at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
    },
)

# What Python itself does is looked at for what orders threads (the GIL is a mutex and a condition), not for races.
THREADS = Sanitizers("-fsanitize=thread", ("libtsan.so",), {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1"})


def build(folder: Path, sanitizers: Sanitizers = MEMORY) -> Path:
    """Compile; returns the folder that has the module. A warning fails."""
    libfuse = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout
    module = folder / f"_interpose{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_path('include')}"
    command = ["gcc", *_FLAGS.split(), *sanitizers.flags.split(), include, *map(str, _SOURCES), "-o", str(module)]
    compiled = subprocess.run([*command, *shlex.split(libfuse)], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    return folder


def command(built: Path, module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", _START, str(built), module, *arguments]


def environment(sanitizers: Sanitizers = MEMORY) -> dict[str, str]:
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in sanitizers.libraries
    ]
    return {**os.environ, "LD_PRELOAD": " ".join(libraries), "PYTHONMALLOC": "malloc", **sanitizers.settings}


def findings(errors: str) -> list[str]:
    """What the sanitizers said."""
    return [line for line in errors.splitlines() if "Sanitizer" in line or "runtime error" in line]
