"""Whole clients with one rule broken on purpose: if their histories pass, the oracles are asleep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from s3vfs.data.contents import Contents
from s3vfs.data.delivery import Delivery
from s3vfs.data.openfile import OpenFile
from s3vfs.data.pending import Pending
from s3vfs.data.protocol import data_key
from s3vfs.data.publish import Publisher
from s3vfs.data.rangelog import RangeLog
from s3vfs.data.upkeep import Upkeep
from s3vfs.data.upload import Uploaded, Uploader, sector_checksums
from s3vfs.data.working import WorkingFile
from s3vfs.errors import StoreUnreachable
from s3vfs.namespace import apply
from s3vfs.namespace.verdict import Context, Verdict
from s3vfs.session.acknowledged import Acknowledged
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.queue_log import QueueLog
from s3vfs.session.session import Session
from tests.simulation.mutants import Mutant

if TYPE_CHECKING:
    from typing_extensions import Buffer


def _commit_before_put() -> Sequence[tuple[Any, str, Any]]:
    """The upload answers at once; the PUT happens beside the commit, at its usual pace."""

    async def upload(
        self: Uploader, length: int, fill: Callable[[memoryview], None], *, keep: bool = False
    ) -> Uploaded:
        body = memoryview(bytearray(length))
        fill(body)
        session = self._session
        uploaded = Uploaded(session.new_object(), length, sector_checksums(body, self._sizes.sector_bytes))

        async def put() -> None:
            while True:
                try:
                    return await session.environment.run(self._put, data_key(uploaded.object), body)
                except StoreUnreachable:
                    await trio.sleep(0.1)

        trio.lowlevel.spawn_system_task(put)
        return uploaded

    return [(Uploader, "upload", upload)]


def _acknowledged_in_memory() -> Sequence[tuple[Any, str, Any]]:
    """What a former process has written, but not published, is forgotten."""
    from s3vfs.data import upkeep

    return [(upkeep, "replay", lambda path, boot_id: None)]


def _fsync_lies() -> Sequence[tuple[Any, str, Any]]:
    """fsync and close answer before anything has been published."""

    async def publish(self: Contents, ino: int) -> None:
        await trio.lowlevel.checkpoint()

    return [(Contents, "publish", publish)]


def _sent_is_not_noted() -> Sequence[tuple[Any, str, Any]]:
    return [(RangeLog, "sent", lambda self, incarnation, number, share: None)]


def _doubt_is_failure() -> Sequence[tuple[Any, str, Any]]:
    return [(Delivery, "on_its_way", False), (Publisher, "_unheard", lambda self, ino, delivery: False)]


def _spill_nothing() -> Sequence[tuple[Any, str, Any]]:
    async def keep(self: Upkeep, working: Any, reason: str) -> None:
        await trio.lowlevel.checkpoint()

    return [(Upkeep, "_keep", keep)]


def _older_copies_are_taken_up() -> Sequence[tuple[Any, str, Any]]:
    return [(SessionDirectory, "_read_sent", lambda self, sid, incarnation: 2**62)]


def _fenced_mounts_go_on() -> Sequence[tuple[Any, str, Any]]:
    return [(Upkeep, "check", lambda self: None)]


def _acknowledged_in_base() -> Sequence[tuple[Any, str, Any]]:
    genuine = Acknowledged._take

    def take(self: Acknowledged, txn: Any, numbered: Any, **more: Any) -> Verdict | None:
        verdict = genuine(self, txn, numbered, **more)
        with self._base.replica.read() as base:
            context = Context(self._base.applied_seq, 0, self._base.sid, self._base.incarnation)
            apply.apply_op(base, numbered, context)  # type: ignore[arg-type]
        return verdict

    return [(Acknowledged, "_take", take)]


def _not_read_through() -> Sequence[tuple[Any, str, Any]]:
    return [(Session, "view", lambda self: self.base.read())]


def _queue_in_memory() -> Sequence[tuple[Any, str, Any]]:
    return [(QueueLog, "op", lambda self, wire: None)]


def _losses_unsaid() -> Sequence[tuple[Any, str, Any]]:
    return [(Acknowledged, "_lose", lambda self, numbered, reason: None)]


def _append_at_own_end() -> Sequence[tuple[Any, str, Any]]:
    async def append(self: Contents, ino: int, data: Buffer) -> int:
        offset = self._size(self._file(ino))
        await self.write(ino, offset, data)
        await self.publish(ino)
        return offset

    return [(Contents, "append", append)]


def _clean_too_early() -> Sequence[tuple[Any, str, Any]]:
    """What was written while a publish was under way is called clean with it."""
    genuine = WorkingFile.release

    def release(self: WorkingFile, *, now_s: float) -> None:
        self.pending = Pending()
        genuine(self, now_s=now_s)

    return [(WorkingFile, "release", release)]


def _deleted_unpublished() -> Sequence[tuple[Any, str, Any]]:
    """The working file goes with the last handle, although a publish has yet to read it."""

    def retire(self: Upkeep, file: OpenFile) -> None:
        if not (file.readers or file.writers or file.committing):
            file.working.remove()
            self._forget(file)

    return [(Upkeep, "retire", retire)]


WHOLE_MUTANTS = {
    "r9-commit-before-put": Mutant("R9", "a record is on its way before its objects are there", _commit_before_put),
    "writes-forgotten": Mutant("6", "acknowledged writes are lost with the process", _acknowledged_in_memory),
    "sent-is-not-noted": Mutant("R2", "a killed client publishes again what it had sent", _sent_is_not_noted),
    "doubt-is-failure": Mutant("R2", "what was not answered in time is published again", _doubt_is_failure),
    "spill-nothing": Mutant("R13", "unpublished bytes of an ended session are dropped", _spill_nothing),
    "older-copies": Mutant("R13", "an older copy of a disk is taken up", _older_copies_are_taken_up),
    "fenced-goes-on": Mutant("section 8", "handles work on after an eviction", _fenced_mounts_go_on),
    "fsync-lies": Mutant("6", "fsync answers before others can read the bytes", _fsync_lies),
    "r10-losses-unsaid": Mutant("R10", "acknowledged changes that were refused are forgotten", _losses_unsaid),
    "r12-acknowledged-in-base": Mutant("R12", "effects of acknowledged ops go to base", _acknowledged_in_base),
    "r12-not-read-through": Mutant("R12", "acknowledged changes are not seen by their own client", _not_read_through),
    "r12-queue-in-memory": Mutant("R12", "acknowledged changes are lost with the process", _queue_in_memory),
    "appends-overlap": Mutant("section 5", "appends go to where the file ends here", _append_at_own_end),
    "r14-clean-too-early": Mutant("R14", "bytes are called clean while they are written", _clean_too_early),
    "r14-deleted-unpublished": Mutant("R14", "a working file is deleted before it is published", _deleted_unpublished),
}
