"""The proxy passes what it should unchanged, breaks what it is told to, and counts both."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.proxy.pace import Pace
from tests.proxy.process import ProxyProcess
from tests.proxy.proxy import Action, Proxy, Rule

MIB = 1 << 20


class _Answers(http.server.BaseHTTPRequestHandler):
    """GET /<n>: n bytes; GET /chunked/<n>: the same in chunks; PUT: the body's hash. Remembers what arrived whole."""

    protocol_version = "HTTP/1.1"
    arrived: list[str]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.arrived.append(f"GET {self.path}")
        size = int(self.path.rsplit("/", 1)[1])
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        self.send_response(200)
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, size, 1000):
                part = body[start : start + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        self.arrived.append(f"PUT {self.path}")
        answer = hashlib.sha256(body).hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what these tests are about."""


@pytest.fixture
def arrived() -> list[str]:
    return []


@pytest.fixture
def upstream(arrived: list[str]) -> Iterator[tuple[str, int]]:
    handler = type("Handler", (_Answers,), {"arrived": arrived})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: tuple[str, int]) -> Iterator[Proxy]:
    with Proxy(upstream) as running:
        yield running


@contextlib.contextmanager
def client(port: int, timeout_s: float = 20) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        yield connection
    finally:
        connection.close()


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    return content if answer.status == 200 else b"%d" % answer.status


def test_requests_of_one_connection_pass_unchanged_and_are_counted(proxy: Proxy) -> None:
    body = bytes(range(256)) * 8192
    with client(proxy.port) as connection:
        assert ask(connection, "PUT", "/a", body) == hashlib.sha256(body).hexdigest().encode()
        assert ask(connection, "GET", "/3000000") == bytes(range(256)) * 11718 + bytes(192)
        assert ask(connection, "GET", "/chunked/2560") == bytes(range(256)) * 10
        assert ask(connection, "HEAD", "/5000") == b""
        assert ask(connection, "PUT", "/b", b"") == hashlib.sha256(b"").hexdigest().encode()
    counts = proxy.counts()
    assert counts.requests == {"PUT": 2, "GET": 2, "HEAD": 1}
    assert counts.connections == 1
    assert 0 < counts.bytes_up - len(body) < 2000
    assert 0 < counts.bytes_down - 3002560 < 4000
    assert counts.lists == 0


def test_listings_are_counted_among_the_gets(proxy: Proxy) -> None:
    with client(proxy.port) as connection:
        ask(connection, "GET", "/bucket/key?partNumber=1/5")
        ask(connection, "GET", "/bucket?list-type=2&prefix=a/5")
        ask(connection, "GET", "/bucket?delimiter=%2F&prefix=/5")
    counts = proxy.counts()
    assert counts.requests == {"GET": 3}
    assert counts.lists == 2


def test_a_request_that_waits_for_permission_to_send_gets_it(proxy: Proxy) -> None:
    with client(proxy.port) as connection:
        connection.putrequest("PUT", "/a")
        connection.putheader("Content-Length", "3")
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        connection.send(b"abc")
        assert connection.getresponse().read() == hashlib.sha256(b"abc").hexdigest().encode()


def test_a_lost_answer_is_a_request_that_took_effect(proxy: Proxy, arrived: list[str]) -> None:
    proxy.add(Rule(Action.LOSE_ANSWER, method="PUT", path="/lost"))
    with client(proxy.port) as connection, pytest.raises(ConnectionError):
        ask(connection, "PUT", "/lost", b"body")
    assert arrived == ["PUT /lost"]
    with client(proxy.port) as connection:
        assert ask(connection, "PUT", "/lost", b"body")


def test_a_request_broken_in_its_middle_does_not_arrive(proxy: Proxy, arrived: list[str]) -> None:
    proxy.add(Rule(Action.RESET_REQUEST, path="/big"))
    with client(proxy.port) as connection, pytest.raises(ConnectionError):
        ask(connection, "PUT", "/big", bytes(4 * MIB))
    assert arrived == []


def test_an_answer_broken_in_its_middle_is_short(proxy: Proxy) -> None:
    proxy.add(Rule(Action.RESET_ANSWER))
    with client(proxy.port) as connection:
        connection.request("GET", "/2000000")
        answer = connection.getresponse()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()


def test_errors_on_order_leave_the_connection_usable(proxy: Proxy, arrived: list[str]) -> None:
    proxy.add(Rule(Action.ANSWER_503, method="PUT", skip=1, times=2))
    proxy.add(Rule(Action.ANSWER_500, method="GET"))
    with client(proxy.port) as connection:
        answers = [ask(connection, "PUT", f"/{n}", b"x" * 100000)[:3] for n in range(4)]
        assert answers[1:3] == [b"503", b"503"]
        assert b"503" not in (answers[0], answers[3])
        assert ask(connection, "GET", "/1") == b"500"
    assert arrived == ["PUT /0", "PUT /3"]
    assert proxy.counts().connections == 1


@pytest.mark.parametrize("action", [Action.HANG, Action.STALL_ANSWER])
def test_silence_lasts_until_the_client_gives_up(proxy: Proxy, action: Action) -> None:
    proxy.add(Rule(action))
    with client(proxy.port, timeout_s=0.3) as connection, pytest.raises(TimeoutError):
        ask(connection, "GET", "/1000000")
    with client(proxy.port) as connection:
        assert len(ask(connection, "GET", "/1000000")) == 1000000


def test_a_blockade_delays_what_was_sent_until_it_ends(proxy: Proxy, arrived: list[str]) -> None:
    proxy.block()
    with client(proxy.port) as connection:
        connection.request("PUT", "/a", b"abc")
        with client(proxy.port, timeout_s=0.2) as other, pytest.raises(TimeoutError):
            ask(other, "GET", "/1")
        assert arrived == []
        proxy.resume()
        assert connection.getresponse().status == 200
    assert "PUT /a" in arrived


def test_refusing_breaks_old_connections_and_takes_no_new_ones_until_resumed(proxy: Proxy) -> None:
    with client(proxy.port) as connection:
        assert len(ask(connection, "GET", "/10")) == 10
        proxy.refuse()
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            ask(connection, "GET", "/10")
        with client(proxy.port) as other, pytest.raises(ConnectionRefusedError):
            ask(other, "GET", "/10")
        proxy.resume()
    with client(proxy.port) as connection:
        assert len(ask(connection, "GET", "/10")) == 10


def test_rules_can_be_forgotten(proxy: Proxy) -> None:
    proxy.add(Rule(Action.ANSWER_503, times=None))
    with client(proxy.port) as connection:
        assert ask(connection, "GET", "/1") == b"503"
        assert ask(connection, "GET", "/1") == b"503"
        proxy.clear()
        assert ask(connection, "GET", "/1") == bytes(1)


def test_each_request_waits_for_latency_and_rule_delay(upstream: tuple[str, int]) -> None:
    waited: list[float] = []

    class Watched(Proxy):
        def _wait(self, seconds: float) -> None:
            waited.append(seconds)

    with Watched(upstream) as proxy:
        proxy.set_link(latency_s=3)
        proxy.add(Rule(Action.PASS, path="/1$", delay_s=10))
        with client(proxy.port) as connection:
            ask(connection, "GET", "/1")
            ask(connection, "GET", "/2")
    assert [seconds for seconds in waited if seconds] == [3, 13, 3]


def test_a_line_carries_its_bandwidth_and_no_more() -> None:
    now = 100.0
    pace = Pace(1000, lambda: now)
    assert pace.reserve(500) == 0.5
    assert pace.reserve(1000) == 1.5  # behind the first
    now = 110.0
    assert pace.reserve(100) == pytest.approx(0.1)  # what was not used is gone
    assert Pace(0, lambda: now).reserve(10**9) == 0


def test_a_missing_server_is_a_broken_connection() -> None:
    with Proxy(("127.0.0.1", 1)) as proxy, client(proxy.port) as connection, pytest.raises(ConnectionError):
        ask(connection, "GET", "/1")


def test_a_proxy_in_a_process_takes_the_same_orders(upstream: tuple[str, int], arrived: list[str]) -> None:
    with ProxyProcess(upstream) as proxy:
        proxy.set_link(latency_s=0.001, bytes_per_s=1e9)
        proxy.add(Rule(Action.ANSWER_503, path="/1$"))
        with client(proxy.port) as connection:
            assert ask(connection, "GET", "/1") == b"503"
            assert ask(connection, "GET", "/1") == bytes(1)
        proxy.block()
        with client(proxy.port, timeout_s=0.2) as connection, pytest.raises(TimeoutError):
            ask(connection, "GET", "/1")
        proxy.resume()
        proxy.refuse()
        with client(proxy.port) as connection, pytest.raises(ConnectionRefusedError):
            ask(connection, "GET", "/1")
        proxy.resume()
        proxy.clear()
        assert proxy.counts().requests["GET"] >= 2
    assert arrived.count("GET /1") >= 1
