"""Who answers what pyfuse3 does not forward: the native extension, or, where it is missing, a refusal of all locks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from s3vfs.errors import S3vfsError
from s3vfs.fuse.libfuse import interpose, missing, pyfuse3
from s3vfs.fuse.refusal import LockRefusal, Unsupported

_log = logging.getLogger(__name__)

BUILD_HINT = "install gcc and libfuse3-dev, then install s3vfs and pyfuse3 again"

_refusal: LockRefusal | None = None


class NoHandlers(S3vfsError):
    """The session that pyfuse3 has made, if any, leaves locks to the kernel: it may not serve."""


def refusing_locks() -> str:
    """Why locks are refused on this machine; empty where they are not."""
    return f"refused (ENOLCK): the native extension is missing ({missing})" if interpose is None else ""


@contextmanager
def native_handlers(
    begin: Callable[..., object], *, passthrough: bool = False, noted: Callable[..., object] | None = None
) -> Iterator[None]:
    """Around pyfuse3.init: the session that it makes passes the extension's requests to `begin`, asks the kernel for
    passthrough, and has a front that tells `noted` what it has taken.

    Raises NoHandlers afterwards when the session has neither these handlers nor refusing ones.
    """
    if interpose is None:
        with _refusing():
            yield
        return
    before = interpose.sessions()
    interpose.install(begin, passthrough, noted)
    try:
        yield
    finally:
        interpose.install(None)
    if interpose.sessions() == before:
        raise NoHandlers("pyfuse3 does not use the native extension")


@contextmanager
def _refusing() -> Iterator[None]:
    global _refusal
    _log.warning("locks are %s: %s", refusing_locks(), BUILD_HINT)
    problem = ""
    if _refusal is None:
        try:
            _refusal = LockRefusal(Path(pyfuse3.__file__))
        except (Unsupported, OSError, AttributeError) as error:
            problem = f"; nor can they be refused: {error}"
    before = _refusal.sessions if _refusal is not None else 0
    yield
    if _refusal is None or _refusal.sessions == before:
        raise NoHandlers(f"the native extension is missing ({missing}), and locks would be the kernel's own{problem}")
