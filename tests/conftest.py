"""What every test may ask for: S3 servers, once for each process, and an environment that points at them.

A server that cannot start fails the tests that need it; nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.moto_server import MotoServer
from tests.servers.place import ServerPlace
from tests.servers.seaweed import SeaweedServer
from tests.side_by_side import (
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_report_to_serializable,
    pytest_sessionfinish,
    pytest_testnodedown,
    pytest_testnodeready,
)
from tests.suites.report import pytest_runtest_logreport, pytest_terminal_summary

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_report_to_serializable",
    "pytest_runtest_logreport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_testnodeready",
]


@pytest.fixture(scope="session")
def seaweed_server() -> Iterator[SeaweedServer]:
    """A real S3 server, for tests that need its process."""
    with SeaweedServer() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed(seaweed_server: SeaweedServer) -> ServerPlace:
    """A real S3 server: `seaweed.fresh_url()` is a place of one's own, `seaweed.environment()` leads there."""
    return seaweed_server.place


@pytest.fixture(scope="session")
def moto(request: pytest.FixtureRequest) -> Iterator[ServerPlace]:
    """moto's S3, made atomic: the fast one for answers that a real server does not give on demand."""
    with MotoServer() as server:
        yield server.place


@pytest.fixture
def moto_endpoint(moto: ServerPlace) -> str:
    return moto.endpoint_url


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No AWS setting of the user's reaches a test; the test sets its own with `setenv`."""
    import os

    for name in list(os.environ):
        if name.startswith(("AWS_", "BOTO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch
