"""Everything that a volume's bucket says, checked without a mount: the journal replayed, the rows' invariants, and each
object that a row refers to read and compared with its checksums.

Alone: `python -m tests.acceptance.fsck URL` prints what is wrong, and the digest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import trio
import xxhash

from s3vfs.cli.volume import command_environment, observed, opened
from s3vfs.data.protocol import data_key
from s3vfs.errors import S3vfsError
from s3vfs.journal.volume import load_volume
from s3vfs.namespace.invariants import problems
from s3vfs.namespace.rows import ObjectRow, Rows
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.objects.protocol import Store
from s3vfs.objects.url import StoreOptions

_SECTOR_BYTES = 256 * 1024


@dataclass(frozen=True)
class Found:
    """`problems`: one line each, none for a sound volume. `seq` and `digest`: where the journal ended."""

    problems: list[str]
    seq: int
    digest: bytes
    objects: int


def check(url: str, *, endpoint_url: str = "") -> Found:
    """Look at all of it. Credentials and endpoint come from the environment."""
    return trio.run(_check, url, endpoint_url)


async def _check(url: str, endpoint_url: str) -> Found:
    environment = command_environment()
    options = StoreOptions(endpoint_url=endpoint_url) if endpoint_url else StoreOptions()
    async with (
        opened(url, options, environment) as store,
        observed(store, await load_volume(store), environment) as session,
    ):
        position = session.base.replica.position
        with session.view() as txn:
            found, referred = check_rows(txn, position.digest)
        for object_id, row in referred.items():
            found += await environment.run(partial(check_object, store, object_id, row.size, row.checksums))
        return Found(found, position.seq, position.digest, len(referred))


def check_rows(txn: ReadTransaction, digest: bytes) -> tuple[list[str], dict[bytes, ObjectRow]]:
    """What is wrong in the rows, and the objects that they refer to."""
    rows = Rows(txn)
    found = list(problems(rows, int.from_bytes(digest, "big")))
    keys = [key[1:] for key, _ in txn.range(b"O", b"P")]
    return found, {object_id: row for object_id in keys if (row := rows.object(object_id)) and row.references}


def check_object(store: Store, object_id: bytes, size: int, checksums: bytes) -> list[str]:
    """What is wrong with an object in the bucket."""
    key = data_key(object_id)
    try:
        body = memoryview(store.bulk.get_range(key, 0, size))
    except S3vfsError as error:
        return [f"{key}: {error}"]
    found = []
    for number, at in enumerate(range(0, size, _SECTOR_BYTES)):
        want = checksums[number * 8 : number * 8 + 8]
        if xxhash.xxh3_64_digest(body[at : at + _SECTOR_BYTES]) != want:
            found.append(f"{key}: sector {number} does not match its checksum")
    return found


def main() -> int:
    found = check(sys.argv[1])
    for problem in found.problems:
        print(problem)
    print(f"record {found.seq}, digest {found.digest.hex()}, {found.objects} objects, {len(found.problems)} problems")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
