"""chmod, chown, and what happens to setuid, setgid and file capabilities."""

from __future__ import annotations

import os

from tests.posix.site import ALICE, BOB, CAROL, ROOT, TEAM, Site, User, case, short_case

KINDS = ("file", "dir", "fifo", "char", "block", "socket")
ALL_KINDS = (*KINDS, "symlink")


@short_case
def chmod_of_every_kind(site: Site) -> None:
    for kind in KINDS:
        site.make(kind, kind)
        for mode in (0o111, 0o7777, 0o4000, 0o2010, 0o1000, 0):
            site.moved(kind, os.chmod, kind, mode)
            site.look(kind)


@case
def chmod_through_a_symlink(site: Site) -> None:
    site.file("target", 0o600)
    os.symlink("target", "link")
    site.moved("target", os.chmod, "link", 0o640)
    site.look("target", "link")


@case
def only_owners_change_modes(site: Site) -> None:
    for kind in KINDS:
        site.make(kind, kind, ALICE)
        with site.user(BOB):
            site.moved(kind, os.chmod, kind, 0o777)
        with site.user(CAROL):
            site.moved(kind, os.chmod, kind, 0o777)
        with site.user(ALICE):
            site.moved(kind, os.chmod, kind, 0o700)
        site.look(kind)


@case
def setgid_of_a_group_one_is_not_in(site: Site) -> None:
    """chmod clears it silently."""
    for kind in ("file", "dir"):
        site.make(kind, kind, User("alice in a strange group", ALICE.uid, TEAM))
        with site.user(ALICE):
            site.do(os.chmod, kind, 0o2755)
        site.look(kind)
        site.make(kind, kind + "-carol", User("carol", CAROL.uid, TEAM))
        with site.user(CAROL):
            site.do(os.chmod, kind + "-carol", 0o2755)
        site.look(kind + "-carol")


@case
def sticky_bit_of_files(site: Site) -> None:
    site.file("file", owner=ALICE)
    with site.user(ALICE):
        site.do(os.chmod, "file", 0o1644)
    site.look("file")


@case
def chown_of_every_kind(site: Site) -> None:
    for kind in ALL_KINDS:
        site.make(kind, kind)
        site.moved(kind, os.lchown, kind, 123, 456)
        site.look(kind)
        site.moved(kind, os.lchown, kind, -1, 457)
        site.moved(kind, os.lchown, kind, 124, -1)
        site.look(kind)


@case
def chown_follows_or_not(site: Site) -> None:
    site.file("target")
    os.symlink("target", "link")
    site.moved("target", os.chown, "link", 11, 12)
    site.look("target", "link")
    site.moved(("target", "link"), os.lchown, "link", 13, 14)
    site.look("target", "link")


@case
def owners_give_files_to_their_groups_only(site: Site) -> None:
    for kind in ALL_KINDS:
        site.make(kind, kind, User("carol", CAROL.uid, CAROL.gid))
        with site.user(CAROL):
            for uid, gid in ((-1, TEAM), (CAROL.uid, 64001), (-1, BOB.gid), (ALICE.uid, -1), (0, 0), (-1, -1)):
                site.moved(kind, os.lchown, kind, uid, gid)
        with site.user(BOB):
            for uid, gid in ((BOB.uid, -1), (-1, BOB.gid), (CAROL.uid, 64001), (-1, -1)):
                site.moved(kind, os.lchown, kind, uid, gid)
        site.look(kind)


@case
def chown_clears_setuid_and_setgid(site: Site) -> None:
    for who in (ROOT, CAROL):
        for kind in ("file", "dir"):
            for mode in (0o6755, 0o2745, 0o7777):
                path = f"{who.name}-{kind}-{mode:o}"
                site.make(kind, path, User("carol", CAROL.uid, CAROL.gid))
                for uid, gid in ((-1, TEAM), (CAROL.uid, -1), (-1, -1)):
                    os.chmod(path, mode)
                    with site.user(who):
                        site.do(os.chown, path, uid, gid)
                    site.look(path)


@case
def chown_to_oneself_moves_ctime(site: Site) -> None:
    for kind in ("file", "dir", "symlink"):
        site.make(kind, kind, ALICE)
        site.moved(kind, os.lchown, kind, ALICE.uid, ALICE.gid)
        with site.user(ALICE):
            site.moved(kind, os.lchown, kind, ALICE.uid, ALICE.gid)


