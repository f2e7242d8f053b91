"""A path of an inode, for messages to people. Never for decisions: another node may be renaming it."""

from __future__ import annotations

from s3vfs.namespace.rows import ROOT_INO, Rows

_DEEPEST = 4096


def path_of(rows: Rows, ino: int) -> bytes:
    """One path from the root of the volume; `inode <n>` where it has no link."""
    names: list[bytes] = []
    at = ino
    while at != ROOT_INO and len(names) < _DEEPEST:
        link = next(rows.links(at), None)
        if link is None:
            return b"inode %d" % ino
        at, name = link
        names.append(name)
    return b"/" + b"/".join(reversed(names))
