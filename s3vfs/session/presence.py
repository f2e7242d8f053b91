"""The session's object in the bucket, `sessions/<sid>`: how far back it may still read extents (`low`).

A hint for the collector; the journal's S row says who is alive. Knows no ops.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from s3vfs.errors import S3vfsError, UnknownFeature
from s3vfs.objects.protocol import Control, Outcome

_log = logging.getLogger(__name__)
_FORMAT = 1


def session_object_key(sid: int) -> str:
    return f"sessions/{sid:016x}"


class Presence:
    """Writes, rewrites and removes one session object. Fields that this program does not know are kept."""

    def __init__(self, control: Control, sid: int, incarnation: int, label: str) -> None:
        self._control = control
        self._key = session_object_key(sid)
        self._fields: dict[str, Any] = {
            "format": _FORMAT,
            "features": 0,
            "sid": f"{sid:016x}",
            "incarnation": incarnation,
            "low": 0,
            "label": label,
        }
        self.written_low = 0

    async def found_low(self) -> int | None:
        """The `low` that an earlier incarnation left, None where there is none; keeps its unknown fields.

        Raises UnknownFeature for an object that this program may not rewrite, and what the store raises.
        """
        reply = await self._control.get(self._key)
        if reply.outcome is not Outcome.OK:
            return None
        try:
            fields = json.loads(reply.body)
            low = int(fields["low"])
            if fields["format"] != _FORMAT or fields["features"]:
                raise UnknownFeature(f"{self._key} was written by a newer s3vfs", hint="update this one")
        except (ValueError, KeyError, TypeError) as error:
            # Only this session writes the object; a torn one says nothing, and is replaced.
            _log.warning("%s is unreadable and will be rewritten: %s", self._key, error)
            return None
        self._fields = {**fields, **self._fields}
        return low

    async def write(self, low: int) -> None:
        """Raises what the store raises; the object may or may not have been written then."""
        await self._control.put(self._key, json.dumps({**self._fields, "low": low}).encode("utf-8"))
        self.written_low = low

    async def remove(self) -> None:
        """The session has ended. A failure leaves a stray object, which the collector may remove: no S row names it."""
        try:
            await self._control.delete(self._key)
        except S3vfsError as error:
            _log.warning("%s was left behind: %s", self._key, error)