@case
def writing_clears_setuid_and_setgid(site: Site) -> None:
    def write(path: str) -> int:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            return os.write(descriptor, b"x")
        finally:
            os.close(descriptor)

    def overwrite(path: str) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

    def shorten(path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, 1)
        finally:
            os.close(descriptor)

    def cut(path: str) -> None:
        os.truncate(path, 2)

    def nothing(path: str) -> int:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            return os.write(descriptor, b"")
        finally:
            os.close(descriptor)

    for call in (write, overwrite, shorten, cut, nothing):
        for who in (ROOT, ALICE, BOB):
            for mode in (0o6777, 0o6767):
                path = site.file(f"{call.__name__}-{who.name}-{mode:o}", owner=ALICE, data=b"data")
                os.chmod(path, mode)
                with site.user(who):
                    site.do(call, path)
                site.look(path)


@case
def a_descriptor_keeps_clearing(site: Site) -> None:
    """Not only the first write of an open file clears."""
    site.file("file", 0o666, ALICE)
    with site.user(BOB):
        descriptor = site.open("file", os.O_WRONLY)
        site.do(os.write, descriptor, b"1")
        site.look("file")
    os.chmod("file", 0o4777)
    with site.user(BOB):
        site.do(os.write, descriptor, b"2")
        site.look("file")
    os.chmod("file", 0o2777)
    site.look("file")
    with site.user(BOB):
        site.do(os.pwrite, descriptor, b"3", 0)
        site.look("file")


@case
def writing_and_chown_take_file_capabilities_away(site: Site) -> None:
    # vfs_cap_data, revision 2: cap_net_raw permitted, effective
    value = bytes.fromhex("0100000200200000000000000000000000000000")

    def write(path: str) -> int:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            return os.write(descriptor, b"x")
        finally:
            os.close(descriptor)

    def give(path: str) -> None:
        os.chown(path, 5, 5)

    def cut(path: str) -> None:
        os.truncate(path, 0)

    def overwrite(path: str) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

    def mode(path: str) -> None:
        os.chmod(path, 0o755)

    def touch(path: str) -> None:
        os.utime(path)

    for call in (write, give, cut, overwrite, mode, touch):
        path = site.file(call.__name__, data=b"data")
        site.do(os.setxattr, path, "security.capability", value)
        site.do(call, path)
        site.do(os.getxattr, path, "security.capability")
        site.do(os.listxattr, path)


@case
def a_setgid_directory_hands_on_its_group(site: Site) -> None:
    site.dir("team", 0o2777, User("", 0, TEAM))
    for who in (ROOT, ALICE, CAROL):
        with site.user(who):
            for kind in ("file", "directory", "fifo", "symlink"):
                path = f"team/{who.name}-{kind}"
                if kind == "file":
                    site.shut(site.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2775))
                elif kind == "directory":
                    site.do(os.mkdir, path, 0o775)
                elif kind == "fifo":
                    site.do(os.mkfifo, path, 0o2775)
                else:
                    site.do(os.symlink, "nowhere", path)
                site.look(path)
            site.do(os.mkdir, f"team/{who.name}-directory/below")
            site.look(f"team/{who.name}-directory/below")
    site.look("team")


@case
def umask_and_creation_modes(site: Site) -> None:
    for mask in (0, 0o022, 0o077, 0o777, 0o027):
        with site.umask(mask):
            for mode in (0o777, 0o644, 0o7777, 0):
                name = f"{mask:o}-{mode:o}"
                site.shut(site.open(f"file-{name}", os.O_CREAT | os.O_WRONLY, mode))
                site.do(os.mkdir, f"dir-{name}", mode)
                site.do(os.mkfifo, f"fifo-{name}", mode)
                site.do(os.symlink, "x", f"link-{name}")
                site.look(*(f"{kind}-{name}" for kind in ("file", "dir", "fifo", "link")))


@case
def a_file_created_without_rights_is_open_all_the_same(site: Site) -> None:
    os.chmod(".", 0o777)
    with site.user(ALICE):
        descriptor = site.open("file", os.O_CREAT | os.O_RDWR, 0)
        site.do(os.write, descriptor, b"data")
        site.do(os.pread, descriptor, 10, 0)
        site.shut(descriptor)
        site.open("file", os.O_RDONLY)
        site.do(os.ftruncate, descriptor, 0)
    site.look("file")
