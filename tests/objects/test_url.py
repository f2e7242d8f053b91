"""URLs name a place exactly, say what is wrong with them, and repeat no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from s3vfs.errors import BucketMissing, UsageError
from s3vfs.objects.runner import InlineRunner
from s3vfs.objects.url import StoreUrl, open_store, parse_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:///srv/volumes/a", StoreUrl("file", "/srv/volumes/a")),
        ("file:///srv/volumes/a/", StoreUrl("file", "/srv/volumes/a")),
        ("file:///srv//x/../a%20b", StoreUrl("file", "/srv/a b")),
        ("file://localhost/srv", StoreUrl("file", "/srv")),
        ("s3://bucket", StoreUrl("s3", "bucket")),
        ("s3://bucket/", StoreUrl("s3", "bucket")),
        ("s3://my.bucket-1/team/volume/", StoreUrl("s3", "my.bucket-1", "team/volume")),
        ("s3://bucket/50%25 off", StoreUrl("s3", "bucket", "50%25 off")),
    ],
)
def test_a_url_is_read_and_written_back(text: str, expected: StoreUrl) -> None:
    assert parse_url(text) == expected
    assert parse_url(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/srv",
        "http://host/bucket",
        "s3:bucket",
        "s3://",
        "s3:///volume",
        "s3://b",
        "s3://bucket name/v",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/a?versionId=1",
        "s3://bucket/.s3vfs-x",
        "file://relative/path",
        "file://",
        "file:///nul%00byte",
    ],
)
def test_what_is_no_place_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_url(text)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_url("s3://AKID:topsecret@bucket/volume")
    assert "topsecret" not in str(caught.value)
    assert "AKID" not in str(caught.value)


def test_a_child_is_one_level_below() -> None:
    assert parse_url("s3://bucket").child("v") == StoreUrl("s3", "bucket", "v")
    assert parse_url("s3://bucket/team").child("v") == StoreUrl("s3", "bucket", "team/v")
    assert parse_url("file:///srv").child("v") == StoreUrl("file", "/srv/v")


def test_a_missing_directory_is_made_only_on_request_and_only_its_last_part(tmp_path: Path) -> None:
    async def main() -> None:
        url = f"file://{tmp_path}/volume"
        with pytest.raises(BucketMissing):
            await open_store(url, run=InlineRunner())
        store = await open_store(url, run=InlineRunner(), create=True)
        await store.aclose()
        await (await open_store(url, run=InlineRunner(), create=True)).aclose()
        assert store.url == url
        with pytest.raises(BucketMissing):
            await open_store(f"file://{tmp_path}/a/b", run=InlineRunner(), create=True)

    trio.run(main)


def test_volumes_one_level_below_can_be_listed(tmp_path: Path) -> None:
    async def main() -> None:
        for name in ("one", "two", "two.5"):
            volume = await open_store(f"file://{tmp_path}/{name}", run=InlineRunner(), create=True)
            await volume.control.put("volume.json", b"{}")
        (tmp_path / "empty").mkdir()
        parent = await open_store(f"file://{tmp_path}", run=InlineRunner())
        page = await parent.control.list_page("", delimiter="/")
        assert list(page.prefixes) == ["one/", "two.5/", "two/"]
        assert (await parent.control.get("one/volume.json")).body == b"{}"

    trio.run(main)


def test_opening_a_directory_imports_no_s3_library(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from s3vfs.objects.url import open_store\n"
        "from s3vfs.objects.runner import ThreadRunner\n"
        "import s3vfs.objects.probe, s3vfs.objects.faults, s3vfs.objects.counting\n"
        f"async def main(): await open_store('file://{tmp_path}', run=ThreadRunner(1))\n"
        "trio.run(main)\n"
        "print([name for name in ('botocore', 'aiobotocore', 'obstore', 'httpx2') if name in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
