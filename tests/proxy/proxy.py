"""A loopback proxy that is the network between a client and an S3 server: slow, lossy, or gone, on order.

    with Proxy(("127.0.0.1", 8333)) as proxy:
        proxy.set_link(latency_s=0.03)
        proxy.add(Rule(Action.LOSE_ANSWER, method="PUT", path="/journal/"))

One thread for each connection, plain HTTP/1.1. It passes bytes unchanged, the Host header too, so that signatures
hold. In a process of its own (tests/proxy/process.py) it does not share the GIL with what is tested.
"""

from __future__ import annotations

import contextlib
import enum
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType

from tests.proxy.http import Disconnected, Head, Sink, Wire
from tests.proxy.pace import Pace


class Action(enum.Enum):
    """What happens to a request that a rule chooses."""

    PASS = "pass"  # only the rule's delay
    ANSWER_503 = "answer 503"  # SlowDown, without asking the server
    ANSWER_500 = "answer 500"
    ANSWER_409 = "answer 409"  # ConditionalRequestConflict: another request is in the way
    RESET_REQUEST = "reset request"  # the connection breaks in the middle of the request's body
    RESET_ANSWER = "reset answer"  # ... in the middle of the answer's body
    STALL_ANSWER = "stall answer"  # silence in the middle of the answer's body
    LOSE_ANSWER = "lose answer"  # the server does it and answers; the client sees the connection break
    HANG = "hang"  # the request is read, and nothing ever comes back


_ERRORS = {
    Action.ANSWER_503: ("503 Slow Down", "SlowDown"),
    Action.ANSWER_500: ("500 Internal Server Error", "InternalError"),
    Action.ANSWER_409: ("409 Conflict", "ConditionalRequestConflict"),
}


# A bucket's contents, in either version of the call.
_LISTING = re.compile(r"[?&](list-type|prefix|delimiter|marker)=")


@dataclass(slots=True)
class Rule:
    """Do `action` to requests whose method and path (with query) match, `times` times (None: always), after letting
    `skip` of them pass. `delay_s` comes before the request goes on."""

    action: Action
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int | None = 1
    delay_s: float = 0.0

    def matches(self, head: Head) -> bool:
        return bool(re.search(self.method, head.method) and re.search(self.path, head.path))


