"""End a dead session: one whose machine or disk is lost, so that no mount will ever resume it.

The session is challenged first. A living one answers, and is left alone (exit code 8). Work that a dead one had
acknowledged but not published is lost with its disk; what it had committed stays.
"""

from __future__ import annotations

import argparse
import json
import sys

import trio

from s3vfs.cli.arguments import add_json, add_url, checked, parse_seconds, store_options
from s3vfs.cli.volume import command_environment, commanding, opened
from s3vfs.errors import S3vfsError, SessionBusy
from s3vfs.namespace.rows import Rows
from s3vfs.session.options import RECALL_PATIENCE_S

EXAMPLES = """\
  s3vfs status s3://bucket/volume            shows the sessions and their ids
  s3vfs evict s3://bucket/volume 5c1f0a9b3e7d2468
"""

# Long enough for a client that is only slow: it looks at the journal at least every 10 s.
WAIT_S = 30.0


class NoSession(S3vfsError):
    """The volume has no session with that id."""

    exit_code = 3


def parse_sid(text: str) -> int:
    """A session id as status prints it. Raises ValueError."""
    try:
        sid = int(text, 16)
    except ValueError:
        sid = 0
    if not 0 < sid < 2**63:
        raise ValueError(f"{text!r} is no session id: status prints them, 16 hexadecimal digits")
    return sid


def configure(parser: argparse.ArgumentParser) -> None:
    add_url(parser)
    parser.add_argument("sid", metavar="SID", type=checked(parse_sid), help="as `s3vfs status URL` shows it")
    parser.add_argument(
        "--wait",
        type=checked(parse_seconds),
        default=WAIT_S,
        metavar="S",
        help=f"how long it has to answer [{WAIT_S:g}]; at least {RECALL_PATIENCE_S:g} where it holds leases",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    trio.run(_evict, arguments)
    if arguments.json:
        print(json.dumps({"evicted": f"{arguments.sid:016x}"}))
    else:
        print(f"session {arguments.sid:016x} has ended")
    return 0


async def _evict(arguments: argparse.Namespace) -> None:
    environment = command_environment()
    sid = arguments.sid
    async with (
        opened(arguments.url, store_options(arguments), environment) as store,
        commanding(store, environment) as command,
    ):
        with command.base.replica.read() as txn:
            row = Rows(txn).session(sid)
        if row is None:
            raise NoSession(f"{store.url} has no session {sid:016x}", hint="it has ended, or never was")
        patience_s = command.patience_s(sid, arguments.wait)
        if patience_s > arguments.wait:
            print(f"session {sid:016x} holds leases: it has {patience_s:g} s to answer", file=sys.stderr)
        if not await command.evict(sid, wait_s=arguments.wait):
            raise SessionBusy(f"session {sid:016x} ({row.label}) is alive", hint="unmount it where it runs")
