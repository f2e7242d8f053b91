"""Random ops of three sessions, with leases and without.

Each step is predicted by brute force over all links, and what R6 lets through is compared with a second volume that
knows no leases: there must be no other difference.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.namespace import apply, leases, leasing, ops, orphans, sessions
from s3vfs.namespace.leases import covering, leases_touched
from s3vfs.namespace.rows import GrantRow, LeaseId, MutableRows, RecallRow, recall_key
from s3vfs.namespace.verdict import COVERED, OK, STALE, Context, Verdict
from tests.namespace.volumes import OTHER, SID, TestVolume, create, setattr_op, unlink

THIRD = 9
SIDS = (SID, OTHER, THIRD)
NAMES = (b"a", b"b", b"c", b"d", b"e", b"f")
MOST_DIRECTORIES, MOST_LEASES, MOST_LINKS = 4, 2, 4
LEASE_TAGS = b"GLglCVS"  # and rows that count them


@dataclass
class Held:
    sid: int
    directories: set[int]
    recall: tuple[int, int] | None = None


@dataclass
class LeaseModel:
    leases: dict[LeaseId, Held] = field(default_factory=dict)

    def of_directory(self, ino: int) -> LeaseId | None:
        return next((lease for lease, held in self.leases.items() if ino in held.directories), None)

    def covering(self, volume: TestVolume, ino: int) -> LeaseId | None:
        inode = volume.rows.inode(ino)
        if inode is None:
            return None
        if stat.S_ISDIR(inode.mode):
            return self.of_directory(ino)
        parents = [struct.unpack_from(">QQ", key, 1)[1] for key, _ in volume.base.items() if is_link(key, ino)]
        found = {self.of_directory(parent) for parent in parents}
        return found.pop() if len(parents) <= MOST_LINKS and len(found) == 1 else None

    def refusal(self, volume: TestVolume, sid: int, named: LeaseId | None, op: ops.Op) -> int:
        if named is not None and (named not in self.leases or self.leases[named].sid != sid):
            return STALE
        touched = self.touched(volume, op)
        return COVERED if any(lease is not None and self.leases[lease].sid != sid for lease in touched) else 0

    def touched(self, volume: TestVolume, op: ops.Op) -> set[LeaseId | None]:
        directories = [getattr(op, name) for name in ("parent", "new_parent") if hasattr(op, name)]
        inos = [
            getattr(op, name) for name in ("ino", "replaced") if hasattr(op, name) and not isinstance(op, ops.Create)
        ]
        return {self.of_directory(ino) for ino in directories} | {self.covering(volume, ino) for ino in inos if ino}

    def lease_op(self, volume: TestVolume, sid: int, op: ops.Op, place: LeaseId) -> int:
        if isinstance(op, ops.Grant):
            return self.grant(volume, sid, op.directories, place)
        assert isinstance(op, ops.Recall | ops.Busy | ops.Release | ops.Revoke)
        held = self.leases.get((op.seq, op.index))
        if held is None:
            return errno.ESRCH
        own = held.sid == sid
        if isinstance(op, ops.Recall):
            if own:
                return errno.EINVAL
            held.recall = held.recall or place
        elif isinstance(op, ops.Busy):
            if not own or held.recall is None:
                return errno.EINVAL if own else errno.EPERM
            held.recall = place
        elif isinstance(op, ops.Release):
            if not own:
                return errno.EPERM
            del self.leases[op.seq, op.index]
        else:
            if own:
                return errno.EPERM
            if held.recall != (op.recall_seq, op.recall_index):
                return STALE
            del self.leases[op.seq, op.index]
        return 0

    def grant(self, volume: TestVolume, sid: int, directories: tuple[int, ...], place: LeaseId) -> int:
        if not directories or len(set(directories)) < len(directories):
            return errno.EINVAL
        for ino in directories:
            inode, lease = volume.rows.inode(ino), self.of_directory(ino)
            if inode is None or not stat.S_ISDIR(inode.mode):
                return errno.ENOENT if inode is None else errno.ENOTDIR
            if lease is not None:
                return errno.EEXIST if self.leases[lease].sid == sid else errno.EBUSY
        if sum(held.sid == sid for held in self.leases.values()) >= MOST_LEASES:
            return errno.ENOLCK
        self.leases[place] = Held(sid, set(directories))
        return 0

    def follow(self, volume: TestVolume, op: ops.Op) -> None:
        """After an op on names that was accepted."""
        lease = self.of_directory(op.parent) if isinstance(op, ops.Create) else None
        if isinstance(op, ops.Create) and lease is not None and stat.S_ISDIR(op.mode):
            held = self.leases[lease]
            held.directories |= {op.ino} if len(held.directories) < MOST_DIRECTORIES else set()
        for held in self.leases.values():
            held.directories = {ino for ino in held.directories if volume.rows.inode(ino) is not None}


def is_link(key: bytes, ino: int) -> bool:
    return key[:1] == b"P" and struct.unpack_from(">Q", key, 1)[0] == ino


class Player:
    """Chooses an op, predicts what becomes of it, and plays it with leases and without."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.volume, self.plain = TestVolume(), TestVolume()
        for volume, first in ((self.volume, ops.Feature(0)), (self.plain, ops.Beat())):
            volume.ok(ops.Announce("third"), ops.Block(1000), sid=THIRD)
            volume.ok(first)
        self.model = LeaseModel()
        self.incarnations = dict.fromkeys(SIDS, 1)
        self.next_ino = {SID: 16, OTHER: 1016, THIRD: 2016}
        self.old: list[LeaseId] = [(1, 0)]

    # -- choices --------------------------------------------------------------------------------------------------

    def inos(self, *, directories: bool) -> list[int]:
        keys = [key for key, _ in self.volume.base.range(b"I", b"J")]
        inos = [int.from_bytes(key[1:], "big") for key in keys]
        return [ino for ino in inos if directories == stat.S_ISDIR(self.volume.inode(ino).mode)]

    def directory(self) -> int:
        files = self.inos(directories=False)
        wrong = files and self.random.random() < 0.04
        return self.random.choice(files if wrong else self.inos(directories=True))

    def entry(self) -> tuple[int, bytes, int]:
        """(parent, name, inode), most of the time of one that is there."""
        entries = [entry for ino in self.inos(directories=True) for entry in self.below(ino)]
        if not entries or self.random.random() < 0.05:
            return self.directory(), self.random.choice(NAMES), self.directory()
        return self.random.choice(entries)

    def below(self, parent: int) -> Iterator[tuple[int, bytes, int]]:
        return ((parent, name, dentry.ino) for name, dentry in self.volume.rows.entries(parent))

    def name_op(self, sid: int) -> ops.Op:
        random = self.random
        parent, name, ino = self.entry()
        other, new_name = self.directory(), random.choice(NAMES)
        match random.choice(("create", "create", "mkdir", "mkdir", "link", "link", "unlink", "rmdir", "rename", "set")):
            case "create" | "mkdir" as kind:
                self.next_ino[sid] += 1
                mode = stat.S_IFDIR | 0o755 if kind == "mkdir" else stat.S_IFREG | 0o644
                return create(self.next_ino[sid], new_name, other, mode=mode)
            case "link":
                return ops.Link(ino, other, new_name, 5)
            case "unlink":
                return unlink(ino, name, parent, hold=random.random() < 0.5)
            case "rmdir":
                return ops.Rmdir(parent, name, ino, 0, 5)
            case "rename":
                there = self.volume.rows.dentry(other, new_name)
                flags = random.choice((0, 0, ops.RENAME_EXCHANGE)) if there else 0
                replaced = there.ino if there else 0
                return ops.Rename(parent, name, ino, other, new_name, replaced, flags, 0, True, 5)
            case _:
                return random.choice((setattr_op(ino, 1, mode=0o700), ops.Setxattr(ino, b"user.x", b"v", 0, 5)))

    def lease(self) -> LeaseId:
        live = list(self.model.leases)
        return self.random.choice(live if live and self.random.random() < 0.9 else self.old)

    def lease_op(self) -> ops.Op:
        random, lease = self.random, self.lease()
        match random.choice(("grant", "grant", "grant", "recall", "recall", "busy", "release", "revoke", "revoke")):
            case "grant":
                return ops.Grant(tuple(self.directory() for _ in range(random.randrange(4))))
            case "recall":
                return ops.Recall(*lease)
            case "busy":
                return ops.Busy(*lease)
            case "release":
                return ops.Release(*lease)
            case _:
                held = self.model.leases.get(lease)
                standing = held.recall if held and held.recall and random.random() < 0.8 else random.choice(self.old)
                return ops.Revoke(*lease, *standing)

    # -- playing --------------------------------------------------------------------------------------------------

    def play(self, sid: int, named: LeaseId | None, op: ops.Op, *, plain: bool) -> tuple[Verdict, Verdict]:
        """The op's verdict with leases, and without, where it is played there too."""
        incarnation = self.incarnations[sid]
        raw = self.volume.number(op, sid, incarnation, named)
        [verdict] = self.volume.record([raw], sid=sid, incarnation=incarnation)
        raw = self.plain.number(op if plain else ops.Beat(), sid, incarnation)
        [other] = self.plain.record([raw], sid=sid, incarnation=incarnation)
        return verdict, other

    def step(self) -> None:
        random, model, sid = self.random, self.model, self.random.choice(SIDS)
        choice = random.random()
        place = (self.volume.seq + 1, 0)
        if choice < 0.03:
            self.leave(sid)
            return
        own = [lease for lease, held in model.leases.items() if held.sid == sid]
        named = random.choice(own) if own and random.random() < 0.6 else None
        named = self.lease() if random.random() < 0.1 else named
        if choice < 0.3:
            op = self.lease_op()
            expected = model.refusal(self.volume, sid, named, op) or model.lease_op(self.volume, sid, op, place)
            verdict, _ = self.play(sid, named, op, plain=False)
            assert verdict.errno == expected, (sid, named, op)
            self.old.append(place)
            return
        op = self.name_op(sid)
        covered = model.touched(self.volume, op)
        touched = leases_touched(self.volume.rows, op)
        assert touched == covered | ({None} if self.moves_directory(op) else set())
        refused = model.refusal(self.volume, sid, named, op)
        verdict, plain = self.play(sid, named, op, plain=not refused)
        assert verdict == (Verdict(refused) if refused else plain), (sid, named, op)
        if not verdict.errno:
            model.follow(self.volume, op)

    def moves_directory(self, op: ops.Op) -> bool:
        directories = self.inos(directories=True)
        return (
            isinstance(op, ops.Rename)
            and op.parent != op.new_parent
            and (op.ino in directories or op.replaced in directories)
        )

    def leave(self, sid: int) -> None:
        """The session is taken up again, or ends and comes back."""
        if self.random.random() < 0.5:
            self.incarnations[sid] += 1
            self.play(sid, None, ops.Resume(self.incarnations[sid] - 1), plain=True)
            return
        self.play(sid, None, ops.End(), plain=True)
        self.incarnations[sid] = 1
        self.play(sid, None, ops.Announce("again"), plain=True)
        self.model.leases = {lease: held for lease, held in self.model.leases.items() if held.sid != sid}
        verdict, _ = self.play(sid, None, ops.Block(1000), plain=True)
        self.next_ino[sid] = verdict.value

    def compare(self) -> None:
        rows, model = self.volume.rows, self.model
        found = {lease: (row.sid, set(rows.directories(lease))) for lease, row in rows.grants()}
        assert found == {lease: (held.sid, held.directories) for lease, held in model.leases.items()}
        for lease, held in model.leases.items():
            standing = rows.recall(lease)
            assert (None if standing is None else (standing.seq, standing.index)) == held.recall
        for ino in (*self.inos(directories=True), *self.inos(directories=False)):
            assert covering(rows, ino) == model.covering(self.volume, ino)
        self.volume.sound()
        assert self.rest(self.volume) == self.rest(self.plain)

    @staticmethod
    def rest(volume: TestVolume) -> dict[bytes, bytes]:
        """All rows that have nothing to do with leases."""
        return {key: value for key, value in volume.base.items() if key[0] not in LEASE_TAGS}


