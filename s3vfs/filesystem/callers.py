"""What a request does not carry about who makes it."""

from __future__ import annotations

from collections.abc import Collection


def supplementary_groups(thread: int) -> Collection[int]:
    """The supplementary groups of a thread of this machine; none where it has gone."""
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            for line in status:
                if line.startswith(b"Groups:"):
                    return [int(group) for group in line[7:].split()]
    except OSError:  # it ended meanwhile: so nobody waits for what more it might have been allowed to do
        pass
    return ()
