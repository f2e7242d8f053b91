"""Progress for people: a line that is rewritten on a terminal, a line now and then in a log."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_ON_TERMINAL_S = 0.1
_IN_LOG_S = 10.0


class Meter:
    """Call it as often as you like with a function that makes the line."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._next_s = clock() + (0.0 if self._terminal else _IN_LOG_S)
        self._shown = False

    def __call__(self, line: Callable[[], str]) -> None:
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (_ON_TERMINAL_S if self._terminal else _IN_LOG_S)
        self._stream.write(f"\r\033[K{line()}" if self._terminal else f"{line()}\n")
        self._stream.flush()
        self._shown = True

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()
