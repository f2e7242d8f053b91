"""Free loopback ports for test servers."""

from __future__ import annotations

import socket


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports of 127.0.0.1 on which nobody listens now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for candidate in held:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in held]
    finally:
        for candidate in held:
            candidate.close()
