"""How fast base is, with 200,000 inodes: printed (pytest -s), never asserted on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s3vfs.namespace import ops as o
from s3vfs.namespace.rows import Rows
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.replica.segments import read_segment, write_segments
from tests.replica.histories import VOLUME, Author, begin, create

FILES = 200_000
RECORD_OPS = 1000


@contextmanager
def figure(what: str, count: int) -> Iterator[None]:
    start = time.perf_counter()
    yield
    taken_s = time.perf_counter() - start
    print(f"{what}: {count / taken_s:,.0f}/s, {taken_s / count * 1e6:.1f} us each")


@pytest.mark.long
def test_figures_with_200_000_inodes(tmp_path: Path) -> None:
    replica = LmdbReplica.open(tmp_path / "one", volume=VOLUME, boot_id="boot")
    author = Author(1)
    begin(replica, author)
    directories = [create(author, b"d%03d" % number, kind=0o040000) for number in range(FILES // RECORD_OPS)]
    author.commit(replica, directories)
    names = [b"f%07d" % number for number in range(RECORD_OPS)]
    print()
    with figure("create, 1,000 to a record, encoding included", FILES):
        for directory in directories:
            author.next_ino = author.commit(replica, [o.Block(RECORD_OPS)]).verdicts[0].value
            applied = author.commit(replica, [create(author, name, parent=directory.ino) for name in names])
            assert {verdict.errno for verdict in applied.verdicts} == {0}
    with figure("record of one setattr", 5_000):
        for number in range(5_000):
            op = o.Setattr(directories[0].ino, o.SetattrMask.MTIME, 0, 0, 0, 0, 0, number, number)
            author.commit(replica, [op])
    with figure("look-up: read(), entry and inode decoded", FILES):
        for directory in directories:
            for name in names:
                with replica.read() as txn:
                    rows = Rows(txn)
                    dentry = rows.dentry(directory.ino, name)
                    assert dentry is not None
                    rows.inode(dentry.ino)
    with figure("read() and one get", FILES):
        for _ in range(FILES):
            with replica.read() as txn:
                txn.get(b"Z")
    with figure("readdir, entries decoded", FILES), replica.read() as txn:
        assert sum(1 for directory in directories for _ in Rows(txn).entries(directory.ino)) == FILES
    with replica.snapshot() as (position, source):
        rows_of_base = list(source)
    with figure("rows into segments", len(rows_of_base)):
        segments = list(write_segments(rows_of_base))
    other = LmdbReplica.open(tmp_path / "two", volume=VOLUME, boot_id="boot")
    with figure("rows from segments into a replica", len(rows_of_base)):
        loaded = ((key, value) for made in segments for key, value in read_segment(made.data) if value is not None)
        other.load(loaded, position)
    assert other.position == replica.position
    other.close()
    replica.close()
