"""What process 1 of a container must do: collect the daemons of mounts when they end, and pass signals on.

The driver itself runs in a child then. Imports nothing of gRPC, so that forking is safe.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def become_parent() -> None:
    """Return in a child, as the program; stay here as process 1 until it ends, and end with its exit code."""
    program = os.fork()
    if program == 0:
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(program, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        ended, status = os.wait()
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
