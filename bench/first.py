"""First figures: one mount on `file://` and on SeaweedFS, beside the raw object client and a local directory.

    .venv/bin/python -m bench.first [--size 1GiB] [--files 500] [--store file] [--store seaweed] [--json OUT]

All in one run on one machine, so that the columns can be compared with each other; absolute values depend on the
machine. Needs root (it drops the page cache). Cold: unmounted, cache wiped, page cache dropped. Cached: remounted with
the cache kept, page cache dropped. Page cache: read a second time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.workloads import drop_page_cache, sequential_read, sequential_write, small_files
from s3vfs.cli.sizes import parse_size
from tests.servers.seaweed import SeaweedServer

OBJECT_BYTES = 8 << 20
RAW_PARALLEL = 8
Figures = dict[str, float]


def s3vfs(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run the command line; its standard output. Raises CalledProcessError with stderr shown."""
    command = [sys.executable, "-m", "s3vfs", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def daemon_figures(mountpoint: Path) -> Figures:
    """CPU seconds of the daemon, and its requests and bytes to the bucket, from `s3vfs status --json`."""
    status = json.loads(s3vfs("status", "--json", str(mountpoint)))
    fields = Path(f"/proc/{status['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    return {"daemon CPU s": (int(fields[11]) + int(fields[12])) / 100, **request_figures(status["requests"])}


def request_figures(requests: dict[str, dict[str, int]]) -> Figures:
    counted = requests.values()
    return {
        "requests": float(sum(entry["requests"] for entry in counted)),
        "MB sent": sum(entry["bytes_sent"] for entry in counted) / 1e6,
        "MB received": sum(entry["bytes_received"] for entry in counted) / 1e6,
    }


@contextlib.contextmanager
def mounted(url: str, mountpoint: Path, cache: Path, *options: str) -> Iterator[Path]:
    mountpoint.mkdir(exist_ok=True)
    s3vfs("mount", url, str(mountpoint), "--cache-dir", str(cache), *options)
    try:
        yield mountpoint
    finally:
        s3vfs("umount", str(mountpoint))


def measure_mount(url: str, scratch: Path, size_bytes: int, files: int, options: list[str]) -> Figures:
    figures: Figures = {}
    mountpoint, cache = scratch / "mnt", scratch / "cache"
    s3vfs("format", url, *options)
    with mounted(url, mountpoint, cache, *options):
        figures["write MB/s"] = sequential_write(mountpoint / "large", size_bytes)
        figures |= {f"write: {name}": value for name, value in daemon_figures(mountpoint).items()}
    shutil.rmtree(cache)
    drop_page_cache()
    with mounted(url, mountpoint, cache, *options):
        figures["cold read MB/s"] = sequential_read(mountpoint / "large")
        figures |= {f"cold read: {name}": value for name, value in daemon_figures(mountpoint).items()}
    drop_page_cache()
    with mounted(url, mountpoint, cache, *options):
        figures["cached read MB/s"] = sequential_read(mountpoint / "large")
        figures["page cache read MB/s"] = sequential_read(mountpoint / "large")
        before = daemon_figures(mountpoint)
        figures |= small_files(mountpoint / "small", files)
        after = daemon_figures(mountpoint)
        figures |= {f"small files: {name}": after[name] - before[name] for name in after}
    return figures


def start_seaweed(stack: contextlib.ExitStack) -> str:
    """A real S3 server in memory until the stack is left; the URL of a fresh place on it."""
    place = stack.enter_context(SeaweedServer()).place
    os.environ.update(place.environment())
    return place.fresh_url()


def measure_local(directory: Path, size_bytes: int, files: int) -> Figures:
    directory.mkdir()
    figures = {"write MB/s": sequential_write(directory / "large", size_bytes)}
    drop_page_cache()
    figures["cold read MB/s"] = sequential_read(directory / "large")
    figures["page cache read MB/s"] = sequential_read(directory / "large")
    return figures | small_files(directory / "small", files)


def measure_raw(url: str, scratch: Path, size_bytes: int) -> Figures:
    """The same bulk client that the mount uses, 8 MiB objects, eight at a time, no file system."""
    import trio

    from s3vfs.objects.runner import ThreadRunner
    from s3vfs.objects.url import StoreOptions, open_store

    async def measure() -> Figures:
        store = await open_store(url, StoreOptions(), run=ThreadRunner(RAW_PARALLEL), create=True)
        keys = [f"raw/{index:05d}" for index in range(max(1, size_bytes // OBJECT_BYTES))]
        payload = (b"%08d" % time.time_ns()) * (OBJECT_BYTES // 8)
        payload = payload[:OBJECT_BYTES]
        figures: Figures = {}
        with ThreadPoolExecutor(RAW_PARALLEL) as threads:
            for name, call in (
                ("write MB/s", lambda key: store.bulk.put_new(key, [payload])),
                ("cold read MB/s", lambda key: store.bulk.get_range(key, 0, len(payload))),
            ):
                drop_page_cache()
                started = time.perf_counter()
                list(threads.map(call, keys))
                figures[name] = len(keys) * len(payload) / (time.perf_counter() - started) / 1e6
            list(threads.map(store.bulk.delete, keys))
        await store.aclose()
        return figures

    return trio.run(measure)


def table(columns: dict[str, Figures]) -> str:
    """A Markdown table, one column a contestant, in the order of the first contestant's rows."""
    rows = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        cells = (f"{figures[row]:,.1f}" if row in figures else "" for figures in columns.values())
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=1 << 30)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--store", action="append", choices=["file", "seaweed"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    columns: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="s3vfs-bench-") as name, contextlib.ExitStack() as stack:
        scratch = Path(name)
        columns["local"] = measure_local(scratch / "local", arguments.size, arguments.files)
        shutil.rmtree(scratch / "local")
        for kind in arguments.store or ["file", "seaweed"]:
            place = scratch / kind
            place.mkdir()
            url = f"file://{place}/bucket" if kind == "file" else start_seaweed(stack)
            columns[f"raw {kind}"] = measure_raw(
                url + "-raw" if kind == "file" else url + "/raw", place, arguments.size
            )
            volume = url if kind == "file" else url + "/volume"
            columns[f"s3vfs {kind}"] = measure_mount(volume, place, arguments.size, arguments.files, [])
            shutil.rmtree(place)
    print(table(columns))
    if arguments.json:
        arguments.json.write_text(json.dumps(columns, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
