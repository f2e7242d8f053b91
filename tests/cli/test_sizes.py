"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.cli.arguments import parse_count, parse_seconds
from s3vfs.cli.sizes import format_size, parse_quota, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("8MiB", 8 << 20),
        ("20GiB", 20 << 30),
        ("10TiB", 10 << 40),
        ("20G", 20 << 30),
        ("512m", 512 << 20),
        ("1.5 KiB", 1536),
        ("1KB", 1000),
        ("2TB", 2 * 10**12),
        ("7B", 7),
    ],
)
def test_sizes_are_read_as_written(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "-1", "8 apples", "MiB", "1.2.3G", "8iB", "9999999999EiB", "0x10", "1e3"])
def test_an_unreadable_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


def test_no_quota_is_written_none() -> None:
    assert parse_quota("none") == 0
    assert parse_quota("10TiB") == 10 << 40


@given(st.integers(min_value=0, max_value=2**62))
@settings(max_examples=200, deadline=None)
def test_a_printed_size_reads_back_within_its_precision(size_bytes: int) -> None:
    assert abs(parse_size(format_size(size_bytes)) - size_bytes) <= size_bytes * 0.06


def test_counts_and_seconds() -> None:
    assert parse_count("none") == 0
    assert parse_count("12") == 12
    assert parse_seconds("0.1") == 0.1
    for text in ("-1", "nan", "inf", "soon"):
        with pytest.raises(ValueError, match="seconds"):
            parse_seconds(text)
    with pytest.raises(ValueError, match="number"):
        parse_count("1.5")
