"""The double (double.py), whose mkdir never answers; meanwhile the kernel is told that the name a is outdated, which
has to wait for that mkdir. It is given half a second for each step of its end.

    python -m tests.fuse.stuck MOUNTPOINT NOTES
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import trio

import s3vfs.fuse.serve
from s3vfs.filesystem import Caller, Filesystem, Found
from s3vfs.fuse.options import MountOptions
from s3vfs.namespace.changes import Changes
from s3vfs.namespace.rows import ROOT_INO
from tests.fuse.double import Double

_STEP_S = 0.5
_A = 2


class Stuck(Double):
    """Also the session that the mount listens to."""

    def touch(self) -> None: ...

    def listen(self, callback: Callable[[Changes, bool], None], *, reloaded: Callable[[], None] | None = None) -> None:
        self._hear = callback

    def holds(self, parent: int, name: bytes, ino: int) -> bool:
        return False

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Found:
        self._hear(Changes(inodes={_A}, links={(_A, ROOT_INO, b"a")}), False)
        self.note("mkdir")
        await trio.sleep_forever()
        raise AssertionError


async def main() -> None:
    s3vfs.fuse.serve._NOTIFICATION_GRACE_S = _STEP_S
    stuck = Stuck(Path(sys.argv[2]))
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            await s3vfs.fuse.serve.serve(
                cast(Filesystem, stuck),
                stuck,
                sys.argv[1],
                options=MountOptions(source="stuck", grace_s=_STEP_S),
                ready=partial(stuck.note, "ready"),
            )
            nursery.cancel_scope.cancel()
    stuck.note("ended")


if __name__ == "__main__":
    trio.run(main)