@contextmanager
def small_limits() -> Iterator[None]:
    with (
        patch.object(leasing, "DIRECTORIES_PER_LEASE", MOST_DIRECTORIES),
        patch.object(leasing, "LEASES_PER_SESSION", MOST_LEASES),
    ):
        yield


def play(seed: int, steps: int) -> None:
    player = Player(Random(seed))
    for _ in range(steps):
        player.step()
        player.compare()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(30, 120))
def test_leases_and_the_model_agree(seed: int, steps: int) -> None:
    with small_limits():
        play(seed, steps)


# -- mutants ----------------------------------------------------------------------------------------------------------


def _refusal_without_names(rows: Any, named: Any, op: ops.Op, sid: int) -> int:
    return _refusal(rows, None, op, sid)


def _refusal_without_touch(rows: Any, named: Any, op: ops.Op, sid: int) -> int:
    return _refusal(rows, named, ops.Beat(), sid)


def _any_link_covers(rows: Any, ino: int, inode: Any, known: Any) -> LeaseId | None:
    if inode is None or stat.S_ISDIR(inode.mode):
        return leases.lease_of_directory(rows, ino)
    found = [leases.lease_of_directory(rows, parent) for parent, _ in rows.links(ino)]
    return next((lease for lease in found if lease is not None), None)


