"""What single calls cost on `file://` with two mounts: latencies, the bucket's requests, and the daemons' CPU time.

    .venv/bin/python -m bench.calls [--files 200] [--freshness 0]

Alone: the other mount is idle. Contended: it makes files of its own, in a directory of its own, at the same time.
Median and 99th percentile in microseconds; figures of one run on one machine are to be compared with each other only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.first import daemon_figures, mounted, s3vfs

_BLOCK = b"x" * 4096


class Stopwatch:
    """Durations by name."""

    def __init__(self) -> None:
        self.taken_ns: dict[str, list[int]] = {}

    def time(self, name: str, call: Callable[[], object]) -> object:
        began_ns = time.perf_counter_ns()
        result = call()
        self.taken_ns.setdefault(name, []).append(time.perf_counter_ns() - began_ns)
        return result

    def report(self) -> None:
        for name, taken in self.taken_ns.items():
            taken.sort()
            print(f"  {name:34} {taken[len(taken) // 2] // 1000:>8} {taken[len(taken) * 99 // 100] // 1000:>8}")


def requests(mountpoint: Path) -> dict[str, int]:
    status = json.loads(s3vfs("status", "--json", str(mountpoint)))
    return {name: entry["requests"] for name, entry in status["requests"].items()}


def small_files(here: Path, there: Path, files: int) -> None:
    """Create, write and close on one mount; look up, open and read on the other."""
    watch = Stopwatch()
    before, cpu = requests(here.parent), daemon_figures(here.parent)["daemon CPU s"]
    began_s = time.perf_counter()
    for number in range(files):
        path = here / f"f{number}"
        fd = watch.time("create", lambda path=path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        watch.time("write 4 KiB", lambda fd=fd: os.write(fd, _BLOCK))
        watch.time("fstat after a write", lambda fd=fd: os.fstat(fd))
        watch.time("close after a write", lambda fd=fd: os.close(fd))
    took_s = time.perf_counter() - began_s
    after, cpu_after = requests(here.parent), daemon_figures(here.parent)["daemon CPU s"]
    for number in range(files):
        name = f"f{number}"
        watch.time("lookup on the other mount", lambda name=name: os.stat(there / name))
        watch.time("stat, cached", lambda name=name: os.stat(there / name))
        fd = watch.time("open, looked up before", lambda name=name: os.open(there / name, os.O_RDONLY))
        watch.time("read 4 KiB", lambda fd=fd: os.read(fd, 4096))
        watch.time("close of a reader", lambda fd=fd: os.close(fd))
    watch.time("listdir on the other mount", lambda: os.listdir(there))
    for number in range(files):
        watch.time("unlink", lambda number=number: os.unlink(here / f"f{number}"))
    watch.report()
    counts = {name: (after[name] - before.get(name, 0)) / files for name in after if after[name] != before.get(name, 0)}
    print(f"  create + write + close: {files / took_s:.0f}/s, daemon CPU {(cpu_after - cpu) / files * 1e6:.0f} us each")
    print("  requests each: " + ", ".join(f"{name} {count:.2f}" for name, count in counts.items()))


@contextlib.contextmanager
def busy(folder: Path) -> Iterator[None]:
    """Another process goes on making files in `folder`."""
    script = (
        "import itertools, sys\nfor n in itertools.count():\n    open(f'{sys.argv[1]}/g{n}', 'wb').write(b'x' * 4096)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--freshness", default="0.1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "bucket").mkdir()
        url = f"file://{scratch}/bucket"
        s3vfs("format", url)
        freshness = ("--freshness", options.freshness)
        with (
            mounted(url, scratch / "a", scratch / "cache-a", *freshness) as a,
            mounted(url, scratch / "b", scratch / "cache-b", *freshness) as b,
        ):
            for folder in ("alone", "contended", "other"):
                (a / folder).mkdir()
            time.sleep(float(options.freshness))
            assert len(os.listdir(b)) == 3
            print(f"alone, freshness {options.freshness} s: median, 99th percentile in us")
            small_files(a / "alone", b / "alone", options.files)
            print("contended")
            with busy(b / "other"):
                small_files(a / "contended", b / "contended", options.files)


if __name__ == "__main__":
    main()
