"""A progress bar on a terminal's stderr; nothing where stderr is not a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from s3vfs.cli.sizes import format_size

_BAR = 30


class Progress:
    """Fed with the daemon's figures: `pending_bytes`, `pending_ops`. The most ever pending counts as the whole."""

    def __init__(
        self, label: str, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        self._clock = clock
        self._began: float | None = None
        self._whole_bytes = 0
        self._shown = False

    def __call__(self, figures: dict[str, Any]) -> None:
        if not self._stream.isatty():
            return
        line = self.line(int(figures.get("pending_bytes", 0)), int(figures.get("pending_ops", 0)))
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\033[K{line[:width]}")
        self._stream.flush()
        self._shown = True

    def line(self, pending_bytes: int, pending_ops: int) -> str:
        """The text for these figures."""
        now = self._clock()
        if self._began is None:
            self._began = now
        self._whole_bytes = max(self._whole_bytes, pending_bytes)
        done = self._whole_bytes - pending_bytes
        share = done / self._whole_bytes if self._whole_bytes else 1.0
        bar = "#" * int(share * _BAR)
        rate = done / (now - self._began) if now > self._began else 0.0
        return (
            f"{self._label} [{bar:<{_BAR}}] {format_size(done)} of {format_size(self._whole_bytes)},"
            f" {pending_ops} operations waiting, {format_size(rate)}/s"
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()
