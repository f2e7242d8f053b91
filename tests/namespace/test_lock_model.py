"""Random locks, releases, cancellations and deaths, compared with the model after each."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.namespace import ops
from s3vfs.namespace.apply import apply_op
from s3vfs.namespace.ops import NumberedOp
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.verdict import Context
from tests.namespace.lock_model import CELLS, END, LockModel
from tests.namespace.volumes import OTHER, SID, TestVolume

INOS = [16, 17]
THIRD = 9


def assert_equal(rows: Rows, model: LockModel) -> None:
    for ino, file in model.files.items():
        modes: dict[tuple[int, int], dict[int, bool]] = {}
        for lock in rows.locks(ino):
            for cell in range(lock.start, min(lock.end, CELLS - 1) + 1):
                modes.setdefault((lock.sid, lock.owner), {})[cell] = bool(lock.kind & 2)
        assert modes == {owner: held for owner, held in file.modes.items() if held}
        waits = [(waiting.seq, waiting.index, waiting.row.sid, waiting.row.owner) for waiting in rows.waits(ino)]
        assert waits == [(*request.place, *request.owner) for request in file.queue]
        assert [waiting.row.passed for waiting in rows.waits(ino)] == [request.passed for request in file.queue]


class Player:
    """Chooses and plays one op, on both sides."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.volume = TestVolume()
        self.volume.ok(ops.Announce("third"), ops.Block(1000), sid=THIRD)
        for ino in INOS:
            self.volume.file(ino, b"%d" % ino)
        self.volume.ok(ops.Feature(1))
        self.model = LockModel(INOS)
        self.incarnations = {SID: 1, OTHER: 1, THIRD: 1}
        self.layer = ScratchTransaction(self.volume.base.copy())

    def range(self, owner: int) -> tuple[int, int]:
        if not owner & 1 or self.random.random() < 0.1:
            return 0, END
        start = self.random.randrange(CELLS)
        end = END if self.random.random() < 0.2 else self.random.randrange(start, CELLS)
        return (min(start, CELLS - 1), END) if end >= CELLS - 1 else (start, end)

    def apply(self, sid: int, op: ops.Op) -> tuple[int, int]:
        [verdict] = self.volume.apply(op, sid=sid, incarnation=self.incarnations[sid])
        context = Context(self.volume.seq, 0, sid, self.incarnations[sid])
        assert apply_op(self.layer, NumberedOp(1, None, op), context) == verdict  # type: ignore[arg-type]
        return verdict.errno, verdict.value

    def step(self) -> None:
        random, sid = self.random, self.random.choice((SID, OTHER, THIRD))
        ino, owner = random.choice(INOS), random.choice((1, 1, 3, 2, 4))
        start, end = self.range(owner)
        choice = random.random()
        place = (self.volume.seq + 1, 0)
        if choice < 0.55:
            exclusive, wait = random.random() < 0.5, random.random() < 0.6
            kind = (owner & 1) + 2 * exclusive
            got = self.apply(sid, ops.Lock(ino, owner, start, end, kind, wait))
            assert got == self.model.lock(ino, (sid, owner), start, end, exclusive, wait, place)
        elif choice < 0.85:
            assert self.apply(sid, ops.Unlock(ino, owner, start, end, owner & 1)) == (0, 0)
            self.model.unlock(ino, (sid, owner), start, end)
        elif choice < 0.95:
            queue = self.model.files[ino].queue
            place = random.choice(queue).place if queue else (1, 1)
            got = self.apply(sid, ops.Cancel(ino, *place))
            assert got == (self.model.cancel(ino, place, sid), 0)
        elif choice < 0.975:
            self.incarnations[sid] += 1
            assert self.apply(sid, ops.Resume(self.incarnations[sid] - 1)) == (0, 0)
            self.model.resume(sid)
        else:
            assert self.apply(sid, ops.End()) == (0, 0)
            self.model.end(sid)
            self.incarnations[sid] = 1
            assert self.apply(sid, ops.Announce("again")) == (0, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 60))
def test_locks_and_the_model_agree(seed: int, steps: int) -> None:
    player = Player(Random(seed))
    for _ in range(steps):
        player.step()
        assert_equal(player.volume.rows, player.model)
        player.volume.sound()
    locks = dict(player.layer.range(b"K", b"L"))
    assert locks == dict(player.volume.base.range(b"K", b"L"))
