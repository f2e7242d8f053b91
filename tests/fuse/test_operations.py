"""The boundary to pyfuse3: no exception but FUSEError may pass it, whatever happens below."""

from __future__ import annotations

import errno
import logging
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from s3vfs.errors import BucketMissing, PosixError, ReadOnly, SessionFenced, StoreDenied, StoreUnreachable
from s3vfs.filesystem import Filesystem
from s3vfs.fuse.kernel import KernelCache
from s3vfs.fuse.libfuse import pyfuse3
from s3vfs.fuse.operations import Operations
from s3vfs.fuse.second_tries import SecondTries


class Broken:
    """Every call raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: object, **options: object) -> None:
            raise self._error

        return call


CONTEXT = cast(pyfuse3.RequestContext, SimpleNamespace(pid=1))


def operations(error: BaseException) -> Operations:
    clock = [0.0]
    session = SimpleNamespace(touch=lambda: None)
    second_tries = SecondTries(lambda ino: [ino], lambda: clock[0])
    kernel = SimpleNamespace(second_tries=second_tries, arriving=lambda: nullcontext(clock[0]))
    return Operations(
        cast(Filesystem, Broken(error)),
        session,
        cast(KernelCache, kernel),
        entry_timeout_s=1,
        attribute_timeout_s=1,
        now_s=lambda: clock[0],
    )


def answer_to(error: BaseException) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        trio.run(operations(error).readlink, 1, CONTEXT)
    return caught.value.errno


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PosixError(errno.ENOTEMPTY), errno.ENOTEMPTY),
        (ReadOnly("no"), errno.EROFS),
        (StoreUnreachable("away"), errno.EIO),
        (BucketMissing("gone"), errno.EIO),  # as ENOENT it would say that the file is not there
        (StoreDenied("no"), errno.EIO),
        (SessionFenced("ended"), errno.EIO),
        (KeyError("a bug"), errno.EIO),
        (RecursionError(), errno.EIO),
        (ExceptionGroup("several", [ValueError("a bug")]), errno.EIO),
    ],
    ids=repr,
)
def test_errors_become_errnos(error: BaseException, code: int) -> None:
    assert answer_to(error) == code


def test_ordinary_errors_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    answer_to(PosixError(errno.ENOENT))
    assert not caplog.records


def test_unexpected_errors_are_logged_with_their_trace(caplog: pytest.LogCaptureFixture) -> None:
    answer_to(KeyError("a bug"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


def test_a_bucket_that_is_away_is_not_complained_about_all_the_time(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> None:
        handlers = operations(StoreUnreachable("away"))
        for _ in range(100):
            with pytest.raises(pyfuse3.FUSEError):
                await handlers.readlink(1, CONTEXT)

    trio.run(ask)
    (record,) = caplog.records
    assert "away" in record.getMessage()


def test_every_request_has_the_boundary() -> None:
    """A handler added without it would be a way to end the mount."""
    handlers = {name for name in vars(pyfuse3.Operations) if not name.startswith("_")}
    own = {name: call for name, call in vars(Operations).items() if name in handlers and callable(call)}
    unguarded = {name for name, call in own.items() if not hasattr(call, "__wrapped__")}
    assert unguarded == {"forget"}  # does nothing, so it cannot fail
    assert handlers - own.keys() <= {
        *("init", "stacktrace", "poll"),
        *("supports_dot_lookup", "enable_writeback_cache", "enable_acl"),
    }
