"""Source mounts: one s3vfs mount for each volume (and mode) on this node, which is bound into each pod's target.

    <state-dir>/mounts/<key>          the mountpoint; sealed underneath (csi/mounting.py)
    <state-dir>/mounts/<key>.json     what is mounted there: no credentials
    <state-dir>/inline/<key>          the cache of an inline volume, which nobody will ever ask for again

Whether a source is in use is read from mountinfo each time: the driver may have been restarted, mounts may have gone. A
source's daemon is a process of its own and outlives the driver (but not its container). The caller holds the volume.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from csi.errand import process_environment
from csi.mounting import detach_all, make_bare, remove_bare
from csi.refusals import Code, Refusal, refusal_of
from csi.volume_id import Location
from s3vfs.cli.running import mount_of
from s3vfs.errors import S3vfsError
from s3vfs.fuse.mountinfo import Mount, mount_at, read_mounts
from s3vfs.fuse.mountpoint import Health, health
from s3vfs.fuse.registry import find

_log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-P", "-m", "s3vfs")
_MOUNT_TIMEOUT_S = 110.0
# After everything is published the daemon only has to end. It does not while another mount namespace holds a copy of
# the mount (container runtimes forget some), and then it is told to.
_UMOUNT_TIMEOUT_S = 15.0
_END_TIMEOUT_S = 15.0
_UNPUBLISHED = 10
_NO_MOUNT = 3


@dataclass(frozen=True, slots=True)
class Source:
    """What is mounted: `options` are checked mount options. An inline volume has a cache of its own."""

    volume_id: str
    location: Location
    options: tuple[str, ...] = ()
    cache_size: str = ""
    read_only: bool = False
    inline: bool = False


class Sources:
    """The sources below one state directory. `flush_timeout_s`: how long an unpublish waits for the bucket."""

    def __init__(self, state_dir: Path, cache_dir: Path, flush_timeout_s: float) -> None:
        self._mounts = state_dir / "mounts"
        self._inline = state_dir / "inline"
        self._cache = cache_dir
        self._flush_timeout_s = flush_timeout_s
        for directory in (self._mounts, self._inline, self._cache):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mounts = self._mounts.resolve()

    def path_of(self, volume_id: str, *, read_only: bool) -> Path:
        key = hashlib.sha256(volume_id.encode()).hexdigest()[:32]
        return self._mounts / (f"{key}-ro" if read_only else key)

    def paths_of(self, volume_id: str) -> tuple[Path, Path]:
        return self.path_of(volume_id, read_only=False), self.path_of(volume_id, read_only=True)

    def users(self, path: Path) -> list[str]:
        """Where the source at `path` is bound, from mountinfo."""
        mounts = read_mounts()
        source = mount_at(str(path), mounts)
        if source is None:
            return []
        return [m.mountpoint for m in mounts if m.ours and m.device == source.device and m.mountpoint != str(path)]

    def mount_of(self, volume_id: str, device: str) -> Mount | None:
        """The volume's source with this device number."""
        mounts = read_mounts()
        for path in self.paths_of(volume_id):
            mount = mount_at(str(path), mounts)
            if mount is not None and mount.device == device:
                return mount
        return None

    def belongs_to_another(self, volume_id: str, device: str) -> bool:
        """Whether the device is that of another volume's source."""
        own = {str(path) for path in self.paths_of(volume_id)}
        return any(
            m.device == device and os.path.dirname(m.mountpoint) == str(self._mounts) and m.mountpoint not in own
            for m in read_mounts()
        )

    # -- beginning ----------------------------------------------------------------------------------------------------

    def ensure(self, source: Source, credentials: Mapping[str, str]) -> Path:
        """The source is mounted and answers; its path. One whose daemon has died is mounted again, and goes on with
        what was not published. Raises Refusal; nothing new is mounted then."""
        path = self.path_of(source.volume_id, read_only=source.read_only)
        if mount_at(str(path), read_mounts()) is not None:
            state = health(str(path))
            if state is Health.STUCK:
                raise Refusal(Code.UNAVAILABLE, f"the mount of {source.location.url} does not answer")
            if state is Health.ALIVE and ended_by_others(path):
                _log.warning("mounting again: the session was ended by others", extra={"volume_id": source.volume_id})
                self._end_daemon(path)
            elif state is Health.ALIVE:
                if self._about(path) != asdict(source):
                    raise Refusal(
                        Code.FAILED_PRECONDITION, f"{source.volume_id} is in use on this node with other options"
                    )
                return path
            else:
                _log.warning("mounting again: the daemon has died", extra={"volume_id": source.volume_id})
            detach_all(str(path))
        make_bare(str(path))
        _about_path(path).write_text(json.dumps(asdict(source)))
        try:
            self._mount(source, path, credentials)
        except BaseException:
            self._forget(path)
            raise
        return path

    def _mount(self, source: Source, path: Path, credentials: Mapping[str, str]) -> None:
        command = [*_COMMAND, "mount", source.location.url, str(path)]
        command.append(f"--cache-dir={self._cache_of(source.inline, path)}")
        if source.location.endpoint_url:
            command.append(f"--endpoint-url={source.location.endpoint_url}")
        if source.location.region:
            command.append(f"--region={source.location.region}")
        if source.cache_size:
            command.append(f"--cache-size={source.cache_size}")
        command += [f"-o{option}" for option in source.options if option not in ("ro", "rw", "read_only")]
        command.append("--read-only" if source.read_only else "--no-read-only")
        done = _run(command, _MOUNT_TIMEOUT_S, process_environment(credentials))
        if done is None:
            raise Refusal(Code.UNAVAILABLE, f"the mount of {source.location.url} does not come up")
        if done.returncode:
            raise refusal_of(done.returncode, done.stderr)

    def _cache_of(self, inline: bool, path: Path) -> Path:
        return self._inline / path.name if inline else self._cache

    # -- end ----------------------------------------------------------------------------------------------------------

    def release(self, volume_id: str) -> None:
        """Sources of the volume that nobody uses any more are published and unmounted.

        Raises Refusal with UNAVAILABLE while something is not in the bucket: the daemon lives on and tries again, and
        so does the orchestrator.
        """
        for path in self.paths_of(volume_id):
            self._release(path)

    def abandoned(self) -> Iterator[str]:
        """Volume ids whose sources nobody uses: left by a driver that was killed between mount and bind."""
        for file in sorted(self._mounts.glob("*.json")):
            path = file.with_suffix("")
            about = self._about(path)
            if about is not None and not self.users(path):
                yield str(about["volume_id"])

    def _release(self, path: Path) -> None:
        if mount_at(str(path), read_mounts()) is not None:
            if self.users(path):
                return
            if health(str(path)) is Health.DEAD:
                _log.error("the daemon had died: unpublished work stays in its cache", extra={"path": str(path)})
                detach_all(str(path))
            elif ended_by_others(path):
                # It will never publish anything any more; what it could not is spilled. The pod is not kept for that.
                _log.error("the session was ended by others", extra={"path": str(path)})
                self._unmount(path)
            else:
                self._publish(path)
                self._unmount(path)
        self._forget(path)

    def _publish(self, path: Path) -> None:
        done = _run([*_COMMAND, "sync", str(path)], self._flush_timeout_s)
        if done is None:
            raise Refusal(Code.UNAVAILABLE, "not everything is in the bucket yet: the mount goes on publishing")
        if done.returncode:
            raise refusal_of(_UNPUBLISHED, done.stderr)

    def _unmount(self, path: Path) -> None:
        about = self._about(path)
        with _daemon_of(path) as daemon:
            done = _run([*_COMMAND, "umount", str(path)], min(_UMOUNT_TIMEOUT_S, self._flush_timeout_s))
            if done is None:
                _log.warning("another mount namespace holds the mount: ending its daemon", extra={"path": str(path)})
                if daemon is not None:
                    _end(daemon)
        if mount_at(str(path), read_mounts()) is not None:
            raise Refusal(Code.UNAVAILABLE, "the mount does not end")
        if done is None:
            return
        if done.returncode == _UNPUBLISHED:
            _log.error("unmounted with work left: %s", done.stderr.strip(), extra={"path": str(path)})
        elif done.returncode not in (0, _NO_MOUNT):
            raise refusal_of(done.returncode, done.stderr)
        elif about is not None and about["inline"]:
            self._drop_cache(self._cache_of(True, path))

    def _end_daemon(self, path: Path) -> None:
        """The daemon at `path` has ended, also with the mount in use: its targets are dead then."""
        with _daemon_of(path) as daemon:
            if daemon is None or not _end(daemon):
                raise Refusal(Code.UNAVAILABLE, "the previous mount does not end")

    def _drop_cache(self, directory: Path) -> None:
        """Everything of it is in the bucket (umount said so), and this volume id never comes back."""
        inside = str(directory.resolve()) + "/"
        if any(mount.mountpoint.startswith(inside) for mount in read_mounts()):
            return
        shutil.rmtree(directory, ignore_errors=True)

    def _forget(self, path: Path) -> None:
        if mount_at(str(path), read_mounts()) is None:
            remove_bare(str(path))
            _about_path(path).unlink(missing_ok=True)

    def _about(self, path: Path) -> dict[str, object] | None:
        with contextlib.suppress(OSError, ValueError):
            about: dict[str, object] = json.loads(_about_path(path).read_text())
            about["options"] = tuple(about["options"])  # type: ignore[arg-type]
            return about
        return None


