"""Names, paths, links, and renames."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from tests.posix.site import Site, case, short_case

NOREPLACE, EXCHANGE = 1, 2
KINDS = ("file", "dir", "fifo", "char", "socket", "symlink")

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: str, new: str, flags: int) -> None:
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def exists(path: str) -> int:
    return stat.S_IFMT(os.lstat(path).st_mode)


# Every call that takes a path, as (name, call). Those of two paths take the path once as the old, once as the new one.
PATH_CALLS = (
    ("stat", lambda path: exists(path)),
    ("open", lambda path: os.close(os.open(path, os.O_RDONLY))),
    ("create", lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))),
    ("exclusive", lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))),
    ("mkdir", lambda path: os.mkdir(path)),
    ("mkfifo", lambda path: os.mkfifo(path)),
    ("mknod", lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))),
    ("symlink", lambda path: os.symlink("target", path)),
    ("readlink", lambda path: os.readlink(path)),
    ("link from", lambda path: os.link(path, "other", follow_symlinks=False)),
    ("link to", lambda path: os.link("source", path)),
    ("rename from", lambda path: os.rename(path, "other")),
    ("rename to", lambda path: os.rename("source", path)),
    ("unlink", lambda path: os.unlink(path)),
    ("rmdir", lambda path: os.rmdir(path)),
    ("chmod", lambda path: os.chmod(path, 0o640)),
    ("chown", lambda path: os.chown(path, 1, 2)),
    ("lchown", lambda path: os.lchown(path, 3, 4)),
    ("truncate", lambda path: os.truncate(path, 123)),
    ("utime", lambda path: os.utime(path, ns=(1, 2))),
    ("statvfs", lambda path: os.statvfs(path).f_namemax),
    ("getxattr", lambda path: os.getxattr(path, "user.none")),
    ("setxattr", lambda path: os.setxattr(path, "user.some", b"1")),
    ("listdir", lambda path: sorted(os.listdir(path))),
)


def try_everywhere(site: Site, path: str, what: str) -> None:
    """Every call with this path, each in a directory that has only `source`."""
    for name, call in PATH_CALLS:
        if not os.path.lexists("source"):
            site.file("source")
        result = site.attempt(call, path)
        site.note((what, name, result))
        if os.path.lexists("other"):
            os.rename("other", "source")
    site.names(".")


@case
def paths_through_what_is_no_directory(site: Site) -> None:
    for kind in ("file", "fifo", "char", "socket"):
        site.make(kind, kind)
        try_everywhere(site, f"{kind}/below", f"{kind} as a directory")
        try_everywhere(site, f"{kind}/", f"{kind} with a slash")
        try_everywhere(site, f"{kind}/.", f"{kind} with a dot")


@case
def paths_through_what_is_not_there(site: Site) -> None:
    try_everywhere(site, "missing/below", "missing directory")
    try_everywhere(site, "missing/../x", "missing directory and back")
    os.symlink("nowhere", "dangling")
    try_everywhere(site, "dangling/below", "dangling link")
    try_everywhere(site, "", "empty path")


@case
def loops_of_symlinks(site: Site) -> None:
    os.symlink("b", "a")
    os.symlink("a", "b")
    try_everywhere(site, "a/below", "loop")
    os.symlink("self", "self")
    for name, call in PATH_CALLS[:3]:
        site.note((name, site.attempt(call, "self")))
    site.do(os.chmod, "self", 0o600)
    site.do(os.truncate, "self", 0)
    site.do(os.chown, "self", 1, 1)
    site.do(os.lchown, "self", 1, 1)
    site.look("self")


@case
def chains_of_symlinks(site: Site) -> None:
    """40 may be followed."""
    site.file("link0", data=b"end")
    for index in range(1, 43):
        os.symlink(f"link{index - 1}", f"link{index}")
    for index in (1, 39, 40, 41, 42):
        site.open(f"link{index}", os.O_RDONLY)


@case
def names_of_every_length(site: Site) -> None:
    longest, longer = "n" * 255, "n" * 256
    for name in (longest, longer, "\u00e4" * 127 + "x", "\u00e4" * 128):
        try_everywhere(site, name, f"{len(name)} characters")
        if os.path.lexists(name):
            os.unlink(name)
        try_everywhere(site, f"{name}/below", f"below {len(name)} characters")


@case
def paths_of_every_length(site: Site) -> None:
    """PATH_MAX counts the NUL."""
    for length in (4093, 4094, 4095, 4096, 5000):
        for end in ("x", "source"):
            path = "./" * ((length - len(end)) // 2) + ("/" if (length - len(end)) % 2 else "") + end
            assert len(path) == length
            try_everywhere(site, path, f"{length} bytes")
            if os.path.lexists("x"):
                os.unlink("x")


@case
def strange_names(site: Site) -> None:
    for name in (b"\xff\xfe", b"new\nline", b" ", b"...", b"-", b"\x01", b"a\\b", b"*", b"\xed\xa0\x80"):
        site.do(os.close, os.open(name, os.O_CREAT, 0o600))
        site.do(os.rename, name, name + b"2")
        site.do(os.link, name + b"2", name)
    site.note(sorted(os.listdir(b".")))


@case
def dot_and_dotdot(site: Site) -> None:
    site.dir("d")
    site.dir("d/e")
    site.dir("x")
    for path in (".", "..", "d/.", "d/..", "d/e/.", "d/e/..", "d/e/"):
        if path == "..":
            continue  # not the case's own
        site.do(os.rmdir, path)
        site.do(os.unlink, path)
        site.do(os.rename, path, "x/new")
        site.do(os.rename, "x", path)
        site.do(os.mkdir, path)
        site.do(os.link, path, "x/link")
        site.do(os.symlink, "target", path)
        site.do(os.mkfifo, path)
        site.note(sorted(os.listdir(".")))
        for directory in ("d", "d/e", "x"):
            if not os.path.isdir(directory):
                site.dir(directory)


@case
def symlink_targets_of_every_length(site: Site) -> None:
    for length in (0, 1, 255, 1000, 4094, 4095, 4096, 5000):
        site.moved(".", os.symlink, "t" * length, f"link{length}")
        site.look(f"link{length}")
    site.do(os.symlink, "exists", "link1")
    site.do(os.symlink, b"\xff/../\n", b"odd")
    site.note(os.readlink(b"odd"))


@case
def readlink_of_what_is_none(site: Site) -> None:
    for kind in KINDS:
        site.make(kind, kind)
        site.do(os.readlink, kind)


@case
def creation_where_something_is(site: Site) -> None:
    for kind in KINDS:
        site.make(kind, kind)
        site.do(os.mkdir, kind)
        site.do(os.mkfifo, kind)
        site.do(os.mknod, kind, stat.S_IFCHR | 0o600, 1)
        site.do(os.symlink, "x", kind)
        site.do(os.link, kind, kind)
        site.do(renameat2, kind, kind, NOREPLACE)
        site.open(kind, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        site.look(kind)


@short_case
def hard_links_to_every_kind(site: Site) -> None:
    for kind in KINDS:
        site.make(kind, kind)
        site.dir(f"{kind}-in")
        site.moved((kind, f"{kind}-in"), os.link, kind, f"{kind}-in/link", follow_symlinks=False)
        site.look(kind, f"{kind}-in/link")
        if kind != "dir":
            site.moved((kind, "."), os.unlink, f"{kind}-in/link")
            site.look(kind)


@case
def hard_links_follow_symlinks_only_when_asked(site: Site) -> None:
    site.file("target", data=b"data")
    os.symlink("target", "link")
    site.do(os.link, "link", "followed", follow_symlinks=True)
    site.do(os.link, "link", "kept", follow_symlinks=False)
    site.look("target", "link", "followed", "kept")
    os.symlink("nowhere", "dangling")
    site.do(os.link, "dangling", "x", follow_symlinks=True)


@case
def other_file_systems(site: Site) -> None:
    site.file("here")
    site.dir("directory")
    there = str(site.elsewhere / "there")
    for source in ("here", "directory"):
        site.note((source, site.attempt(os.link, source, there)))
        site.note((source, site.attempt(os.rename, source, there)))
    (site.elsewhere / "there").touch()
    site.note(site.attempt(os.link, there, "new"))
    site.note(site.attempt(os.rename, there, "here"))
    (site.elsewhere / "there").unlink()


@case
def renames_of_every_kind_onto_every_kind(site: Site) -> None:
    kinds = ("file", "dir", "symlink", "full")
    pairs = [(source, target) for source in kinds for target in (*kinds, "none")]
    pairs += [("fifo", "char"), ("char", "socket"), ("socket", "dir"), ("dir", "fifo"), ("fifo", "none")]
    for source, target in pairs:
        site.dir("from")
        site.dir("to")
        for place, kind in (("from/s", source), ("to/t", target)):
            if kind == "full":
                site.dir(place)
                site.file(f"{place}/file")
            elif kind != "none":
                site.make(kind, place)
        site.moved(("from", "to", "from/s"), os.rename, "from/s", "to/t")
        site.look("from", "to", "from/s", "to/t")
        site.names("from")
        site.names("to")
        os.system("rm -rf from to")


@case
def rename_flags(site: Site) -> None:
    """Without WHITEOUT: tmpfs and ext4 make whiteouts, FUSE never does."""
    pairs = (("file", "none"), ("file", "file"), ("file", "dir"), ("dir", "full"), ("none", "file"))
    for flags in (NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE, 8):
        for source, target in pairs if flags in (NOREPLACE, EXCHANGE) else pairs[1:2]:
            site.dir("from")
            site.dir("to")
            for place, kind in (("from/s", source), ("to/t", target)):
                if kind == "full":
                    site.dir(place)
                    site.file(f"{place}/file")
                elif kind != "none":
                    site.make(kind, place)
            site.moved(("from", "to"), renameat2, "from/s", "to/t", flags)
            site.look("from", "to", "from/s", "to/t")
            os.system("rm -rf from to")


@case
def exchange_moves_ctimes(site: Site) -> None:
    site.dir("a")
    site.dir("b")
    site.file("a/file")
    site.dir("b/dir")
    before = [site.lstat(path).st_ino for path in ("a/file", "b/dir")]
    site.moved(("a", "b"), renameat2, "a/file", "b/dir", EXCHANGE)
    site.note([site.lstat(path).st_ino for path in ("b/dir", "a/file")] == before)
    site.look("a", "b", "a/file", "b/dir")
    site.note(os.stat("a/file/..").st_ino == os.stat("a").st_ino)
    site.do(renameat2, "a/file", "a", EXCHANGE)
    site.do(renameat2, "a", "a/file", EXCHANGE)
    site.do(renameat2, "a", "a", EXCHANGE)


@short_case
def renames_between_links_of_one_file_do_nothing(site: Site) -> None:
    site.file("a", data=b"x")
    os.link("a", "b")
    site.moved((".", "a"), os.rename, "a", "b")
    site.look("a", "b")
    site.moved((".", "a"), os.rename, "a", "a")
    site.dir("d")
    site.moved((".", "d"), os.rename, "d", "d")
    site.do(renameat2, "a", "b", EXCHANGE)
    site.do(renameat2, "a", "b", NOREPLACE)
    site.names()


@case
def directories_never_move_below_themselves(site: Site) -> None:
    os.makedirs("a/b/c")
    site.file("a/b/file")
    for target in ("a/x", "a/b", "a/b/x", "a/b/c", "a/b/c/x", "a/b/file", "a/b/file/x"):
        site.do(os.rename, "a", target)
    for source in ("a/b/c", "a/b"):
        site.do(os.rename, source, "a")
        site.do(os.rename, source, "a/b")
    site.do(renameat2, "a", "a/b/c", EXCHANGE)
    site.do(renameat2, "a/b/c", "a", EXCHANGE)
    site.look("a", "a/b", "a/b/c")


@short_case
def moved_directories_have_a_new_parent(site: Site) -> None:
    os.makedirs("a/dir/sub")
    site.dir("b")
    descriptor = site.open("a/dir", os.O_RDONLY | os.O_DIRECTORY)
    site.moved(("a", "b", "a/dir"), os.rename, "a/dir", "b/dir")
    site.look("a", "b", "b/dir")
    site.note(os.stat("b/dir/..").st_ino == os.stat("b").st_ino)
    site.note(os.stat("..", dir_fd=descriptor).st_ino == os.stat("b").st_ino)
    site.note(os.stat("b/dir/sub/../..").st_ino == os.stat("b").st_ino)


@case
def renames_with_slashes_at_the_end(site: Site) -> None:
    site.dir("d")
    site.file("f")
    site.do(os.rename, "d/", "e")
    site.do(os.rename, "e", "d/")
    site.do(os.rename, "f/", "g")
    site.do(os.rename, "f", "g/")
    site.do(os.mkdir, "new/")
    site.do(os.rmdir, "new/")
    site.do(os.symlink, "d", "link")
    site.do(os.rmdir, "link/")
    site.do(os.rmdir, "link")
    site.do(os.unlink, "link/")
    site.do(os.rename, "link/", "h")
    site.do(os.mkdir, "link/")
    site.open("new/", os.O_CREAT | os.O_WRONLY)
    site.names()


@short_case
def removal_of_every_kind(site: Site) -> None:
    for kind in (*KINDS, "full"):
        if kind == "full":
            os.makedirs("full/sub")
        else:
            site.make(kind, kind)
        site.dir(f"{kind}-keeps")
        site.moved(".", os.rmdir, kind)
        if os.path.lexists(kind):
            site.moved(".", os.unlink, kind)
        site.look(kind, ".")


@case
def unlink_moves_the_ctime_of_what_is_left(site: Site) -> None:
    site.file("a")
    os.link("a", "b")
    site.moved((".", "a"), os.unlink, "b")
    descriptor = site.open("a", os.O_RDWR)
    before = os.fstat(descriptor).st_ctime_ns
    site.moved(".", os.unlink, "a")
    after = os.fstat(descriptor)
    site.note((after.st_nlink, after.st_ctime_ns > before))


@short_case
def every_new_name_moves_its_directory(site: Site) -> None:
    site.dir("d")
    for name, call in (
        ("mkdir", lambda: os.mkdir("d/dir")),
        ("mkfifo", lambda: os.mkfifo("d/fifo")),
        ("mknod", lambda: os.mknod("d/char", stat.S_IFCHR | 0o600, os.makedev(5, 6))),
        ("open", lambda: os.close(os.open("d/file", os.O_CREAT | os.O_WRONLY))),
        ("symlink", lambda: os.symlink("x", "d/symlink")),
        ("link", lambda: os.link("d/file", "d/link")),
        ("reopen", lambda: os.close(os.open("d/file", os.O_CREAT | os.O_WRONLY))),
        ("rename", lambda: os.rename("d/file", "d/renamed")),
        ("write", lambda: Path("d/renamed").write_bytes(b"x")),
        ("chmod", lambda: os.chmod("d/renamed", 0o600)),
        ("rmdir", lambda: os.rmdir("d/dir")),
        ("unlink", lambda: os.unlink("d/fifo")),
    ):
        site.note(name)
        site.moved(("d", "."), call)
        site.look("d")
    site.look("d/char", "d/link", "d/symlink")


@case
def new_inodes_have_equal_times_not_before_their_directory(site: Site) -> None:
    for kind in KINDS:
        site.dir(f"in-{kind}")
        site.dir(f"in-{kind}/before")
        site.make(kind, f"in-{kind}/new")
        new, parent = os.lstat(f"in-{kind}/new"), os.stat(f"in-{kind}")
        if kind == "symlink":
            site.note(new.st_atime_ns == new.st_mtime_ns)
        site.note(new.st_mtime_ns <= parent.st_mtime_ns or new.st_ctime_ns >= parent.st_ctime_ns)


@case
def device_numbers_are_kept(site: Site) -> None:
    for major, minor in ((0, 0), (1, 3), (255, 255), (256, 256), (511, 65536), (4095, 1048575)):
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            path = f"{kind:o}-{major}-{minor}"
            site.do(os.mknod, path, kind | 0o600, os.makedev(major, minor))
            site.look(path)
