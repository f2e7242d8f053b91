"""/proc/self/mountinfo, as proc_pid_mountinfo(5) describes it."""

from __future__ import annotations

import os

from s3vfs.fuse.mountinfo import mount_at, mount_containing, parse_mounts, read_mounts

TEXT = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 22 0:31 / /mnt/with\040space\134 rw,nosuid shared:7 master:2 - fuse.s3vfs s3://bucket/a\040b rw,user_id=1000
36 22 0:32 / /mnt/a rw - tmpfs tmpfs rw
37 36 0:33 / /mnt/a rw - fuse.s3vfs file:///srv/v rw,user_id=0
38 37 0:34 /sub /mnt/a/b rw - ext4 /dev/sdb rw
39 22 0:35 / /mnt/\377 rw - ext4 /dev/sdc rw
a broken line
"""


def test_fields_and_escapes_are_read() -> None:
    mount = parse_mounts(TEXT)[1]
    assert mount.mountpoint == "/mnt/with space\\"
    assert mount.source == "s3://bucket/a b"
    assert (mount.device, mount.type, mount.user_id, mount.ours) == ("0:31", "fuse.s3vfs", 1000, True)


def test_lines_of_an_unknown_form_are_left_out() -> None:
    assert len(parse_mounts(TEXT)) == 6


def test_names_that_are_not_text_survive() -> None:
    assert os.fsencode(parse_mounts(TEXT)[5].mountpoint) == b"/mnt/\xff"


def test_the_topmost_of_stacked_mounts_is_found() -> None:
    mounts = parse_mounts(TEXT)
    found = mount_at("/mnt/a", mounts)
    assert found is not None
    assert found.device == "0:33"


def test_a_path_belongs_to_the_longest_mountpoint_above_it() -> None:
    mounts = parse_mounts(TEXT)
    devices = {
        path: mount.device if (mount := mount_containing(path, mounts)) else None
        for path in ("/mnt/a/x/y", "/mnt/a", "/mnt/a/b/c", "/mnt/ab", "/")
    }
    assert devices == {"/mnt/a/x/y": "0:33", "/mnt/a": "0:33", "/mnt/a/b/c": "0:34", "/mnt/ab": "8:1", "/": "8:1"}


def test_the_real_file_is_readable() -> None:
    assert mount_containing("/proc/self", read_mounts()) is not None
