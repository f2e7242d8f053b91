"""What random calls have found, as short as it was made. Each must do on two mounts what it does on tmpfs."""

from __future__ import annotations

import os

import pytest

from tests.model.chooser import KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE
from tests.model.conftest import WorldMaker
from tests.model.world import Call
from tests.mounted import differs_with_passthrough

RDWR_CREATE = os.O_RDWR | os.O_CREAT


def test_truncating_an_empty_file_at_open_moves_its_times(new_world: WorldMaker) -> None:
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o644), 0),
            ("observe", (), 0),
            ("open", (1, "a", os.O_RDONLY | os.O_CREAT | os.O_TRUNC, 0o644), 0),
            ("observe", (), 0),
        ]
    )


def test_truncate_to_the_size_that_it_has_leaves_mtime(new_world: WorldMaker) -> None:
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o644), 0),
            ("ftruncate", (0, 1 << 20), 0),
            ("observe", (), 0),
            ("truncate", ("a", 1 << 20), 0),
            ("observe", (), 0),
            ("ftruncate", (0, 1 << 20), 0),
            ("observe", (), 0),
        ]
    )


def test_an_empty_world_keeps_its_top(new_world: WorldMaker) -> None:
    new_world().replay([("rmdir", ("",), 0), ("mkdir", ("a", 0o755), 0), ("observe", (), 0)])


def test_truncate_to_the_size_that_it_has_is_not_compared_where_tmpfs_has_pages(new_world: WorldMaker) -> None:
    """tmpfs moves the times then, also for pages behind the end of the file (docs/semantics.md)."""
    new_world().replay(
        [
            ("open", (1, "c", RDWR_CREATE, 0o644), 0),
            ("fallocate", (1, KEEP_SIZE, 17_636, 1), 0),
            ("observe", (), 0),
            ("truncate", ("c", 0), 0),
            ("observe", (), 0),
        ]
    )


@differs_with_passthrough("ETXTBSY for setgid")
def test_an_owner_outside_the_group_loses_setgid_with_a_chown(new_world: WorldMaker) -> None:
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o644), 1),
            ("chmod", ("a", 0o2745), 0),
            ("fchown", (0, -1, 1001), 0),
            ("fchown", (0, -1, 1000), 1),
            ("observe", (), 0),
        ]
    )


def test_stores_to_a_mapping_take_no_setuid_away(new_world: WorldMaker) -> None:
    """Nor setgid: the kernel writes them back by itself, and a write by a program would."""
    new_world().replay(
        [
            ("open", (1, "a", RDWR_CREATE, 0o6777), 2),
            ("truncate", ("a", 1), 0),
            ("map_write", (1, 262144, (7779, 37), False), 2),
            ("observe", (), 0),
            ("pwrite", (1, 0, (10, 1)), 2),
            ("observe", (), 0),
        ]
    )


@differs_with_passthrough("ETXTBSY for setgid")
@pytest.mark.parametrize("flag", [os.O_APPEND, os.O_TRUNC])
def test_a_link_to_what_has_just_lost_setuid_is_compared_once_its_mode_has_been_asked_for(
    new_world: WorldMaker, flag: int
) -> None:
    """Who does not own it could not link to it for up to a second: fs.protected_hardlinks goes by the kernel's mode."""
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o644), 2),
            ("chmod", ("a", 0o6777), 0),
            ("open", (1, "a", os.O_RDWR | flag, 0), 2),
            *([("pwrite", (1, 0, (100, 3)), 2)] if flag == os.O_APPEND else []),
            ("link", ("a", "b", False), 1),
            ("observe", (), 0),
        ]
    )


def test_every_fallocate_moves_the_times(new_world: WorldMaker) -> None:
    """Also one that changes nothing."""
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o644), 0),
            ("observe", (), 0),
            ("fallocate", (0, KEEP_SIZE, 7720, 4096), 0),
            ("observe", (), 0),
            ("fallocate", (0, PUNCH_HOLE | KEEP_SIZE, 262_145, 1), 0),
            ("observe", (), 0),
            ("fallocate", (0, 0, 0, 100), 0),
            ("observe", (), 0),
            ("fallocate", (0, 0, 0, 50), 0),
            ("observe", (), 0),
            ("switch", (False,), 0),
            ("observe", (), 0),
        ]
    )


def test_a_truncate_by_a_read_only_open_is_done_when_that_closes(new_world: WorldMaker) -> None:
    """It was published seconds later, over what the other mount had written since."""
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o666), 0),
            ("pwrite", (0, 0, (300, 1)), 0),
            ("switch", (False,), 0),
            ("open", (1, "a", os.O_RDONLY | os.O_TRUNC, 0), 0),
            ("close", (1,), 0),
            ("switch", (False,), 0),
            ("pwrite", (0, 29346, (300000, 192)), 0),
            ("observe", (), 0),
        ]
    )


def test_attribute_names_need_more_than_their_prefix(new_world: WorldMaker) -> None:
    new_world().replay(
        [
            ("setxattr", (".", "user.", (9, 5), os.XATTR_REPLACE, True), 0),
            ("setxattr", (".", "user.", (9, 5), 0, True), 0),
            ("getxattr", (".", "user."), 0),
        ]
    )


def test_what_one_mount_has_written_the_other_maps_and_copies(new_world: WorldMaker) -> None:
    """No failure: one walk through what a change of hands must carry over."""
    new_world().replay(
        [
            ("mkdir", ("d", 0o777), 1),
            ("open", (0, "d/a", RDWR_CREATE, 0o666), 1),
            ("pwrite", (0, 5, (70_000, 9)), 1),
            ("switch", (False,), 0),
            ("open", (0, "d/a", os.O_RDWR, 0), 2),
            ("map_read", (0, False), 0),
            ("map_write", (0, 4096, (5000, 3), False), 2),
            ("fallocate", (0, KEEP_SIZE, 0, 300_000), 2),
            ("switch", (False,), 0),
            ("map_read", (0, False), 0),
            ("copy_range", (0, 100, 0, 80_000, 9_000), 1),
            ("rename", ("d", "e", 0), 0),
            ("switch", (False,), 0),
            ("load", ("e/a",), 0),
            ("unlink", ("e/a",), 0),
            ("fstat", (0,), 0),
            ("pread", (0, 0, 100_000), 0),
        ]
    )


def test_what_took_a_symlinks_place_is_found_at_once(new_world: WorldMaker) -> None:
    """The other kernel went on to where the link had led."""
    new_world().replay(
        [
            ("open", (2, "d", RDWR_CREATE, 0o444), 2),
            ("symlink", ("nowhere", "a"), 0),
            ("close", (2,), 0),
            ("switch", (False,), 0),
            ("rename", ("a", "d", RENAME_EXCHANGE), 1),
            ("switch", (False,), 0),
            ("load", ("a",), 0),
        ]
    )


@pytest.mark.parametrize("first", ["unlink", "write"])
def test_what_is_written_to_a_file_that_loses_its_name_is_not_looked_for_on_the_other_mount(
    new_world: WorldMaker, first: str
) -> None:
    """It stays where it was written (docs/semantics.md), also when that mount closes the file before the other asks."""
    calls: dict[str, Call] = {"unlink": ("unlink", ("a",), 0), "write": ("write", (1, (6_500, 5)), 0)}
    new_world().replay(
        [
            ("open", (0, "a", RDWR_CREATE, 0o644), 0),
            ("write", (0, (100, 3)), 0),
            ("switch", (False,), 0),
            ("open", (1, "a", RDWR_CREATE, 0o644), 0),
            calls.pop(first),
            *calls.values(),
            ("close", (1,), 0),
        ]
    )
