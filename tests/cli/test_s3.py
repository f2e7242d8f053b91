"""The command line on a real S3 server: the whole way once, the errors of the bucket, and secrets that stay secret."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from s3vfs.cli.running import mount_of
from s3vfs.errors import S3vfsError
from s3vfs.fuse.control import DaemonGone
from tests.cli.command import Done, Place, command_line, daemon_of, mounted_on, s3vfs, wait_for_end
from tests.mounted import eventually
from tests.proxy.process import ProxyProcess
from tests.servers.place import ServerPlace


class S3Commands:
    """Runs commands with the server's environment, changed by `settings`."""

    def __init__(self, server: ServerPlace, place: Place) -> None:
        self.server = server
        self.place = place
        self.url = server.fresh_url()

    def run(self, *words: str | Path, **settings: str) -> Done:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            command_line(words),
            env={**environment, **self.server.environment(), **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def mount(self, url: str = "", *options: str, **settings: str) -> Done:
        place = self.place
        return self.run(
            "mount", url or self.url, place.directory(), f"--cache-dir={place.cache()}", *options, **settings
        )


@pytest.fixture
def s3(seaweed: ServerPlace, place: Place) -> S3Commands:
    return S3Commands(seaweed, place)


def test_a_volume_on_s3_from_format_to_destroy(s3: S3Commands) -> None:
    s3.run("format", s3.url, "--name=far").ok()
    endpoint = f"--endpoint-url={s3.server.endpoint_url}"
    s3.mount("", endpoint, "--verbose", AWS_ENDPOINT_URL="http://127.0.0.1:1").ok()
    mountpoint = s3.place.directory()
    secret = s3.server.secret_key
    assert secret not in Path(f"/proc/{daemon_of(mountpoint)}/cmdline").read_text()
    (mountpoint / "file").write_bytes(b"content" * 1000)
    s3.run("sync", mountpoint).ok()
    shown = s3.run("status", "--json", mountpoint)
    assert shown.json()["requests"]["bulk_put"]["bytes_sent"] == 7000
    assert secret not in shown.out
    log = Path(shown.json()["log_file"])
    assert s3.run("umount", mountpoint).ok().err == ""
    assert '"ended"' in log.read_text()
    assert secret not in log.read_text()
    assert secret not in "".join(path.read_text() for path in Path("/run/s3vfs").glob("*.json"))

    s3.mount("", "--read-only").ok()
    assert (mountpoint / "file").read_bytes() == b"content" * 1000
    s3.run("umount", mountpoint).ok()
    found = s3.run("ls", f"s3://{s3.server.bucket}", "--json").json()["volumes"]
    assert [volume["name"] for volume in found if volume["url"] == s3.url] == ["far"]
    s3.run("destroy", s3.url, "--yes-destroy=far").ok()
    s3.run("status", s3.url).fails(3, "is not a volume")


def test_errors_of_the_bucket_say_what_to_do_and_leave_nothing_mounted(s3: S3Commands) -> None:
    s3.mount().fails(3, "is not a volume", "s3vfs format")
    s3.mount("s3://no-such-bucket-here/v").fails(3, "bucket")
    s3.run("format", "s3://no-such-bucket-here/v").fails(3, "bucket")
    s3.mount(AWS_SECRET_ACCESS_KEY="wrong").fails(4, "secret key")
    s3.mount(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").fails(4, "credentials")
    s3.mount("", "--io-timeout=1", AWS_ENDPOINT_URL="http://127.0.0.1:1").fails(5, "no answer")
    s3.mount("", "--profile=nobody").fails(2, "nobody")
    assert mounted_on(s3.place.directory()) is None


@pytest.fixture
def wire(seaweed: ServerPlace) -> Iterator[ProxyProcess]:
    """The network between a mount and the server."""
    upstream = urlsplit(seaweed.endpoint_url)
    assert upstream.hostname is not None
    assert upstream.port is not None
    with ProxyProcess((upstream.hostname, upstream.port)) as proxy:
        yield proxy


def close(descriptor: int, failures: list[OSError]) -> None:
    try:
        os.close(descriptor)
    except OSError as error:
        failures.append(error)


def dirty_mount(s3: S3Commands, wire: ProxyProcess, io_timeout_s: int) -> threading.Thread:
    """A mount with unpublished bytes and no bucket behind it, and somebody who waits for a close."""
    s3.run("format", s3.url).ok()
    s3.mount("", f"--io-timeout={io_timeout_s}", AWS_ENDPOINT_URL=wire.url).ok()
    mountpoint = s3.place.directory()
    descriptor = os.open(mountpoint / "file", os.O_CREAT | os.O_WRONLY)
    wire.refuse()
    os.write(descriptor, b"not yet published")
    closing = threading.Thread(target=close, args=(descriptor, []))
    closing.start()
    eventually(lambda: s3vfs("status", "--json", mountpoint).json()["pending"]["pending_bytes"] == 17)
    return closing


def published_after_all(s3: S3Commands, wire: ProxyProcess) -> bool:
    wire.resume()
    s3.mount(AWS_ENDPOINT_URL=wire.url).ok()
    return eventually(lambda: (s3.place.directory() / "file").read_bytes() == b"not yet published", within_s=60)


def test_umount_without_a_bucket_ends_with_10_and_the_next_mount_goes_on(s3: S3Commands, wire: ProxyProcess) -> None:
    dirty_mount(s3, wire, 2).join(60)
    mountpoint = s3.place.directory()
    s3vfs("umount", mountpoint).fails(10, "17 bytes of 1 files", "mount again", str(s3.place.cache()))
    assert mounted_on(mountpoint) is None
    assert published_after_all(s3, wire)


def test_a_daemon_that_is_stopped_at_once_never_says_that_all_is_published(s3: S3Commands, wire: ProxyProcess) -> None:
    closing = dirty_mount(s3, wire, 100)
    mountpoint = s3.place.directory()
    daemon = daemon_of(mountpoint)
    ended = os.pidfd_open(daemon)
    began = threading.Event()
    outcomes: list[object] = []

    def umount() -> None:
        try:
            outcomes.append(mount_of(str(mountpoint)).call("umount", lambda figures: began.set()))
        except S3vfsError as error:
            outcomes.append(error)

    thread = threading.Thread(target=umount)
    thread.start()
    assert began.wait(30)
    os.kill(daemon, signal.SIGTERM)  # unmounts, and would publish for a hundred seconds
    eventually(lambda: mounted_on(mountpoint) is None, within_s=30)
    os.kill(daemon, signal.SIGTERM)
    wait_for_end(ended)
    thread.join(30)
    closing.join(30)
    assert isinstance(outcomes[0], DaemonGone), outcomes
    assert published_after_all(s3, wire)
