"""The daemon's control socket: how `s3vfs status`, `sync` and `umount` talk to a running mount.

A connection carries one request and its answer, as lines of JSON:

    -> {"command": "sync"}
    <- {"progress": {"pending_bytes": 123}}          any number of these
    <- {"result": {...}}  or  {"error": "...", "hint": "...", "exit_code": 10}

The socket is mode 0600 in a directory of mode 0700: who may connect is decided by the file system.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from s3vfs.errors import S3vfsError

_log = logging.getLogger(__name__)

_LONGEST_LINE = 16 << 20  # a status with thousands of sessions stays far below

Progress = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[Progress], Awaitable[dict[str, Any]]]


class RemoteError(S3vfsError):
    """What the daemon answered instead of a result; its exit code becomes the command's."""

    def __init__(self, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class DaemonGone(S3vfsError):
    """Nobody listens on the socket, or the daemon ended in the middle of an answer."""


# -- the daemon's side ----------------------------------------------------------------------------------------------


class ControlServer:
    """Answers on one socket. `handlers`: command name -> what gives its result."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._busy = 0
        self._quiet = trio.Event()
        self._quiet.set()

    async def serve(self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer requests until cancelled. `path` is replaced when a killed daemon left it behind, or one that is
        ending has it: the kernel gives device numbers, and so paths, to others at once."""
        _forget(path)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            await listener.bind(os.fspath(path))
            os.chmod(path, 0o600)
            own = os.stat(path)
            listener.listen(16)
            task_status.started()
            try:
                await trio.serve_listeners(self._connection, [trio.SocketListener(listener)])
            finally:
                _forget(path, own)

    async def quiet(self) -> None:
        """Return when every request has had its answer."""
        await self._quiet.wait()

    async def _connection(self, stream: trio.SocketStream) -> None:
        if not self._busy:
            self._quiet = trio.Event()
        self._busy += 1
        try:
            await _answer(stream, self._handlers)
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()


def _forget(path: Path, own: os.stat_result | None = None) -> None:
    """Remove the socket; one that is not `own` stays."""
    with suppress(FileNotFoundError):
        if own is None or os.path.samestat(os.stat(path), own):
            path.unlink()


async def _answer(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    async def send(message: dict[str, Any]) -> None:
        await stream.send_all(json.dumps(message).encode() + b"\n")

    async def progress(figures: dict[str, Any]) -> None:
        await send({"progress": figures})

    try:
        command = json.loads(await _read_line(stream)).get("command", "")
        await send(await _result(command, handlers, progress))
    except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError, AttributeError) as error:
        _log.info("control connection ended", extra={"reason": repr(error)})
    finally:
        await trio.aclose_forcefully(stream)


async def _result(command: str, handlers: Mapping[str, Handler], progress: Progress) -> dict[str, Any]:
    handler = handlers.get(command)
    if handler is None:
        return {"error": f"the mount's daemon does not know {command!r}", "hint": "mount again", "exit_code": 2}
    try:
        return {"result": await handler(progress)}
    except S3vfsError as error:
        return {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception as error:  # a bug in one answer may not end the mount
        _log.exception("control command failed", extra={"command": command})
        return {"error": f"the daemon failed: {error!r}", "hint": "see its log", "exit_code": 1}


async def _read_line(stream: trio.SocketStream) -> bytes:
    received = b""
    while b"\n" not in received:
        part = await stream.receive_some()
        if not part:
            break
        received += part
        if len(received) > 4096:
            raise ValueError("request too long")
    return received.partition(b"\n")[0]


# -- the command's side ---------------------------------------------------------------------------------------------


def call(path: str, command: str, on_progress: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Ask the daemon and wait for the result, however long it takes (Ctrl-C ends the waiting, not the work).

    Blocks. Raises RemoteError with the daemon's own words, DaemonGone when there is none or when it ended meanwhile.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
            connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            for line in _lines(connection):
                message = json.loads(line)
                if "result" in message:
                    result: dict[str, Any] = message["result"]
                    return result
                if "error" in message:
                    raise RemoteError(message["error"], message["hint"], message["exit_code"])
                if on_progress is not None:
                    on_progress(message["progress"])
        except OSError as error:
            raise DaemonGone(f"the mount's daemon cannot be reached ({error.strerror})") from None
    raise DaemonGone("the mount's daemon ended in the middle of its answer", hint="see its log")


def _lines(connection: socket.socket) -> Iterator[bytes]:
    received = b""
    while part := connection.recv(65536):
        received += part
        *lines, received = received.split(b"\n")
        yield from lines
        if len(received) > _LONGEST_LINE:
            raise DaemonGone("the mount's daemon sent an endless line")
