"""Volumes in a bucket: made, looked at, grown and deleted, each call repeatable after any error or crash.

| it ended after        | there is                        | the next create              | the next delete        |
|-----------------------|---------------------------------|------------------------------|------------------------|
| marker (live)         | a marker, no volume             | formats                      | deletes the marker     |
| format                | both                            | done                         | goes on as below       |
| marker (deleting)     | marker, the volume or a part    | ABORTED                      | destroys what is left  |
| destroy               | a marker (deleting), no volume  | ABORTED                      | deletes the marker     |

Creators that run at the same time meet at the marker (If-None-Match) and then in `format`, which allows one volume.
Knows no gRPC and no credentials: those are in the environment (csi/errand.py).
"""

from __future__ import annotations

import contextlib
import io
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from csi.marker import DELETING, FOLDER, LIVE, RETAINED, Capacity, Marker, key_of, parse_marker
from csi.refusals import Code, Refusal
from csi.volume_id import Location
from s3vfs.cli import destroy
from s3vfs.cli.volume import command_environment, commanding, opened, volume_figures
from s3vfs.environment import Environment
from s3vfs.errors import BucketMissing, SessionBusy, VolumeExists
from s3vfs.journal.conditional import occupy
from s3vfs.journal.keys import VOLUME_KEY
from s3vfs.journal.volume import parse_volume
from s3vfs.maintenance.format import format_volume
from s3vfs.namespace.ops import Config
from s3vfs.objects.protocol import Outcome, Reply, Store

_NAME_LIMIT_BYTES = 255  # of a volume's name in s3vfs
_PARALLEL = 16  # markers read at the same time


@asynccontextmanager
async def _folder(folder: Location, environment: Environment, *, create: bool = False) -> AsyncIterator[Store]:
    async with opened(folder.url, folder.options(), environment, create=create) as store:
        yield store


async def create(folder: Location, leaf: str, wanted: Marker, capacity: Capacity) -> Marker:
    """The volume `leaf` is there, as `wanted`; its marker. Raises Refusal (ALREADY_EXISTS, ABORTED), S3vfsError."""
    environment = command_environment()
    key = key_of(leaf)
    async with _folder(folder, environment, create=True) as store:
        reply = await store.control.get(key)
        if reply.outcome is not Outcome.OK:
            if (await store.control.get(f"{leaf}/{VOLUME_KEY}")).outcome is Outcome.OK:
                raise Refusal(Code.ALREADY_EXISTS, f"{store.url}/{leaf} holds a volume that this driver did not make")
            body = (await occupy(store.control, key, wanted.encoded(), environment)).body
        else:
            body = reply.body
        marker = parse_marker(body, key)
        marker.require_same(wanted.name, wanted.parameters, capacity)
        if (await store.control.head(f"{leaf}/{VOLUME_KEY}")).outcome is not Outcome.OK:
            await _format(folder.child(leaf), marker, environment)
    return marker


async def _format(location: Location, marker: Marker, environment: Environment) -> None:
    name = marker.name.encode()[:_NAME_LIMIT_BYTES].decode(errors="ignore")
    async with opened(location.url, location.options(), environment, create=True) as store:
        if (await store.control.head(destroy.MARK_KEY)).outcome is Outcome.OK:
            raise Refusal(Code.ABORTED, f"{store.url} holds the rest of a destroyed volume")
        # VolumeExists: another creator of the same marker was faster.
        with contextlib.suppress(VolumeExists):
            await format_volume(
                store,
                name=name,
                uid=os.geteuid(),
                gid=os.getegid(),
                environment=environment,
                quota_bytes=marker.capacity_bytes,
            )


async def look(folder: Location, leaf: str) -> Marker:
    """The marker of a live volume. Raises Refusal with NOT_FOUND, S3vfsError."""
    async with _folder(folder, command_environment()) as store:
        _, marker = await _live(store, leaf)
        return marker


async def look_at_volume(location: Location) -> None:
    """A volume is there, whoever made it. Raises Refusal with NOT_FOUND, S3vfsError."""
    async with _folder(location, command_environment()) as store:
        if (await store.control.head(VOLUME_KEY)).outcome is not Outcome.OK:
            raise Refusal(Code.NOT_FOUND, f"{store.url} is not a volume")


async def _live(store: Store, leaf: str) -> tuple[Reply, Marker]:
    key = key_of(leaf)
    reply = await store.control.get(key)
    if reply.outcome is Outcome.OK:
        marker = parse_marker(reply.body, key)
        if marker.state == LIVE:
            return reply, marker
    raise Refusal(Code.NOT_FOUND, f"{store.url} has no volume {leaf}")


async def expand(folder: Location, leaf: str, capacity: Capacity) -> Marker:
    """The quota is at least as asked for. Raises Refusal (NOT_FOUND, OUT_OF_RANGE, ABORTED), S3vfsError."""
    environment = command_environment()
    async with _folder(folder, environment) as store:
        reply, marker = await _live(store, leaf)
        if capacity.allows(marker.capacity_bytes):
            return marker
        if capacity.limit_bytes and not 0 < marker.capacity_bytes <= capacity.limit_bytes:
            raise Refusal(Code.OUT_OF_RANGE, f"{store.url}/{leaf} is larger already: a volume does not shrink")
        location = folder.child(leaf)
        async with (
            opened(location.url, location.options(), environment) as volume,
            commanding(volume, environment) as command,
        ):
            verdict = (await command.run([Config(None, capacity.chosen_bytes, None)])).verdicts[0]
        if verdict.errno:
            raise Refusal(Code.INTERNAL, f"the volume refuses the quota: {os.strerror(verdict.errno)}")
        return await _changed(store, leaf, reply, replace(marker, capacity_bytes=capacity.chosen_bytes))


