"""`python -m csi`: the CSI driver, all three services on one socket."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from csi.topology import NODE_ID_LIMIT_BYTES, topology_value

EXAMPLES = """\
examples:
  python -m csi --endpoint unix:///csi/csi.sock --node-id node-1
  python -m csi --endpoint unix:///csi/csi.sock --node-id node-1 --workspace-root /mnt/nvme/workspaces
"""

_STOP_S = 10.0
_FIELDS = ("rpc", "volume_id", "code", "ms", "path", "socket", "node")


class _Json(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m csi",
        description="The CSI driver csi.s3vfs.io: s3vfs volumes, and directories on a node's disk, for pods.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    environment = os.environ.get
    parser.add_argument(
        "--endpoint", default=environment("CSI_ENDPOINT", ""), help="unix:///path of the socket [CSI_ENDPOINT]"
    )
    parser.add_argument("--node-id", default=environment("NODE_ID", ""), help="this node's name [NODE_ID]")
    parser.add_argument(
        "--state-dir", type=Path, default=Path("/var/lib/s3vfs-csi"), help="source mounts [%(default)s]"
    )
    parser.add_argument("--cache-dir", type=Path, default=None, help="of the mounts [cache in the state directory]")
    parser.add_argument(
        "--workspace-root", type=Path, default=None, help="directory on this node's disk for workspace volumes [none]"
    )
    parser.add_argument(
        "--flush-timeout", type=float, default=60.0, metavar="S", help="unpublish waits so long for the bucket [60]"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log debug messages")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; mounts stay. Exit code 0; 1: the socket cannot be bound; 2: wrong usage."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not arguments.endpoint or not arguments.node_id:
        parser.error("--endpoint and --node-id are needed (or CSI_ENDPOINT and NODE_ID)")
    if len(arguments.node_id.encode()) > NODE_ID_LIMIT_BYTES:
        parser.error(f"--node-id has more than {NODE_ID_LIMIT_BYTES} bytes")
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"  # commands are started, nothing goes on in a fork

    from csi.server import socket_of  # late, with gRPC: --help needs none

    try:
        socket = socket_of(arguments.endpoint)
    except ValueError as error:
        parser.error(str(error))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(level=logging.DEBUG if arguments.verbose else logging.INFO, handlers=[handler])
    return _serve(arguments, socket)


def _serve(arguments: argparse.Namespace, socket: Path) -> int:
    from csi.controller import Controller
    from csi.identity import Identity
    from csi.node import Node
    from csi.places import Places
    from csi.refusals import Refusal
    from csi.server import InFlight, start_server
    from csi.sources import Sources
    from csi.workspaces import Workspaces

    log = logging.getLogger("csi")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        cache = arguments.cache_dir or arguments.state_dir / "cache"
        sources = Sources(arguments.state_dir.absolute(), cache.absolute(), arguments.flush_timeout)
        root = arguments.workspace_root.absolute() if arguments.workspace_root else None
        workspaces, in_flight = Workspaces(root, topology_value(arguments.node_id)), InFlight()
        node = Node(arguments.node_id, sources, workspaces, in_flight)
        controller = Controller(Places(arguments.state_dir / "places.json"), workspaces, in_flight)
        server = start_server(socket, {"Identity": Identity(), "Controller": controller, "Node": node})
    except (OSError, RuntimeError) as error:
        log.error("cannot serve: %s", error)
        return 1
    log.info("serving", extra={"socket": str(socket), "node": arguments.node_id})
    for tidy in (node.clear_abandoned, workspaces.remove_deleted):
        try:
            tidy()
        except (Refusal, OSError) as error:
            log.warning("left for later: %s", error)
    stopping.wait()
    server.stop(_STOP_S).wait()
    with contextlib.suppress(FileNotFoundError):
        socket.unlink()
    log.info("stopped; mounts stay")
    return 0


if __name__ == "__main__":
    sys.exit(main())
