"""POSIX ACLs: what they grant, and how they live with modes (acl(5))."""

from __future__ import annotations

import errno
import os
import stat
import struct

from tests.posix.site import ALICE, BOB, CAROL, ROOT, TEAM, Site, User, case, short_case

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_TAGS = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}
_NAMES = {1: "u:", 2: "u:", 4: "g:", 8: "g:", 16: "m:", 32: "o:"}
_NOBODY = 0xFFFFFFFF


def acl(text: str) -> bytes:
    """The kernel's form of `u::rwx u:64001:r-x g::r-x m::rwx o::---`, in the order given."""
    value = struct.pack("<I", 2)
    for entry in text.split():
        kind, who, rights = entry.split(":")
        bits = sum(bit for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if letter in rights)
        value += struct.pack("<HHI", _TAGS[kind][bool(who)], bits, int(who) if who else _NOBODY)
    return value


def text(value: bytes) -> str:
    entries = []
    for tag, bits, who in struct.iter_unpack("<HHI", value[4:]):
        rights = "".join(letter if bits & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        entries.append(f"{_NAMES[tag]}{who if who != _NOBODY else ''}:{rights}")
    return " ".join(entries)


def show(site: Site, *paths: str) -> None:
    """Mode and ACLs, here and through a second mount."""
    site.look(*paths)
    for path in paths:
        for name in (ACCESS, DEFAULT):
            found = _acl_of(path, name)
            site.note((path, name[17:], found))
            if site.second is not None:
                site._agree(
                    f"{name} of {path}", lambda there, path=path, name=name: _acl_of(str(there / path), name), found
                )
        site.note(sorted(os.listxattr(path)))


def _acl_of(path: str, name: str) -> str:
    try:
        return text(os.getxattr(path, name))
    except OSError as error:
        return errno.errorcode[error.errno]


def set_acl(path: str, words: str, name: str = ACCESS) -> None:
    os.setxattr(path, name, acl(words))


RICH = f"u::rw- u:{BOB.uid}:r-- g::r-- g:{TEAM}:-w- m::rw- o::---"


@short_case
def an_acl_sets_the_mode(site: Site) -> None:
    for kind in ("file", "dir", "fifo", "socket", "char"):
        site.make(kind, kind)
        for words in (RICH, "u::rwx g::r-x o::r--", "u::r-- g::rwx m::--x o::-w-", "u::--- g::--- o::---"):
            site.moved(kind, set_acl, kind, words)
            show(site, kind)


@short_case
def chmod_and_the_mask(site: Site) -> None:
    site.file("file", 0o640, ALICE)
    set_acl("file", RICH)
    for mode in (0o777, 0o600, 0o640, 0o4710, 0):
        site.moved("file", os.chmod, "file", mode)
        show(site, "file")
    site.file("plain", 0o640, ALICE)
    set_acl("plain", "u::rw- g::r-- o::---")
    site.do(os.chmod, "plain", 0o777)
    show(site, "plain")


@case
def removing_an_acl_keeps_the_mode(site: Site) -> None:
    site.file("file")
    set_acl("file", RICH)
    site.moved("file", os.removexattr, "file", ACCESS)
    show(site, "file")
    site.do(os.removexattr, "file", ACCESS)
    site.do(os.removexattr, "file", DEFAULT)
    site.do(os.getxattr, "file", ACCESS)
    set_acl("file", RICH)
    site.do(os.setxattr, "file", ACCESS, b"")
    show(site, "file")
    set_acl("file", RICH)
    site.do(os.setxattr, "file", ACCESS, struct.pack("<I", 2))
    show(site, "file")
    site.dir("dir")
    site.do(os.removexattr, "dir", DEFAULT)
    set_acl("dir", "u::rwx g::rwx o::---", DEFAULT)
    show(site, "dir")
    site.moved("dir", os.removexattr, "dir", DEFAULT)
    show(site, "dir")


@case
def what_is_no_acl(site: Site) -> None:
    site.make("dir", "dir", ALICE)
    site.make("file", "file", ALICE)
    site.make("symlink", "symlink")
    good = acl(RICH)
    values = [
        b"\2\0\0",
        b"\1" + good[1:],
        good[:-1],
        good + good[4:12],
        acl("u::rw- g::r--"),
        acl("g::r-- o::---"),
        acl(f"u::rw- u:{BOB.uid}:r-- g::r-- o::---"),
        acl(f"u::rw- g::r-- u:{BOB.uid}:r-- m::rw- o::---"),
        acl(f"u::rw- u:{BOB.uid}:r-- u:{BOB.uid}:r-- g::r-- m::rw- o::---"),
        acl(f"u::rw- u:{BOB.uid}:r-- u:{ALICE.uid}:r-- g::r-- m::rw- o::---"),
        struct.pack("<IHHI", 2, 1, 9, _NOBODY) + good[12:],
        struct.pack("<IHHI", 2, 64, 4, _NOBODY) + good[12:],
        good[:4] + struct.pack("<HHI", 1, 6, 77) + good[12:],
    ]
    for value in values:
        for path in ("file", "dir"):
            for name in (ACCESS, DEFAULT):
                site.do(os.setxattr, path, name, value)
                show(site, path)
                for each in (ACCESS, DEFAULT):
                    site.attempt(os.removexattr, path, each)
    site.do(os.setxattr, "file", DEFAULT, good)
    site.do(os.setxattr, "symlink", ACCESS, good, follow_symlinks=False)
    site.do(os.getxattr, "symlink", ACCESS, follow_symlinks=False)
    for flags in (os.XATTR_REPLACE, os.XATTR_CREATE, os.XATTR_CREATE):
        site.do(os.setxattr, "file", ACCESS, good, flags)


@case
def only_owners_set_acls(site: Site) -> None:
    site.make("dir", "dir", ALICE)
    for who in (BOB, CAROL, ALICE, ROOT):
        with site.user(who):
            for name in (ACCESS, DEFAULT):
                site.do(set_acl, "dir", f"u::rwx u:{who.uid}:rwx g::r-x m::rwx o::---", name)
                site.do(os.removexattr, "dir", name)
                site.do(os.getxattr, "dir", name)
    show(site, "dir")


@case
def acls_decide_who_opens(site: Site) -> None:
    people = (ALICE, BOB, CAROL, User("dave", 64004, TEAM), User("eve", 64005, 64005))
    for words in (
        RICH,
        f"u::r-- u:{BOB.uid}:rw- g::--- m::r-- o::-w-",
        f"u::--- u:{BOB.uid}:--- g::r-- g:{TEAM}:-w- m::rwx o::rw-",
        f"u::rw- g::rw- g:{TEAM}:--- m::rw- o::rw-",
        f"u::rw- u:{CAROL.uid}:rw- g::--- m::--- o::---",
        "u::rw- g::--- m::rwx o::r--",
    ):
        path = site.file(f"file{len(site.notes)}", 0o600, ALICE, b"data")
        set_acl(path, words)
        for who in people:
            with site.user(who):
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                    site.shut(site.open(path, flags))
                site.note([os.access(path, right, effective_ids=True) for right in (os.R_OK, os.W_OK, os.X_OK)])
        os.chmod(path, 0o660)
        for who in people:
            with site.user(who):
                site.shut(site.open(path, os.O_RDWR))


@case
def acls_decide_who_enters(site: Site) -> None:
    site.dir("dir", 0o700, ALICE)
    site.file("dir/file", 0o666)
    for rights in ("---", "r--", "-w-", "--x", "r-x", "-wx", "rwx"):
        set_acl("dir", f"u::rwx u:{BOB.uid}:{rights} g::--- m::rwx o::---")
        with site.user(BOB):
            site.do(lambda: os.listdir("dir"))
            site.shut(site.open("dir/file", os.O_RDONLY))
            site.do(os.mkdir, "dir/new")
            site.do(os.rmdir, "dir/new")


@short_case
def default_acls_are_inherited(site: Site) -> None:
    for number, words in enumerate(
        (
            f"u::rwx u:{BOB.uid}:rwx g::r-x m::rwx o::---",
            "u::rwx g::rwx o::r-x",
            f"u::r-- u:{BOB.uid}:rw- g::rw- m::r-x o::-w-",
            "u::rwx g::rwx m::r-x o::rwx",
            "u::--- g::--- o::---",
        )
    ):
        top = site.dir(f"top{number}", 0o755)
        set_acl(top, words, DEFAULT)
        show(site, top)
        for mask in (0o022, 0o077, 0):
            with site.umask(mask):
                made = [f"{top}/{kind}{mask:o}" for kind in ("file", "private", "dir", "fifo", "symlink")]
                site.shut(site.open(made[0], os.O_CREAT | os.O_RDWR, 0o666))
                site.shut(site.open(made[1], os.O_CREAT | os.O_RDWR, 0o640))
                site.do(os.mkdir, made[2], 0o777)
                site.do(os.mkfifo, made[3], 0o620)
                site.do(os.symlink, "x", made[4])
                site.do(os.mkdir, f"{made[2]}/below", 0o750)
            show(site, *made[:4], f"{made[2]}/below")
            site.look(made[4])


@case
def default_acls_and_setgid_directories(site: Site) -> None:
    site.dir("team", 0o2770, User("", ALICE.uid, TEAM))
    set_acl("team", f"u::rwx u:{BOB.uid}:rwx g::rwx m::rwx o::---", DEFAULT)
    set_acl("team", f"u::rwx u:{BOB.uid}:rwx g::rwx m::rwx o::---")
    show(site, "team")
    with site.user(BOB):
        site.shut(site.open("team/file", os.O_CREAT | os.O_RDWR, 0o666))
        site.do(os.mkdir, "team/dir")
        site.shut(site.open("team/dir/below", os.O_CREAT | os.O_RDWR, 0o666))
    show(site, "team/file", "team/dir", "team/dir/below")


@case
def setgid_and_acls(site: Site) -> None:
    for gid in (ALICE.gid, TEAM):
        for who in (ALICE, ROOT):
            path = f"{gid}-{who.name}"
            site.file(path, 0o2755, User("", ALICE.uid, gid))
            with site.user(who):
                site.do(set_acl, path, f"u::rwx u:{BOB.uid}:rwx g::r-x m::rwx o::---")
            show(site, path)
    for path in ("written", "given"):
        site.file(path, 0o600, ALICE)
        set_acl(path, f"u::rwx u:{BOB.uid}:rwx g::r-x m::rwx o::---")
        os.chmod(path, 0o6770)
    with site.user(BOB):
        descriptor = site.open("written", os.O_WRONLY)
        site.do(os.write, descriptor, b"x")
    site.do(os.chown, "given", 5, 6)
    show(site, "written", "given")


@case
def acls_stay_with_their_inode(site: Site) -> None:
    site.file("a", data=b"data")
    set_acl("a", RICH)
    os.link("a", "b")
    os.rename("a", "c")
    os.chown("c", 7, 8)
    with open("c", "ab") as file:
        file.write(b"more")
    os.truncate("c", 2)
    os.utime("c", ns=(1, 2))
    show(site, "b", "c")
    site.note(stat.S_IMODE(os.stat("c").st_mode))


@case
def the_programs_agree(site: Site) -> None:
    """setfacl, getfacl, cp, mv, tar."""
    site.dir("d", 0o755, ALICE)
    site.file("d/f", 0o640, ALICE, b"data")
    for command in (
        f"setfacl -m u:{BOB.uid}:rw,g:{TEAM}:r d/f",
        f"setfacl -d -m u:{BOB.uid}:rwx d",
        "touch d/new; mkdir d/sub; touch d/sub/below",
        "cp -a d copy; cp -p d/f plain",
        f"setfacl -x u:{BOB.uid} copy/f",
        "setfacl -m m::r copy/f; chmod g+w copy/f",
        "setfacl -k copy",
        "setfacl -b d/f",
        "getfacl -R -n d copy plain > listed",
        "setfacl --restore=listed",
        "setfacl -R -m u:1234:rX d",
        "find d copy plain | LC_ALL=C sort | xargs getfacl -n > listed",
    ):
        site.note((command, os.system(command + " 2>/dev/null")))
    site.contents("listed")
    show(site, "d", "d/f", "d/new", "d/sub", "d/sub/below", "copy", "copy/f", "plain")
