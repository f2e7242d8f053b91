"""The proxy in a process of its own: the same orders, carried over a pipe. For benches, and wherever the GIL counts.

Alone: `python -m tests.proxy.process --upstream 127.0.0.1:8333 --latency-ms 30` prints its URL and waits.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from tests.proxy.proxy import Counts, Proxy, Rule

# A process that does not end in this time is killed: it has nothing to lose.
STOP_TIMEOUT_S = 5.0


def _serve(upstream: tuple[str, int], port: int, orders: Connection) -> None:
    with Proxy(upstream, port=port) as proxy:
        orders.send(proxy.port)
        while True:
            try:
                name, arguments, options = orders.recv()
            except EOFError:  # whoever started us is gone
                return
            orders.send(getattr(proxy, name)(*arguments, **options))


class ProxyProcess:
    """As Proxy, from another process. Not for several threads at once."""

    def __init__(self, upstream: tuple[str, int], *, port: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(upstream, port, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.port: int = self._orders.recv()

    def __enter__(self) -> ProxyProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _order(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._orders.send((name, arguments, options))
        return self._orders.recv()

    def set_link(self, *, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        self._order("set_link", latency_s=latency_s, bytes_per_s=bytes_per_s)

    def add(self, rule: Rule) -> None:
        self._order("add", rule)

    def clear(self) -> None:
        self._order("clear")

    def block(self) -> None:
        self._order("block")

    def refuse(self) -> None:
        self._order("refuse")

    def resume(self) -> None:
        self._order("resume")

    def counts(self) -> Counts:
        counts: Counts = self._order("counts")
        return counts

    def close(self) -> None:
        self._orders.close()
        self._process.join(STOP_TIMEOUT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to each request")
    parser.add_argument("--mbytes-per-s", type=float, default=0.0, help="for each direction; 0: no limit")
    arguments = parser.parse_args()
    host, _, port = arguments.upstream.rpartition(":")
    with Proxy((host, int(port)), port=arguments.port) as proxy:
        proxy.set_link(latency_s=arguments.latency_ms / 1000, bytes_per_s=arguments.mbytes_per_s * 1e6)
        print(proxy.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
