"""From a Filesystem to a mount, and back to none: the only module that starts and ends pyfuse3's session.

Nothing here may touch the mount from the trio thread, which serves it. Blocking calls on it go through worker threads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from s3vfs.errors import MountError
from s3vfs.filesystem import Filesystem
from s3vfs.fuse.extra_operations import ExtraOperations
from s3vfs.fuse.front import NativeFront, read_eagerly
from s3vfs.fuse.handlers import BUILD_HINT, NoHandlers, native_handlers
from s3vfs.fuse.invalidation import Invalidator
from s3vfs.fuse.kernel import KernelCache
from s3vfs.fuse.libfuse import interpose, pyfuse3
from s3vfs.fuse.mountinfo import mount_at, read_mounts
from s3vfs.fuse.mountpoint import resolve, unmount
from s3vfs.fuse.operations import Operations
from s3vfs.fuse.options import MountOptions
from s3vfs.fuse.passthrough import Passthrough
from s3vfs.namespace.changes import Changes
from s3vfs.session.reliant import Reliant

_log = logging.getLogger(__name__)

# How long the end waits for a notification that is inside the kernel. It waits there for a request that is being
# handled.
_NOTIFICATION_GRACE_S = 5.0


class ServedSession(Protocol):
    """The part of a session that a mount listens to."""

    def touch(self) -> None: ...

    def rely(self, reliant: Reliant, give_back: Callable[[], int]) -> int: ...

    def listen(
        self, callback: Callable[[Changes, bool], None], *, reloaded: Callable[[], None] | None = None
    ) -> None: ...


class _KernelNotifier:
    """pyfuse3's notifications, which block."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        pyfuse3.invalidate_entry(parent, name)

    def invalidate_attributes(self, ino: int) -> None:
        pyfuse3.invalidate_inode(ino, attr_only=True)

    def invalidate_pages(self, ino: int) -> None:
        pyfuse3.invalidate_inode(ino)


async def serve(
    filesystem: Filesystem,
    session: ServedSession,
    mountpoint: str,
    *,
    options: MountOptions,
    ready: Callable[[], None],
    passthrough: Passthrough | None = None,
    front: NativeFront | None = None,
) -> None:
    """Mount and serve until somebody unmounts, or the caller cancels; then nothing is mounted.

    `ready` is called once the mount answers. Requests in progress are answered before the end, within
    `options.grace_s`: what they wait for must go on until this returns. Unpublished work is the caller's to publish
    afterwards. Raises MountError when mounting fails.
    """
    invalidator = Invalidator(_KernelNotifier(), filesystem.entry_of)
    lifetime_s = max(options.entry_timeout_s, options.attribute_timeout_s)
    kernel = KernelCache(filesystem, invalidator, trio.current_time, lifetime_s)
    filesystem.expected = kernel.second_tries.expects
    session.listen(kernel.hear, reloaded=kernel.hear_reload)
    operations = Operations(
        filesystem,
        session,
        kernel,
        entry_timeout_s=options.entry_timeout_s,
        attribute_timeout_s=options.attribute_timeout_s,
        now_s=trio.current_time,
        passthrough=passthrough,
    )
    extra = ExtraOperations(filesystem, kernel, operations.errnos)
    filesystem.walked = kernel.second_tries.any
    _make_session(operations, extra, mountpoint, options, passthrough, front)
    if front is not None:
        front.serve(
            filesystem,
            session,
            kernel,
            entry_ns=int(options.entry_timeout_s * 1e9),
            attributes_ns=int(options.attribute_timeout_s * 1e9),
        )

    def answers() -> None:
        if passthrough is not None:
            passthrough.probe()
        ready()

    try:
        invalidator.start()
        await _run(filesystem, extra, mountpoint, options, answers, invalidator)
    finally:
        with trio.CancelScope(shield=True):
            await _end(mountpoint, invalidator)
            filesystem.forget_handles()


