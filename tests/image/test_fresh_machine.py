"""The README's promise: `./dev demo` on a fresh machine. apt, pip and the compiler really run there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.machine import USER, Distribution, FreshMachine

CHECKOUT = Path(__file__).parents[2]

# Debian 12 has libfuse 3.14, Debian 13 3.17, which pyfuse3 is built against otherwise. Ubuntu where a mirror is named.
DISTRIBUTIONS = [Distribution("bookworm"), Distribution("trixie")]
if mirror := os.environ.get("S3VFS_UBUNTU_MIRROR"):
    DISTRIBUTIONS.append(Distribution("noble", mirror, "main,universe"))

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(params=DISTRIBUTIONS, ids=lambda distribution: distribution.codename)
def machine(request: pytest.FixtureRequest) -> Iterator[FreshMachine]:
    with FreshMachine(request.param, CHECKOUT) as made:
        yield made


def timed_demo(machine: FreshMachine, user: str) -> str:
    began = time.monotonic()
    shown = machine.run_as(user, "./dev demo").stdout
    print(f"{user}: ./dev demo took {time.monotonic() - began:.0f} s")
    return shown


def try_the_demo(machine: FreshMachine, user: str) -> None:
    """Both are mounted, share what is written, survive a second `./dev demo`, and end with `./dev demo-stop`."""
    machine.run_as(user, ".venv/bin/python -c 'import s3vfs.fuse.native._interpose'")
    machine.run_as(user, "flock demo/a/locked cat demo/b/locked")
    machine.run_as(user, "cp -r docs demo/a/ && sleep 0.2 && diff -r docs demo/b/docs")
    assert '"sessions"' in machine.run_as(user, ".venv/bin/s3vfs status --json demo/a").stdout
    again = timed_demo(machine, user)
    assert "demo/a is mounted already." in again
    assert machine.run_as(user, "./dev demo-stop").stdout.count("is unmounted") == 2
    assert machine.run("grep", "-c", "fuse.s3vfs", "/proc/self/mountinfo", check=False).stdout == "0\n"
    assert "written on a" in timed_demo(machine, user)
    machine.run_as(user, "diff -r docs demo/b/docs && ./dev demo-stop")


def test_root_types_one_line(machine: FreshMachine) -> None:
    assert "written on a" in timed_demo(machine, "root")
    try_the_demo(machine, "root")


def test_a_user_is_told_what_root_must_install_and_then_needs_no_root(machine: FreshMachine) -> None:
    told = machine.run_as(USER, "./dev demo", check=False)
    assert told.returncode == 1
    line = re.search(r"^ +(sudo .*)$", told.stderr, re.MULTILINE)
    assert line is not None, told.stderr
    machine.run_as("root", "export DEBIAN_FRONTEND=noninteractive; " + line[1].replace("sudo ", ""))
    assert "written on a" in timed_demo(machine, USER)
    refused = machine.run_as("root", f"ls /home/{USER}/s3vfs/demo/a", check=False)
    assert refused.returncode != 0, "a user's mount is that user's, without --allow-other"
    try_the_demo(machine, USER)
