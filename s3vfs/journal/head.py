"""HEAD as a value: checkpoint, trim boundary and steps, journal engine (docs/format.md, section 2). Pure; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s3vfs.errors import Damaged, UnknownFeature
from s3vfs.journal.documents import NEWER_HINT, Document, encode_document, parse_document

KNOWN_FEATURES = 0
ENGINE_BUCKET = "bucket"

# R5: an answer is trusted by itself for less than ten minutes of the bucket's clock after a read of HEAD; records are
# deleted an hour after their step. The fifty minutes between are room for clocks of the store's machines that differ.
TRUST_NS = 600 * 10**9
# Dates of one store may go backwards a little, when its machines' clocks differ. More than this means that one of
# the two Dates is wrong, and then neither says how old our knowledge of HEAD is.
BACKWARDS_NS = 60 * 10**9


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A published checkpoint: its uuid (16 bytes) and the seq whose state it holds."""

    uuid: bytes
    seq: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        return {"uuid": self.uuid.hex(), "seq": self.seq, **self.extra}


@dataclass(frozen=True, slots=True)
class Step:
    """One raise of the trim boundary (R5). `seen_ns`: the bucket's Date in an answer that showed it, 0 = not yet."""

    step: int
    boundary: int
    seen_ns: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        return {"step": self.step, "boundary": self.boundary, "seen_ns": self.seen_ns, **self.extra}


@dataclass(frozen=True, slots=True)
class Engine:
    """Where the journal is kept, and how often it has moved."""

    kind: str = ENGINE_BUCKET
    epoch: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> dict[str, Any]:
        return {"kind": self.kind, "epoch": self.epoch, **self.extra}


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD says. `extra` holds fields that this program does not know; they are written back unchanged.

    `volume` is the volume's uuid (16 bytes). Records with seq < `boundary` count as trimmed. `writer` is a random id
    of the rewrite that made this generation, so that its author recognises it after a lost answer (R2).
    """

    volume: bytes
    generation: int = 1
    checkpoint: CheckpointRef | None = None
    boundary: int = 1
    steps: tuple[Step, ...] = ()
    engine: Engine = field(default_factory=Engine)
    writer: str = ""
    features: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """Whether this program can find and read the journal."""
        return self.engine.kind == ENGINE_BUCKET

    @property
    def writable(self) -> bool:
        """Whether this program may write, trim and collect (DESIGN 3)."""
        return self.readable and not self.features & ~KNOWN_FEATURES

    def require_readable(self) -> None:
        """Raises UnknownFeature."""
        if not self.readable:
            raise UnknownFeature(f"the volume's journal is kept in {self.engine.kind!r}", hint=NEWER_HINT)

    def require_writable(self) -> None:
        """Raises UnknownFeature."""
        self.require_readable()
        if not self.writable:
            raise UnknownFeature(
                f"HEAD has feature bits {self.features:#x}", hint=f"{NEWER_HINT}, or mount with --read-only"
            )


@dataclass(frozen=True, slots=True)
class HeadState:
    """One look at HEAD: what it said, its ETag, and the bucket's Date in the answer (R5)."""

    head: Head
    etag: str
    date_ns: int

    def vouches_for(self, date_ns: int) -> bool:
        """Whether an answer with this Date may be trusted without another look at HEAD (R5)."""
        if self.date_ns <= 0 or date_ns <= 0:
            return False
        return -BACKWARDS_NS <= date_ns - self.date_ns < TRUST_NS


def parse_head(body: bytes) -> Head:
    """Raises Damaged for a HEAD that contradicts itself, UnknownFeature for another format version.

    Unknown feature bits and engines are no error here: see `readable` and `writable`.
    """
    document = parse_document(body, "HEAD")
    head = Head(
        volume=document.hexadecimal("volume", 16),
        generation=document.integer("generation"),
        checkpoint=_parse_checkpoint(document.document_or_none("checkpoint")),
        boundary=document.integer("boundary"),
        steps=tuple(_parse_step(step) for step in document.documents("steps")),
        engine=_parse_engine(document.document("engine")),
        writer=document.text("writer") if document.has("writer") else "",
        features=document.integer("features"),
        extra=document.rest(),
    )
    if head.writable:
        _check(head)
    return head


def encode_head(head: Head) -> bytes:
    return encode_document(
        {
            "features": head.features,
            "volume": head.volume.hex(),
            "generation": head.generation,
            "checkpoint": head.checkpoint.encode() if head.checkpoint else None,
            "boundary": head.boundary,
            "steps": [step.encode() for step in head.steps],
            "engine": head.engine.encode(),
            "writer": head.writer,
            **head.extra,
        }
    )


def _parse_checkpoint(document: Document | None) -> CheckpointRef | None:
    if document is None:
        return None
    return CheckpointRef(document.hexadecimal("uuid", 16), document.integer("seq"), document.rest())


def _parse_step(document: Document) -> Step:
    return Step(document.integer("step"), document.integer("boundary"), document.integer("seen_ns"), document.rest())


def _parse_engine(document: Document) -> Engine:
    return Engine(document.text("kind"), document.integer("epoch"), document.rest())


def _check(head: Head) -> None:
    """Raise Damaged where the fields contradict each other; only for a HEAD whose meaning is known in full."""
    covered = head.checkpoint.seq if head.checkpoint else 0
    if not 1 <= head.boundary <= covered + 1:
        raise Damaged(f"HEAD: boundary {head.boundary} with a checkpoint at {covered}")
    for older, newer in zip(head.steps, head.steps[1:], strict=False):
        if not (older.step < newer.step and older.boundary < newer.boundary):
            raise Damaged(f"HEAD: step {newer.step} does not follow step {older.step}")
    if head.steps and head.steps[-1].boundary != head.boundary:
        raise Damaged(f"HEAD: boundary {head.boundary}, but the newest step says {head.steps[-1].boundary}")
