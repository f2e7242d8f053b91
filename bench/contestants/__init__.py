"""Who takes part: by name, `s3vfs` also with mount options of its own (`s3vfs:--io=python:--freshness=0`)."""

from __future__ import annotations

from collections.abc import Sequence

from bench.contestants.base import Contestant
from bench.contestants.peers import JuiceFS, Local, Rclone, S3fs, Weed
from bench.contestants.s3vfs import S3vfs

NAMES = ("s3vfs", "juicefs", "local", "rclone", "s3fs", "weed")
# Five rounds at full size; the others fewer and smaller.
MAIN = ("s3vfs", "juicefs", "local")
_PEERS: dict[str, type[Contestant]] = {"juicefs": JuiceFS, "local": Local, "rclone": Rclone, "s3fs": S3fs, "weed": Weed}


def contestant(spec: str, mount_options: Sequence[str] = ()) -> Contestant:
    """The contestant of this name. `mount_options` are added to any s3vfs, and to its name. Raises ValueError."""
    name, *options = spec.split(":")
    if name == "s3vfs":
        return S3vfs([*options, *mount_options])
    if name not in _PEERS or options:
        raise ValueError(f"no contestant {spec!r}: there are {', '.join(NAMES)}, and s3vfs:--OPTION:--OPTION")
    return _PEERS[name]()


def is_main(name: str) -> bool:
    return name.split(":")[0] in MAIN
