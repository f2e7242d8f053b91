"""List the volumes under a bucket or prefix.

A prefix that holds a volume is not searched further.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import trio

from s3vfs.cli.arguments import add_json, add_url, checked, parse_count, store_options
from s3vfs.cli.sizes import format_size
from s3vfs.cli.volume import command_environment, opened
from s3vfs.errors import NotAVolume, S3vfsError
from s3vfs.journal.keys import VOLUME_KEY
from s3vfs.journal.volume import parse_volume
from s3vfs.objects.protocol import Control, Outcome
from s3vfs.objects.url import parse_url

EXAMPLES = """\
  s3vfs ls s3://bucket
  s3vfs ls file:///srv/volumes --json
"""

# Prefixes looked at in the same time. Each costs a GET and a listing.
_PARALLEL = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A volume, or a volume.json that cannot be read (`problem`)."""

    url: str
    name: str = ""
    uuid: str = ""
    object_size: int = 0
    created_ns: int = 0
    problem: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    add_url(parser)
    parser.add_argument(
        "--depth", type=checked(parse_count), default=2, metavar="N", help="look this many levels below the URL [2]"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    found = trio.run(_find, arguments)
    if arguments.json:
        print(json.dumps({"volumes": [{name: getattr(each, name) for name in Found.__slots__} for each in found]}))
    else:
        for line in lines(found):
            print(line)
    if not found:
        raise NotAVolume(f"there is no volume under {arguments.url}", hint="s3vfs format makes one")
    return 0


def lines(found: Iterable[Found]) -> list[str]:
    """One line a volume: name, URL, age."""
    shown = []
    for volume in found:
        if volume.problem:
            shown.append(f"{volume.url}  unreadable: {volume.problem}")
        else:
            made = time.strftime("%Y-%m-%d", time.gmtime(volume.created_ns // 10**9))
            size = format_size(volume.object_size)
            shown.append(f"{volume.url}  {volume.name}  made {made}, objects of {size}, {volume.uuid}")
    return shown


async def _find(arguments: argparse.Namespace) -> list[Found]:
    url = parse_url(arguments.url)
    found: list[Found] = []
    async with opened(url, store_options(arguments), command_environment()) as store:
        level = [""]
        for depth in range(arguments.depth + 1):
            below: list[str] = []
            limit = trio.CapacityLimiter(_PARALLEL)

            async def look(prefix: str, descend: bool, below: list[str], limit: trio.CapacityLimiter) -> None:
                async with limit:
                    place = str(url)
                    for part in filter(None, prefix.split("/")):
                        place = f"{place.rstrip('/')}/{part}"
                    volume = await _volume_at(store.control, prefix, place)
                    if volume is not None:
                        found.append(volume)
                    elif descend:
                        below.extend([name async for name in _prefixes(store.control, prefix)])

            async with trio.open_nursery() as nursery:
                for prefix in level:
                    nursery.start_soon(look, prefix, depth < arguments.depth, below, limit)
            level = below
    return sorted(found, key=lambda each: each.url)


async def _volume_at(control: Control, prefix: str, place: str) -> Found | None:
    reply = await control.get(prefix + VOLUME_KEY)
    if reply.outcome is not Outcome.OK:
        return None
    try:
        volume = parse_volume(reply.body)
    except S3vfsError as error:
        return Found(place, problem=str(error))
    return Found(place, volume.name, volume.uuid.hex(), volume.object_size, volume.created_ns)


async def _prefixes(control: Control, prefix: str) -> AsyncIterator[str]:
    """The folders directly below `prefix`, each with its slash."""
    after = ""
    while True:
        page = await control.list_page(prefix, start_after=after, delimiter="/")
        for each in page.prefixes:
            yield each
        if not page.more:
            return
        after = page.last
