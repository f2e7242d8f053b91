"""volume.json: what a volume is, written once when it is made (docs/format.md, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s3vfs.errors import NotAVolume, UnknownFeature
from s3vfs.journal.documents import NEWER_HINT, encode_document, parse_document
from s3vfs.journal.keys import HEAD_KEY, VOLUME_KEY
from s3vfs.objects.protocol import Outcome, Store

KNOWN_FEATURES = 0
SECTOR_BYTES = 256 * 1024
CODEC_NONE = "none"


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """`uuid` has 16 bytes; `object_size` and `sector_size` are in bytes and never change. `name` is the first name:
    the journal's volume row has the present one. `extra` holds fields that this program does not know."""

    uuid: bytes
    name: str
    object_size: int
    created_ns: int
    sector_size: int = SECTOR_BYTES
    codec: str = CODEC_NONE
    features: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """Whether this program can read the volume's data."""
        return self.codec == CODEC_NONE and self.sector_size == SECTOR_BYTES

    @property
    def writable(self) -> bool:
        """Whether this program may write, trim and collect (DESIGN 3)."""
        return self.readable and not self.features & ~KNOWN_FEATURES

    def require_readable(self) -> None:
        """Raises UnknownFeature."""
        if not self.readable:
            raise UnknownFeature(
                f"volume {self.name!r} has codec {self.codec!r} and sectors of {self.sector_size} bytes",
                hint=NEWER_HINT,
            )

    def require_writable(self) -> None:
        """Raises UnknownFeature."""
        self.require_readable()
        if not self.writable:
            raise UnknownFeature(
                f"volume {self.name!r} has feature bits {self.features:#x}",
                hint=f"{NEWER_HINT}, or mount with --read-only",
            )


def parse_volume(body: bytes) -> VolumeInfo:
    """Raises Damaged for a broken volume.json, UnknownFeature for another format version.

    Unknown feature bits and codecs are no error here: see `readable` and `writable`.
    """
    document = parse_document(body, VOLUME_KEY)
    return VolumeInfo(
        uuid=document.hexadecimal("uuid", 16),
        name=document.text("name"),
        object_size=document.integer("object_size"),
        created_ns=document.integer("created_ns"),
        sector_size=document.integer("sector_size"),
        codec=document.text("codec"),
        features=document.integer("features"),
        extra=document.rest(),
    )


def encode_volume(volume: VolumeInfo) -> bytes:
    return encode_document(
        {
            "features": volume.features,
            "uuid": volume.uuid.hex(),
            "name": volume.name,
            "object_size": volume.object_size,
            "sector_size": volume.sector_size,
            "codec": volume.codec,
            "created_ns": volume.created_ns,
            **volume.extra,
        }
    )


async def load_volume(store: Store) -> VolumeInfo:
    """The volume that lives in this place of the bucket.

    Raises NotAVolume where there is none, Damaged, UnknownFeature, and what the store raises. Whether the volume may
    be written is for the caller to ask (`require_writable`).
    """
    reply = await store.control.get(VOLUME_KEY)
    if reply.outcome is Outcome.OK:
        return parse_volume(reply.body)
    if (await store.control.head(HEAD_KEY)).outcome is Outcome.OK:
        raise NotAVolume(f"{store.url}: a format was begun here and not finished", hint="run s3vfs format again")
    raise NotAVolume(
        f"{store.url} is not a volume",
        hint="make one with s3vfs format; existing objects of a bucket are not files here, they must be copied in",
    )
