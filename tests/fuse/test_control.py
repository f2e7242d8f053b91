"""The daemon's control socket."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import trio

from s3vfs.fuse.control import ControlServer, Progress, call


def server(name: str) -> ControlServer:
    async def answer(progress: Progress) -> dict[str, Any]:
        return {"name": name}

    return ControlServer({"name": answer})


def test_a_daemon_that_ends_leaves_the_socket_of_the_next_one_with_its_device_number(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                await inner.start(server("old").serve, path)
                await outer.start(server("new").serve, path)
                inner.cancel_scope.cancel()
            assert await trio.to_thread.run_sync(partial(call, str(path), "name")) == {"name": "new"}
            outer.cancel_scope.cancel()

    trio.run(main)
    assert not path.exists()
