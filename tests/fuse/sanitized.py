"""The extension, compiled with AddressSanitizer and UndefinedBehaviorSanitizer, under a module of this repository.

    Popen(command(build(folder), "tests.fuse.double", ...), env=environment())

Python's own memory comes from malloc there, so that a request that was freed is seen too. (ThreadSanitizer would see
nothing: all that the extension has is touched under the GIL, on one thread.)
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

_SOURCES = sorted((Path(__file__).parents[2] / "s3vfs" / "fuse" / "native").glob("*.c"))
_FLAGS = "-std=gnu11 -g -O1 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -fno-omit-frame-pointer"
_SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
# The folder of the build comes first where the extension is looked for.
_START = """
import runpy, sys
import s3vfs.fuse.native
s3vfs.fuse.native.__path__.insert(0, sys.argv.pop(1))
sys.argv.pop(0)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def build(folder: Path) -> Path:
    """Compile; returns the folder that has the module. A warning fails."""
    libfuse = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True
    ).stdout
    module = folder / f"_interpose{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_path('include')}"
    command = ["gcc", *_FLAGS.split(), *_SANITIZERS.split(), include, *map(str, _SOURCES), "-o", str(module)]
    compiled = subprocess.run([*command, *shlex.split(libfuse)], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    return folder


def command(built: Path, module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", _START, str(built), module, *arguments]


def environment() -> dict[str, str]:
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",  # an interpreter leaves much behind at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def findings(errors: str) -> list[str]:
    """What the sanitizers said."""
    return [line for line in errors.splitlines() if "Sanitizer" in line or "runtime error" in line]
