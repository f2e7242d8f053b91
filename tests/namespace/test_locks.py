"""LOCK, UNLOCK, CANCEL: the semantics of fcntl(2) and flock(2), who waits, and who is granted what."""

from __future__ import annotations

import errno
from dataclasses import astuple

import pytest

from s3vfs.namespace import locks, ops
from s3vfs.namespace.limits import INTEGER_MAX, PASSES_MAX
from s3vfs.namespace.rows import lock_key, wait_key
from tests.namespace.volumes import OTHER, SID, TestVolume, unlink

END = INTEGER_MAX
SHARED, EXCLUSIVE = 1, 3  # fcntl's; owners of its locks are odd here, those of flock even
FLOCK_SHARED, FLOCK_EXCLUSIVE = 0, 2
A, B, C = (SID, 1), (SID, 3), (OTHER, 1)
FA, FB, FC, FD = (SID, 2), (SID, 4), (OTHER, 2), (OTHER, 4)
Owner = tuple[int, int]


@pytest.fixture
def volume() -> TestVolume:
    volume = TestVolume()
    volume.file(16, b"f")
    volume.file(17, b"g")
    volume.ok(ops.Feature(1))
    return volume


class Wait:
    """A request that was told to wait."""

    def __init__(self, volume: TestVolume, ino: int, sid: int, index: int) -> None:
        self._volume, self._ino, self.sid = volume, ino, sid
        self.seq, self.index = volume.seq, index

    @property
    def over(self) -> bool:
        return self._volume.rows.wait(self._ino, self.seq, self.index) is None

    def cancel(self) -> None:
        self._volume.ok(ops.Cancel(self._ino, self.seq, self.index), sid=self.sid)
        self._volume.sound()


def take(volume: TestVolume, owner: Owner, kind: int, start: int = 0, end: int = END, *, ino: int = 16) -> int:
    """F_SETLK, LOCK_NB: the errno."""
    [verdict] = volume.apply(ops.Lock(ino, owner[1], start, end, kind, False), sid=owner[0])
    volume.sound()
    return verdict.errno


def wait(volume: TestVolume, owner: Owner, kind: int, start: int = 0, end: int = END, *, ino: int = 16) -> Wait:
    """F_SETLKW: the request, which has to wait."""
    [verdict] = volume.ok(ops.Lock(ino, owner[1], start, end, kind, True), sid=owner[0])
    volume.sound()
    assert verdict.value == 1
    return Wait(volume, ino, owner[0], 0)


def release(volume: TestVolume, owner: Owner, start: int = 0, end: int = END, *, ino: int = 16) -> None:
    volume.ok(ops.Unlock(ino, owner[1], start, end, owner[1] & 1), sid=owner[0])
    volume.sound()


def held(volume: TestVolume, owner: Owner, ino: int = 16) -> list[tuple[int, int, int]]:
    return [(lock.start, lock.end, lock.kind) for lock in volume.rows.locks_of(ino, *owner)]


# -- ranges -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_a_row_that_names_its_op(volume: TestVolume) -> None:
    volume.apply(ops.Beat(), ops.Lock(16, 1, 5, 9, EXCLUSIVE, False))
    assert [astuple(lock) for lock in volume.rows.locks(16)] == [(SID, 1, 5, 9, EXCLUSIVE, volume.seq, 1)]
    assert volume.base.get(lock_key(16, SID, 1, 5)) is not None


def test_ranges_split_and_merge_as_posix_says(volume: TestVolume) -> None:
    assert take(volume, A, EXCLUSIVE, 10, 29) == 0
    assert take(volume, A, SHARED, 15, 19) == 0
    assert held(volume, A) == [(10, 14, EXCLUSIVE), (15, 19, SHARED), (20, 29, EXCLUSIVE)]
    release(volume, A, 12, 12)
    assert held(volume, A) == [(10, 11, EXCLUSIVE), (13, 14, EXCLUSIVE), (15, 19, SHARED), (20, 29, EXCLUSIVE)]
    assert take(volume, A, EXCLUSIVE, 12, 19) == 0
    assert held(volume, A) == [(10, 29, EXCLUSIVE)]
    assert take(volume, A, EXCLUSIVE, 30, END) == 0
    assert held(volume, A) == [(10, END, EXCLUSIVE)]
    release(volume, A, 0, 99)
    assert held(volume, A) == [(100, END, EXCLUSIVE)]
    release(volume, A, 200, END)
    assert held(volume, A) == [(100, 199, EXCLUSIVE)]


