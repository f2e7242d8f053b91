"""The plain `Store`: one volume's control and bulk side, opened and closed together. Knows no kind of bucket."""

from __future__ import annotations

from dataclasses import dataclass

from s3vfs.objects.protocol import Bulk, Control


@dataclass(slots=True)
class OpenedStore:
    """What `open_store`, `MemoryBucket.open` and the wrappers return. `url` is safe to print."""

    url: str
    control: Control
    bulk: Bulk

    async def aclose(self) -> None:
        """Close both sides; outstanding calls of other tasks end with errors."""
        try:
            await self.control.aclose()
        finally:
            self.bulk.close()
