"""Change the name or the quota of a volume; without options, show them.

A change is one record of the journal: every mount follows it within its freshness. Lowering a quota below what is used
deletes nothing; it only keeps the volume from growing.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
from typing import Any

import trio

from s3vfs.cli.arguments import add_json, add_url, checked, parse_count, quota, store_options
from s3vfs.cli.sizes import format_count, format_size
from s3vfs.cli.volume import command_environment, commanding, opened, volume_figures
from s3vfs.errors import S3vfsError, UsageError
from s3vfs.namespace.ops import Config

EXAMPLES = """\
  s3vfs config s3://bucket/volume
  s3vfs config s3://bucket/volume --quota 20TiB
  s3vfs config s3://bucket/volume --quota none --name archive
"""


def configure(parser: argparse.ArgumentParser) -> None:
    add_url(parser)
    parser.add_argument("--name", help="the new name")
    parser.add_argument("--quota", type=quota, metavar="SIZE|none", help="bound on the bytes of all files")
    parser.add_argument("--quota-inodes", type=checked(parse_count), metavar="N|none", help="bound on their number")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    figures = trio.run(_configure, arguments)
    if arguments.json:
        print(json.dumps(figures))
        return 0
    volume = figures["volume"]
    print(f"name          {volume['name']}")
    print(f"quota         {format_size(volume['quota_bytes']) if volume['quota_bytes'] else 'none'}")
    print(f"quota-inodes  {format_count(volume['quota_inodes']) if volume['quota_inodes'] else 'none'}")
    return 0


async def _configure(arguments: argparse.Namespace) -> dict[str, Any]:
    environment = command_environment()
    change = Config(arguments.name, arguments.quota, arguments.quota_inodes)
    async with opened(arguments.url, store_options(arguments), environment) as store:
        if change != Config(None, None, None):
            async with commanding(store, environment) as command:
                verdict = (await command.run([change])).verdicts[0]
            if verdict.errno in (errno.EINVAL, errno.ENAMETOOLONG):
                raise UsageError("the volume refuses this name or quota", hint="a name has 1 to 255 bytes")
            if verdict.errno:
                raise S3vfsError(f"the volume refuses the change: {os.strerror(verdict.errno)}")
        return await volume_figures(store, environment)