def test_touching_locks_of_one_mode_become_one(volume: TestVolume) -> None:
    assert take(volume, A, SHARED, 0, 4) == take(volume, A, SHARED, 10, 14) == take(volume, A, SHARED, 5, 9) == 0
    assert held(volume, A) == [(0, 14, SHARED)]
    assert take(volume, A, EXCLUSIVE, 15, 19) == 0
    assert held(volume, A) == [(0, 14, SHARED), (15, 19, EXCLUSIVE)]


def test_shared_locks_overlap_and_exclusive_ones_do_not(volume: TestVolume) -> None:
    assert take(volume, A, SHARED, 0, 9) == take(volume, C, SHARED, 5, 14) == 0
    assert take(volume, A, EXCLUSIVE, 9, 9) == errno.EAGAIN
    assert take(volume, A, EXCLUSIVE, 0, 4) == 0
    assert take(volume, B, SHARED, 4, 4) == errno.EAGAIN
    assert take(volume, B, SHARED, 5, 5) == 0
    assert held(volume, A) == [(0, 4, EXCLUSIVE), (5, 9, SHARED)]


def test_unlocking_what_is_not_held_is_fine(volume: TestVolume) -> None:
    release(volume, A)
    assert take(volume, C, EXCLUSIVE) == 0
    release(volume, A)
    assert held(volume, C) == [(0, END, EXCLUSIVE)]


def test_flock_and_fcntl_locks_do_not_meet(volume: TestVolume) -> None:
    assert take(volume, A, EXCLUSIVE) == take(volume, FC, FLOCK_EXCLUSIVE) == 0
    assert take(volume, FA, FLOCK_SHARED) == errno.EAGAIN
    assert take(volume, C, SHARED, 5, 5) == errno.EAGAIN
    release(volume, A)
    assert held(volume, FC) == [(0, END, FLOCK_EXCLUSIVE)]


def test_locks_of_two_inodes_do_not_meet(volume: TestVolume) -> None:
    assert take(volume, A, EXCLUSIVE) == take(volume, C, EXCLUSIVE, ino=17) == 0


@pytest.mark.parametrize(
    "op",
    [
        ops.Lock(16, 1, 5, 4, SHARED, False),
        ops.Lock(16, 1, 0, 5, 4, False),
        ops.Lock(16, 1, 0, 5, 5, True),
        ops.Lock(16, 2, 0, 5, SHARED, False),
        ops.Lock(16, 1, 0, END, FLOCK_SHARED, False),
        ops.Lock(16, 2, 0, END - 1, FLOCK_SHARED, True),
        ops.Lock(16, 2, 1, END, FLOCK_SHARED, False),
        ops.Unlock(16, 1, 5, 4, 1),
        ops.Unlock(16, 2, 0, 5, 0),
        ops.Unlock(16, 1, 0, END, 0),
    ],
)
def test_impossible_requests(volume: TestVolume, op: ops.Op) -> None:
    assert volume.refused(op) == errno.EINVAL


def test_what_is_not_there(volume: TestVolume) -> None:
    assert volume.refused(ops.Lock(99, 1, 0, 5, SHARED, True)) == errno.ENOENT
    assert volume.refused(ops.Cancel(16, 5, 0)) == errno.ENOENT
    assert volume.apply(ops.Lock(16, 1, 0, 5, SHARED, True), sid=99)[0].errno == errno.ESHUTDOWN


# -- waiting ----------------------------------------------------------------------------------------------------------