@dataclass(frozen=True, slots=True)
class Counts:
    """What has passed: requests by method (refused and hung ones too), bytes of heads and bodies, connections; how
    many of the GETs listed keys."""

    requests: dict[str, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0
    lists: int = 0


class _Reset(Exception):
    """Break the client's connection."""


class Proxy:
    """Listens on 127.0.0.1. All methods may be called from any thread, at any time."""

    def __init__(self, upstream: tuple[str, int], *, port: int = 0) -> None:
        self._upstream = upstream
        self._wanted_port = port
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._latency_s = 0.0
        self._up = Pace(0, time.monotonic)
        self._down = Pace(0, time.monotonic)
        self._passing = threading.Event()
        self._passing.set()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self._requests: Counter[str] = Counter()
        self._bytes_up = 0
        self._bytes_down = 0
        self._connections = 0
        self._lists = 0
        self.port = 0

    def __enter__(self) -> Proxy:
        self._listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # -- orders ---------------------------------------------------------------------------------------------------

    def set_link(self, *, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """From now on each request takes `latency_s` longer (one round trip; a new connection costs another), and
        each direction carries `bytes_per_s` at most (0: no limit)."""
        with self._lock:
            self._latency_s = latency_s
            self._up = Pace(bytes_per_s, time.monotonic)
            self._down = Pace(bytes_per_s, time.monotonic)

    def add(self, rule: Rule) -> None:
        """Rules are looked at in the order in which they were added; the first that applies decides."""
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Forget all rules."""
        with self._lock:
            self._rules.clear()

    def block(self) -> None:
        """Connections are accepted, bytes go nowhere. What was sent meanwhile goes on after `resume`."""
        self._passing.clear()

    def refuse(self) -> None:
        """Connections are refused, open ones break."""
        self._stop_listening()
        self._break_all()

    def resume(self) -> None:
        """End `block` and `refuse`."""
        self._passing.set()
        if self._listener is None:
            self._listen()

    def counts(self) -> Counts:
        with self._lock:
            return Counts(dict(self._requests), self._bytes_up, self._bytes_down, self._connections, self._lists)

    def close(self) -> None:
        """End everything and wait for it."""
        self._closing.set()
        self._passing.set()
        self._stop_listening()
        self._break_all()
        for thread in list(self._threads):
            thread.join()

    # -- connections ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port or self._wanted_port), backlog=256)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._start(self._accept, listener)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listener.close()

    def _break_all(self) -> None:
        with self._lock:
            open_sockets = list(self._sockets)
        for connection in open_sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _start(self, function: Callable[[socket.socket], None], argument: socket.socket) -> None:
        def run() -> None:
            try:
                function(argument)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="proxy", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            self._start(self._serve, connection)

    @contextlib.contextmanager
    def _tracked(self, connection: socket.socket) -> Iterator[None]:
        with self._lock:
            self._sockets.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(connection)
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        """One client's connection, request after request, with one connection to the server behind it."""
        with self._lock:
            self._connections += 1
        with self._tracked(connection), contextlib.ExitStack() as behind:
            client = Wire(connection)
            server: Wire | None = None
            try:
                self._wait(self._latency_s)
                while (head := client.read_head()) is not None:
                    rule = self._chosen(head)
                    self._wait(self._latency_s + (rule.delay_s if rule else 0.0))
                    action = rule.action if rule else Action.PASS
                    if action in _ERRORS:
                        self._answer_error(client, head, action)
                        continue
                    if server is None or _is_gone(server.socket):
                        behind.close()
                        server = self._connected(behind)
                    if not self._exchange(client, server, head, action):
                        return
            except _Reset:
                _make_reset(connection)
            except (Disconnected, OSError):
                # One side went away: so does the other. The server's absence looks like a broken connection.
                _make_reset(connection)

    def _connected(self, behind: contextlib.ExitStack) -> Wire:
        server = socket.create_connection(self._upstream)
        behind.enter_context(self._tracked(server))
        return Wire(server)

    def _chosen(self, head: Head) -> Rule | None:
        with self._lock:
            self._requests[head.method] += 1
            self._lists += head.method == "GET" and bool(_LISTING.search(head.path))
            for rule in self._rules:
                if rule.times == 0 or not rule.matches(head):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule
        return None

    # -- one request ----------------------------------------------------------------------------------------------

    def _exchange(self, client: Wire, server: Wire, head: Head, action: Action) -> bool:
        """Pass one request and its answer; False when the connection ends with it."""
        if action is Action.HANG:
            client.copy_body(head.content_length, lambda piece: None)
            self._closing.wait()
            raise _Reset
        early = self._send_request(client, server, head, action)
        answer = early or self._read_final_head(server, client)
        if action is Action.LOSE_ANSWER:
            self._copy_answer(server, answer, head, lambda piece: None)
            raise _Reset
        self._pass_down(client, memoryview(answer.raw))
        if action in (Action.RESET_ANSWER, Action.STALL_ANSWER):
            server.copy_body(answer.content_length // 2, lambda piece: self._pass_down(client, piece))
            if action is Action.STALL_ANSWER:
                self._closing.wait()
            raise _Reset
        to_the_end = self._copy_answer(server, answer, head, lambda piece: self._pass_down(client, piece))
        return not (to_the_end or early or head.closes or answer.closes)

    def _send_request(self, client: Wire, server: Wire, head: Head, action: Action) -> Head | None:
        """Pass the request; returns the answer's head when the server answered before the whole body was sent."""

        def up(piece: memoryview) -> None:
            self._pass_up(server, piece)

        up(memoryview(head.raw))
        if head.awaits_continue:
            interim = server.read_head()
            if interim is None or interim.status != 100:
                return interim
            client.socket.sendall(interim.raw)
        if action is Action.RESET_REQUEST:
            client.copy_body(head.content_length // 2, up)
            raise _Reset
        try:
            if head.chunked:
                client.copy_chunked(up)
            else:
                client.copy_body(head.content_length, up)
        except (BrokenPipeError, ConnectionResetError):
            # A server may refuse a request by its head alone; its answer is still to be read.
            return server.read_head()
        return None

    def _read_final_head(self, server: Wire, client: Wire) -> Head:
        while (answer := server.read_head()) is not None:
            if answer.status >= 200:
                return answer
            client.socket.sendall(answer.raw)
        raise Disconnected

    @staticmethod
    def _copy_answer(server: Wire, answer: Head, request: Head, sink: Sink) -> bool:
        """Pass the answer's body; True when only the connection's end ended it."""
        if request.method == "HEAD" or answer.status in (204, 304):
            return False
        if answer.chunked:
            server.copy_chunked(sink)
        elif "content-length" in answer.headers:
            server.copy_body(answer.content_length, sink)
        else:
            server.copy_to_end(sink)
            return True
        return False

    def _answer_error(self, client: Wire, head: Head, action: Action) -> None:
        if head.awaits_continue:
            client.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.copy_body(head.content_length, lambda piece: None)
        status, code = _ERRORS[action]
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>on order</Message></Error>'.encode()
        date = formatdate(usegmt=True)
        lines = [f"HTTP/1.1 {status}", f"Date: {date}", "Content-Type: application/xml", f"Content-Length: {len(body)}"]
        client.socket.sendall("\r\n".join([*lines, "", ""]).encode() + (b"" if head.method == "HEAD" else body))

    def _pass_up(self, server: Wire, piece: memoryview) -> None:
        self._wait(self._up.reserve(len(piece)))
        server.socket.sendall(piece)
        with self._lock:
            self._bytes_up += len(piece)

    def _pass_down(self, client: Wire, piece: memoryview) -> None:
        self._wait(self._down.reserve(len(piece)))
        client.socket.sendall(piece)
        with self._lock:
            self._bytes_down += len(piece)

    def _wait(self, seconds: float) -> None:
        """Let time pass, and wait out a blockade. Raises when the proxy is closed meanwhile."""
        if seconds > 0:
            self._closing.wait(seconds)
        if not self._passing.is_set():
            self._passing.wait()
        if self._closing.is_set():
            raise _Reset


def _is_gone(connection: socket.socket) -> bool:
    """True where an idle connection was closed by the server."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable)


def _make_reset(connection: socket.socket) -> None:
    """Closing it will be a reset, not an orderly end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
