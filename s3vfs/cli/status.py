"""Show the state of a mount, or of a volume.

For a mount: sessions, pending work, spilled files, cache, usage, errors not yet acknowledged, requests to the bucket.
For a URL: what the bucket alone tells, without mounting; needs permission to get and list only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from s3vfs.cli.arguments import add_json, add_store_options, store_options
from s3vfs.cli.running import is_url, mount_of
from s3vfs.cli.sizes import format_count, format_size

EXAMPLES = """\
  s3vfs status /mnt/volume
  s3vfs status s3://bucket/volume
  s3vfs status --json /mnt/volume
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="MOUNTPOINT|URL", help="a path inside a mount, or a volume's URL")
    add_store_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    figures = _from_bucket(arguments) if is_url(arguments.place) else mount_of(arguments.place).call("status")
    if arguments.json:
        print(json.dumps(figures))
    else:
        for line in lines(figures):
            print(line)
    return 0


def _from_bucket(arguments: argparse.Namespace) -> dict[str, Any]:
    import trio  # late, with all below: asking a mount needs none of it

    from s3vfs.cli.volume import command_environment, opened, volume_figures

    async def look() -> dict[str, Any]:
        environment = command_environment()
        async with opened(arguments.place, store_options(arguments), environment) as store:
            return {"url": store.url, **await volume_figures(store, environment)}

    return trio.run(look)


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """The text for people; every figure is also in --json."""
    yield from _volume_lines(figures)
    if "pid" in figures:
        yield from _mount_lines(figures)
    else:
        journal = figures["journal"]
        yield _line("journal", f"record {journal['applied_seq']}, checkpoint at {journal['checkpoint_seq']}")
    yield from _session_lines(figures["sessions"])


def _line(label: str, text: str) -> str:
    return f"{label:<12}{text}"


def _volume_lines(figures: dict[str, Any]) -> Iterator[str]:
    volume, usage = figures["volume"], figures["usage"]
    yield _line("volume", f"{volume['name']}  {figures['url']}  ({volume['uuid']})")
    bytes_of = f" of {format_size(volume['quota_bytes'])}" if volume["quota_bytes"] else ""
    inodes_of = f" of {format_count(volume['quota_inodes'])}" if volume["quota_inodes"] else ""
    yield _line("usage", f"{format_size(usage['bytes'])}{bytes_of}, {format_count(usage['inodes'])} inodes{inodes_of}")


def _mount_lines(figures: dict[str, Any]) -> Iterator[str]:
    session, pending, cache = figures["session"], figures["pending"], figures["cache"]
    mode = ", read-only" if figures["read_only"] else ""
    yield _line(
        "mount", f"{figures['mountpoint']}{mode}, process {figures['pid']}, up {_duration(figures['uptime_s'])}"
    )
    yield _line("state", figures["state"])
    yield _line("journal", f"record {figures['applied_seq']} applied, looked at {session['tail_age_s']:.1f} s ago")
    yield _line(
        "pending",
        f"{format_size(pending['pending_bytes'])} in {pending['pending_files']} files,"
        f" {pending['pending_ops']} operations not yet in the bucket",
    )
    yield _line("cache", f"{format_size(cache['used_bytes'])} of {format_size(cache['limit_bytes'])}  {cache['path']}")
    requests = figures["requests"]
    sent = sum(entry["bytes_sent"] for entry in requests.values())
    received = sum(entry["bytes_received"] for entry in requests.values())
    counts = ", ".join(f"{entry['requests']} {name}" for name, entry in sorted(requests.items()))
    yield _line("bucket", f"{format_size(sent)} sent, {format_size(received)} received; requests: {counts or 'none'}")
    yield _line("io", _io_line(figures["io"]))
    if refused := figures["locks"]["refused"]:
        yield _line("locks", refused)
    for folder in figures["spill"]:
        yield _line("spilled", folder)
    for error in figures["errors"]:
        yield _line("error", error)
    yield _line("log", figures["log_file"])


def _io_line(io: dict[str, Any]) -> str:
    """How requests are served, the fastest way first, and why a faster one is missing."""
    refused = {"passthrough": io["reason"], "front": io["front"].get("reason", "")}
    served = [name for name, why in refused.items() if not why]
    return "; ".join([", ".join([*served, "python"]), *(f"no {name}: {why}" for name, why in refused.items() if why)])


def _session_lines(sessions: list[dict[str, Any]]) -> Iterator[str]:
    yield _line("sessions", str(len(sessions)))
    for session in sessions:
        notes = [note for note, true in (("this mount", session["own"]), ("challenged", session["challenged"])) if true]
        noted = f"  ({', '.join(notes)})" if notes else ""
        yield f"  {session['sid']}  {session['label']}, last record {session['last_seq']}{noted}"


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"