def test_a_waiter_is_granted_by_the_record_that_lets_go(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE, 0, 9)
    waiting = wait(volume, C, EXCLUSIVE, 5, 14)
    assert volume.base.get(wait_key(16, waiting.seq, 0)) is not None
    release(volume, A, 0, 4)
    assert not waiting.over
    release(volume, A, 5, 9)
    assert waiting.over
    assert [astuple(lock) for lock in volume.rows.locks(16)] == [(*C, 5, 14, EXCLUSIVE, waiting.seq, 0)]


def test_the_place_of_a_waiter_is_its_value(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    verdicts = volume.ok(
        ops.Beat(), ops.Lock(16, 1, 0, 5, SHARED, True), ops.Lock(17, 1, 0, 5, SHARED, True), sid=OTHER
    )
    assert [verdict.value for verdict in verdicts] == [0, 2, 0]
    assert volume.rows.wait(16, volume.seq, 1) is not None


def test_first_come_first_served(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    first, second, third = wait(volume, C, EXCLUSIVE), wait(volume, B, SHARED), wait(volume, (OTHER, 5), SHARED)
    release(volume, A)
    assert (first.over, second.over, third.over) == (True, False, False)
    release(volume, C)
    assert second.over
    assert third.over


def test_a_downgrade_lets_readers_in(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    reader, writer = wait(volume, C, SHARED), wait(volume, B, EXCLUSIVE)
    assert take(volume, A, SHARED) == 0
    assert (reader.over, writer.over) == (True, False)


def test_readers_do_not_starve_a_writer(volume: TestVolume) -> None:
    take(volume, A, SHARED)
    writer = wait(volume, C, EXCLUSIVE)
    readers = [wait(volume, (OTHER, 5 + 2 * number), SHARED) for number in range(3)]
    release(volume, A)
    assert writer.over
    assert not any(reader.over for reader in readers)


def test_who_need_not_wait_looks_at_held_locks_only(volume: TestVolume) -> None:
    take(volume, A, SHARED)
    writer = wait(volume, C, EXCLUSIVE)
    assert take(volume, (OTHER, 5), SHARED) == 0
    assert not writer.over


def test_a_holder_is_not_held_up_by_those_who_wait_for_it(volume: TestVolume) -> None:
    take(volume, A, SHARED, 0, 9)
    writer = wait(volume, C, EXCLUSIVE, 0, 19)
    volume.ok(*(ops.Lock(16, 1, 10 + number % 2, 19, SHARED, True) for number in range(PASSES_MAX + 5)))
    volume.sound()
    assert held(volume, A) == [(0, 19, SHARED)]
    assert not writer.over


def test_a_holder_passes_those_who_wait_for_it_through_others(volume: TestVolume) -> None:
    """A holds one file, B reads the other and waits for A, C waits for B: A may read the other as well."""
    take(volume, A, EXCLUSIVE)
    other = (OTHER, 5)
    take(volume, other, SHARED, ino=17)
    wait(volume, other, EXCLUSIVE)
    wait(volume, C, EXCLUSIVE, ino=17)
    [verdict] = volume.ok(ops.Lock(17, A[1], 0, END, SHARED, True))
    assert verdict.value == 0
    volume.sound()


def test_who_stands_behind_a_waiter_passes_it_once_that_waits_for_him(volume: TestVolume) -> None:
    """The same, in another order: the reader stands in the queue before the circle closes."""
    third = (OTHER, 7)
    volume.ok(ops.Announce("third"), sid=9)
    take(volume, A, EXCLUSIVE)
    take(volume, (9, 1), SHARED, ino=17)
    wait(volume, third, EXCLUSIVE, ino=17)
    reader = wait(volume, A, SHARED, ino=17)
    writer = wait(volume, (9, 1), EXCLUSIVE)
    assert reader.over
    assert not writer.over


def test_a_session_that_is_waited_for_may_pass_a_bounded_number_of_times(volume: TestVolume) -> None:
    take(volume, FA, FLOCK_SHARED)
    writer = wait(volume, FC, FLOCK_EXCLUSIVE)
    for number in range(PASSES_MAX):
        owner = (SID, 100 + 2 * number)
        assert volume.ok(ops.Lock(16, owner[1], 0, END, FLOCK_SHARED, True))[0].value == 0
        release(volume, owner)
    late = wait(volume, FB, FLOCK_SHARED)
    release(volume, FA)
    assert writer.over
    assert not late.over


def test_cancelled_requests_hold_up_nobody(volume: TestVolume) -> None:
    take(volume, A, SHARED)
    writer, reader = wait(volume, C, EXCLUSIVE), wait(volume, (OTHER, 5), SHARED)
    assert volume.apply(ops.Cancel(16, writer.seq, 0))[0].errno == errno.EPERM
    writer.cancel()
    assert reader.over
    assert volume.apply(ops.Cancel(16, writer.seq, 0), sid=OTHER)[0].errno == errno.ENOENT
    release(volume, A)
    assert held(volume, C) == []


# -- conversion -------------------------------------------------------------------------------------------------------


def test_a_flock_that_waits_to_be_converted_lets_go_first(volume: TestVolume) -> None:
    """Else two who convert would wait for each other for ever: flock(2) knows no EDEADLK."""
    take(volume, FA, FLOCK_SHARED)
    take(volume, FC, FLOCK_SHARED)
    first = wait(volume, FA, FLOCK_EXCLUSIVE)
    assert held(volume, FA) == []
    assert take(volume, FC, FLOCK_EXCLUSIVE) == 0
    assert not first.over
    release(volume, FC)
    assert first.over


def test_a_flock_that_waits_to_be_converted_lets_others_in(volume: TestVolume) -> None:
    take(volume, FA, FLOCK_SHARED)
    take(volume, FC, FLOCK_SHARED)
    writer = wait(volume, FD, FLOCK_EXCLUSIVE)
    release(volume, FC)
    volume.ok(ops.Lock(16, FB[1], 0, END, FLOCK_SHARED, False))
    wait(volume, FA, FLOCK_EXCLUSIVE)
    assert not writer.over
    release(volume, FB)
    assert writer.over


def test_a_flock_that_cannot_be_converted_at_once_stays(volume: TestVolume) -> None:
    take(volume, FA, FLOCK_SHARED)
    take(volume, FC, FLOCK_SHARED)
    assert take(volume, FA, FLOCK_EXCLUSIVE) == errno.EAGAIN
    assert held(volume, FA) == [(0, END, FLOCK_SHARED)]
    release(volume, FC)
    assert take(volume, FA, FLOCK_EXCLUSIVE) == 0
    assert held(volume, FA) == [(0, END, FLOCK_EXCLUSIVE)]
    assert take(volume, FA, FLOCK_SHARED) == 0
    assert held(volume, FA) == [(0, END, FLOCK_SHARED)]


def test_an_fcntl_upgrade_keeps_what_it_has_while_it_waits(volume: TestVolume) -> None:
    take(volume, A, SHARED)
    take(volume, C, SHARED)
    upgrade = wait(volume, A, EXCLUSIVE)
    assert held(volume, A) == [(0, END, SHARED)]
    assert take(volume, B, EXCLUSIVE) == errno.EAGAIN
    release(volume, C)
    assert upgrade.over
    assert held(volume, A) == [(0, END, EXCLUSIVE)]


# -- circles ----------------------------------------------------------------------------------------------------------


def test_two_who_wait_for_each_other(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE, 0, 0)
    take(volume, C, EXCLUSIVE, 1, 1)
    wait(volume, A, EXCLUSIVE, 1, 1)
    op = ops.Lock(16, C[1], 0, 0, SHARED, True)
    assert volume.refused(op, sid=OTHER) == errno.EDEADLK
    assert take(volume, C, SHARED, 0, 0) == errno.EAGAIN


def test_two_readers_who_both_want_to_write(volume: TestVolume) -> None:
    take(volume, A, SHARED)
    take(volume, C, SHARED)
    wait(volume, A, EXCLUSIVE)
    assert volume.refused(ops.Lock(16, C[1], 0, END, EXCLUSIVE, True), sid=OTHER) == errno.EDEADLK


def test_a_circle_of_three_over_two_files(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    take(volume, B, EXCLUSIVE, ino=17)
    take(volume, C, EXCLUSIVE, 5, 5, ino=1)
    wait(volume, A, EXCLUSIVE, ino=17)
    wait(volume, B, EXCLUSIVE, 0, 9, ino=1)
    assert volume.refused(ops.Lock(16, C[1], 0, 0, SHARED, True), sid=OTHER) == errno.EDEADLK
    wait(volume, (OTHER, 9), SHARED, 0, 0)


def test_a_circle_of_flocks_is_nobodys_business(volume: TestVolume) -> None:
    take(volume, FA, FLOCK_EXCLUSIVE)
    take(volume, FC, FLOCK_EXCLUSIVE, ino=17)
    wait(volume, FA, FLOCK_EXCLUSIVE, ino=17)
    wait(volume, FC, FLOCK_EXCLUSIVE)


# -- sessions and inodes ----------------------------------------------------------------------------------------------


def test_the_locks_of_a_session_go_with_its_end(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    take(volume, FA, FLOCK_SHARED, ino=17)
    waiting, other = wait(volume, C, EXCLUSIVE), wait(volume, FC, FLOCK_EXCLUSIVE, ino=17)
    gone = wait(volume, B, SHARED)
    volume.ok(ops.End())
    volume.sound()
    assert waiting.over
    assert other.over
    assert gone.over
    assert held(volume, A) == held(volume, B) == held(volume, FA, 17) == []


def test_the_locks_of_a_session_go_with_its_eviction(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    waiting = wait(volume, C, EXCLUSIVE)
    volume.ok(ops.Challenge(SID), sid=OTHER)
    challenge = volume.seq
    assert not waiting.over
    volume.ok(ops.Evict(SID, challenge), sid=OTHER)
    volume.sound()
    assert waiting.over
    assert held(volume, C) == [(0, END, EXCLUSIVE)]
    assert volume.apply(ops.Unlock(16, 1, 0, END, 1))[0].errno == errno.ESHUTDOWN


def test_a_session_that_is_taken_up_again_keeps_its_locks_and_waits_for_none(volume: TestVolume) -> None:
    """What was written under them is published first; only then does the new incarnation let go."""
    take(volume, A, EXCLUSIVE, 0, 9)
    take(volume, C, EXCLUSIVE, 10, 19)
    gone, after = wait(volume, B, EXCLUSIVE, 10, 19), wait(volume, (OTHER, 5), SHARED, 0, 12)
    volume.ok(ops.Resume(1), incarnation=2)
    volume.sound()
    assert gone.over
    assert held(volume, A) == [(0, 9, EXCLUSIVE)]
    release(volume, C)
    assert not after.over
    assert held(volume, B) == []
    volume.ok(ops.Unlock(16, A[1], 0, END, 1), incarnation=2)
    assert after.over


def test_an_inode_takes_its_locks_along(volume: TestVolume) -> None:
    take(volume, A, EXCLUSIVE)
    waiting = wait(volume, C, SHARED)
    volume.ok(unlink(16, b"f"))
    volume.sound()
    assert not waiting.over
    volume.ok(ops.Reap(16))
    volume.sound()
    assert waiting.over
    assert list(volume.rows.all_locks()) == []


def test_there_is_an_end_to_locks_and_to_waiting(volume: TestVolume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCKS_PER_INODE", 30)
    monkeypatch.setattr(locks, "WAITS_PER_INODE", 20)
    volume.ok(*(ops.Lock(16, 1, 2 * number, 2 * number, SHARED, False) for number in range(30)))
    assert take(volume, C, SHARED, 7, 7) == errno.ENOLCK
    assert take(volume, C, SHARED, 7, 7, ino=17) == 0
    release(volume, A)
    take(volume, FA, FLOCK_EXCLUSIVE)
    volume.ok(*(ops.Lock(16, 2 * number + 2, 0, END, FLOCK_EXCLUSIVE, True) for number in range(20)), sid=OTHER)
    assert volume.refused(ops.Lock(16, 6, 0, END, FLOCK_SHARED, True)) == errno.ENOLCK
