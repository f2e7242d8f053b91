"""What a key may look like, what its ETag is where we make it, how sorted keys are cut into pages. Pure; no I/O."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import xxhash

from s3vfs.errors import UsageError
from s3vfs.objects.protocol import Listed, Page

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Names that begin so belong to the directory store itself and are never keys.
RESERVED_NAME = ".s3vfs-"

# S3's bound on a key in UTF-8 bytes, prefix included.
KEY_LIMIT_BYTES = 1024


def check_key(key: str) -> None:
    """Raise UsageError for a key that not every kind of bucket can hold, or that would leave the volume's prefix."""
    parts = key.split("/")
    if "\0" in key or len(key.encode("utf-8", "surrogatepass")) > KEY_LIMIT_BYTES:
        raise UsageError(f"unusable key {key!r}")
    if any(part in ("", ".", "..") or part.startswith(RESERVED_NAME) for part in parts):
        raise UsageError(f"unusable key {key!r}")


def check_listing(prefix: str, delimiter: str) -> None:
    """Raise for a prefix that leaves the volume's place (UsageError) or another delimiter than "/" (ValueError)."""
    folder = prefix.rpartition("/")[0]
    if folder or prefix.startswith("/"):
        check_key(folder)
    if delimiter not in ("", "/"):
        raise ValueError(f"no delimiter but '/': {delimiter!r}")


def content_etag(body: Buffer) -> str:
    """A strong ETag made of the content, as S3's is: equal bytes have equal ETags, also after a change and back."""
    return f'"{xxhash.xxh3_128_hexdigest(body)}"'


def after_group(prefix: str) -> str:
    """The least string above every string that begins with `prefix` (not empty)."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def page_of(
    keys: Sequence[str],
    listed: Callable[[str], Listed],
    prefix: str,
    *,
    start_after: str = "",
    delimiter: str = "",
    limit: int = 1000,
) -> Page:
    """Cut one page out of sorted `keys`, with S3's rules: entries and common prefixes count together against `limit`.

    Time grows with the page, not with the number of keys.
    """
    entries: list[Listed] = []
    prefixes: list[str] = []
    last = ""
    index = max(bisect_left(keys, prefix), bisect_right(keys, start_after) if start_after else 0)
    if start_after and delimiter and start_after.endswith(delimiter):
        index = max(index, bisect_left(keys, after_group(start_after)))
    while index < len(keys) and keys[index].startswith(prefix):
        if len(entries) + len(prefixes) == limit:
            return Page(entries, prefixes, True, last)
        key = keys[index]
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            last = key[: cut + len(delimiter)]
            prefixes.append(last)
            index = bisect_left(keys, after_group(last), index)
        else:
            last = key
            entries.append(listed(key))
            index += 1
    return Page(entries, prefixes, False, last)