def _recall_moves(rows: MutableRows, op: ops.Recall, context: Context) -> Verdict:
    lease = (op.seq, op.index)
    verdict = _recall(rows, op, context)
    if not verdict.errno:
        rows.put(recall_key(lease), RecallRow(context.seq, context.index, 0))
    return verdict


def _busy_stays(rows: MutableRows, op: ops.Busy, context: Context) -> Verdict:
    lease = (op.seq, op.index)
    row, standing = leases.grant(rows, lease), rows.recall(lease)
    if row is None or row.sid != context.sid or standing is None:
        return _busy(rows, op, context)
    return OK


def _revoke_anything(rows: MutableRows, op: ops.Revoke, context: Context) -> Verdict:
    lease = (op.seq, op.index)
    row = leases.grant(rows, lease)
    if isinstance(row, GrantRow) and row.sid != context.sid:
        leasing._remove(rows, lease, row)
        return OK
    return _revoke(rows, op, context)


_refusal, _recall, _busy, _revoke = leases.refusal, leasing.recall, leasing.busy, leasing.revoke


def _nothing(*_: object) -> None:
    pass


def _instead(target: Any, name: str, value: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(target, name, value)


def _handled(kind: type[ops.Op], handler: Callable[..., Verdict]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.dict(apply._HANDLERS, {kind: handler})


MUTANTS = {
    "names are not looked at": _instead(leases, "refusal", _refusal_without_names),
    "what is touched is not looked at": _instead(leases, "refusal", _refusal_without_touch),
    "one covered link is enough": _instead(leases, "_covering", _any_link_covers),
    "many links are covered": _instead(leases, "COVERED_LINKS_MAX", 100),
    "few links are covered": _instead(leases, "COVERED_LINKS_MAX", 3),
    "new directories do not inherit": _instead(leasing, "inherit", _nothing),
    "a lease grows for ever": _instead(leasing, "DIRECTORIES_PER_LEASE", 100),
    "removed directories stay covered": _instead(orphans, "uncover", _nothing),
    "leases outlive their session": _instead(sessions, "release_session_leases", _nothing),
    "a later RECALL takes the first one's place": _handled(ops.Recall, _recall_moves),
    "BUSY changes nothing": _handled(ops.Busy, _busy_stays),
    "REVOKE needs no RECALL": _handled(ops.Revoke, _revoke_anything),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str) -> None:
    for seed in range(40):
        with small_limits(), MUTANTS[name]():
            try:
                play(seed, 80)
            except AssertionError:
                return
    pytest.fail(f"nobody noticed that {name}")
