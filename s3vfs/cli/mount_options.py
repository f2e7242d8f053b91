"""The options of a mount, once: as `--cache-size 20GiB`, as `-o cache_size=20GiB` and in fstab. Pure.

Given both ways, the long option wins over -o.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from s3vfs.cli.arguments import checked, parse_seconds
from s3vfs.cli.sizes import parse_size
from s3vfs.errors import UsageError
from s3vfs.fuse.settings import MountSettings


def _absolute(text: str) -> Path:
    if not text:
        raise ValueError("an empty path")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _offline(text: str) -> str:
    if text not in ("stale", "error"):
        raise ValueError(f"{text!r} is neither stale nor error")
    return text


def _io(text: str) -> str:
    if text not in ("auto", "passthrough", "front", "python"):
        raise ValueError(f"{text!r} is neither auto nor passthrough nor front nor python")
    return text


@dataclass(frozen=True, slots=True)
class Option:
    """`name` has underscores; `field` is MountSettings'. `parse` None: a flag."""

    name: str
    field: str
    parse: Callable[[str], Any] | None
    metavar: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


OPTIONS = (
    Option("cache_dir", "cache_dir", _absolute, "DIR", "local cache and sessions [/var/cache/s3vfs | ~/.cache/s3vfs]"),
    Option("cache_size", "cache_size_bytes", parse_size, "SIZE", "at most this much cached data [20GiB]"),
    Option("freshness", "freshness_s", parse_seconds, "S", "an open may miss what others did in the last S s [0.1]"),
    Option(
        "durable_close_above",
        "durable_close_above_bytes",
        parse_size,
        "SIZE",
        "close waits for the bucket when more than this is left to publish; 0 always waits [8MiB]",
    ),
    Option("leases", "leases", None, "", "local speed for names and small files where no other mount works [on]"),
    Option(
        "io",
        "io",
        _io,
        "auto|passthrough|front|python",
        "who serves open files: the kernel reads by itself where it can, and with passthrough writes too [auto]",
    ),
    Option("io_timeout", "io_timeout_s", parse_seconds, "S", "EIO when the bucket has not answered for S s [120]"),
    Option(
        "offline", "offline", _offline, "stale|error", "while the bucket is away: serve what is here, or fail [stale]"
    ),
    Option("memory", "memory_bytes", parse_size, "SIZE", "bound on the daemon's anonymous memory [512MiB]"),
    Option("read_only", "read_only", None, "", "needs permission to get and list only"),
    Option("allow_other", "allow_other", None, "", "other users may use the mount [on for root]"),
    Option("nonempty", "nonempty", None, "", "mount over a directory that is not empty"),
    Option("log_file", "log_file", _absolute, "FILE", "JSON lines [daemon.log in the session directory]"),
    Option("endpoint_url", "endpoint_url", str, "URL", "of a server that is not AWS"),
    Option("region", "region", str, "NAME", ""),
    Option("profile", "profile", str, "NAME", "of the AWS configuration files"),
)
_BY_NAME = {option.name: option for option in OPTIONS}

# Flags that the kernel enforces for any file system.
_KERNEL = frozenset(["nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "nodiratime", "sync", "dirsync"])
# What fstab says to others (mount, systemd), and what holds for every mount of ours anyway.
_IGNORED = frozenset(
    ["_netdev", "nofail", "noauto", "auto", "user", "nouser", "users", "owner", "group", "defaults", "silent", "loud"]
    + ["default_permissions", "async", "atime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime"]
    + ["lazytime", "nolazytime"]
)
_IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=", "helper=", "uhelper=")


def parse_dash_o(texts: Sequence[str], *, sloppy: bool = False) -> dict[str, Any]:
    """MountSettings' fields from `-o a,b=c` (several are joined; later ones win).

    Raises UsageError for what is unknown, unless `sloppy` (mount -s).
    """
    chosen: dict[str, Any] = {}
    kernel: list[str] = []
    for word in ",".join(texts).split(","):
        if not word or word in _IGNORED or word.startswith(_IGNORED_PREFIXES):
            continue
        if word in _KERNEL:
            kernel.append(word)
        elif word in ("ro", "rw"):
            chosen["read_only"] = word == "ro"
        else:
            field, value = _own_option(word)
            if field:
                chosen[field] = value
            elif not sloppy:
                known = ", ".join(_BY_NAME)
                raise UsageError(f"unknown mount option {word!r}", hint=f"known are {known}, ro, rw and mount(8)'s own")
    if kernel:
        chosen["kernel_options"] = tuple(dict.fromkeys(kernel))
    return chosen


def _own_option(word: str) -> tuple[str, Any]:
    """(field, value), or ("", None) for a word that is not ours."""
    name, given, text = word.partition("=")
    name = name.replace("-", "_")
    option = _BY_NAME.get(name)
    if option is None:
        plain = _BY_NAME.get(name.removeprefix("no_"))
        if plain is not None and plain.parse is None and not given:
            return plain.field, False
        return "", None
    if option.parse is None:
        if given:
            raise UsageError(f"mount option {name} takes no value")
        return option.field, True
    if not given:
        raise UsageError(f"mount option {name} needs a value", hint=f"{name}={option.metavar}")
    try:
        return option.field, option.parse(text)
    except ValueError as error:
        raise UsageError(f"mount option {name}: {error}") from None


def add_mount_options(parser: argparse.ArgumentParser) -> None:
    """The long options; absent ones stay out of the namespace's way as None."""
    for option in OPTIONS:
        if option.parse is None:
            parser.add_argument(
                option.flag, dest=option.field, action=argparse.BooleanOptionalAction, default=None, help=option.help
            )
        else:
            parser.add_argument(
                option.flag,
                dest=option.field,
                metavar=option.metavar,
                type=checked(option.parse),
                default=None,
                help=option.help,
            )


def settings_from(
    url: str, mountpoint: str, dash_o: Sequence[str], given: dict[str, Any], *, sloppy: bool = False
) -> MountSettings:
    """The settings of `mount URL MOUNTPOINT -o ... --...`; `given` has the long options, None where absent."""
    settings = MountSettings(url, mountpoint)
    chosen = parse_dash_o(dash_o, sloppy=sloppy) | {name: value for name, value in given.items() if value is not None}
    return replace(settings, **chosen)


def to_arguments(settings: MountSettings) -> list[str]:
    """The command line of `mount` that gives these settings again."""
    arguments = [settings.url, settings.mountpoint]
    for option in OPTIONS:
        value = getattr(settings, option.field)
        if option.parse is None:
            arguments.append(option.flag if value else "--no-" + option.flag[2:])
        elif value not in (None, ""):
            arguments.append(f"{option.flag}={value}")
    if settings.kernel_options:
        arguments.append("-o" + ",".join(settings.kernel_options))
    if settings.verbose:
        arguments.append("--verbose")
    return arguments


assert {option.field for option in OPTIONS} <= {field.name for field in fields(MountSettings)}
