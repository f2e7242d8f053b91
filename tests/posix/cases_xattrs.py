"""Extended attributes but ACLs."""

from __future__ import annotations

import ctypes
import os

from tests.posix.site import ALICE, BOB, CAROL, ROOT, Site, case, short_case

KINDS = ("file", "dir", "fifo", "char", "socket", "symlink")
_libc = ctypes.CDLL(None, use_errno=True)


def getxattr_into(path: str, name: str, size: int) -> int:
    result = _libc.lgetxattr(os.fsencode(path), os.fsencode(name), ctypes.create_string_buffer(max(size, 1)), size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def listxattr_into(path: str, size: int) -> int:
    result = _libc.llistxattr(os.fsencode(path), ctypes.create_string_buffer(max(size, 1)), size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


@case
def name_spaces_and_kinds(site: Site) -> None:
    for kind in KINDS:
        site.make(kind, kind, mode=0o666)
        for name in ("user.a", "trusted.a", "security.a", "system.a", "other.a", "user.", "user", "a", "", "trusted."):
            for who in (ROOT, ALICE):
                with site.user(who):
                    site.do(os.setxattr, kind, name, b"1", follow_symlinks=False)
                    site.do(os.getxattr, kind, name, follow_symlinks=False)
                    site.do(lambda kind=kind: sorted(os.listxattr(kind, follow_symlinks=False)))
                    site.do(os.removexattr, kind, name, follow_symlinks=False)


@short_case
def create_and_replace(site: Site) -> None:
    site.file("file")
    for name in ("user.a", "trusted.a", "security.a"):
        for flags in (os.XATTR_REPLACE, os.XATTR_CREATE, os.XATTR_CREATE, os.XATTR_REPLACE, 0, 3, 4):
            site.moved("file", os.setxattr, "file", name, b"%d" % flags, flags)
        site.moved("file", os.getxattr, "file", name)
        site.moved("file", os.removexattr, "file", name)
        site.moved("file", os.removexattr, "file", name)
        site.do(os.getxattr, "file", name)
    site.do(os.listxattr, "file")


@case
def sizes(site: Site) -> None:
    site.file("file")
    for length in (0, 1, 100, 4000):
        site.do(os.setxattr, "file", "user.a", b"x" * length)
        site.note(len(os.getxattr("file", "user.a")))
        for size in (0, 1, 99, 100, 5000):
            site.do(getxattr_into, "file", "user.a", size)
    for length in (250, 251, 300):
        site.do(os.setxattr, "file", "user." + "n" * length, b"1")
    site.do(os.setxattr, "file", "user.big", b"x" * 65537)
    for size in (0, 1, 10, 1000):
        site.do(listxattr_into, "file", size)
    site.note(sorted(os.listxattr("file")))


@case
def binary_values_and_odd_names(site: Site) -> None:
    site.dir("dir")
    for name in ("user.\u00e4", "user. ", "user.a.b.c", "user.\n"):
        site.do(os.setxattr, "dir", name, bytes(range(256)))
        site.do(os.getxattr, "dir", name)
    site.note(sorted(os.listxattr("dir")))


@case
def who_may(site: Site) -> None:
    for mode in (0o644, 0o666, 0o640, 0o222):
        for kind in ("file", "dir"):
            path = site.make(kind, f"{kind}-{mode:o}", ALICE, mode)
            for space in ("user", "security", "trusted"):
                os.setxattr(path, f"{space}.kept", b"kept")
                for who in (ALICE, BOB, CAROL):
                    with site.user(who):
                        site.do(os.setxattr, path, f"{space}.{who.name}", b"1")
                        site.do(os.getxattr, path, f"{space}.kept")
                        site.do(os.removexattr, path, f"{space}.kept")
            with site.user(BOB):
                site.do(lambda path=path: sorted(os.listxattr(path)))
            site.note(sorted(os.listxattr(path)))


@case
def user_attributes_in_sticky_directories(site: Site) -> None:
    site.dir("sticky", 0o1777, ALICE)
    for who in (ALICE, BOB, ROOT):
        with site.user(who):
            site.do(os.setxattr, "sticky", f"user.{who.name}", b"1")


@short_case
def attributes_go_with_the_inode(site: Site) -> None:
    site.file("a")
    os.setxattr("a", "user.x", b"1")
    os.link("a", "b")
    site.do(os.setxattr, "b", "user.y", b"2")
    site.note(sorted(os.listxattr("a")))
    os.rename("a", "c")
    site.do(os.getxattr, "c", "user.y")
    os.unlink("b")
    os.unlink("c")
    site.file("c")
    site.do(os.listxattr, "c")


@case
def through_symlinks_and_descriptors(site: Site) -> None:
    site.file("target")
    os.symlink("target", "link")
    site.do(os.setxattr, "link", "user.a", b"1")
    site.do(os.getxattr, "target", "user.a")
    site.do(os.getxattr, "link", "user.a", follow_symlinks=False)
    site.do(os.setxattr, "link", "trusted.a", b"2", follow_symlinks=False)
    site.do(os.listxattr, "link", follow_symlinks=False)
    descriptor = site.open("target", os.O_RDONLY)
    site.note(os.getxattr(descriptor, "user.a"))
    os.setxattr(descriptor, "user.b", b"3")
    site.note(sorted(os.listxattr("target")))
    for name in ("missing", "link/x"):
        site.do(os.getxattr, name, "user.a")
        site.do(os.setxattr, name, "user.a", b"")
        site.do(os.listxattr, name)


@case
def many(site: Site) -> None:
    site.file("file")
    for index in range(40):
        os.setxattr("file", f"user.{index:03}", b"%d" % index)
    site.note(sorted(os.listxattr("file")))
    for index in range(0, 40, 2):
        os.removexattr("file", f"user.{index:03}")
    site.note(sorted(os.listxattr("file")))
