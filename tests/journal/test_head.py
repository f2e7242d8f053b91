"""HEAD, volume.json and keys: unknown things are kept or refused, broken ones are called damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import trio

from s3vfs.errors import Damaged, NotAVolume, UnknownFeature
from s3vfs.journal.head import CheckpointRef, Engine, Head, HeadState, Step, encode_head, parse_head
from s3vfs.journal.keys import record_key, record_seq
from s3vfs.journal.volume import VolumeInfo, encode_volume, load_volume, parse_volume
from s3vfs.objects.memory import MemoryBucket
from tests.journal.bucket_script import SECOND, START_NS, VOLUME

HEAD = Head(
    VOLUME,
    generation=9,
    checkpoint=CheckpointRef(b"c" * 16, 40),
    boundary=30,
    steps=(Step(3, 20, START_NS), Step(4, 30, 0)),
    writer="w",
)
INFO = VolumeInfo(VOLUME, "home", 8 << 20, START_NS)


def changed(body: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(body), **fields}).encode()


def test_the_key_of_a_record_tells_its_seq_and_nothing_else_does() -> None:
    assert record_key(0x1A3) == "journal/3/00000000000001a3"
    for seq in (1, 15, 16, 2**63 - 1):
        assert record_seq(record_key(seq)) == seq
    for key in (
        "journal/4/00000000000001a3",
        "journal/3/1a3",
        "journal/3/00000000000001A3",
        "journal/0/" + "0" * 16,
        "",
    ):
        assert record_seq(key) is None


def test_head_comes_back_as_it_was_written() -> None:
    assert parse_head(encode_head(HEAD)) == HEAD
    assert parse_head(encode_head(Head(VOLUME))) == Head(VOLUME)


def test_fields_that_nobody_here_knows_are_kept_at_every_depth() -> None:
    document = json.loads(encode_head(HEAD))
    document["colour"] = {"deep": [1]}
    document["checkpoint"]["colour"] = "red"
    document["steps"][0]["colour"] = "green"
    document["engine"]["colour"] = "blue"
    head = replace(parse_head(json.dumps(document).encode()), generation=10)
    assert json.loads(encode_head(head)) == {**document, "generation": 10}


def test_a_head_without_writer_is_read() -> None:
    document = json.loads(encode_head(HEAD))
    del document["writer"]
    assert parse_head(json.dumps(document).encode()) == replace(HEAD, writer="")


@pytest.mark.parametrize(
    "fields",
    [
        {"boundary": 42},
        {"boundary": 0},
        {"boundary": 31},
        {"checkpoint": None},
        {"generation": -1},
        {"generation": 1.5},
        {"generation": True},
        {"volume": "ab"},
        {"volume": VOLUME.hex().upper()},
        {"volume": 7},
        {"steps": {}},
        {"steps": [1]},
        {"steps": [{"step": 4, "boundary": 30, "seen_ns": 0}, {"step": 4, "boundary": 30, "seen_ns": 0}]},
        {"engine": None},
        {"format": "1"},
    ],
)
def test_a_head_that_contradicts_itself_is_damaged(fields: dict[str, Any]) -> None:
    with pytest.raises(Damaged, match="HEAD"):
        parse_head(changed(encode_head(HEAD), **fields))


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, encode_head(HEAD)[:-5]])
def test_what_is_no_json_object_is_damaged(body: bytes) -> None:
    with pytest.raises(Damaged, match="HEAD"):
        parse_head(body)
    with pytest.raises(Damaged, match=r"volume\.json"):
        parse_volume(body)


def test_another_format_is_refused_before_its_fields_are_looked_at() -> None:
    with pytest.raises(UnknownFeature, match="format 2"):
        parse_head(b'{"format": 2}')
    with pytest.raises(UnknownFeature, match="format 2"):
        parse_volume(b'{"format": 2}')


def test_an_unknown_feature_forbids_writing_but_not_reading() -> None:
    head = parse_head(changed(encode_head(HEAD), features=4))
    assert head.readable
    assert not head.writable
    head.require_readable()
    with pytest.raises(UnknownFeature, match="read-only"):
        head.require_writable()
    info = parse_volume(changed(encode_volume(INFO), features=4))
    assert info.readable
    info.require_readable()
    with pytest.raises(UnknownFeature, match="read-only"):
        info.require_writable()


def test_an_unknown_engine_or_codec_forbids_both() -> None:
    head = parse_head(encode_head(replace(HEAD, engine=Engine("etcd", 1))))
    assert not head.readable
    assert not head.writable
    with pytest.raises(UnknownFeature, match="etcd"):
        head.require_readable()
    for fields in ({"codec": "aes"}, {"sector_size": 4096}):
        info = parse_volume(changed(encode_volume(INFO), **fields))
        assert not info.writable
        with pytest.raises(UnknownFeature, match="codec"):
            info.require_readable()


def test_an_answer_is_vouched_for_within_ten_minutes_and_not_from_a_clock_gone_back() -> None:
    state = HeadState(HEAD, "", START_NS)
    assert state.vouches_for(START_NS)
    assert state.vouches_for(START_NS + 600 * SECOND - 1)
    assert not state.vouches_for(START_NS + 600 * SECOND)
    assert state.vouches_for(START_NS - SECOND)
    assert not state.vouches_for(START_NS - 3600 * SECOND)
    assert not state.vouches_for(0)
    assert not HeadState(HEAD, "", 0).vouches_for(0)


def test_volume_json_comes_back_with_its_unknown_fields() -> None:
    body = changed(encode_volume(INFO), colour="red")
    info = parse_volume(body)
    assert replace(info, extra={}) == INFO
    assert json.loads(encode_volume(info)) == json.loads(body)
    with pytest.raises(Damaged, match="name is missing"):
        parse_volume(json.dumps({k: v for k, v in json.loads(body).items() if k != "name"}).encode())


def test_loading_tells_a_volume_from_a_bucket_of_files_and_from_an_unfinished_format() -> None:
    async def main() -> None:
        bucket = MemoryBucket(lambda: START_NS)
        store = bucket.open("place")
        await store.control.put("photos/1.jpg", b"...")
        with pytest.raises(NotAVolume, match="copied in"):
            await load_volume(store)
        await store.control.put("HEAD", encode_head(HEAD))
        with pytest.raises(NotAVolume, match="format again"):
            await load_volume(store)
        await store.control.put("volume.json", encode_volume(INFO))
        assert await load_volume(store) == INFO
        await store.control.put("volume.json", encode_volume(INFO)[:-3])
        with pytest.raises(Damaged):
            await load_volume(store)

    trio.run(main)
