"""Every case on a mount, on two mounts and on a real object store: as on a local directory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import Mount, differs_with_passthrough, volume_in
from tests.posix import cases_access, cases_acls, cases_files, cases_modes, cases_names, cases_xattrs
from tests.posix.site import REGISTRY, Site, run_case
from tests.servers.place import ServerPlace

# Importing them has filled the registry.
_MODULES = (cases_access, cases_acls, cases_files, cases_modes, cases_names, cases_xattrs)
_ALL = list(REGISTRY.cases)
_numbers = itertools.count()


def compare(name: str, local_place: Path, mounted: Path, second: Path | None = None) -> None:
    """Run the case on both, in directories of its own, and compare note by note."""
    folder = f"{name}-{next(_numbers)}"
    case = REGISTRY.cases[name]
    notes = []
    for place, other in ((local_place, None), (mounted, second)):
        directory = place / folder
        directory.mkdir()
        elsewhere = _elsewhere(place, local_place, mounted, folder)
        notes.append(run_case(case, Site(directory, elsewhere, None if other is None else other / folder)))
    local, ours = notes
    different = [
        f"note {index}: local {here!r}\n       mount {there!r}"
        for index, (here, there) in enumerate(itertools.zip_longest(local, ours, fillvalue="nothing"))
        if here != there
    ]
    # Else the second list might be that of the bare directory below.
    assert os.path.ismount(mounted), "the daemon has died"
    assert not different, f"{len(different)} of {len(local)} notes differ:\n" + "\n".join(different[:40])


def _elsewhere(place: Path, local_place: Path, mounted: Path, folder: str) -> Path:
    """A directory on another file system than `place`."""
    other = mounted if place == local_place else local_place
    path = other / f"{folder}-elsewhere"
    path.mkdir()
    return path


_MARKED = [
    pytest.param(name, marks=differs_with_passthrough("ETXTBSY for setuid"))
    if name == "cases_modes-a_descriptor_keeps_clearing"
    else name
    for name in _ALL
]


@pytest.mark.parametrize("name", _MARKED)
def test_one_mount(name: str, local_place: Path, shared_mount: Mount) -> None:
    compare(name, local_place, shared_mount.path)


@pytest.mark.parametrize(
    "name", [name if name in REGISTRY.short else pytest.param(name, marks=pytest.mark.long) for name in _ALL]
)
def test_two_mounts(name: str, local_place: Path, shared_pair: tuple[Mount, Mount]) -> None:
    """What is done on one is seen on the other, to the nanosecond."""
    here, there = shared_pair
    compare(name, local_place, here.path, there.path)


@pytest.fixture(scope="module")
def seaweed_pair(seaweed: ServerPlace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mount, Mount]]:
    folder = tmp_path_factory.mktemp("seaweed")
    with volume_in(folder, seaweed.fresh_url(), seaweed.environment()) as volume:
        yield volume.mount("--freshness", "0"), volume.mount("--freshness", "0")


# Enough to see that nothing depends on the store; all of it is part of the long run.
_ON_AN_OBJECT_STORE = (
    "cases_acls-chmod_and_the_mask",
    "cases_files-truncation_at_open",
    "cases_names-removal_of_every_kind",
)


@pytest.mark.parametrize(
    "name", [name if name in _ON_AN_OBJECT_STORE else pytest.param(name, marks=pytest.mark.long) for name in _ALL]
)
def test_two_mounts_on_an_object_store(name: str, local_place: Path, seaweed_pair: tuple[Mount, Mount]) -> None:
    here, there = seaweed_pair
    compare(name, local_place, here.path, there.path)
