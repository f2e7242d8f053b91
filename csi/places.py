"""The folders in buckets that the controller has been asked about: what ListVolumes lists, and with which credentials.

ListVolumes and ControllerGetVolume come without secrets and without parameters. Locations are kept in a file, so that a
restarted driver still lists them; credentials are kept in memory only, those of the last request for the same place.
Without any, the driver's own environment counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from csi.volume_id import Location


class Places:
    """Thread-safe. `file` is made with its first place."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._credentials: dict[Location, dict[str, str]] = {}
        self._known = self._load()

    def remember(self, place: Location, credentials: Mapping[str, str]) -> None:
        """A request for `place` has succeeded with these credentials."""
        with self._lock:
            self._credentials[place] = dict(credentials)
            if place not in self._known:
                self._known.add(place)
                self._store()

    def credentials(self, place: Location, given: Mapping[str, str]) -> dict[str, str]:
        """What came with this request, else what came with the last one."""
        with self._lock:
            return dict(given) or dict(self._credentials.get(place, {}))

    def all(self) -> list[Location]:
        """In a fixed order."""
        with self._lock:
            return sorted(self._known, key=lambda place: (place.url, place.endpoint_url, place.region))

    def _load(self) -> set[Location]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return {Location(**place) for place in json.loads(self._file.read_text())}
        return set()

    def _store(self) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps([asdict(place) for place in self._known]))
        os.replace(fresh, self._file)
