"""The outside world, passed in: clocks, randomness, uuids, threads. Nobody below the entry points imports these
where they are used, so that a simulation can replace them all."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s3vfs.objects.runner import Runner


def read_boot_id() -> str:
    """The kernel's id of this boot: local state written without fsync is trusted only under the same one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boottime_ns() -> int:
    """CLOCK_BOOTTIME: goes on while the machine is suspended (R8)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Environment:
    """`run` calls blocking functions in worker threads. `wall_ns` is for time stamps only, never for decisions."""

    run: Runner
    boot_id: str
    wall_ns: Callable[[], int] = time.time_ns
    boottime_ns: Callable[[], int] = boottime_ns
    random: random.Random = field(default_factory=random.SystemRandom)
    new_uuid: Callable[[], bytes] = lambda: uuid.uuid4().bytes
