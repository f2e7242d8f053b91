"""open, truncate, times, and files without a name."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat

from tests.posix.site import Site, case, short_case

_libc = ctypes.CDLL(None, use_errno=True)
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


def utimensat(path: str, times: tuple[tuple[int, int], tuple[int, int]] | None, flags: int = 0) -> None:
    both = None if times is None else (_Timespec * 2)(*(_Timespec(*each) for each in times))
    if _libc.utimensat(-100, os.fsencode(path), both, flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def times_of(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_atime_ns, status.st_mtime_ns


@case
def flags_of_open_and_every_kind(site: Site) -> None:
    for kind in ("file", "dir", "fifo", "socket", "symlink", "link-to-file", "link-to-dir"):
        if kind.startswith("link-to-"):
            os.symlink(kind[8:], kind)
        else:
            site.make(kind, kind)
        for flags in (
            os.O_RDONLY | os.O_NONBLOCK,
            os.O_WRONLY | os.O_NONBLOCK,
            os.O_RDWR | os.O_NONBLOCK,
            os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW,
            os.O_RDONLY | os.O_NONBLOCK | os.O_DIRECTORY,
            os.O_RDONLY | os.O_NONBLOCK | os.O_DIRECTORY | os.O_NOFOLLOW,
            os.O_RDONLY | os.O_NONBLOCK | os.O_CREAT | os.O_DIRECTORY,
            os.O_RDWR | os.O_NONBLOCK | os.O_TRUNC,
            os.O_RDONLY | os.O_NONBLOCK | os.O_CREAT,
            os.O_RDONLY | os.O_NONBLOCK | os.O_CREAT | os.O_EXCL,
            os.O_RDONLY | os.O_NONBLOCK | os.O_CREAT | os.O_NOFOLLOW,
            os.O_RDONLY | os.O_NONBLOCK | os.O_EXCL,
            os.O_PATH | os.O_NOFOLLOW,
            os.O_PATH | os.O_DIRECTORY,
            os.O_WRONLY | os.O_RDWR | os.O_NONBLOCK,
            os.O_RDWR | os.O_APPEND | os.O_NONBLOCK,
            os.O_RDWR | os.O_SYNC | os.O_NONBLOCK,
            os.O_RDWR | os.O_DSYNC | os.O_NONBLOCK,
        ):
            site.shut(site.open(kind, flags))
            site.look(kind)
            if kind == "symlink" and os.path.lexists("nowhere"):
                site.note("made through the link")
                os.unlink("nowhere")


@case
def no_open_file_without_a_name(site: Site) -> None:
    """O_TMPFILE: tmpfs has it, FUSE through libfuse 3 has not; programs take EOPNOTSUPP as: make a name."""
    result = site.attempt(os.open, ".", os.O_TMPFILE | os.O_RDWR, 0o600)
    if isinstance(result, int):
        os.close(result)
        result = "EOPNOTSUPP"
    site.note(result)


@short_case
def truncation_at_open(site: Site) -> None:
    for size in (0, 10):
        path = site.file(f"file{size}", data=b"x" * size)
        site.moved((path, "."), lambda path=path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)))
        site.moved((path, "."), lambda path=path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)))
        site.moved((path, "."), lambda path=path: os.close(os.open(path, os.O_WRONLY)))
        site.look(path)
        site.contents(path)


@case
def sockets_and_fifos_are_opened_by_the_kernel(site: Site) -> None:
    site.make("fifo", "fifo")
    site.shut(site.open("fifo", os.O_WRONLY | os.O_NONBLOCK))
    reader = site.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = site.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
    site.do(os.write, writer, b"through the kernel")
    site.do(os.read, reader, 100)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        site.do(server.bind, "socket")
        site.do(server.bind, "socket2")
        server.listen()
        site.do(client.connect, "socket")
        site.open("socket", os.O_RDWR)
        site.look("socket")
        with socket.socket(socket.AF_UNIX) as again:
            site.do(again.bind, "socket")
    site.do(os.unlink, "socket")


@case
def truncate_to_every_size(site: Site) -> None:
    site.file("file", data=b"0123456789")
    for size in (9, 5, 20, 0, 4097, -1, 1 << 40, 3):  # to the same size: local file systems differ about the times
        site.moved("file", os.truncate, "file", size)
        site.look("file")
    site.contents("file")
    descriptor = site.open("file", os.O_RDWR)
    for size in (10, 10, 5, 0, 0, 8192, -1):
        site.moved("file", os.ftruncate, descriptor, size)
        site.look("file")
    site.contents("file")
    reader = site.open("file", os.O_RDONLY)
    site.do(os.ftruncate, reader, 1)


@case
def truncate_of_every_kind(site: Site) -> None:
    for kind in ("dir", "fifo", "char", "socket", "symlink"):
        site.make(kind, kind)
        if kind == "fifo":
            site.do(os.truncate, kind, 0)
        elif kind != "char":
            site.do(os.truncate, kind, 5)
    descriptor = site.open("dir", os.O_RDONLY)
    site.do(os.ftruncate, descriptor, 0)
    site.do(os.read, descriptor, 10)
    site.do(os.write, descriptor, b"x")


@case
def the_largest_file(site: Site) -> None:
    site.file("file")
    for size in ((1 << 63) - 1, 1 << 62):
        result = site.attempt(os.truncate, "file", size)
        site.note(result if result == "EFBIG" else "done or too big")
        if result is None:
            os.truncate("file", 0)
    site.look("file")


@case
def running_programs_are_not_written(site: Site) -> None:
    import shutil
    import subprocess

    shutil.copy("/bin/sleep", "program")
    process = subprocess.Popen([os.path.abspath("program"), "60"])
    try:
        site.open("program", os.O_WRONLY)
        site.open("program", os.O_RDWR)
        site.open("program", os.O_RDONLY)
        site.open("program", os.O_WRONLY | os.O_TRUNC)
        site.do(os.truncate, "program", 0)
        site.do(os.chmod, "program", 0o700)
        site.do(os.rename, "program", "renamed")
        site.do(os.unlink, "renamed")
    finally:
        process.kill()
        process.wait()
    shutil.copy("/bin/true", "written")
    writer = site.open("written", os.O_WRONLY | os.O_APPEND)

    def run() -> int:
        return subprocess.run([os.path.abspath("written")]).returncode

    site.do(run)
    site.shut(writer)
    site.do(run)


@case
def writes_move_times(site: Site) -> None:
    site.file("file", data=b"0123456789")
    descriptor = site.open("file", os.O_RDWR)
    site.moved(("file", "."), os.pwrite, descriptor, b"x", 0)
    site.moved(("file", "."), os.pwrite, descriptor, b"x", 100)
    site.moved(("file", "."), os.write, descriptor, b"")
    site.moved(("file", "."), os.fsync, descriptor)
    site.moved(("file", "."), site.shut, descriptor)
    site.look("file")
    appender = site.open("file", os.O_WRONLY | os.O_APPEND)
    site.moved(("file", "."), os.write, appender, b"x")
    site.moved(("file", "."), site.shut, appender)
    site.look("file")


@case
def writes_after_times_were_set(site: Site) -> None:
    descriptor = site.open("file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"1")
    os.utime(descriptor, ns=(5, 6))
    site.note(times_of("file"))
    os.write(descriptor, b"2")
    site.note(times_of("file")[1] == 6)
    os.utime(descriptor, ns=(7, 0))
    site.shut(descriptor)
    site.note(times_of("file"))
    site.look("file")
    site.lstat("file")


@case
def times_of_every_size(site: Site) -> None:
    """Before 1970, after 2038, to the nanosecond."""
    for kind in ("file", "dir", "symlink", "fifo"):
        site.make(kind, kind)
        for time_ns in (
            0,
            1,
            999_999_999,
            -1,
            -1_000_000_000,
            -999_999_999_123,
            -(2**31) * 10**9,
            (2**31 - 1) * 10**9,
            2**31 * 10**9 + 5,
            2**32 * 10**9 + 123_456_789,
            -2_208_988_800 * 10**9,
            9_000_000_000 * 10**9 + 1,
        ):
            site.moved(kind, os.utime, kind, ns=(time_ns, time_ns), follow_symlinks=False)
            site.note(times_of(kind))
            site.do(os.utime, kind, ns=(time_ns, 17), follow_symlinks=False)
            site.note(times_of(kind))
            site.lstat(kind)


@case
def times_before_1970_are_written_with_data(site: Site) -> None:
    for time_ns in (-1, 0, -(10**18)):
        path = f"file{time_ns}"
        descriptor = site.open(path, os.O_CREAT | os.O_RDWR)
        os.write(descriptor, b"data")
        os.utime(descriptor, ns=(time_ns, time_ns))
        site.note(times_of(path))
        site.shut(descriptor)
        site.note(times_of(path))
        site.lstat(path)
        site.contents(path)


@case
def utimensat_now_and_omit(site: Site) -> None:
    now, omit = (0, UTIME_NOW), (0, UTIME_OMIT)
    for kind in ("file", "dir"):
        site.make(kind, kind)
        for times in (
            ((1, 2), (3, 4)),
            (omit, omit),
            (omit, (5, 6)),
            ((7, 8), omit),
            (now, omit),
            (omit, now),
            (now, now),
            ((9, 10), now),
            None,
            ((1, 10**9), (1, 1)),
            ((1, -1), (1, 1)),
        ):
            site.moved(kind, utimensat, kind, times)
    site.do(utimensat, "missing", (now, now))
    site.do(utimensat, "missing", (omit, omit))
    os.symlink("nowhere", "dangling")
    site.do(utimensat, "dangling", (now, now))
    site.moved("dangling", utimensat, "dangling", ((1, 2), (3, 4)), 0x100)
    site.note(times_of("dangling"))


@case
def reading_leaves_all_times(site: Site) -> None:
    """Always noatime: here the local directory may differ, so only mtime and ctime are compared."""
    site.file("file", data=b"data")
    site.dir("dir")
    before = [(os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns) for path in ("file", "dir")]
    with open("file", "rb") as file:
        file.read()
    os.listdir("dir")
    after = [(os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns) for path in ("file", "dir")]
    site.note(before == after)


@short_case
def a_file_without_a_name_stays_whole(site: Site) -> None:
    descriptor = site.open("file", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(descriptor, b"before")
    os.unlink("file")
    site.note(os.fstat(descriptor).st_nlink)
    site.do(os.write, descriptor, b" after")
    site.do(os.pread, descriptor, 100, 0)
    site.do(os.fchmod, descriptor, 0o600)
    site.do(os.fchown, descriptor, 5, 6)
    site.do(os.ftruncate, descriptor, 3)
    site.do(os.utime, descriptor, ns=(1, 2))
    site.do(os.fsync, descriptor)
    site.do(os.setxattr, descriptor, "user.x", b"1")
    site.do(os.listxattr, descriptor)
    status = os.fstat(descriptor)
    site.note((oct(status.st_mode), status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns))
    other = site.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    site.do(os.read, other, 10)
    site.do(os.link, f"/proc/self/fd/{descriptor}", "back", follow_symlinks=True)
    site.names()


@short_case
def a_removed_directory_is_dead(site: Site) -> None:
    os.makedirs("dead/inside")
    descriptor = site.open("dead", os.O_RDONLY | os.O_DIRECTORY)
    here = os.getcwd()
    os.rmdir("dead/inside")
    os.chdir("dead")
    os.rmdir("../dead")
    try:
        site.do(lambda: sorted(os.listdir(".")))
        site.do(lambda: sorted(os.listdir(descriptor)))
        site.do(lambda: stat.S_ISDIR(os.stat(".").st_mode))
        site.note(os.fstat(descriptor).st_nlink in (0, 1, 2))
        site.do(os.mkdir, "new")
        site.do(os.symlink, "x", "new")
        site.do(os.mkfifo, "new")
        site.open("new", os.O_CREAT | os.O_RDWR)
        site.do(os.open, "new", os.O_CREAT | os.O_RDWR, dir_fd=descriptor)
        site.do(os.stat, "missing")
        site.do(os.getcwd)
        site.do(os.rename, here + "/x", "new")
        site.do(os.fchmod, descriptor, 0o700)
        site.do(os.rmdir, ".")
        site.do(os.rmdir, here + "/dead")
    finally:
        os.chdir(here)
    site.look("dead")


@case
def directories_while_they_change(site: Site) -> None:
    site.dir("d")
    for index in range(60):
        site.file(f"d/{index:03}")
    site.file("d/kept")
    seen, removed = [], set()
    with os.scandir("d") as entries:
        for index, entry in enumerate(entries):
            seen.append(entry.name)
            if index % 3 == 0 and entry.name != "kept":
                os.unlink(entry.path)
                removed.add(entry.name)
            if index == 10:
                os.rename("d/kept", "d/zzz")
                os.mkdir("d/000a")
    site.note(len(seen) == len(set(seen)))
    stayed = {f"{index:03}" for index in range(60)}
    site.note(stayed <= set(seen))
    left = set(os.listdir("d"))
    site.note({"000a", "zzz"} <= left and not left & removed)


@case
def entries_tell_their_kinds(site: Site) -> None:
    kinds = ("file", "dir", "fifo", "char", "socket", "symlink")
    for kind in kinds:
        site.make(kind, kind)
    with os.scandir(".") as entries:
        told = {
            entry.name: (entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False), entry.is_symlink())
            for entry in entries
        }
    site.note(sorted(told.items()))
    site.note(all(os.lstat(entry.name).st_ino == entry.inode() for entry in os.scandir(".")))


@case
def copies_of_times_by_programs(site: Site) -> None:
    site.file("source", data=b"data")
    os.utime("source", ns=(1_234_567_890_123_456_789, -1_234_567_890_123_456_789))
    site.note(os.system("cp -p source copy && touch -r copy touched && cp -a source archived"))
    for path in ("copy", "touched", "archived"):
        site.note(times_of(path)[1])


@case
def sizes_and_blocks_of_special_files(site: Site) -> None:
    for kind in ("fifo", "char", "socket", "symlink"):
        site.make(kind, kind)
        status = os.lstat(kind)
        site.note((status.st_size, status.st_blocks))
    os.symlink("\u00e4\u00f6", "umlauts")
    site.note(os.lstat("umlauts").st_size)


@case
def statfs_through_every_descriptor(site: Site) -> None:
    site.file("file")
    descriptor = site.open("file", os.O_RDONLY)
    for what in (".", "file", descriptor):
        figures = os.statvfs(what)
        site.note((figures.f_namemax, figures.f_bavail <= figures.f_bfree <= figures.f_blocks, figures.f_files > 0))


@case
def reads_and_writes_with_the_wrong_descriptor(site: Site) -> None:
    site.file("file", data=b"data")
    reader, writer = site.open("file", os.O_RDONLY), site.open("file", os.O_WRONLY)
    site.do(os.write, reader, b"x")
    site.do(os.read, writer, 1)
    site.do(os.pwrite, writer, b"x", -1)
    site.do(os.lseek, writer, -1, os.SEEK_SET)
    site.do(os.lseek, writer, 100, os.SEEK_SET)
    site.do(os.lseek, writer, 0, os.SEEK_END)
    site.note(errno.EBADF)
