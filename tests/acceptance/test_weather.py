"""Two mounts work while the network between them and the bucket fails in every way: nothing is lost, nothing happens
twice, no call fails within io-timeout, and both see the same in the end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from tests.acceptance import fsck
from tests.acceptance.crashes import Worker
from tests.acceptance.exerciser import Exerciser
from tests.mounted import Volume
from tests.proxy.process import ProxyProcess
from tests.proxy.proxy import Action, Rule
from tests.servers.place import ServerPlace

_BREAKS = (Action.RESET_REQUEST, Action.RESET_ANSWER, Action.LOSE_ANSWER)


@pytest.fixture
def seaweed_environment(seaweed: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsck runs in this process, and goes around the wire."""
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)


def storm(wire: ProxyProcess, chance: random.Random, *, stalls: bool) -> None:
    """One piece of bad weather, for the requests of the next moments. A stall takes its client's whole time-out."""
    kind = chance.choice(["lost", "lost", "lost", "503", "409", "reset", "slow", "stall" if stalls else "fair"])
    if kind == "lost":
        wire.add(Rule(Action.LOSE_ANSWER, "PUT", chance.choice(["/journal/", "/data/", ""]), chance.randrange(3)))
    elif kind == "503":
        wire.add(Rule(chance.choice([Action.ANSWER_503, Action.ANSWER_500]), "", "", times=chance.randrange(1, 8)))
    elif kind == "409":
        wire.add(Rule(Action.ANSWER_409, "PUT", "/journal/", times=chance.randrange(1, 3)))
    elif kind == "reset":
        wire.add(Rule(chance.choice(_BREAKS), chance.choice(["PUT", "GET"]), "", chance.randrange(4)))
    elif kind == "stall":
        wire.add(Rule(Action.STALL_ANSWER, "GET", "/data/"))
    elif kind == "slow":
        wire.set_link(latency_s=chance.choice([0, 0.03]))


def weather(volume: Volume, wire: ProxyProcess, seed: int, seconds: float, *, pause_s: float = 0.0) -> None:
    chance = random.Random(seed)
    mounts = [volume.mount("--freshness", "0", quiet=False) for _ in range(2)]
    for name in ("model", "work"):
        (mounts[0].path / name).mkdir()
    workers = [Worker(mount.path / "work", f"w{number}", seed + number) for number, mount in enumerate(mounts)]
    exerciser = Exerciser([mount.path / "model" for mount in mounts], seed, sizes_bytes=300_000)
    failures: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, args=(lambda: exerciser.run(seconds=seconds),))
    for worker, mount in zip(workers, mounts, strict=True):
        worker.start(mount.path / "work")
    thread.start()
    ends_s = time.monotonic() + seconds
    silent_at_s = time.monotonic() + seconds / 2
    while time.monotonic() < ends_s and not failures:
        storm(wire, chance, stalls=pause_s > 0)
        time.sleep(chance.uniform(0.02, 0.3))  # the weather's own pace
        if pause_s and time.monotonic() > silent_at_s:
            wire.block()
            time.sleep(pause_s)
            wire.resume()
            pause_s = 0.0
    wire.clear()
    wire.set_link()
    thread.join(120)
    for worker in workers:
        worker.stop()
    assert failures == [], str(failures[0])
    assert not thread.is_alive()
    assert [worker.failure for worker in workers] == [None, None]
    for worker in workers:
        for mount in mounts:
            assert worker.problems(mount.path / "work", resumed=True) == []
    exerciser.check_all([mount.path / "model" for mount in mounts])
    for mount in mounts:
        assert mount.umount() == 0
    after = volume.mount("--freshness", "0")
    exerciser.check_all([after.path / "model"])
    assert fsck.check(volume.url).problems == []


def test_two_mounts_in_bad_weather(wired_volume: Volume, wire: ProxyProcess, seaweed_environment: None) -> None:
    weather(wired_volume, wire, seed=1, seconds=8)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 5))
def test_two_mounts_in_long_bad_weather(
    wired_volume: Volume, wire: ProxyProcess, seaweed_environment: None, seed: int
) -> None:
    weather(wired_volume, wire, seed=seed, seconds=60, pause_s=10)
