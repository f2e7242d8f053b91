"""The process behind a mount: puts the rooms together, serves, and at the end publishes what is left.

The order of life: local checks, store, volume, probe, session directory (locked), session in office, FUSE, registry and
control socket, *ready*. The order of death: unmounted (by `s3vfs umount`, umount(8) or a signal), everything published,
END, files closed. Whatever fails before *ready* leaves nothing mounted. Whatever cannot be published stays in the
session directory, and the next mount with the same cache goes on with it.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import resource
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

import s3vfs
from s3vfs.environment import Environment, read_boot_id
from s3vfs.errors import MountError, S3vfsError, Unpublished
from s3vfs.fuse import registry
from s3vfs.fuse.control import ControlServer, Progress
from s3vfs.fuse.daemon_log import start_logging
from s3vfs.fuse.mountinfo import mount_at, read_mounts
from s3vfs.fuse.mountpoint import prepare, unmount
from s3vfs.fuse.service import Service
from s3vfs.fuse.settings import MountSettings
from s3vfs.journal.bucket import BucketJournal
from s3vfs.journal.volume import VolumeInfo, load_volume
from s3vfs.objects.counting import Counters, counted
from s3vfs.objects.probe import probe_conditional_writes
from s3vfs.objects.protocol import Store
from s3vfs.objects.runner import ThreadRunner
from s3vfs.objects.url import StoreOptions, open_store
from s3vfs.replica.lmdb_replica import LmdbReplica
from s3vfs.session.directory import SessionDirectory
from s3vfs.session.options import Offline, SessionOptions
from s3vfs.session.session import Session, open_session
from s3vfs.session.unwrapping import single_error

_log = logging.getLogger(__name__)

# Worker threads: uploads, fetches, the index and local files each need some at the same time.
THREADS = 40

OPEN_FILES = 65_536

# Objects made, less those freed, after which the youngest are collected: Python's 700 are one or two requests.
_COLLECT_AFTER = 50_000

# How often waiting commands hear how much is left.
_PROGRESS_S = 0.2

# At the end, commands that wait for an answer get it within this time.
_LAST_ANSWERS_S = 5.0

EXIT_INTERRUPTED = 130


def run_daemon(settings: MountSettings, ready: Callable[[], None]) -> int:
    """Mount and serve until unmounted; the exit code. `ready` is called once the mount answers.

    Raises S3vfsError where it never got that far, and Unpublished at the end when work is left. Blocks.
    """
    _raise_file_limit()
    _spare_the_collector()
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody opens a file that we have a lease on: we let go soon anyway
    return trio.run(MountDaemon(settings, ready).run)


def _spare_the_collector() -> None:
    """Modules and classes live as long as the process, so no collection need walk them again: a full one took tens of
    milliseconds, and held up every request. What a request leaves behind is freed without the collector, so it may come
    less often as well."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _raise_file_limit() -> None:
    """Cached blocks and working files are open files; a shell's usual 1,024 are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))


def session_name(mountpoint: str, *, read_only: bool) -> str:
    """A session directory's name: readable, and one for each mountpoint. A read-only mount has one of its own, so that
    it never meets unpublished work."""
    readable = "".join(letter if letter.isalnum() else "-" for letter in mountpoint.strip("/"))[-40:] or "root"
    name = f"{readable}-{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:8]}"
    return f"{name}-ro" if read_only else name


class MountDaemon:
    """One mount, from the checks to the end of its process."""

    def __init__(self, settings: MountSettings, ready: Callable[[], None]) -> None:
        self._settings = settings
        self._ready = ready
        self._environment = Environment(ThreadRunner(THREADS), read_boot_id())
        self._counters = Counters()
        self._control = ControlServer({"status": self._status, "sync": self._sync, "umount": self._umount})
        self._began_s = time.monotonic()
        self._scope = trio.CancelScope()
        self._service: Service | None = None
        self._mounted = trio.Event()
        self._record: registry.MountRecord | None = None
        self._ending = False
        self._ended = trio.Event()
        # What commands that wait for the end are told. It stands for every end but those that say otherwise.
        self._failure: S3vfsError | None = Unpublished(
            "the daemon was stopped before it had published everything", hint="mount again with the same cache to go on"
        )

    async def run(self) -> int:
        """See `run_daemon`."""
        with self._scope, single_error():
            async with trio.open_nursery() as nursery:
                await nursery.start(self._watch_signals)
                try:
                    await self._live(nursery)
                    self._failure = None
                except S3vfsError as error:
                    self._failure = error
                    raise
                except Exception:
                    _log.exception("the daemon failed")  # nobody may be at its stderr
                    raise
                finally:
                    self._ended.set()
                    with trio.move_on_after(_LAST_ANSWERS_S, shield=True):
                        await self._control.quiet()
                    self._withdraw()
                nursery.cancel_scope.cancel()
        return EXIT_INTERRUPTED if self._scope.cancelled_caught else 0

    # -- life -------------------------------------------------------------------------------------------------------

    async def _live(self, nursery: trio.Nursery) -> None:
        settings, run = self._settings, self._environment.run
        await run(partial(prepare, settings.mountpoint, nonempty=settings.nonempty))
        async with self._opened_store() as store:
            volume = await self._checked_volume(store)
            directory = await run(self._open_directory, volume)
            with directory:
                log_file = settings.log_file or directory.path / "daemon.log"
                start_logging(
                    log_file,
                    chosen=settings.log_file is not None,
                    verbose=settings.verbose,
                    console=settings.foreground,
                )
                _log.info(
                    "starting",
                    extra={"url": store.url, "mountpoint": settings.mountpoint, "version": s3vfs.__version__},
                )
                try:
                    async with self._session(store, volume, directory) as session:
                        self._service = Service(settings, session, store, volume, directory)
                        nursery.start_soon(self._announce, nursery, directory, log_file)
                        await self._service.run(self._mounted.set)
                except S3vfsError as error:
                    _log.error("ended: %s", error)
                    raise
                _log.info("ended", extra={"mountpoint": settings.mountpoint})

    @asynccontextmanager
    async def _opened_store(self) -> AsyncIterator[Store]:
        settings = self._settings
        options = StoreOptions(settings.endpoint_url, settings.region, settings.profile, settings.io_timeout_s)
        store = counted(await open_store(settings.url, options, run=self._environment.run), self._counters)
        try:
            yield store
        finally:
            with trio.move_on_after(_LAST_ANSWERS_S, shield=True):
                await store.aclose()

    async def _checked_volume(self, store: Store) -> VolumeInfo:
        volume = await load_volume(store)
        volume.require_readable()
        if not self._settings.read_only:
            volume.require_writable()
            await probe_conditional_writes(store, new_uuid=lambda: uuid.UUID(bytes=self._environment.new_uuid()))
        return volume

    def _open_directory(self, volume: VolumeInfo) -> SessionDirectory:
        cache = self._settings.cache_dir
        try:
            cache.mkdir(parents=True, exist_ok=True)
            name = session_name(self._settings.mountpoint, read_only=self._settings.read_only)
            return SessionDirectory(cache, volume.uuid, name)
        except OSError as error:
            raise MountError(
                f"the cache directory {cache} cannot be used: {error.strerror}", hint="name another with --cache-dir"
            ) from None

    @asynccontextmanager
    async def _session(self, store: Store, volume: VolumeInfo, directory: SessionDirectory) -> AsyncIterator[Session]:
        settings, environment = self._settings, self._environment
        options = SessionOptions(
            label=f"{socket.gethostname()}:{settings.mountpoint}",
            read_only=settings.read_only,
            freshness_s=settings.freshness_s,
            offline=Offline(settings.offline),
            io_timeout_s=settings.io_timeout_s,
            leases=settings.leases,
        )
        replica = await environment.run(
            partial(LmdbReplica.open, directory.index, volume=volume.uuid, boot_id=environment.boot_id)
        )
        try:
            journal = BucketJournal(store.control, volume.uuid, environment)
            office = None if settings.read_only else directory
            async with open_session(environment, store, journal, replica, office, options) as session:
                yield session
        finally:
            replica.close()

    async def _announce(self, nursery: trio.Nursery, directory: SessionDirectory, log_file: Path) -> None:
        """Once the mount answers: let commands find this daemon, then tell who waits for the mount."""
        await self._mounted.wait()
        settings = self._settings
        mount = mount_at(settings.mountpoint, read_mounts())
        if mount is None or not mount.ours:
            raise MountError(f"{settings.mountpoint} was unmounted again at once")
        runtime = registry.runtime_directory()
        path = registry.socket_path(runtime, mount.device)
        await nursery.start(self._control.serve, path)
        self._record = registry.MountRecord(
            device=mount.device,
            url=settings.url,
            mountpoint=settings.mountpoint,
            pid=os.getpid(),
            socket=str(path),
            session_directory=str(directory.path),
            log_file=str(log_file),
            read_only=settings.read_only,
            version=s3vfs.__version__,
        )
        registry.publish(runtime, self._record)
        _log.info("mounted", extra={"mountpoint": settings.mountpoint, "device": mount.device})
        self._ready()

    def _withdraw(self) -> None:
        if self._record is not None:
            registry.withdraw(registry.runtime_directory(), self._record)

    # -- death ------------------------------------------------------------------------------------------------------

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The first SIGTERM or SIGINT unmounts and publishes; before the mount answers, and a second time, it ends all
        at once (unpublished work is kept)."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if self._service is None or self._record is None or self._ending:
                    self._scope.cancel()
                    return
                _log.info("signal %d: unmounting and publishing", number)
                self._ending = True
                self._service.stop()

    # -- commands ---------------------------------------------------------------------------------------------------

    def _present(self) -> Service:
        if self._service is None:
            raise MountError("the mount has not begun to serve")
        return self._service

    async def _status(self, progress: Progress) -> dict[str, Any]:
        assert self._record is not None
        service = self._present()
        return {
            **asdict(self._record),
            "uptime_s": round(time.monotonic() - self._began_s, 1),
            "state": "ending" if self._ending else service.state(),
            "requests": {name: asdict(tally) for name, tally in self._counters.snapshot().items()},
            **service.status(),
        }

    async def _sync(self, progress: Progress) -> dict[str, Any]:
        service = self._present()
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, progress, service)
                await service.publish()
                nursery.cancel_scope.cancel()
        return {"synced": True, **service.pending()}

    async def _umount(self, progress: Progress) -> dict[str, Any]:
        """Publish while the mount still serves, unmount, and answer with how it ended."""
        service = self._present()
        with single_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, progress, service)
                try:
                    await service.publish()
                except S3vfsError as error:  # it ends unpublished, then, and says so below
                    _log.warning("unmounting with work left: %s", error)
                await self._environment.run(unmount, self._settings.mountpoint)
                self._ending = True
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return {"unmounted": True}

    async def _report(self, progress: Progress, service: Service) -> None:
        while True:
            await progress(service.pending())
            await trio.sleep(_PROGRESS_S)
