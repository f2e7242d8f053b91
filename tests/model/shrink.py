"""From a failing history to a short one. Hypothesis would rebuild each try from its choices, and here every try costs
hundreds of system calls through two mounts; whole calls are all that is worth leaving out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests.model.world import Call, Differs, World

_MOST_S = 45.0


def shrunk(history: Sequence[Call], first: Differs, new_world: Callable[[], World]) -> str:
    """What to print of a failure: the message of the shortest history that was found to fail. A difference of another
    kind counts too: it is one."""
    ends_s = time.monotonic() + _MOST_S
    calls, error = list(history), _failure(history, new_world)
    if error is None:
        return f"not seen again when the same calls were repeated:\n{first}"
    size = max(1, len(calls) // 2)
    while time.monotonic() < ends_s:
        shorter = False
        at = 0
        while at < len(calls) and time.monotonic() < ends_s:
            tried = calls[:at] + calls[at + size :]
            found = _failure(tried, new_world)
            if found is None:
                at += size
            else:
                calls, error, shorter = tried, found, True
        if size > 1:
            size //= 2
        elif not shorter:
            break
    return str(error)


def _failure(calls: Sequence[Call], new_world: Callable[[], World]) -> Differs | None:
    try:
        new_world().replay(calls)
    except Differs as error:
        return error
    return None
