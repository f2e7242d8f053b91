"""What StorageClasses, volume contexts, secrets and mount options may say, checked key by key. Pure.

An unknown key is refused by its name, never repeated with its value. Keys with a slash are the orchestrator's own and
mean nothing here, but the one that marks an inline volume.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from csi.refusals import invalid
from csi.volume_id import Location
from s3vfs.cli.mount_options import parse_dash_o
from s3vfs.cli.sizes import parse_size
from s3vfs.errors import UsageError
from s3vfs.objects.url import parse_url

EPHEMERAL_KEY = "csi.storage.k8s.io/ephemeral"

SECRET_KEYS = frozenset(
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"]
    + ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]
)

# Options of `s3vfs mount` that change nothing outside of the volume: no paths on the node, no other endpoints or users.
_OWN_FLAGS = frozenset(
    ["freshness", "durable_close_above", "io_timeout", "offline", "memory", "cache_size", "read_only", "ro", "rw"]
)
# What the kernel enforces; allowed for workspace volumes too.
_KERNEL_FLAGS = frozenset(["nosuid", "nodev", "noexec", "noatime", "nodiratime", "sync", "dirsync"])
_BIND_FLAGS = frozenset(["ro", "rw", "nosuid", "nodev", "noexec", "noatime", "nodiratime"])

_PARAMETERS = frozenset(["type", "url", "endpointUrl", "region", "cacheSize", "onDelete"])
_CONTEXT = frozenset(["type", "url", "endpointUrl", "region", "cacheSize"])
_INLINE_CONTEXT = _CONTEXT | {"mountOptions"}

_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(?:/[A-Za-z0-9._~/-]*)?")
_REGION = re.compile(r"[A-Za-z0-9-]{0,64}")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of a StorageClass or a volume context. `location` is the folder of new volumes there, the volume itself here;
    its url is empty where none is given."""

    kind: str
    location: Location
    cache_size: str = ""
    on_delete: str = "delete"
    mount_options: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        return self.kind == "shared"

    def context(self, location: Location) -> dict[str, str]:
        """The volume context of a volume at `location`."""
        given = {"type": self.kind}
        if self.shared:
            given |= {"url": location.url, "endpointUrl": location.endpoint_url, "region": location.region}
            given["cacheSize"] = self.cache_size
        return {key: value for key, value in given.items() if value}

    def recorded(self) -> dict[str, str]:
        """What must be the same when the volume is asked for again, and rebuilds the context."""
        return {"type": self.kind, "cacheSize": self.cache_size, "onDelete": self.on_delete}


def of_class(given: Mapping[str, str]) -> Parameters:
    """Parameters of CreateVolume. Raises Refusal."""
    parameters = _parse(given, _PARAMETERS, "parameter")
    if parameters.shared and not parameters.location.url:
        raise invalid("the parameter url is missing: the folder in a bucket where volumes are made, s3://bucket/prefix")
    return parameters


def of_context(given: Mapping[str, str]) -> Parameters:
    """A volume context, of a volume that was made here or by hand. Raises Refusal."""
    return _parse(given, _CONTEXT, "volume attribute")


def of_inline(given: Mapping[str, str]) -> Parameters:
    """The attributes of an inline volume: written by whoever may write pods, so nothing that reaches into the node."""
    parameters = _parse(given, _INLINE_CONTEXT, "volume attribute")
    if not parameters.shared:
        raise invalid("an inline volume is of type shared: a workspace volume needs a claim")
    if not parameters.location.url:
        raise invalid("the volume attribute url is missing: the volume to mount, s3://bucket/prefix")
    if parameters.location.url.startswith("file:"):
        raise invalid("an inline volume cannot be a directory of the node")
    return parameters


def is_inline(context: Mapping[str, str]) -> bool:
    return context.get(EPHEMERAL_KEY) == "true"


def _parse(given: Mapping[str, str], known: frozenset[str], what: str) -> Parameters:
    own = {key: value for key, value in given.items() if "/" not in key}
    unknown = sorted(own.keys() - known)
    if unknown:
        raise invalid(f"unknown {what} {unknown[0]!r}: known are {', '.join(sorted(known))}")
    kind = own.get("type") or "shared"
    if kind not in ("shared", "workspace"):
        raise invalid(f"{what} type is shared or workspace")
    on_delete = own.get("onDelete") or "delete"
    if on_delete not in ("retain", "delete"):
        raise invalid(f"{what} onDelete is retain or delete")
    flags = tuple(flag for flag in own.get("mountOptions", "").split(",") if flag)
    return Parameters(kind, _location(own, what), _cache_size(own, what), on_delete, flags)


def _location(own: Mapping[str, str], what: str) -> Location:
    endpoint_url, region = own.get("endpointUrl", ""), own.get("region", "")
    if endpoint_url and not _ENDPOINT.fullmatch(endpoint_url):
        raise invalid(f"{what} endpointUrl is http://host:port or https://host")
    if not _REGION.fullmatch(region):
        raise invalid(f"{what} region is the name of a region")
    url = own.get("url", "")
    try:
        return Location(str(parse_url(url)) if url else "", endpoint_url, region)
    except UsageError as error:
        raise invalid(f"{what} url: {error}") from None


def _cache_size(own: Mapping[str, str], what: str) -> str:
    text = own.get("cacheSize", "")
    try:
        if text:
            parse_size(text)
    except ValueError as error:
        raise invalid(f"{what} cacheSize: {error}") from None
    return text


def environment_of(secrets: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that secrets ask for: the AWS names of an allow list. Other names that begin with AWS_
    are refused (they would make the node read files or run programs); the rest is not for us.

    Raises Refusal, which names the key only.
    """
    for key in secrets:
        if key.startswith("AWS_") and key not in SECRET_KEYS:
            raise invalid(f"the secret key {key} is not allowed: allowed are {', '.join(sorted(SECRET_KEYS))}")
    chosen = {key: value for key, value in secrets.items() if key in SECRET_KEYS}
    if any("\0" in value for value in chosen.values()):
        raise invalid("a secret holds a NUL byte")
    return chosen


def mount_flags(flags: Iterable[str], *, shared: bool) -> tuple[str, ...]:
    """`flags` as single options, each on the allow list of the volume's type. Raises Refusal."""
    allowed = _OWN_FLAGS | _KERNEL_FLAGS if shared else _BIND_FLAGS
    found = []
    for flag in (word for text in flags for word in text.split(",") if word):
        name = flag.partition("=")[0].replace("-", "_")
        if name not in allowed:
            raise invalid(f"the mount option {name!r} is not allowed: allowed are {', '.join(sorted(allowed))}")
        found.append(flag)
    try:
        parse_dash_o(found)
    except UsageError as error:
        raise invalid(str(error)) from None
    return tuple(found)


def asks_read_only(flags: Iterable[str]) -> bool:
    """Whether mount options make the whole mount read-only; the last word wins."""
    return bool(parse_dash_o(list(flags)).get("read_only", False))
