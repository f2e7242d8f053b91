"""The one part of the build that pyproject.toml cannot say: where libfuse is, for the C extension."""

import shlex
import subprocess
from glob import glob

from setuptools import Extension, setup


def libfuse(*questions: str) -> list[str]:
    """pkg-config's answer; nothing where there is none: the compiler then says what is missing."""
    try:
        answer = subprocess.run(["pkg-config", *questions, "fuse3"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return shlex.split(answer.stdout)


setup(
    ext_modules=[
        Extension(
            "s3vfs.fuse.native._interpose",
            sorted(glob("s3vfs/fuse/native/*.c")),
            depends=sorted(glob("s3vfs/fuse/native/*.h")),
            # Only the functions that pyfuse3 is to find are visible from outside.
            extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", *libfuse("--cflags")],
            extra_link_args=libfuse("--libs") or ["-lfuse3"],
            # A package without it still works, but refuses what needs it (s3vfs/fuse/native/__init__.py).
            optional=True,
        )
    ]
)
