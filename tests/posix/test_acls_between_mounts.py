"""ACLs that one mount changes while the other's kernel has them cached, and chmod against setfacl from both."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import eventually
from tests.posix.cases_acls import ACCESS, DEFAULT, set_acl, text
from tests.posix.site import BOB, Site


def opens(path: Path) -> bool:
    """Whether BOB may open it. The way there is root's, so it is asked from inside."""
    site = Site(path.parent, path.parent)
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with site.user(BOB):
            return isinstance(site.attempt(lambda: os.close(os.open(path.name, os.O_RDONLY))), type(None))
    finally:
        os.chdir(before)


def has_no_default(descriptor: int) -> bool:
    try:
        os.getxattr(descriptor, DEFAULT)
    except OSError as error:
        return error.errno == errno.ENODATA
    return False


def grant(path: Path) -> None:
    set_acl(str(path), f"u::rw- u:{BOB.uid}:r-- g::--- m::r-- o::---")


@pytest.mark.parametrize(
    "withdraw",
    [
        lambda path: os.removexattr(path, ACCESS) or os.chmod(path, 0o600),
        lambda path: os.chmod(path, 0o600),
        lambda path: set_acl(str(path), f"u::rw- u:{BOB.uid}:--- g::--- m::r-- o::---"),
    ],
    ids=["removed", "masked", "changed"],
)
def test_a_right_given_or_taken_elsewhere_is_noticed(pair: tuple[Path, Path], withdraw: Callable[[Path], None]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"data")
    os.chmod(here / "file", 0o600)
    assert not opens(there / "file")
    grant(here / "file")
    eventually(lambda: opens(there / "file"))
    withdraw(here / "file")
    eventually(lambda: not opens(there / "file"))


def test_an_open_descriptor_reads_the_present_acl(pair: tuple[Path, Path]) -> None:
    """No path is looked up on the way, so nothing but an invalidation would make the kernel ask again."""
    here, there = pair
    (here / "dir").mkdir()
    descriptor = os.open(there / "dir", os.O_RDONLY)
    try:
        for rights in ("rwx", "r-x", "--x"):
            words = f"u::rwx u:{BOB.uid}:{rights} g::r-x m::rwx o::---"
            set_acl(str(here / "dir"), words, DEFAULT)
            eventually(lambda words=words: text(os.getxattr(descriptor, DEFAULT)) == words)  # type: ignore[misc]
        os.removexattr(here / "dir", DEFAULT)
        eventually(lambda: DEFAULT not in os.listxattr(descriptor))
        eventually(lambda: has_no_default(descriptor))  # the kernel may have kept what getxattr answered last
    finally:
        os.close(descriptor)


def test_mode_and_mask_agree_whoever_comes_later(pair: tuple[Path, Path]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"")
    modes = (0o600, 0o640, 0o660, 0o770)

    def change_modes() -> None:
        for index in range(40):
            os.chmod(here / "file", modes[index % 4])

    def change_acls() -> None:
        for index in range(40):
            set_acl(str(there / "file"), f"u::rwx u:{BOB.uid}:r-x g::r-- m::{('r--', '-w-', '--x')[index % 3]} o::r--")

    threads = [threading.Thread(target=change_modes), threading.Thread(target=change_acls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def agreed() -> bool:
        seen = {(os.stat(side / "file").st_mode, os.getxattr(side / "file", ACCESS)) for side in pair}
        return len(seen) == 1

    eventually(agreed)
    mode = os.stat(here / "file").st_mode
    mask = next(entry for entry in text(os.getxattr(here / "file", ACCESS)).split() if entry.startswith("m:"))
    bits = sum(bit for letter, bit in zip("rwx", (4, 2, 1), strict=True) if letter in mask)
    assert mode >> 3 & 7 == bits
