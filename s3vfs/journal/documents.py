"""Reading and writing the bucket's JSON objects (docs/format.md, section 2): HEAD, volume.json, manifests, sessions.

Each field is taken out of a `Document` once, with its type checked; what is left at the end is unknown to this program
and is kept by whoever rewrites the object. Knows no particular object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from s3vfs.errors import Damaged, UnknownFeature

FORMAT_VERSION = 1
MAX_INTEGER = 2**63 - 1
NEWER_HINT = "a newer s3vfs wrote it; update this one"


class Document:
    """The fields of one JSON object that nobody has taken yet. `what` names the object in errors.

    Every method raises Damaged where the field is missing or has another type.
    """

    def __init__(self, fields: Mapping[str, Any], what: str) -> None:
        self._fields = dict(fields)
        self._what = what

    def integer(self, name: str) -> int:
        """0 ... 2^63 - 1."""
        value = self._take(name)
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise self._wrong(name, "is not a number of 0 or more")
        return value

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str):
            raise self._wrong(name, "is not text")
        return value

    def hexadecimal(self, name: str, size_bytes: int) -> bytes:
        """Exactly `size_bytes` bytes, written as lower-case hex digits."""
        text = self.text(name)
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size_bytes or value.hex() != text:
            raise self._wrong(name, f"is not {2 * size_bytes} hex digits")
        return value

    def document(self, name: str) -> Document:
        return self._inner(name, self._take(name))

    def document_or_none(self, name: str) -> Document | None:
        """None where the field is null."""
        value = self._take(name)
        return None if value is None else self._inner(name, value)

    def documents(self, name: str) -> list[Document]:
        value = self._take(name)
        if not isinstance(value, list):
            raise self._wrong(name, "is not a list")
        return [self._inner(name, element) for element in value]

    def has(self, name: str) -> bool:
        return name in self._fields

    def rest(self) -> dict[str, Any]:
        """What nobody has taken: unknown fields, to be kept."""
        return dict(self._fields)

    def _take(self, name: str) -> Any:
        if name not in self._fields:
            raise self._wrong(name, "is missing")
        return self._fields.pop(name)

    def _inner(self, name: str, value: object) -> Document:
        if not isinstance(value, dict):
            raise self._wrong(name, "is not an object")
        return Document(value, f"{self._what}, {name}")

    def _wrong(self, name: str, how: str) -> Damaged:
        return Damaged(f"{self._what}: {name} {how}")


def parse_document(body: bytes, what: str) -> Document:
    """The fields of a JSON object of this format version; `format` itself is taken.

    Raises Damaged for anything but a JSON object, UnknownFeature for another format version: nothing is known about
    the other fields then.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Damaged(f"{what} is not a JSON object")
    document = Document(fields, what)
    version = document.integer("format")
    if version != FORMAT_VERSION:
        raise UnknownFeature(f"{what} has format {version}", hint=NEWER_HINT)
    return document


def encode_document(fields: Mapping[str, Any]) -> bytes:
    """The object's bytes: `format` first, then `fields` in their order, readable by people."""
    return json.dumps({"format": FORMAT_VERSION, **fields}, indent=1).encode() + b"\n"
