"""Make a new, empty volume in a bucket.

The bucket must exist (for file:// the parent directory); its other objects are neither touched nor visible in the
volume. The root directory belongs to whoever runs this.
"""

from __future__ import annotations

import argparse
import json
import os

import trio

from s3vfs.cli.arguments import add_json, add_url, checked, parse_count, quota, size, store_options
from s3vfs.cli.destroy import MARK_KEY
from s3vfs.cli.sizes import format_size
from s3vfs.cli.volume import command_environment, opened
from s3vfs.errors import VolumeExists
from s3vfs.journal.volume import VolumeInfo
from s3vfs.maintenance.format import DEFAULT_OBJECT_BYTES, format_volume
from s3vfs.objects.protocol import Outcome, Store
from s3vfs.objects.url import StoreUrl, parse_url

EXAMPLES = """\
  s3vfs format file:///srv/volume
  s3vfs format s3://bucket/volume --name scratch --quota 10TiB
  s3vfs format s3://bucket/volume --endpoint-url http://127.0.0.1:8333
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_url(parser)
    parser.add_argument("--name", help="what people call it [the last part of the URL]")
    parser.add_argument(
        "--object-size",
        type=size,
        default=DEFAULT_OBJECT_BYTES,
        metavar="SIZE",
        help="of the objects that large files are cut into; never changes [8MiB]",
    )
    parser.add_argument("--quota", type=quota, default=0, metavar="SIZE", help="bound on the bytes of all files [none]")
    parser.add_argument(
        "--quota-inodes", type=checked(parse_count), default=0, metavar="N", help="bound on their number [none]"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    volume, url = trio.run(_format, arguments)
    if arguments.json:
        print(json.dumps({"url": url, "uuid": volume.uuid.hex(), "name": volume.name}))
    else:
        size_text = format_size(volume.object_size)
        print(f"made the volume {volume.name!r} in {url} ({volume.uuid.hex()}, objects of {size_text})")
    return 0


def default_name(url: StoreUrl) -> str:
    """The last part of the URL."""
    return (url.prefix or url.place).rstrip("/").rpartition("/")[2] or "volume"


async def _format(arguments: argparse.Namespace) -> tuple[VolumeInfo, str]:
    environment = command_environment()
    url = parse_url(arguments.url)
    async with opened(url, store_options(arguments), environment, create=True) as store:
        await _refuse_leftovers(store)
        volume = await format_volume(
            store,
            name=arguments.name if arguments.name is not None else default_name(url),
            uid=os.geteuid(),
            gid=os.getegid(),
            environment=environment,
            object_size=arguments.object_size,
            quota_bytes=arguments.quota,
            quota_inodes=arguments.quota_inodes,
        )
        return volume, store.url


async def _refuse_leftovers(store: Store) -> None:
    """A new volume may not meet the records of one that was not deleted completely."""
    if (await store.control.head(MARK_KEY)).outcome is Outcome.OK:
        raise VolumeExists(
            f"{store.url} holds the rest of a destroyed volume", hint="run s3vfs destroy again to finish that first"
        )
