"""Arguments that several commands share, and how text becomes values. Imports no store and no trio."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from s3vfs.cli.sizes import parse_quota, parse_size

if TYPE_CHECKING:
    from s3vfs.objects.url import StoreOptions

_Value = TypeVar("_Value")

URL_HELP = "file:///directory or s3://bucket/prefix"


def checked(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """For argparse's `type=`: a ValueError's own words become the message."""

    def convert(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


size = checked(parse_size)
quota = checked(parse_quota)


def parse_count(text: str) -> int:
    """A whole number of things, "none" for no bound (0). Raises ValueError."""
    if text.lower() == "none":
        return 0
    if not text.isdecimal() or int(text) >= 2**63:
        raise ValueError(f"unreadable number {text!r}")
    return int(text)


def parse_seconds(text: str) -> float:
    """Seconds, 0 or more. Raises ValueError."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"unreadable number of seconds {text!r}") from None
    if not 0 <= value < 1e9:
        raise ValueError(f"{text!r} is no number of seconds")
    return value


def add_url(parser: argparse.ArgumentParser, help: str = URL_HELP) -> None:
    """The positional URL and the options that say where s3:// is."""
    parser.add_argument("url", metavar="URL", help=help)
    add_store_options(parser)


def add_store_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where s3:// is", "Left out: as the AWS tools find it (environment, profile).")
    group.add_argument("--endpoint-url", metavar="URL", default="", help="of a server that is not AWS")
    group.add_argument("--region", default="")
    group.add_argument("--profile", default="", help="of the AWS configuration files")


def store_options(arguments: argparse.Namespace) -> StoreOptions:
    """What add_store_options has read."""
    from s3vfs.objects.url import StoreOptions  # late: `s3vfs mount --help` needs no store

    return StoreOptions(arguments.endpoint_url, arguments.region, arguments.profile)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print figures as one JSON object")
