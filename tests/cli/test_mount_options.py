"""One table of mount options, three ways to give them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from s3vfs.cli import mount as mount_command
from s3vfs.cli.install_helper import helper_script
from s3vfs.cli.mount_options import OPTIONS, parse_dash_o, settings_from, to_arguments
from s3vfs.errors import UsageError
from s3vfs.fuse.settings import MountSettings


def parsed(*words: str) -> MountSettings:
    parser = argparse.ArgumentParser()
    mount_command.configure(parser)
    arguments = parser.parse_args(["file:///v", "/mnt", *words])
    given = {option.field: getattr(arguments, option.field) for option in OPTIONS}
    return settings_from(arguments.url, arguments.mountpoint, arguments.dash_o, given)


def test_without_options_the_documented_defaults_hold() -> None:
    settings = parsed()
    assert settings == MountSettings("file:///v", "/mnt")
    assert (settings.cache_size_bytes, settings.memory_bytes) == (20 << 30, 512 << 20)
    assert (settings.freshness_s, settings.io_timeout_s, settings.offline) == (0.1, 120.0, "stale")
    assert settings.durable_close_above_bytes == 8 << 20


def test_long_options_and_dash_o_mean_the_same() -> None:
    long = parsed(
        "--cache-dir=/c", "--cache-size=1GiB", "--freshness=0", "--durable-close-above=0", "--io-timeout=5",
        "--offline=error", "--memory=1GiB", "--read-only", "--no-allow-other", "--nonempty", "--log-file=/l",
        "--endpoint-url=http://h:1", "--region=r", "--profile=p",
    )  # fmt: skip
    short = parsed(
        "-o",
        "cache_dir=/c,cache_size=1GiB,freshness=0,durable_close_above=0,io_timeout=5,offline=error,memory=1GiB",
        "-o",
        "ro,no_allow_other,nonempty,log_file=/l,endpoint_url=http://h:1,region=r,profile=p",
    )
    assert long == short
    assert short.cache_dir == Path("/c")
    assert not short.allow_other


def test_a_long_option_wins_over_dash_o() -> None:
    assert parsed("-o", "freshness=3", "--freshness=1").freshness_s == 1.0


def test_what_fstab_says_to_others_is_passed_over() -> None:
    options = "rw,_netdev,nofail,noauto,auto,user,defaults,relatime,x-systemd.automount,x-anything=1,comment=x,user=me"
    assert parse_dash_o([options]) == {"read_only": False}


def test_flags_for_the_kernel_are_kept_in_order() -> None:
    assert parse_dash_o(["noexec,nosuid,noexec"]) == {"kernel_options": ("noexec", "nosuid")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("cash_size=1", "unknown mount option"),
        ("cache_size", "needs a value"),
        ("cache_size=huge", "unreadable size"),
        ("read_only=1", "takes no value"),
        ("offline=maybe", "neither stale nor error"),
        ("max_read=131072", "unknown mount option"),
    ],
)
def test_a_wrong_option_is_named(options: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_dash_o([options])


def test_sloppy_passes_over_unknown_words_only() -> None:
    assert parse_dash_o(["whatever=1,ro"], sloppy=True) == {"read_only": True}
    with pytest.raises(UsageError):
        parse_dash_o(["cache_size=huge"], sloppy=True)


def test_the_daemon_gets_the_same_settings_through_its_command_line() -> None:
    settings = parsed(
        "--cache-dir=/c d", "--freshness=0.25", "-o", "ro,noexec,nodev", "--no-allow-other", "--log-file=/l"
    )
    url, mountpoint, *options = to_arguments(settings)
    assert (url, mountpoint) == ("file:///v", "/mnt")
    assert parsed(*options) == settings


def test_the_helper_quotes_its_python() -> None:
    assert "exec '/opt/a b/python' -P -m s3vfs mount-helper \"$@\"" in helper_script("/opt/a b/python")
