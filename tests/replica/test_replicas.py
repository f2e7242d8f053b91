"""The contract of Replica, kept by both implementations, and that they agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.errors import Damaged, S3vfsError, UnknownFeature
from s3vfs.namespace import ops as o
from s3vfs.namespace.digest import digest_of, digest_to_bytes, row_hash
from s3vfs.namespace.rows import ROOT_INO, USAGE_KEY, Rows, dentry_key, inode_key
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.replica.memory_replica import MemoryReplica
from s3vfs.replica.protocol import EMPTY, Position, Replica, Row
from tests.replica.histories import VOLUME, Author, all_rows, begin, create, make_record, random_op


@pytest.fixture(params=["lmdb", "memory"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Replica]:
    made: Replica
    if request.param == "lmdb":
        made = LmdbReplica.open(tmp_path / "replica", volume=VOLUME, boot_id="boot")
    else:
        made = MemoryReplica(VOLUME)
    yield made
    made.close()


def check_digest(replica: Replica) -> None:
    assert replica.position.digest == digest_to_bytes(digest_of(all_rows(replica)))


def test_a_new_replica_is_empty(replica: Replica) -> None:
    assert replica.position == EMPTY
    assert replica.volume == VOLUME
    assert all_rows(replica) == []


def test_a_record_moves_rows_position_and_digest_together(replica: Replica) -> None:
    author = Author(1)
    begin(replica, author)
    before = replica.position
    record = author.record(before, [author.numbered(create(author, b"file"))])
    applied = replica.apply(record)
    assert [verdict.errno for verdict in applied.verdicts] == [0]
    assert replica.position.seq == before.seq + 1
    assert replica.position.record_hash == record.hash
    assert replica.position.digest != before.digest
    check_digest(replica)
    with replica.read() as txn:
        dentry = Rows(txn).dentry(ROOT_INO, b"file")
    assert dentry is not None
    assert {dentry_key(ROOT_INO, b"file"), inode_key(dentry.ino), inode_key(ROOT_INO), USAGE_KEY} <= applied.keys
    assert applied.changes.dentries == {(ROOT_INO, b"file")}
    assert applied.changes.inodes == {ROOT_INO, dentry.ino}


def test_what_comes_and_goes_within_one_record_is_told(replica: Replica) -> None:
    author = Author(1)
    begin(replica, author)
    made = create(author, b"passing")
    ops = [made, o.Unlink(ROOT_INO, b"passing", made.ino, 0, False, 10**18)]
    applied = replica.apply(author.record(replica.position, [author.numbered(op) for op in ops]))
    assert [verdict.errno for verdict in applied.verdicts] == [0, 0]
    check_digest(replica)
    assert applied.changes.dentries == {(ROOT_INO, b"passing")}
    assert applied.changes.links == {(made.ino, ROOT_INO, b"passing")}
    assert made.ino in applied.changes.inodes


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": 1},
        {"seq": 4},
        {"previous": b"\1" * 16},
        {"digest": b"\1" * 16},
        {"volume": b"another-volume-1"},
    ],
    ids=["seq-again", "seq-skipped", "previous-hash", "digest", "volume"],
)
def test_a_record_that_does_not_continue_base_changes_nothing(replica: Replica, wrong: dict[str, object]) -> None:
    author = Author(1)
    begin(replica, author)
    before, rows = replica.position, all_rows(replica)
    op = o.encode_op(author.numbered(create(author, b"x")))
    with pytest.raises(Damaged):
        replica.apply(make_record(before, [op], **wrong))  # type: ignore[arg-type]
    assert replica.position == before
    assert all_rows(replica) == rows
    replica.apply(make_record(before, [op]))
    assert replica.position.seq == before.seq + 1


def test_the_first_record_has_seq_1_and_no_predecessor(replica: Replica) -> None:
    with pytest.raises(Damaged):
        replica.apply(make_record(Position(1, EMPTY.record_hash, EMPTY.digest), []))
    with pytest.raises(Damaged):
        replica.apply(make_record(Position(0, b"\1" * 16, EMPTY.digest), []))
    replica.apply(make_record(EMPTY, []))
    assert replica.position.seq == 1


def test_an_exception_within_a_record_leaves_nothing_of_it(replica: Replica) -> None:
    author = Author(1)
    begin(replica, author)
    before, rows = replica.position, all_rows(replica)
    with pytest.raises(UnknownFeature):
        author.commit(replica, [create(author, b"first"), o.Feature(63)])
    assert replica.position == before
    assert all_rows(replica) == rows
    check_digest(replica)


def rows_for(count: int) -> list[Row]:
    return [(b"I" + number.to_bytes(8), b"value %d" % number) for number in range(count)]


def position_for(rows: list[Row], seq: int = 50) -> Position:
    return Position(seq, b"h" * 16, digest_to_bytes(digest_of(rows)))


def test_load_replaces_everything(replica: Replica) -> None:
    author = Author(1)
    begin(replica, author)
    rows = rows_for(25_000)  # several transactions
    replica.load(iter(rows), position_for(rows))
    assert replica.position == position_for(rows)
    assert all_rows(replica) == rows
    replica.load([], position_for([], seq=60))
    assert all_rows(replica) == []
    assert replica.position.seq == 60


def test_records_continue_a_loaded_state(replica: Replica) -> None:
    author = Author(1)
    begin(replica, author)
    rows, position = all_rows(replica), replica.position
    replica.load(rows, position)
    assert author.commit(replica, [create(author, b"x")]).verdicts[0].errno == 0
    check_digest(replica)


def failing(rows: list[Row]) -> Iterator[Row]:
    yield from rows
    raise S3vfsError("the bucket went away")


@pytest.mark.parametrize("count", [0, 5, 10_001])
def test_a_load_that_fails_leaves_the_replica_as_it_was(replica: Replica, count: int) -> None:
    author = Author(1)
    begin(replica, author)
    before = replica.position, all_rows(replica)
    rows = rows_for(count)
    with pytest.raises(S3vfsError, match="went away"):
        replica.load(failing(rows), position_for(rows))
    assert (replica.position, all_rows(replica)) == before
    assert author.commit(replica, [create(author, b"goes on")]).verdicts[0].errno == 0
    check_digest(replica)


@pytest.mark.parametrize("fault", ["digest", "order", "twice", "empty-key", "long-key", "missing"])
def test_wrong_rows_are_not_loaded(replica: Replica, fault: str) -> None:
    rows = rows_for(100)
    position = position_for(rows)
    wrong = {
        "digest": [*rows[:-1], (rows[-1][0], b"other")],
        "order": [rows[1], rows[0], *rows[2:]],
        "twice": [*rows, rows[-1]],
        "empty-key": [(b"", b""), *rows],
        "long-key": [*rows, (b"X" * 512, b"")],
        "missing": rows[:-1],
    }[fault]
    with pytest.raises(Damaged):
        replica.load(wrong, position)
    assert replica.position == EMPTY
    assert all_rows(replica) == []


def test_while_another_state_is_loaded_the_present_one_is_read(replica: Replica) -> None:
    begin(replica, Author(1))
    before = replica.position, all_rows(replica)
    rows = rows_for(30_000)
    seen = []

    def peeking() -> Iterator[Row]:
        for index, row in enumerate(rows):
            if index in (0, 20_000):
                with replica.snapshot() as snapshot:
                    seen.append((snapshot.position, list(snapshot.rows)))
                seen.append((replica.position, all_rows(replica)))
            yield row

    install = replica.stage(peeking(), position_for(rows))
    seen.append((replica.position, all_rows(replica)))
    assert seen == [before] * 5
    with replica.snapshot() as snapshot:
        install()
        assert (snapshot.position, list(snapshot.rows)) == before
    assert (replica.position, all_rows(replica)) == (position_for(rows), rows)


def test_a_closed_replica_refuses(replica: Replica) -> None:
    replica.close()
    replica.close()
    with pytest.raises(S3vfsError, match="closed"), replica.read():
        pass
    with pytest.raises(S3vfsError, match="closed"):
        replica.apply(make_record(EMPTY, []))


def test_a_snapshot_stays_as_it_was_while_records_are_applied(replica: Replica) -> None:
    author = Author(1)
    begin(replica, author)
    before, rows = replica.position, all_rows(replica)
    with replica.snapshot() as snapshot:
        author.commit(replica, [create(author, b"later")])
        assert snapshot.position == before
        assert list(snapshot.rows) == rows
    assert replica.position.seq == before.seq + 1


KEYS = [b"D", b"D\0", b"Da", b"Db", b"Db\xff", b"I1", b"I2", b"V", b"X\xff\xff"]


@settings(max_examples=60, deadline=None)
@given(
    present=st.sets(st.sampled_from(KEYS)),
    first=st.sampled_from([b"", b"\0", b"A", b"Z", *KEYS]),
    end=st.sampled_from([b"\1", b"A", b"Z", b"\xff" * 600, b"D" * 600, *KEYS]),
    reverse=st.booleans(),
    stop=st.integers(0, 4),
)
def test_ranges_are_half_open_and_sorted(
    lmdb_replica: LmdbReplica, present: set[bytes], first: bytes, end: bytes, reverse: bool, stop: int
) -> None:
    rows = [(key, b"v" + key) for key in sorted(present)]
    expected = [row for row in rows if first <= row[0] < end]
    if reverse:
        expected.reverse()
    memory = MemoryReplica(VOLUME)
    for replica in (lmdb_replica, memory):
        replica.load(rows, position_for(rows))
        with replica.read() as txn:
            assert list(txn.range(first, end, reverse=reverse)) == expected
            begun = txn.range(first, end, reverse=reverse)
            assert [next(begun, None) for _ in range(stop)] == (expected + [None] * stop)[:stop]
            for key in KEYS:
                assert txn.get(key) == (b"v" + key if key in present else None)


@pytest.fixture(scope="module")
def lmdb_replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmdbReplica]:
    made = LmdbReplica.open(tmp_path_factory.mktemp("replica"), volume=VOLUME, boot_id="boot")
    yield made
    made.close()


def test_rows_outlive_the_transaction_they_were_read_in(replica: Replica) -> None:
    rows = rows_for(10)
    replica.load(rows, position_for(rows))
    with replica.read() as txn:
        value, listed = txn.get(rows[3][0]), list(txn.range(b"I", b"J"))
    replica.load([], position_for([]))
    assert value == b"value 3"
    assert listed == rows


@settings(max_examples=40, deadline=None)
@given(random=st.randoms(use_true_random=False), records=st.integers(1, 25))
def test_both_replicas_agree_on_random_histories(lmdb_replica: LmdbReplica, random: Random, records: int) -> None:
    memory = MemoryReplica(VOLUME)
    lmdb_replica.load([], EMPTY)
    authors = [Author(1), Author(2)]
    mirrored = Mirrored(lmdb_replica, memory)
    begin(mirrored, *authors)
    for _ in range(records):
        author = random.choice(authors)
        with memory.read() as txn:
            ops = [op for _ in range(random.randrange(1, 4)) for op in random_op(random, txn, author)]
        author.commit(mirrored, ops)
    assert lmdb_replica.position == memory.position
    assert all_rows(lmdb_replica) == all_rows(memory)
    check_digest(lmdb_replica)


class Mirrored(MemoryReplica):
    """Applies each record to two replicas and insists on equal results."""

    def __init__(self, one: Replica, other: Replica) -> None:
        self._one, self._other = one, other

    @property
    def position(self) -> Position:
        return self._one.position

    def apply(self, record):  # type: ignore[no-untyped-def]
        one, other = self._one.apply(record), self._other.apply(record)
        assert one == other
        return one


def test_a_memory_replica_can_be_rolled_back() -> None:
    author = Author(1)
    replica = MemoryReplica(VOLUME)
    begin(replica, author)
    old = replica.copy()
    position, rows = replica.position, all_rows(replica)
    author.commit(replica, [create(author, b"x")])
    assert old.position == position
    assert all_rows(old) == rows
    assert all_rows(replica) != rows
    old.apply(make_record(position, []))
    assert old.position != replica.position


def test_digest_helper_agrees_with_the_format() -> None:
    assert digest_of(rows_for(2)) == sum(row_hash(*row) for row in rows_for(2)) % 2**128


def typed_as_replica(lmdb: LmdbReplica, memory: MemoryReplica) -> tuple[Replica, Replica]:
    """For mypy: both keep the protocol."""
    return lmdb, memory


def reader_of(replica: LmdbReplica) -> ReadTransaction:
    """For mypy: what a read gives is a ReadTransaction."""
    with replica.read() as txn:
        return txn
