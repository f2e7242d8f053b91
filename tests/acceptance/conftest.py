"""Volumes on the real S3 server, and a network between that can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.mounted import Mount, Volume, two_mounts, volume, volume_in
from tests.proxy.process import ProxyProcess
from tests.servers.place import ServerPlace

__all__ = ["two_mounts", "volume"]


@pytest.fixture
def s3_volume(tmp_path: Path, seaweed: ServerPlace) -> Iterator[Volume]:
    """A volume on SeaweedFS."""
    with volume_in(tmp_path, seaweed.fresh_url(), seaweed.environment()) as made:
        yield made


@pytest.fixture
def s3_pair(s3_volume: Volume) -> tuple[Mount, Mount]:
    """Two mounts of it, with freshness 0: what one did, the other sees."""
    return s3_volume.mount("--freshness", "0"), s3_volume.mount("--freshness", "0")


@pytest.fixture
def default_pair(s3_volume: Volume) -> tuple[Mount, Mount]:
    """Two mounts of it, with the default freshness."""
    return s3_volume.mount(), s3_volume.mount()


@pytest.fixture
def wire(seaweed: ServerPlace) -> Iterator[ProxyProcess]:
    """The network between a client and SeaweedFS."""
    upstream = urlsplit(seaweed.endpoint_url)
    assert upstream.hostname is not None
    assert upstream.port is not None
    with ProxyProcess((upstream.hostname, upstream.port)) as proxy:
        yield proxy


@pytest.fixture
def wired_volume(tmp_path: Path, seaweed: ServerPlace, wire: ProxyProcess) -> Iterator[Volume]:
    """A volume on SeaweedFS behind `wire`."""
    environment = {**seaweed.environment(), "AWS_ENDPOINT_URL": wire.url}
    with volume_in(tmp_path, seaweed.fresh_url(), environment) as made:
        yield made
