"""Drivers for tests. Each is a process of its own, and takes everything with it that it has mounted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.csi.client import Driver
from tests.servers.place import ServerPlace

StartDriver = Callable[..., Driver]


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[StartDriver]:
    """`start_driver("node-1", *options)`: a driver that is ended with the test."""
    started: list[Driver] = []

    def start(node: str, *options: str) -> Driver:
        driver = Driver(tmp_path, node, *options)
        started.append(driver)
        return driver.start()

    yield start
    for driver in started:
        driver.stop()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """One driver for all tests of a module: node-1."""
    made = Driver(tmp_path_factory.mktemp("d"), "node-1")
    yield made.start()
    made.stop()


@pytest.fixture
def folder(driver: Driver, request: pytest.FixtureRequest) -> str:
    """A folder of volumes on file:// of this test's own."""
    place = driver.folder / f"b{abs(hash(request.node.name)) % 10**8}"
    place.mkdir()
    return f"file://{place}"


@pytest.fixture
def secrets(seaweed: ServerPlace) -> dict[str, str]:
    """The keys of the S3 server, as a Kubernetes secret holds them."""
    return {"AWS_ACCESS_KEY_ID": seaweed.access_key, "AWS_SECRET_ACCESS_KEY": seaweed.secret_key}
