"""Volume ids: they alone say where a volume is; DeleteVolume and ControllerExpandVolume are given nothing else. Pure.

    shared#<leaf>#<URL of the folder>[#<endpoint URL>[#<region>]]       a volume in a bucket, at <URL>/<leaf>
    workspace#<leaf>#<retain or delete>#<node id>                       a directory on that node's disk

The leaf comes from the name that the orchestrator chose. An id that does not look like this names a volume that was not
made by this driver: it can be published (its context says where it is), and neither deleted nor expanded.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from csi.refusals import invalid
from s3vfs.errors import UsageError
from s3vfs.objects.url import StoreOptions, StoreUrl, parse_url

LIMIT_BYTES = 128  # of a string in CSI
NAME_LIMIT = 128  # characters of a volume's name
IO_TIMEOUT_S = 30.0  # a bucket that has not answered for so long is UNAVAILABLE; the orchestrator comes again

_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?")
_HASHED = "n-"
# CSI bans control characters other than common white space.
_BANNED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a bucket: one volume, or the folder of many. Credentials are never here."""

    url: str
    endpoint_url: str = ""
    region: str = ""

    def options(self) -> StoreOptions:
        """For the driver's own requests."""
        return StoreOptions(self.endpoint_url, self.region, io_timeout_s=IO_TIMEOUT_S)

    def child(self, leaf: str) -> Location:
        return Location(str(parse_url(self.url).child(leaf)), self.endpoint_url, self.region)


@dataclass(frozen=True, slots=True)
class SharedId:
    """`folder` holds the volume `leaf` and, under .csi/, what the driver knows about it."""

    leaf: str
    folder: Location

    @property
    def location(self) -> Location:
        """Of the volume itself."""
        return self.folder.child(self.leaf)

    def __str__(self) -> str:
        place = self.folder
        words = ["shared", self.leaf, place.url, place.endpoint_url, place.region]
        while not words[-1]:
            words.pop()
        return "#".join(words)


@dataclass(frozen=True, slots=True)
class WorkspaceId:
    """A directory `leaf` below the workspace root of `node` (its topology value)."""

    leaf: str
    on_delete: str
    node: str

    def __str__(self) -> str:
        return f"workspace#{self.leaf}#{self.on_delete}#{self.node}"


def leaf_of(name: str) -> str:
    """A name that is safe in a URL, a path and an id: the volume's own where it is, else a hash of it.

    Raises Refusal for what CSI does not allow as a name.
    """
    if not name:
        raise invalid("a volume needs a name")
    if len(name) > NAME_LIMIT or _BANNED.search(name):
        raise invalid(f"a volume's name has at most {NAME_LIMIT} characters, none of them a control character")
    if _PLAIN.fullmatch(name) and not name.startswith(_HASHED):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    return _HASHED + base64.b32encode(digest)[:26].decode().lower()


def checked(volume_id: SharedId | WorkspaceId) -> str:
    """The id as text. Raises Refusal where it is longer than CSI allows."""
    text = str(volume_id)
    if len(text.encode()) > LIMIT_BYTES:
        raise invalid(
            f"the volume id {text!r} would have more than {LIMIT_BYTES} bytes: use a shorter url, or give endpoint and "
            "region as AWS_ENDPOINT_URL and AWS_REGION in the secrets"
        )
    return text


def parse(text: str) -> SharedId | WorkspaceId | None:
    """What the id says; None for an id that this driver has not made."""
    kind, *words = text.split("#")
    if not words or not (_PLAIN.fullmatch(words[0])):
        return None
    if kind == "shared" and 2 <= len(words) <= 4 and _canonical(words[1]):
        return SharedId(words[0], Location(*words[1:]))
    if kind == "workspace" and len(words) == 3 and words[1] in ("retain", "delete") and words[2]:
        return WorkspaceId(words[0], words[1], words[2])
    return None


def _canonical(url: str) -> bool:
    try:
        parsed: StoreUrl = parse_url(url)
    except UsageError:
        return False
    return str(parsed) == url
