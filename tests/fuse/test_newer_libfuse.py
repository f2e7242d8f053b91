"""The extension on libfuse 3.17, where pyfuse3 makes its session through another function (Debian 13 has it).

That libfuse is built here from Debian's source package, pyfuse3 and s3vfs against it, in an environment of their own;
then the tests of the extension run there. Needs the network, as every installation does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_MESON = ("-Dexamples=false", "-Dtests=false", "-Dutils=false", "-Duseroot=false")


def run(*words: str | Path, folder: Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, f"{words}:\n{result.stdout[-8000:]}"
    return result.stdout


def source_of_libfuse(folder: Path) -> Path:
    """Unpacked; with lists of apt's of its own, so that the machine's are as before."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text("deb-src http://deb.debian.org/debian trixie main\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    apt = ["apt-get", "-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    run(*apt, "update", folder=folder)
    run(*apt, "source", "--download-only", "fuse3", folder=folder)
    (archive,) = folder.glob("fuse3_*.orig.tar.gz")
    run("tar", "xf", archive, folder=folder)
    (source,) = (path for path in folder.glob("fuse-*") if path.is_dir())
    return source


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_extension_works_on_libfuse_3_17(tmp_path: Path) -> None:
    prefix, venv = tmp_path / "libfuse", tmp_path / "venv"
    python = venv / "bin" / "python"
    environment = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig"),
        "LD_LIBRARY_PATH": str(prefix / "lib"),
    }
    run(sys.executable, "-m", "venv", venv, folder=tmp_path)
    run(python, "-m", "pip", "install", "-q", "meson", "ninja", folder=tmp_path)
    source = source_of_libfuse(tmp_path)
    run(
        *("meson", "setup", "build", f"--prefix={prefix}", "--libdir=lib", *_MESON),
        folder=source,
        environment=environment,
    )
    run("ninja", "-C", "build", "install", folder=source, environment=environment)

    install = (python, "-m", "pip", "install", "-q", "--no-deps", "--no-cache-dir")
    run(*install, "--no-binary=pyfuse3", "pyfuse3", folder=tmp_path, environment=environment)
    checkout = tmp_path / "checkout"
    for name in ("s3vfs", "csi"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(REPOSITORY / name, checkout)
    run(*install, checkout, folder=tmp_path, environment=environment)
    # All else comes from the environment that runs this test.
    (packages,) = (venv / "lib").glob("python3*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = tmp_path / "tests_only"
    shutil.copytree(REPOSITORY / "tests", where / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "s3vfs" / "fuse" / "native", where / "s3vfs" / "fuse" / "native")
    shutil.rmtree(where / "s3vfs" / "fuse" / "native" / "__pycache__", ignore_errors=True)
    version = run(
        *(python, "-c", "from s3vfs.fuse.libfuse import interpose; print(interpose.versions())"),
        folder=tmp_path,
        environment=environment,
    )
    assert version == "(317, 317)\n"
    tests = ("tests/fuse/test_extra_operations.py", "tests/fuse/test_refusal.py")
    shown = run(python, "-m", "pytest", "-q", *tests, folder=where, environment=environment)
    assert " passed" in shown