async def _changed(store: Store, leaf: str, reply: Reply, marker: Marker) -> Marker:
    """Replace a marker that was read as `reply`. Raises Refusal with ABORTED where it is another by now. (An unknown
    outcome, StoreUnreachable, needs no reading here: whoever calls again reads first.)"""
    answer = await store.control.put(key_of(leaf), marker.encoded(), if_match=reply.etag)
    if answer.outcome is not Outcome.OK:
        raise Refusal(Code.ABORTED, f"another operation has changed the volume {leaf}")
    return marker


async def list_folder(folder: Location, start_after: str, limit: int) -> tuple[list[tuple[str, Marker]], str]:
    """Live volumes (leaf, marker) of a folder after the leaf `start_after`, at most `limit` (0: all); and the leaf to
    go on after, "" at the end. Raises Refusal, S3vfsError."""
    found: list[tuple[str, Marker]] = []
    async with _folder(folder, command_environment()) as store:
        key = key_of(start_after) if start_after else ""
        while True:
            page = await store.control.list_page(
                FOLDER, start_after=key, limit=min(limit - len(found), 1000) if limit else 1000
            )
            found += await _read_markers(store, [entry.key for entry in page.entries])
            if not page.more:
                return found, ""
            key = page.last
            if limit and len(found) >= limit:
                return found, key.removeprefix(FOLDER)


async def _read_markers(store: Store, keys: list[str]) -> list[tuple[str, Marker]]:
    read: dict[str, Marker] = {}
    limit = trio.CapacityLimiter(_PARALLEL)

    async def one(key: str) -> None:
        async with limit:
            reply = await store.control.get(key)
        if reply.outcome is Outcome.OK:
            read[key] = parse_marker(reply.body, key)

    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(one, key)
    return [(key.removeprefix(FOLDER), read[key]) for key in keys if key in read and read[key].state == LIVE]


def delete(folder: Location, leaf: str) -> None:
    """The volume is gone for the orchestrator: destroyed, or retained as its marker says. Nothing there is no error.

    Blocks; runs trio itself. Raises Refusal: FAILED_PRECONDITION while it is mounted somewhere; S3vfsError.
    """
    try:
        name = trio.run(_begin_deletion, folder, leaf)
    except BucketMissing:
        return
    if name is None:
        return
    if name:
        location = folder.child(leaf)
        arguments = Namespace(
            url=location.url,
            endpoint_url=location.endpoint_url,
            region=location.region,
            profile="",
            yes_destroy=name,
            json=True,
        )
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                destroy.run(arguments)
        except SessionBusy as error:  # mounted a moment ago: nothing is destroyed yet
            trio.run(_take_back, folder, leaf)
            raise Refusal(Code.FAILED_PRECONDITION, str(error)) from None
    trio.run(_end_deletion, folder, leaf)


async def _begin_deletion(folder: Location, leaf: str) -> str | None:
    """The name of the volume to destroy, "" where it is gone already; None when nothing is left to do."""
    environment = command_environment()
    key = key_of(leaf)
    async with _folder(folder, environment) as store:
        reply = await store.control.get(key)
        if reply.outcome is not Outcome.OK:
            return None
        marker = parse_marker(reply.body, key)
        if marker.state == RETAINED:
            return None
        if marker.on_delete == "retain":
            await _changed(store, leaf, reply, replace(marker, state=RETAINED))
            return None
        name = await _name_to_destroy(folder.child(leaf), environment)
        if marker.state == LIVE:
            await _changed(store, leaf, reply, replace(marker, state=DELETING))
        return name


async def _name_to_destroy(location: Location, environment: Environment) -> str:
    """The name of the volume there, "" where there is none. Raises Refusal while sessions live."""
    try:
        async with opened(location.url, location.options(), environment) as volume:
            if (await volume.control.head(VOLUME_KEY)).outcome is Outcome.OK:
                figures = await volume_figures(volume, environment)
                if figures["sessions"]:
                    labels = ", ".join(session["label"] for session in figures["sessions"][:5])
                    raise Refusal(
                        Code.FAILED_PRECONDITION, f"{volume.url} is mounted: {labels} (s3vfs evict ends a dead session)"
                    )
                return str(figures["volume"]["name"])
            begun = await volume.control.get(destroy.MARK_KEY)
            return parse_volume(begun.body).name if begun.outcome is Outcome.OK else ""
    except BucketMissing:  # the directory of a file:// volume that was not formatted
        return ""


async def _take_back(folder: Location, leaf: str) -> None:
    async with _folder(folder, command_environment()) as store:
        reply = await store.control.get(key_of(leaf))
        if reply.outcome is Outcome.OK:
            await _changed(store, leaf, reply, replace(parse_marker(reply.body, key_of(leaf)), state=LIVE))


async def _end_deletion(folder: Location, leaf: str) -> None:
    async with _folder(folder, command_environment()) as store:
        await store.control.delete(key_of(leaf))
