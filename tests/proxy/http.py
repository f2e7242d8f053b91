"""Just enough of HTTP/1.1 to stand between a client and a server: where heads end, and how long bodies are.

Bodies pass through one reused buffer. Knows no faults and no pace: `sink` is called for each piece.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

# Large enough that Python's cost per piece vanishes beside the copy.
PIECE_BYTES = 512 * 1024
HEAD_LIMIT_BYTES = 256 * 1024

Sink = Callable[[memoryview], None]


class Disconnected(Exception):
    """The peer closed before a message was whole."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's or an answer's head, as it came. Header names are lower case."""

    raw: bytes
    first_line: str
    headers: dict[str, str]

    @property
    def method(self) -> str:
        return self.first_line.split(" ", 1)[0]

    @property
    def path(self) -> str:
        return self.first_line.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.first_line.split(" ")[1])

    @property
    def content_length(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def closes(self) -> bool:
        return "close" in self.headers.get("connection", "").lower()

    @property
    def awaits_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(raw: bytes) -> Head:
    first_line, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Head(raw, first_line, headers)


class Wire:
    """One side of a connection: reads heads and bodies, counts nothing, decides nothing."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._left = b""
        self._buffer = bytearray(PIECE_BYTES)

    def read_head(self) -> Head | None:
        """The next head; None when the peer closed before its first byte."""
        raw = self._left
        while (end := raw.find(b"\r\n\r\n")) < 0:
            if len(raw) > HEAD_LIMIT_BYTES:
                raise Disconnected
            part = self.socket.recv(65536)
            if not part:
                if raw:
                    raise Disconnected
                return None
            raw += part
        self._left = raw[end + 4 :]
        return parse_head(raw[: end + 4])

    def copy_body(self, length: int, sink: Sink) -> None:
        """Exactly `length` bytes to `sink`, piece by piece."""
        view = memoryview(self._buffer)
        while length:
            if self._left:
                piece = memoryview(self._left)[:length]
                self._left = self._left[len(piece) :]
            else:
                count = self.socket.recv_into(self._buffer, min(length, PIECE_BYTES))
                if not count:
                    raise Disconnected
                piece = view[:count]
            length -= len(piece)
            sink(piece)

    def copy_chunked(self, sink: Sink) -> None:
        """A chunked body with its framing, to the end of its trailers."""
        while True:
            line = self._copy_line(sink)
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            self.copy_body(size + 2, sink)
        while self._copy_line(sink) != b"\r\n":
            continue

    def copy_to_end(self, sink: Sink) -> None:
        """Everything until the peer closes."""
        if self._left:
            sink(memoryview(self._left))
            self._left = b""
        while count := self.socket.recv_into(self._buffer):
            sink(memoryview(self._buffer)[:count])

    def _copy_line(self, sink: Sink) -> bytes:
        while (end := self._left.find(b"\n")) < 0:
            part = self.socket.recv(65536)
            if not part:
                raise Disconnected
            self._left += part
        line, self._left = self._left[: end + 1], self._left[end + 1 :]
        sink(memoryview(line))
        return line