@contextlib.contextmanager
def _daemon_of(path: Path) -> Iterator[int | None]:
    """A descriptor of the process that serves the mount at `path` (it never means another one); None where unknown."""
    mount = mount_at(str(path), read_mounts())
    record = find(mount.device, mount.user_id) if mount is not None else None
    try:
        descriptor = os.pidfd_open(record.pid) if record is not None else None
    except ProcessLookupError:
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _end(daemon: int) -> bool:
    """SIGTERM, and wait; whether it has ended. What it has not published by then it keeps for the next mount."""
    try:
        signal.pidfd_send_signal(daemon, signal.SIGTERM)
    except ProcessLookupError:
        return True
    return bool(select.select([daemon], [], [], _END_TIMEOUT_S)[0])


def ended_by_others(path: Path) -> bool:
    """Whether the session of the mount at `path`, which answers, has been ended (s3vfs evict, or as dead while it was
    frozen): it refuses every change from then on. False where the daemon cannot be asked."""
    try:
        return bool(mount_of(str(path)).call("status")["session"]["fenced"])
    except S3vfsError:
        return False


def _about_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _run(
    command: list[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str] | None:
    """None when it took longer: its waiting is ended, the daemon's work is not."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(environment) if environment is not None else None,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.communicate()
        return None
    return subprocess.CompletedProcess(command, process.returncode, "", errors)
