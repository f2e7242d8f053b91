"""Who may do what: search, read, write, and the restricted deletion flag."""

from __future__ import annotations

import os
import stat

from tests.posix.site import ALICE, BOB, CAROL, ROOT, Site, User, case, short_case


@case
def modes_decide_who_opens(site: Site) -> None:
    """Owner, then group, then others: the first that fits decides."""
    for bits in range(8):
        for shift in (6, 3, 0):
            path = site.file(f"{bits}-{shift}", bits << shift, ALICE, b"data")
            for who in (ALICE, CAROL, BOB):
                with site.user(who):
                    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
                        site.shut(site.open(path, flags))


@case
def modes_decide_who_enters_and_lists(site: Site) -> None:
    for bits in range(8):
        for shift in (6, 3, 0):
            path = site.dir(f"{bits}-{shift}", 0o700, ALICE)
            site.file(f"{path}/file", 0o666, ALICE)
            os.chmod(path, bits << shift)
            for who in (ALICE, CAROL, BOB, ROOT):
                with site.user(who):
                    site.do(lambda path=path: sorted(os.listdir(path)))
                    site.do(lambda path=path: stat.S_ISREG(os.stat(f"{path}/file").st_mode))
                    site.shut(site.open(f"{path}/file", os.O_RDONLY))
                    site.do(os.mkdir, f"{path}/{who.name}")
                    site.do(os.rmdir, f"{path}/{who.name}")


@case
def without_search_permission_nothing_works(site: Site) -> None:
    site.dir("closed", 0o700, ALICE)
    site.file("closed/file", 0o666, BOB)
    site.dir("closed/sub", 0o777, BOB)
    site.dir("bobs", 0o755, BOB)
    site.file("bobs/own", 0o644, BOB)
    with site.user(BOB):
        for call, arguments in (
            (os.stat, ("closed/file",)),
            (os.lstat, ("closed/file",)),
            (os.chmod, ("closed/file", 0o600)),
            (os.chown, ("closed/file", BOB.uid, BOB.gid)),
            (os.lchown, ("closed/file", BOB.uid, BOB.gid)),
            (os.truncate, ("closed/file", 0)),
            (os.utime, ("closed/file",)),
            (os.link, ("closed/file", "bobs/link")),
            (os.link, ("bobs/own", "closed/link")),
            (os.symlink, ("x", "closed/link")),
            (os.readlink, ("closed/file",)),
            (os.rename, ("closed/file", "bobs/file")),
            (os.rename, ("bobs/own", "closed/own")),
            (os.unlink, ("closed/file",)),
            (os.rmdir, ("closed/sub",)),
            (os.mkdir, ("closed/dir",)),
            (os.mkfifo, ("closed/fifo",)),
            (os.listxattr, ("closed/file",)),
            (os.setxattr, ("closed/file", "user.x", b"")),
            (os.statvfs, ("closed/file",)),
            (os.chdir, ("closed/sub",)),
        ):
            site.do(call, *arguments)
        site.open("closed/file", os.O_RDONLY)
        site.open("closed/new", os.O_CREAT | os.O_RDWR)
    site.names("closed")
    site.names("bobs")


@case
def without_write_permission_no_names_change(site: Site) -> None:
    for mode in (0o755, 0o555):
        directory = site.dir(f"readable-{mode:o}", 0o755, ALICE)
        site.file(f"{directory}/file", 0o666, BOB)
        site.dir(f"{directory}/sub", 0o777, BOB)
        site.dir(f"bobs-{mode:o}", 0o755, BOB)
        site.file(f"bobs-{mode:o}/own", 0o644, BOB)
        os.chmod(directory, mode)
        for who in (BOB, ALICE):
            with site.user(who):
                for call, arguments in (
                    (os.link, (f"bobs-{mode:o}/own", f"{directory}/link")),
                    (os.symlink, ("x", f"{directory}/symlink")),
                    (os.rename, (f"{directory}/file", f"bobs-{mode:o}/file")),
                    (os.rename, (f"bobs-{mode:o}/own", f"{directory}/own")),
                    (os.unlink, (f"{directory}/file",)),
                    (os.rmdir, (f"{directory}/sub",)),
                    (os.mkdir, (f"{directory}/dir",)),
                    (os.mkfifo, (f"{directory}/fifo",)),
                ):
                    site.do(call, *arguments)
                site.shut(site.open(f"{directory}/new", os.O_CREAT | os.O_RDWR))
                site.shut(site.open(f"{directory}/file", os.O_CREAT | os.O_RDWR))
        site.names(directory)


@case
def only_root_makes_devices(site: Site) -> None:
    os.chmod(".", 0o777)
    for who in (ALICE, ROOT):
        with site.user(who):
            for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG):
                path = f"{who.name}-{kind:o}"
                site.do(os.mknod, path, kind | 0o600, os.makedev(1, 3))
                site.look(path)
            site.do(os.mknod, "directory", stat.S_IFDIR | 0o700)


