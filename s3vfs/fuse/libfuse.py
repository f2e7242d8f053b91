"""pyfuse3, with the C extension under it where there is one. Whoever needs either takes it from here.

The extension works only when it is loaded before pyfuse3, with its symbols in sight of others: pyfuse3 then calls its
`fuse_session_new` (native/interpose.c). This module keeps that order.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

# From this version on pyfuse3 makes its session through another function of libfuse.
_VERSIONED = 317


def unfit(compiled: int, loaded: int) -> str:
    """Why an extension compiled for one version of libfuse (314 for 3.14) cannot serve another; empty where it can."""
    if loaded // 100 == 3 and (compiled < _VERSIONED) == (loaded < _VERSIONED):
        return ""
    return f"it was compiled for libfuse {_dotted(compiled)}, but {_dotted(loaded)} is loaded"


def _dotted(version: int) -> str:
    return f"{version // 100}.{version % 100}"


def _load() -> tuple[ModuleType | None, str]:
    if "pyfuse3" in sys.modules:
        return None, "pyfuse3 was loaded first"
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        from s3vfs.fuse.native import _interpose
    except ImportError as error:
        return None, str(error)
    finally:
        sys.setdlopenflags(flags)
    reason = unfit(*_interpose.versions())
    return (None, reason) if reason else (_interpose, "")


# The extension; None: `missing` says why there is none.
interpose, missing = _load()

import pyfuse3  # noqa: E402  # after the extension

__all__ = ["interpose", "missing", "pyfuse3", "unfit"]
