"""What the workloads do: ordinary programs and plain system calls on directories, whatever is mounted there.

Each action prepares what it needs, then yields to `clock` exactly for what is measured. Actions run in a process of
their own (bench/step.py), so that one that hangs can be ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import parity
from bench.figures import percentile
from bench.inputs import small_content

Figures = dict[str, float]
# How long the other mount may take to show what was written before a turn counts as failed.
VISIBLE_LIMIT_S = 30.0
_FIND_PAUSE_S = 0.02


class Clock:
    """Start and end of what is measured, on the machine's monotonic clock (comparable between processes)."""

    began_s = 0.0
    ended_s = 0.0

    def __enter__(self) -> Clock:
        self.began_s = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended_s = time.monotonic()


class ActionFailed(Exception):
    """A program ended with an error, or something was not as it has to be."""


def _program(*words: str | Path, stdin: bytes | None = None) -> bytes:
    done = subprocess.run([str(word) for word in words], input=stdin, capture_output=True)
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ActionFailed(f"{words[0]} ended with {done.returncode}: {told[0]}")
    return done.stdout


def untar(clock: Clock, archive: str, target: str) -> Figures:
    os.mkdir(target)
    with clock:
        _program("tar", "-xf", archive, "-C", target)
    return {}


def clone(clock: Clock, repository: str, target: str) -> Figures:
    with clock:
        _program("git", "clone", "--quiet", f"file://{repository}", target)
    return {}


def cat(clock: Clock, folder: str, names: list[str]) -> Figures:
    """One `cat` of all, in this order; the output is counted and thrown away."""
    paths = b"\0".join(os.fsencode(os.path.join(folder, name)) for name in names)
    with clock:
        done = subprocess.run(["xargs", "-0", "cat"], input=paths, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        raise ActionFailed(f"cat: {done.stderr.decode(errors='replace').splitlines()[:1]}")
    return {}


def remove(clock: Clock, folder: str) -> Figures:
    with clock:
        _program("rm", "-rf", folder)
    return {}


def find(clock: Clock, folder: str, expected: int) -> Figures:
    """Once, and it has to see all `expected` names (the folder's own included)."""
    with clock:
        names = _program("find", folder).count(b"\n")
    if names != expected:
        raise ActionFailed(f"find saw {names} names of {expected}")
    return {}


def dd(clock: Clock, source: str, folder: str) -> Figures:
    os.mkdir(folder)
    with clock:
        _program("dd", f"if={source}", f"of={folder}/large", "bs=4k", "status=none")
    return {"MB/s": os.path.getsize(source) / 1e6 / (clock.ended_s - clock.began_s)}


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        if content:
            os.write(fd, content)
    finally:
        os.close(fd)


def _contents(count: int, size: int) -> list[tuple[str, bytes]]:
    return [(f"f{number:06d}", small_content(number, size)) for number in range(count)]


def create(clock: Clock, folder: str, count: int, size: int) -> Figures:
    files = _contents(count, size)
    os.mkdir(folder)
    with clock:
        for name, content in files:
            _write(f"{folder}/{name}", content)
    return {}


def stat(clock: Clock, folder: str, count: int) -> Figures:
    paths = [f"{folder}/f{number:06d}" for number in range(count)]
    with clock:
        for path in paths:
            os.stat(path)
    return {}


def readdir(clock: Clock, folder: str, count: int) -> Figures:
    with clock:
        found = len(os.listdir(folder))
    if found != count:
        raise ActionFailed(f"readdir saw {found} names of {count}")
    return {}


def unlink(clock: Clock, folder: str, count: int) -> Figures:
    paths = [f"{folder}/f{number:06d}" for number in range(count)]
    with clock:
        for path in paths:
            os.unlink(path)
    return {}


def many(clock: Clock, folder: str, directories: int, each: int, size: int, threads: int = 8) -> Figures:
    """`directories` directories of `each` files. With threads: a preparation, not a measurement."""
    files = _contents(each, size)
    os.mkdir(folder)

    def fill(number: int) -> None:
        here = f"{folder}/d{number:04d}"
        os.mkdir(here)
        for name, content in files:
            _write(f"{here}/{name}", content)

    with clock, ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(directories)))
    return {}


def _until(look: Callable[[], bool]) -> int:
    """How many looks it took until one was right; a look that raises FileNotFoundError was not."""
    deadline_s = time.monotonic() + VISIBLE_LIMIT_S
    looks = 0
    while True:
        looks += 1
        try:
            if look():
                return looks
        except FileNotFoundError:
            pass
        if time.monotonic() > deadline_s:
            raise ActionFailed(f"the other mount did not show it within {VISIBLE_LIMIT_S:.0f} s")
        time.sleep(0.001)


def alternate(clock: Clock, here: str, there: str, turns: int) -> Figures:
    """Two mounts take turns in one directory: each writes a file, the other reads it, then writes the next."""
    os.mkdir(here)
    _until(lambda: os.path.isdir(there))
    stale = 0
    with clock:
        for turn in range(turns):
            mine, other = (here, there) if turn % 2 == 0 else (there, here)
            name, content = f"t{turn:04d}", b"turn %d" % turn
            _write(f"{mine}/{name}", content)
            looked_at = Path(other, name)
            stale += _until(lambda path=looked_at, data=content: path.read_bytes() == data) - 1  # type: ignore[misc]
    return {"looks that were too early": stale}


