"""`s3vfs`, whose daemon is killed between an answer of the front and the moment at which it would hear of it.

    python -m tests.fuse.killed_before_told COUNT mount ...

COUNT: of how many files it hears something before.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from s3vfs.cli import main
from s3vfs.fuse.front import NativeFront

_left = int(sys.argv.pop(1))
_noted = NativeFront.noted


def _hear(self: NativeFront, *told: Any) -> None:
    global _left
    if told[-1] is not None:
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
        _left -= 1
    _noted(self, *told)


if __name__ == "__main__":
    NativeFront.noted = _hear  # type: ignore[method-assign]
    sys.exit(main())
