"""Wait until all acknowledged work of a mount is in the bucket: data and names, of all files of the mount.

Exit code 10 when it cannot be done; what is missing is named, kept, and tried again by the mount.
"""

from __future__ import annotations

import argparse
import json

from s3vfs.cli.arguments import add_json
from s3vfs.cli.progress import Progress
from s3vfs.cli.running import mount_of

EXAMPLES = """\
  s3vfs sync /mnt/volume
  s3vfs sync .
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="any path inside the mount")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    with Progress("publishing") as progress:
        result = mount_of(arguments.path).call("sync", progress)
    if arguments.json:
        print(json.dumps(result))
    return 0
