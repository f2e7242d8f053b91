"""One local directory and one mount of each kind for all suites of a file; the counts go into the tests' reports."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.mounted import volume_in
from tests.servers.place import ServerPlace
from tests.suites import report
from tests.suites.outcomes import Known, Outcomes, differences, outdated
from tests.suites.places import Place
from tests.suites.tools import Tools, tools

Suite = Callable[[Place], Outcomes]
Judge = Callable[..., None]


@pytest.fixture(scope="session")
def suite_folder() -> Iterator[Path]:
    """A directory that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="s3vfs-suites-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def local_place(suite_folder: Path) -> Place:
    path = suite_folder / "local" / "as-deep"  # as mounts are: suites make sockets, and those have short paths only
    path.mkdir(parents=True)
    return Place("local", path)


_folders = itertools.count()


def _short_folder(suite_folder: Path) -> Path:
    folder = suite_folder / str(next(_folders))
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def file_place(suite_folder: Path) -> Iterator[Place]:
    with volume_in(_short_folder(suite_folder)) as volume:
        mount = volume.mount()
        yield Place("file", mount.path, mount)


@pytest.fixture(scope="module")
def seaweed_place(suite_folder: Path, seaweed: ServerPlace) -> Iterator[Place]:
    with volume_in(_short_folder(suite_folder), seaweed.fresh_url(), seaweed.environment()) as volume:
        mount = volume.mount()
        yield Place("seaweedfs", mount.path, mount)


@pytest.fixture(params=["file", "seaweed"])
def mounted_place(request: pytest.FixtureRequest) -> Place:
    """Both kinds of store, one after the other."""
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place


@pytest.fixture(scope="session")
def suite_tools() -> Tools:
    return tools()


@pytest.fixture(scope="session")
def _local_runs() -> dict[tuple[str, bool], tuple[Outcomes, float]]:
    return {}


@pytest.fixture
def judge(
    local_place: Place,
    mounted_place: Place,
    _local_runs: dict[tuple[str, bool], tuple[Outcomes, float]],
    record_property: Callable[[str, object], None],
) -> Judge:
    """Runs a suite locally (once for both stores) and on the mount, keeps the counts, and fails with every difference
    that is not known, and with every known one that is none any more."""

    def timed(suite: Suite, place: Place) -> tuple[Outcomes, float]:
        start_s = time.monotonic()
        return suite(place), time.monotonic() - start_s

    def judged(name: str, suite: Suite, *, full: bool = False, known: tuple[Known, ...] = ()) -> None:
        if (name, full) not in _local_runs:
            _local_runs[name, full] = timed(suite, local_place)
        local, mounted = _local_runs[name, full], timed(suite, mounted_place)
        found = differences(local[0], mounted[0], known)
        made = report.row(name, mounted_place.store, full, local, mounted, found)
        report.keep(made)
        record_property(report.PROPERTY, asdict(made))
        assert made.local["passed"], f"{name}: nothing passed locally: {local[0]}"
        new = [str(each) for each in found if each.known is None]
        assert not new, f"{name} on {mounted_place.store}: passes locally, not on the mount:\n" + "\n".join(new)
        assert not outdated(mounted[0], known), (
            f"known differences that are none any more: {outdated(mounted[0], known)}"
        )

    return judged
