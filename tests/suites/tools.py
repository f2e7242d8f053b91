"""Suites that come from PyPI, in an environment of their own under build/suites: they are no dependency of ours.

Made once for a list of versions. pyxattr and pylibacl have their tests in the source archive only.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.suites.report import FOLDER

PACKAGES = ("pyfakefs==6.3.2", "pytest>=8.3", "setuptools>=70", "wheel")
# With their tests. pylibacl needs the headers of libacl.
SOURCES = ("pyxattr==0.8.1", "pylibacl==0.7.3")


@dataclass(frozen=True)
class Tools:
    """`python` has the suites' packages installed."""

    python: Path
    sources: Path

    def source(self, name: str) -> Path:
        (found,) = self.sources.glob(f"{name}-*/")
        return found


def tools() -> Tools:
    """The environment, made when it is not there. Raises with pip's words when it cannot be made: never a skip."""
    home = FOLDER / "tools"
    made = Tools(home / "venv" / "bin" / "python", home / "sources")
    stamp = home / "stamp"
    wanted = "\n".join((*PACKAGES, *SOURCES, sys.version, str(home)))
    if stamp.exists() and stamp.read_text() == wanted:
        return made
    stamp.unlink(missing_ok=True)
    _do(sys.executable, "-m", "venv", "--clear", str(home / "venv"))
    pip = (str(made.python), "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")
    _do(*pip, "install", *PACKAGES)
    _do(
        *pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", str(made.sources), *SOURCES
    )
    for archive in made.sources.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            tar.extractall(made.sources, filter="data")
        _do(*pip, "install", "--no-deps", "--no-build-isolation", str(archive))
    stamp.write_text(wanted)
    return made


def _do(*command: str) -> None:
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.stdout.decode(errors='replace')[-3000:]}"
