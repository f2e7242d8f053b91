"""What mount(8) calls for `-t fuse.s3vfs`: SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE].

Installed by `s3vfs install-helper` as /sbin/mount.fuse.s3vfs; not for typing.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from s3vfs.cli.mount import start_mount
from s3vfs.cli.mount_options import settings_from

EXAMPLES = """\
  mount -t fuse.s3vfs s3://bucket/volume /mnt/volume -o cache_size=200GiB,allow_other
  s3vfs mount-helper s3://bucket/volume /mnt/volume -o ro,_netdev
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="SPEC")
    parser.add_argument("mountpoint", metavar="DIR")
    parser.add_argument("-o", dest="dash_o", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-f", dest="fake", action="store_true", help="check the options, mount nothing")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="pass over unknown options")
    parser.add_argument("-n", action="store_true", help="accepted: there is no mtab to write")
    parser.add_argument("-v", dest="verbose", action="store_true", help="tracebacks of errors")
    parser.add_argument("-t", dest="type", help="accepted")
    parser.add_argument("-N", dest="namespace", help="accepted: mount(8) has entered it already")


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments.url, arguments.mountpoint, arguments.dash_o, {}, sloppy=arguments.sloppy)
    if arguments.fake:
        return 0
    return start_mount(replace(settings, verbose=arguments.verbose))
