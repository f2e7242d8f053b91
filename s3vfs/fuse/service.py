"""What a mount consists of while it serves: contents, file system, FUSE and background work, on one session.

Ends when the kernel has let go of the mount, and publishes what is left then. Knows no process, signal or socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from s3vfs.data.cache import Cache
from s3vfs.data.contents import Contents
from s3vfs.data.protocol import MIB, Limits, Sizes
from s3vfs.errors import S3vfsError, Unpublished
from s3vfs.filesystem import Filesystem
from s3vfs.fuse.front import NativeFront
from s3vfs.fuse.handlers import refusing_locks
from s3vfs.fuse.options import MountOptions
from s3vfs.fuse.passthrough import Passthrough
from s3vfs.fuse.serve import serve
from s3vfs.fuse.settings import MountSettings
from s3vfs.fuse.status import describe_base
from s3vfs.journal.volume import VolumeInfo
from s3vfs.maintenance.trim import Policy, keep_maintained
from s3vfs.objects.protocol import Store
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.session import Session
from s3vfs.session.spill import Spill
from s3vfs.session.unwrapping import single_error

# Of the disk that the cache is on, this much stays free for others.
_RESERVE_BYTES = 512 * MIB


def limits_for(
    memory_bytes: int, object_bytes: int, io_timeout_s: float, durable_close_above_bytes: int = 8 * MIB
) -> Limits:
    """Divide `--memory`: at 512 MiB and 8 MiB objects these are the default limits. More than half of it is left to
    Python, requests in flight and what the allocators keep."""
    return Limits(
        uploads=max(2, min(16, memory_bytes // (10 * object_bytes))),
        fetches=max(2, min(32, memory_bytes // (64 * MIB))),
        ahead_bytes=memory_bytes // 4,
        spare_bytes=memory_bytes // 16,
        io_timeout_s=io_timeout_s,
        durable_close_above_bytes=durable_close_above_bytes,
    )


class Service:
    """Made once a session is in office. `run` serves until the kernel lets go."""

    def __init__(
        self,
        settings: MountSettings,
        session: Session,
        store: Store,
        volume: VolumeInfo,
        directory: SessionDirectory,
    ) -> None:
        self._settings = settings
        self._session = session
        self._store = store
        self._volume = volume
        self._directory = directory
        self._cache = Cache(
            settings.cache_dir / volume.uuid.hex() / "blocks",
            volume.sector_size,
            settings.cache_size_bytes,
            _RESERVE_BYTES,
            session.environment.boottime_ns,
        )
        self._contents = Contents(
            session,
            directory.working,
            self._cache,
            sizes=Sizes(volume.object_size, volume.sector_size),
            limits=limits_for(
                settings.memory_bytes,
                volume.object_size,
                settings.io_timeout_s,
                settings.durable_close_above_bytes,
            ),
            spill=Spill(directory.spill),
        )
        self._serving = trio.CancelScope()
        self._filesystem = Filesystem(session, self._contents, read_only=settings.read_only)
        self._passthrough = Passthrough(settings.io, directory.working)
        self._contents.use(self._passthrough)
        self._front = NativeFront(settings.io, self._contents)
        if self._front.available:
            self._contents.stand_behind(self._front)

    async def run(self, mounted: Callable[[], None]) -> None:
        """Mount, call `mounted` once the mount answers, serve until it is unmounted, publish the rest.

        Raises MountError; Unpublished where the rest could not be published; whatever makes the mount unusable.
        """
        settings = self._settings
        options = MountOptions(
            source=self._store.url,
            allow_other=settings.allow_other,
            read_only=settings.read_only,
            kernel_options=settings.kernel_options,
        )
        with single_error():
            async with trio.open_nursery() as nursery:
                await nursery.start(self._contents.run)
                if not settings.read_only:
                    nursery.start_soon(self._maintain)
                with self._serving:
                    await serve(
                        self._filesystem,
                        self._session,
                        settings.mountpoint,
                        options=options,
                        ready=mounted,
                        passthrough=self._passthrough,
                        front=self._front,
                    )
                self._contents.stand_behind(None)
                if not settings.read_only:
                    await self._publish_rest()
                nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Unmount, in use or not: `run` goes on with publishing the rest."""
        self._serving.cancel()

    async def _maintain(self) -> None:
        session = self._session
        counters = session.counters
        await keep_maintained(
            session.base.replica,
            session.journal,
            self._store,
            session.environment,
            self._volume,
            Policy(),
            record_bytes=lambda: counters.bytes_won + counters.bytes_read,
        )

    async def publish(self) -> None:
        """All acknowledged work is in the bucket when this returns. Raises Unpublished with what is in the way."""
        try:
            await self._contents.publish_all()
            await self._session.barrier()
        except S3vfsError as error:
            if self._session.fenced:
                raise self._ended_by_others(error) from error
            raise Unpublished(
                f"{self._left()} are not in the bucket: {error}",
                hint=f"they are kept in {self._directory.path} and tried again",
            ) from error

    async def _publish_rest(self) -> None:
        try:
            await self.publish()
        except Unpublished as error:
            if self._session.fenced:
                raise
            raise Unpublished(
                error.message, hint=f"mount again with the same cache to go on; they are kept in {self._directory.path}"
            ) from error

    def _left(self) -> str:
        pending = self.pending()
        return f"{pending['pending_bytes']} bytes of {pending['pending_files']} files"

    def _ended_by_others(self, error: S3vfsError) -> Unpublished:
        """Nothing of this session goes on, neither now nor at the next mount: say where its bytes are."""
        kept = self._session.status()["spilled"]
        if self.pending()["pending_files"]:  # the local disk had no room for a copy
            kept = [*kept, f"{self._directory.path} ({self._left()})"]
        where = f"what was not published is kept in {', '.join(kept)}" if kept else "nothing was left unpublished"
        return Unpublished(error.message, hint=f"{where}; mount again to go on working")

    def pending(self) -> dict[str, Any]:
        """What is not yet in the bucket."""
        contents = self._contents.status()
        return {
            "pending_bytes": contents["unpublished_bytes"],
            "pending_files": contents["unpublished_files"],
            "pending_ops": self._session.status()["queued_ops"],
        }

    def state(self) -> str:
        """One word or sentence for people: is everything all right?"""
        session = self._session.status()
        if session["fatal"]:
            return f"stopped, read-only: {session['fatal']}"
        if session["fenced"]:
            return "the session was ended by others: unmount and mount again"
        failure = session["append_failure"] or session["failure"]
        return f"the bucket does not answer: {failure}" if failure else "ok"

    def status(self) -> dict[str, Any]:
        """Everything that `s3vfs status` shows of a mount beyond its registry record."""
        session, contents = self._session.status(), self._contents.status()
        front = self._front.available
        return {
            **describe_base(self._session, self._volume),
            "applied_seq": self._session.applied_seq,
            "pending": self.pending(),
            "spill": session["spilled"],
            "errors": [f"{entry['path']}: {entry['error']}" for entry in contents["failures"]],
            "cache": {
                **contents["cache"],
                "path": str(self._cache.folder),
                "limit_bytes": self._settings.cache_size_bytes,
            },
            "io": {
                "asked": self._settings.io,
                "served": "passthrough" if self._passthrough.available else "front" if front else "python",
                "reason": self._passthrough.refused,
                "front": self._front.counts() if front else {"reason": self._front.refused},
                **contents["lent"],
            },
            "locks": {**self._filesystem.lock_status(), "refused": refusing_locks()},
            "session": session,
            "contents": contents,
        }
