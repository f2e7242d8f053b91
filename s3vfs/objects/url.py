"""Where a volume lives: the URL a user types, the options beside it, and `open_store`, which opens the place.

The S3 libraries are imported only when an s3:// URL is opened, so that file:// mounts start fast.
"""

from __future__ import annotations

import os
import random
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from s3vfs.errors import UsageError
from s3vfs.objects.directory import open_directory
from s3vfs.objects.keys import check_key
from s3vfs.objects.protocol import Store
from s3vfs.objects.runner import Runner

# How long a request may take, repetitions included, before it counts as unreachable (DESIGN 7: `--io-timeout`).
IO_TIMEOUT_S = 120.0

# Lower-case letters, digits, dots and dashes are AWS's rule; other servers allow more. Never a slash, '@' or ':'.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed URL. `place` is the bucket, or the absolute directory; `prefix` has no slashes at its ends.

    For file:// the directory is the volume's place itself and the prefix is empty. `str()` gives the URL back.
    """

    scheme: Literal["file", "s3"]
    place: str
    prefix: str = ""

    def __str__(self) -> str:
        if self.scheme == "file":
            return "file://" + urllib.parse.quote(self.place)
        return f"s3://{self.place}/{self.prefix}" if self.prefix else f"s3://{self.place}"

    def child(self, name: str) -> StoreUrl:
        """The place one level below: a volume in a folder of volumes."""
        if self.scheme == "file":
            return StoreUrl("file", os.path.join(self.place, name))
        return StoreUrl("s3", self.place, f"{self.prefix}/{name}" if self.prefix else name)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What an s3:// URL does not say. Empty means: as the AWS tools would find it (environment, profile, config file).

    Credentials are never here: they come from the chain only (objects/credentials.py).
    """

    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    io_timeout_s: float = IO_TIMEOUT_S


def parse_url(text: str) -> StoreUrl:
    """Parse `file:///directory` or `s3://bucket/prefix`. Raises UsageError; never repeats what may be a secret."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("file", "s3"):
        raise UsageError("unreadable volume URL", hint="write file:///directory or s3://bucket/prefix")
    if "@" in rest.split("/", 1)[0]:
        raise UsageError("a volume URL holds no credentials", hint="use the environment or an AWS profile")
    return _parse_file(rest) if scheme == "file" else _parse_s3(rest)


def _parse_file(rest: str) -> StoreUrl:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise UsageError(f"file://{rest} has no absolute path", hint="write file:///directory, with three slashes")
    place = os.path.normpath("/" + urllib.parse.unquote(path, errors="surrogateescape"))
    if "\0" in place:
        raise UsageError("a path cannot hold a NUL byte")
    return StoreUrl("file", place)


def _parse_s3(rest: str) -> StoreUrl:
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"s3://{rest} has no usable bucket name", hint="write s3://bucket/prefix")
    if "?" in prefix or "#" in prefix:
        raise UsageError(f"s3://{rest} holds a query or a fragment", hint="use options instead")
    if prefix:
        check_key(prefix)
    return StoreUrl("s3", bucket, prefix)


async def open_store(
    url: str | StoreUrl,
    options: StoreOptions | None = None,
    *,
    run: Runner,
    create: bool = False,
    date_ns: Callable[[], int] = time.time_ns,
    jitter: Callable[[], float] = random.random,
) -> Store:
    """Open the place that `url` names; the caller ends it with `await store.aclose()`.

    `create` (for format only) makes the last directory of a file:// URL; a bucket is never made. `date_ns` is the
    clock of file:// answers; `jitter` spreads repeated S3 reads. Raises UsageError, BucketMissing, StoreDenied. An
    s3:// place is not asked before the first request.
    """
    place = parse_url(url) if isinstance(url, str) else url
    settings = options or StoreOptions()
    if place.scheme == "file":
        return await open_directory(place.place, str(place), run=run, create=create, date_ns=date_ns)
    from s3vfs.objects.s3 import open_s3  # not at the top: these libraries take a second to import

    return await open_s3(place.place, place.prefix, str(place), settings, run=run, jitter=jitter)
