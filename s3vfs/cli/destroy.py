"""Delete a volume and everything in it, for good.

Asks for the volume's name. Refuses while sessions live: unmount them, or end dead ones with `s3vfs evict`. The volume
can no longer be mounted from the first moment on; interrupted, it is finished by running it again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field

import trio

from s3vfs.cli.arguments import add_json, add_url, store_options
from s3vfs.cli.volume import command_environment, observed, opened
from s3vfs.environment import Environment
from s3vfs.errors import NotAVolume, S3vfsError, SessionBusy, UsageError
from s3vfs.journal.keys import HEAD_KEY, VOLUME_KEY
from s3vfs.journal.volume import VolumeInfo, parse_volume
from s3vfs.namespace.rows import Rows
from s3vfs.objects.protocol import Outcome, Store

EXAMPLES = """\
  s3vfs destroy s3://bucket/volume
  s3vfs destroy file:///srv/volume --yes-destroy NAME
"""

# A copy of volume.json that says "being destroyed": written before volume.json goes, deleted last, so that a second run
# knows that what it finds there is the rest of a volume, and nobody's own objects.
MARK_KEY = "destroyed.json"

# What belongs to a volume (docs/format.md, section 1). Nothing else below the URL is touched.
PREFIXES = ("sessions/", "journal/", "checkpoint/", "data/", "probe/")

# Deletions under way at the same time; S3 takes 3,500 a second in a prefix.
_PARALLEL = 16


def configure(parser: argparse.ArgumentParser) -> None:
    add_url(parser)
    parser.add_argument("--yes-destroy", metavar="NAME", help="do not ask: NAME is the volume's name")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    deleted = trio.run(_destroy, arguments)
    if arguments.json:
        print(json.dumps({"deleted_objects": deleted}))
    else:
        print(f"destroyed: {deleted} objects are deleted")
    return 0


async def _destroy(arguments: argparse.Namespace) -> int:
    environment = command_environment()
    async with opened(arguments.url, store_options(arguments), environment) as store:
        body, volume, begun = await _volume_to_destroy(store)
        name = volume.name if begun else await _name_of_idle(store, volume, environment)
        await environment.run(confirm, name, arguments.yes_destroy)
        if not begun:
            await _close_door(store, volume, body, environment)
        deletion = _Deletion(store, environment)
        await deletion.run()
        return deletion.deleted


async def _volume_to_destroy(store: Store) -> tuple[bytes, VolumeInfo, bool]:
    """volume.json's bytes and value; True when an earlier run had begun. Raises NotAVolume."""
    for key, begun in ((VOLUME_KEY, False), (MARK_KEY, True)):
        reply = await store.control.get(key)
        if reply.outcome is Outcome.OK:
            return reply.body, parse_volume(reply.body), begun
    raise NotAVolume(f"{store.url} is not a volume: nothing is deleted")


async def _name_of_idle(store: Store, volume: VolumeInfo, environment: Environment) -> str:
    """The volume's present name. Raises SessionBusy while it has sessions."""
    volume.require_writable()
    async with observed(store, volume, environment) as session:
        with session.view() as txn:
            rows = Rows(txn)
            living = [f"{sid:016x} ({row.label})" for sid, row in rows.sessions()]
            row = rows.volume()
    if living:
        raise SessionBusy(
            f"{len(living)} sessions are alive: {', '.join(living[:5])}{' ...' if len(living) > 5 else ''}",
            hint="unmount them; s3vfs evict ends dead ones",
        )
    return row.name if row else volume.name


def confirm(name: str, given: str | None) -> None:
    """Ask for the name on the terminal unless it was given. Raises UsageError when it is another. Blocks."""
    if given is None:
        if not sys.stdin.isatty():
            raise UsageError("nobody is here to confirm", hint="--yes-destroy NAME destroys without asking")
        print(f"This deletes the volume {name!r} and all files in it. There is no way back.", file=sys.stderr)
        print("Type the volume's name to go on: ", end="", file=sys.stderr, flush=True)
        given = sys.stdin.readline().strip()
    if given != name:
        raise UsageError("that is not the volume's name: nothing is deleted")


async def _close_door(store: Store, volume: VolumeInfo, body: bytes, environment: Environment) -> None:
    """Take volume.json away, so that nobody can mount any more; give it back when somebody just had."""
    await store.control.put(MARK_KEY, body)
    await store.control.delete(VOLUME_KEY)
    try:
        await _name_of_idle(store, volume, environment)
    except S3vfsError:
        await store.control.put(VOLUME_KEY, body, if_absent=True)
        await store.control.delete(MARK_KEY)
        raise


@dataclass(slots=True)
class _Deletion:
    """Deletes what belongs to the volume, several keys at a time; any error ends it (R11)."""

    store: Store
    environment: Environment
    deleted: int = 0
    limit: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_PARALLEL))

    async def run(self) -> None:
        await self._keys([HEAD_KEY])
        for prefix in PREFIXES:
            more = True
            while more:  # from the beginning each time: what was listed is gone
                page = await self.store.control.list_page(prefix)
                await self._keys([entry.key for entry in page.entries])
                more = page.more
        await self._keys([MARK_KEY])

    async def _keys(self, keys: list[str]) -> None:
        async with trio.open_nursery() as nursery:
            for key in keys:
                await self.limit.acquire_on_behalf_of(key)
                nursery.start_soon(self._delete, key)

    async def _delete(self, key: str) -> None:
        try:
            await self.environment.run(self.store.bulk.delete, key)
            self.deleted += 1
        finally:
            self.limit.release_on_behalf_of(key)
