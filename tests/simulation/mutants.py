"""The product with one rule broken on purpose: if a mutant's histories pass, the oracles are asleep.

Each mutant patches production objects while it is active. `corrupting` mutants need wrong records to show themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import trio
from msgspec.structs import replace

from s3vfs.errors import StoreUnreachable
from s3vfs.journal import bucket, trimming
from s3vfs.journal.head import HeadState
from s3vfs.journal.keys import record_key
from s3vfs.namespace import apply, ops
from s3vfs.namespace.rows import MutableRows, session_key
from s3vfs.namespace.verdict import FENCED, OK, Context, Verdict
from s3vfs.objects.protocol import Outcome
from s3vfs.replica import memory_replica
from s3vfs.session.appender import Appender
from s3vfs.session.base import Fate
from s3vfs.session.batches import Group
from s3vfs.session.directory import Identity
from s3vfs.session.lifecycle import Office, Registrar
from s3vfs.session.pipeline import Pipeline
from s3vfs.session.tail import Tail
from tests.simulation import world
from tests.simulation.workload import Workload


@dataclass(frozen=True, slots=True)
class Mutant:
    """`patches` gives (target, attribute, replacement) triples."""

    rule: str
    what: str
    patches: Callable[[], Sequence[tuple[Any, str, Any]]]
    corrupting: bool = False

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as stack:
            for target, attribute, replacement in self.patches():
                stack.enter_context(patch.object(target, attribute, replacement))
            yield


# -- R2 -----------------------------------------------------------------------------------------------------------


async def _one_put(journal: bucket.BucketJournal, seq: int, data: bytes) -> bool | None:
    """None: no plain answer."""
    try:
        reply = await journal._control.put(record_key(seq), data, if_absent=True)
    except StoreUnreachable:
        return None
    return True if reply.outcome is Outcome.OK else None


def _unknown_is_lost() -> Sequence[tuple[Any, str, Any]]:
    async def send(self: Appender, seq: int, batch: bytes, data: bytes) -> None:
        with suppress(StoreUnreachable):
            await self._journal.refresh_head()
        if await _one_put(self._journal, seq, data):  # type: ignore[arg-type]
            self._base.offer(seq, data)
        expected, self._base.expected = self._base.expected, None
        if expected is not None:
            expected.settle(Fate.LOST, ())
        self._tail.want()
        await trio.sleep(0.1)

    return [(Appender, "_send", send)]


def _unknown_is_won() -> Sequence[tuple[Any, str, Any]]:
    async def append(self: bucket.BucketJournal, seq: int, data: bytes, batch: bytes) -> bool:
        await _one_put(self, seq, data)
        return True

    # Such clients go round in circles for ever; nobody needs so many requests.
    return [(bucket.BucketJournal, "append", append), (world, "MOST_REQUESTS", 4_000)]


# -- R4 -----------------------------------------------------------------------------------------------------------


def _no_chain_checks() -> Sequence[tuple[Any, str, Any]]:
    return [(memory_replica, "check_continues", lambda position, volume, record: None)]


# -- R5 -----------------------------------------------------------------------------------------------------------


def _trust_without_head() -> Sequence[tuple[Any, str, Any]]:
    return [(HeadState, "vouches_for", lambda self, date_ns: True)]


def _delete_at_once() -> Sequence[tuple[Any, str, Any]]:
    return [(trimming, "DELETE_AFTER_NS", 0)]


# -- R9 -----------------------------------------------------------------------------------------------------------


def _commit_before_put() -> Sequence[tuple[Any, str, Any]]:
    genuine = Workload._with_object

    async def with_object(self: Workload, make: Any) -> None:
        runs: list[tuple[Any, ...]] = []
        environment = self._session.environment

        async def later(fn: Any, *arguments: Any) -> None:
            runs.append((fn, *arguments))

        with patch.object(self._session, "environment", _with_runner(environment, later)):
            await genuine(self, make)
        for run in runs:
            await environment.run(*run)

    return [(Workload, "_with_object", with_object)]


def _with_runner(environment: Any, runner: Any) -> Any:
    from dataclasses import replace as replace_fields

    return replace_fields(environment, run=runner)


# -- R12 ----------------------------------------------------------------------------------------------------------


def _speculate_in_base() -> Sequence[tuple[Any, str, Any]]:
    genuine = Pipeline.enqueue

    def enqueue(self: Pipeline, new_ops: Sequence[Any], **options: Any) -> Group:
        context = Context(self._base.applied_seq, 0, self._base.sid, self._base.incarnation)
        with self._base.replica.read() as txn:
            for op in new_ops:
                apply.apply_op(txn, ops.NumberedOp(0, None, op), context)  # type: ignore[arg-type]
        return genuine(self, new_ops, **options)

    return [(Pipeline, "enqueue", enqueue)]


def _own_record_first() -> Sequence[tuple[Any, str, Any]]:
    """An own record is applied when it is sent, not when its place is known: out of order after a lost race."""
    genuine = Appender._send

    async def send(self: Appender, seq: int, batch: bytes, data: bytes) -> None:
        self._base.offer(seq, data)
        await genuine(self, seq, batch, data)

    return [(Appender, "_send", send)]


# -- R13 ----------------------------------------------------------------------------------------------------------


def _resume_always_accepted() -> Sequence[tuple[Any, str, Any]]:
    def resume(rows: MutableRows, op: ops.Resume, context: Context) -> Verdict:
        row = rows.session(context.sid)
        if row is None:
            return Verdict(FENCED)
        rows.put(
            session_key(context.sid),
            replace(row, incarnation=context.incarnation, last_op=0, last_seq=context.seq),
        )
        return OK

    def resumption(self: Registrar, identity: Identity) -> Identity | None:
        if self._base.session_row(identity.sid) is None:
            return None
        first = self._first_number()
        return Identity(identity.sid, identity.incarnation + 1, self._environment.boot_id, first, settled=False)

    return [
        (apply, "_HANDLERS", {**apply._HANDLERS, ops.Resume: resume}),
        (Registrar, "_resumption", resumption),
    ]


def _no_resume_at_all() -> Sequence[tuple[Any, str, Any]]:
    genuine = Registrar.take_office

    async def take_office(self: Registrar, identity: Identity | None) -> Office | None:
        row = self._base.session_row(identity.sid) if identity is not None else None
        if identity is None or row is None:
            return await genuine(self, None) if identity is None else None
        self._base.take_office(identity.sid, row.incarnation)
        return Office(identity.sid, row.incarnation, True, row.last_op + 1)

    return [(Registrar, "take_office", take_office)]


# -- promises that have no number -----------------------------------------------------------------------------------


def _join_earlier_looks() -> Sequence[tuple[Any, str, Any]]:
    genuine = Tail._seen_since

    async def seen_since(self: Tail, within_s: float, patience_s: float) -> bool:
        return await genuine(self, max(within_s, 0.5), patience_s)

    return [(Tail, "_seen_since", seen_since)]


def _answer_when_sent() -> Sequence[tuple[Any, str, Any]]:
    genuine = Appender.append

    async def append(self: Appender, author: Any, wires: Any, **options: Any) -> Any:
        conclude = options.pop("conclude", None)
        if conclude is not None:
            from s3vfs.session.appender import Outcome as Sent

            conclude(Sent(Fate.WON, self._base.applied_seq + 1, [OK] * len(wires)))
        return await genuine(self, author, wires, **options)

    return [(Appender, "append", append)]


MUTANTS = {
    "r2-unknown-is-lost": Mutant("R2", "an unclear answer counts as a lost race", _unknown_is_lost),
    "r2-unknown-is-won": Mutant("R2", "an unclear answer counts as won", _unknown_is_won),
    "r4-no-chain-checks": Mutant("R4", "records are applied without looking at the chain", _no_chain_checks, True),
    "r5-trust-without-head": Mutant("R5", "old answers are trusted without a look at HEAD", _trust_without_head),
    "r5-delete-at-once": Mutant("R5", "trimmed records are deleted at once", _delete_at_once),
    "r9-commit-before-put": Mutant("R9", "the journal names an object before it is there", _commit_before_put),
    "r12-speculate-in-base": Mutant("R12", "effects of queued ops go to base", _speculate_in_base),
    "r12-own-record-first": Mutant("R12", "an own record is applied when it is sent", _own_record_first),
    "r13-resume-always-accepted": Mutant("R13", "RESUME does not compare incarnations", _resume_always_accepted),
    "r13-no-resume": Mutant("R13", "a mount goes on without RESUME", _no_resume_at_all),
    "freshness-joins-earlier": Mutant("section 7", "fresh(0) accepts looks sent before it", _join_earlier_looks),
    "answers-when-sent": Mutant("section 6", "a commit answers before its record is there", _answer_when_sent),
}
