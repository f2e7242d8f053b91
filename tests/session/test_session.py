"""Two clients of one volume: what one commits the other sees, and each op has exactly one verdict."""

from __future__ import annotations

import errno
from pathlib import Path

import trio
from trio.testing import MockClock

from tests.session.volume import Place, create, names


def test_a_commit_is_seen_by_another_client_after_a_fresh_look(tmp_path: Path) -> None:
    async def main() -> None:
        place = Place(tmp_path)
        await place.format()
        async with place.client(1).mount() as one, place.client(2).mount() as two:
            verdicts = await one.commit([create(one, b"hello")])
            assert [verdict.errno for verdict in verdicts] == [0]
            await two.fresh(0)
            assert names(two) == [b"hello"]
            again = await two.commit([create(two, b"hello")])
            assert again[0].errno == errno.EEXIST
            assert one.base.replica.position != two.base.replica.position
            await one.fresh(0)
            assert one.base.replica.position == two.base.replica.position

    trio.run(main, clock=MockClock(autojump_threshold=0))