@case
def the_sticky_bit_restricts_removal(site: Site) -> None:
    """Only the entry's owner, the directory's owner and root: unlink, rmdir, and both sides of a rename."""
    for sticky in (0o1777, 0o777):
        for owner in (ALICE, CAROL) if sticky == 0o1777 else (CAROL,):
            directory = site.dir(f"{owner.name}-{sticky:o}", sticky, owner)
            for entry_owner in (ALICE, BOB, ROOT):
                for who in (ALICE, BOB):
                    base = f"{directory}/{entry_owner.name}-{who.name}"
                    for kind in ("file", "symlink"):
                        site.make(kind, f"{base}-{kind}", entry_owner)
                        with site.user(who):
                            site.do(os.unlink, f"{base}-{kind}")
                    site.dir(f"{base}-dir", 0o777, entry_owner)
                    with site.user(who):
                        site.do(os.rmdir, f"{base}-dir")
                    site.file(f"{base}-from", owner=entry_owner)
                    with site.user(who):
                        site.do(os.rename, f"{base}-from", f"{base}-moved")
                    site.file(f"{base}-own", owner=who)
                    site.file(f"{base}-onto", owner=entry_owner)
                    with site.user(who):
                        site.do(os.rename, f"{base}-own", f"{base}-onto")
            site.names(directory)


@case
def sticky_directories_and_their_neighbours(site: Site) -> None:
    site.dir("sticky", 0o1777, ROOT)
    site.dir("open", 0o777, ROOT)
    for kind in ("file", "dir"):
        for owner in (ALICE, BOB):
            site.make(kind, f"sticky/{owner.name}-{kind}", owner, 0o755)
            site.make(kind, f"open/{owner.name}-{kind}", owner, 0o755)
    with site.user(ALICE):
        site.do(os.rename, "sticky/bob-file", "open/taken")
        site.do(os.rename, "open/alice-file", "sticky/bob-file")
        site.do(os.rename, "open/bob-file", "sticky/alice-file")
        site.do(os.rename, "sticky/bob-dir", "open/dir-taken")
        site.do(os.rename, "open/bob-dir", "sticky/given")
        site.do(os.rename, "open/alice-dir", "sticky/bob-dir")
        site.do(os.link, "sticky/bob-file", "open/link")
    site.names("sticky")
    site.names("open")


@short_case
def a_directory_moves_to_another_parent_only_if_it_is_writable(site: Site) -> None:
    """Its `..` changes."""
    for owner, mode in ((ALICE, 0o555), (ALICE, 0o755), (BOB, 0o755), (BOB, 0o777)):
        name = f"{owner.name}-{mode:o}"
        site.dir(f"{name}-a", 0o777, ALICE)
        site.dir(f"{name}-b", 0o777, ALICE)
        site.dir(f"{name}-a/dir", mode, owner)
        with site.user(ALICE):
            site.do(os.rename, f"{name}-a/dir", f"{name}-b/dir")
            site.do(os.rename, f"{name}-a/dir", f"{name}-a/renamed")
        site.names(f"{name}-a")
        site.names(f"{name}-b")


@case
def protected_hard_links_are_the_kernels(site: Site) -> None:
    site.dir("shared", 0o777)
    for mode in (0o666, 0o644, 0o600, 0o4777):
        path = site.file(f"shared/{mode:o}", mode, ALICE)
        with site.user(BOB):
            site.do(os.link, path, f"{path}-link")
        site.look(path)


@case
def times_may_be_set_by(site: Site) -> None:
    """Explicit ones by the owner, 'now' by whoever may write."""
    for mode in (0o644, 0o666, 0o444, 0o600):
        path = site.file(f"{mode:o}", mode, ALICE)
        for who in (ALICE, BOB, CAROL, ROOT):
            with site.user(who):
                site.moved(path, os.utime, path)
                site.moved(path, os.utime, path, ns=(1_000, 2_000))
                site.do(os.utime, path, (5, 6))
        directory = site.dir(f"dir-{mode:o}", mode | 0o111, ALICE)
        with site.user(BOB):
            site.moved(directory, os.utime, directory)
            site.moved(directory, os.utime, directory, ns=(1, 2))


@case
def access_answers_by_real_and_effective_ids(site: Site) -> None:
    for mode in (0o700, 0o070, 0o007, 0o000, 0o111):
        for owner in (User("", ALICE.uid, CAROL.gid), BOB):
            path = site.file(f"{mode:o}-{owner.uid}", mode, owner)
            for who in (ALICE, BOB, CAROL):
                with site.user(who):
                    site.note([os.access(path, right, effective_ids=True) for right in (os.R_OK, os.W_OK, os.X_OK)])
            site.note([os.access(path, right) for right in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)])


@case
def programs_run_by_their_execute_bits(site: Site) -> None:
    for mode in (0o755, 0o700, 0o644, 0o001):
        path = site.file(f"program-{mode:o}", mode, ALICE, b"#!/bin/true\n")
        for who in (ROOT, ALICE, BOB):
            with site.user(who):
                site.note((mode, who.name, os.access(path, os.X_OK, effective_ids=True)))