def _make_session(
    operations: Operations,
    extra: ExtraOperations,
    mountpoint: str,
    options: MountOptions,
    passthrough: Passthrough | None,
    front: NativeFront | None,
) -> None:
    """Mount, with the extension's handlers beside pyfuse3's, or with handlers that refuse locks. With neither the
    kernel would grant locks by itself, so then nothing stays mounted."""
    try:
        noted = front.noted if front is not None and front.available else None
        with native_handlers(extra.begin, passthrough=passthrough is not None and passthrough.wanted, noted=noted):
            pyfuse3.init(operations, mountpoint, options.as_fuse_options())
    except RuntimeError as error:
        raise MountError(f"cannot mount on {mountpoint}: {error}", hint="the lines above say why") from None
    except NoHandlers as error:
        pyfuse3.close(unmount=True)
        raise MountError(f"cannot mount on {mountpoint}: {error}", hint=BUILD_HINT) from None
    if interpose is not None:
        read_eagerly()


async def _run(
    filesystem: Filesystem,
    extra: ExtraOperations,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    invalidator: Invalidator,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(filesystem.keep_orphans)
        nursery.start_soon(_become_ready, mountpoint, options, ready)
        await _serve_requests(extra, options, invalidator)
        nursery.cancel_scope.cancel()


async def _serve_requests(extra: ExtraOperations, options: MountOptions, invalidator: Invalidator) -> None:
    """pyfuse3's main loop. A cancellation ends it in order: notifications first, while the requests are still answered
    that they may be waiting for; then no new requests, and no waiting for locks; then those in progress."""
    finished = trio.Event()
    hard = trio.CancelScope(shield=True)

    async def main_loop() -> None:
        try:
            with hard:
                async with extra.serving():
                    await pyfuse3.main(min_tasks=options.min_tasks, max_tasks=options.max_tasks)
        finally:
            finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(main_loop)
        try:
            await finished.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(invalidator.stop, _NOTIFICATION_GRACE_S)
                pyfuse3.terminate()
                with trio.move_on_after(options.grace_s):
                    await finished.wait()
                hard.cancel()
            raise


async def _become_ready(mountpoint: str, options: MountOptions, ready: Callable[[], None]) -> None:
    """The kernel has taken our INIT reply once it has answered statfs: only then does it keep a readahead of ours."""
    await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
    await trio.to_thread.run_sync(_raise_readahead, mountpoint, options.readahead_bytes)
    ready()


def _raise_readahead(mountpoint: str, size_bytes: int) -> None:
    """128 KiB is the kernel's default, and nothing but this file changes it. Only root may; without it reads are
    slower."""
    mount = mount_at(os.path.realpath(mountpoint), read_mounts())
    if mount is None:
        return
    path = Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb")
    try:
        path.write_text(str(size_bytes >> 10))
    except OSError as error:
        _log.info("%s keeps its default: %s", path, error.strerror)


async def _end(mountpoint: str, invalidator: Invalidator) -> None:
    """Notifications end before the session they go through; then the mount, whoever has ended it."""
    if not await trio.to_thread.run_sync(invalidator.stop, _NOTIFICATION_GRACE_S):
        # A notification waits inside the kernel for a request that nobody answers any more. Aborting the connection
        # fails that request; closing the device alone would wait for the notification.
        _log.warning("aborting the kernel's connection of %s", mountpoint)
        await trio.to_thread.run_sync(_abort_connection, mountpoint)
        await trio.to_thread.run_sync(invalidator.stop, _NOTIFICATION_GRACE_S)
    pyfuse3.close(unmount=True)


def _abort_connection(mountpoint: str) -> None:
    """And unmount: libfuse leaves an aborted connection mounted. Ordinary users need the control file system for it."""
    mount = mount_at(resolve(mountpoint), read_mounts())
    if mount is None:
        return
    if os.geteuid() != 0:
        minor = mount.device.partition(":")[2]
        try:
            Path(f"/sys/fs/fuse/connections/{minor}/abort").write_text("1")
        except OSError as error:
            _log.warning("the connection of %s cannot be aborted: %s", mountpoint, error.strerror)
            return
    try:
        unmount(mount.mountpoint, lazy=True, force=True)
    except MountError as error:
        _log.warning("%s", error)