def writers(clock: Clock, folders: list[str], count: int, size: int) -> Figures:
    """One process for each folder, all at once; each makes its folder and `count` files in it."""
    order = "import json, sys\nfrom bench.actions import Clock, create\ncreate(Clock(), *json.loads(sys.argv[1]))"
    arguments = [f'["{folder}", {count}, {size}]' for folder in folders]
    with clock:
        started = [subprocess.Popen([sys.executable, "-c", order, each], stderr=subprocess.PIPE) for each in arguments]
        results: list[bytes] = [b""] * len(started)

        def wait(index: int) -> None:
            results[index] = started[index].communicate()[1]

        threads = [threading.Thread(target=wait, args=(index,)) for index in range(len(started))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for process, told in zip(started, results, strict=True):
        if process.returncode:
            raise ActionFailed(f"a writer failed: {told.decode(errors='replace').splitlines()[-1:]}")
    return {}


def foreign(clock: Clock, here: str, there: str, directories: int, each: int, size: int) -> Figures:
    """The other mount's first look at a directory that was written just now: list it and read all of it, until all
    is right. One look a directory, each beginning when the last file has been closed on the first mount."""
    files = _contents(each, size)
    os.mkdir(here)
    _until(lambda: os.path.isdir(there))
    waits: list[float] = []
    early = 0
    with clock:
        for number in range(directories):
            name = f"d{number:04d}"
            os.mkdir(f"{here}/{name}")
            for file, content in files:
                _write(f"{here}/{name}/{file}", content)
            began_s = time.monotonic()
            early += _until(lambda name=name: _sees(f"{there}/{name}", files)) - 1  # type: ignore[misc]
            waits.append(time.monotonic() - began_s)
    return {
        "p50 s": percentile(waits, 0.5),
        "p95 s": percentile(waits, 0.95),
        "looks that were too early": early,
    }


def _sees(folder: str, files: list[tuple[str, bytes]]) -> bool:
    if sorted(os.listdir(folder)) != [name for name, _ in files]:
        return False
    return all(Path(folder, name).read_bytes() == content for name, content in files)


def foreign_find(clock: Clock, here: str, there: str, directories: int, each: int) -> Figures:
    """Write `directories` directories on one mount; measured is `find` on the other from then until it sees all."""
    many(Clock(), here, directories, each, 0, threads=1)
    expected = 1 + directories * (1 + each)
    looks = 0
    deadline_s = time.monotonic() + 10 * VISIBLE_LIMIT_S
    with clock:
        while True:
            looks += 1
            done = subprocess.run(["find", there], capture_output=True)
            seen = done.stdout.count(b"\n")
            if seen == expected:
                break
            if time.monotonic() > deadline_s:
                raise ActionFailed(f"find on the other mount sees {seen} of {expected} names")
            time.sleep(_FIND_PAUSE_S)
    return {"looks": looks}


def idle(clock: Clock, seconds: float) -> Figures:
    with clock:
        time.sleep(seconds)
    return {}


def verify(clock: Clock, folder: str, manifest: str, limit_s: float, ignored: list[str]) -> Figures:
    wanted = parity.load(Path(manifest))
    with clock:
        return parity.await_parity(Path(folder), wanted, limit_s=limit_s, ignored=frozenset(ignored))


def verify_all(clock: Clock, folders: list[str], manifest: str, limit_s: float) -> Figures:
    """The same content in each folder."""
    wanted = parity.load(Path(manifest))
    looks = 0.0
    with clock:
        for folder in folders:
            looks += parity.await_parity(Path(folder), wanted, limit_s=limit_s)["looks"]
    return {"looks": looks}


def verify_clone(clock: Clock, folder: str, manifest: str, limit_s: float) -> Figures:
    """The working tree byte for byte, and the repository by git's own checks of all its objects."""
    wanted = parity.load(Path(manifest))
    with clock:
        figures = parity.await_parity(Path(folder), wanted, limit_s=limit_s, ignored=frozenset({".git"}))
        _program("git", "-c", "safe.directory=*", "-C", folder, "fsck", "--full", "--strict")
    return figures


def verify_absence(clock: Clock, folder: str, limit_s: float) -> Figures:
    with clock:
        return parity.await_absence(Path(folder), limit_s=limit_s)


ACTIONS: dict[str, Callable[..., Figures]] = {
    action.__name__: action
    for action in (
        *(untar, clone, cat, remove, find, dd, create, stat, readdir, unlink, many, alternate, writers, foreign),
        *(foreign_find, idle, verify, verify_all, verify_clone, verify_absence),
    )
}


def run(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Do it; times, figures, or the error as a text."""
    clock = Clock()
    try:
        figures = ACTIONS[name](clock, **arguments)
    except (ActionFailed, parity.NotThere, OSError) as error:
        return {"error": str(error), "began_s": clock.began_s, "ended_s": clock.ended_s}
    return {"figures": figures, "began_s": clock.began_s, "ended_s": clock.ended_s}
