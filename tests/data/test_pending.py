"""Unpublished changes as a value: against plain bytes, in two layers as in one, and through the log."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.data.pending import Pending
from s3vfs.data.rangelog import RangeLog, replay

SPAN = 40
PUBLISHED = b"p" * 25

change = st.tuples(
    st.sampled_from(["write", "punch", "truncate", "extend"]), st.integers(0, SPAN), st.integers(1, SPAN // 2)
)
changes = st.lists(change, max_size=8)


def enact(layer: Pending, kind: str, at: int, length: int, time_ns: int) -> None:
    if kind == "write":
        layer.write(at, at + length, time_ns)
    elif kind == "punch":
        layer.punch(at, at + length, time_ns)
    elif kind == "truncate":
        layer.truncate(at, time_ns)
    else:
        layer.extend(at, time_ns)


def layer_of(steps: list[tuple[str, int, int]], first_ns: int = 1) -> Pending:
    layer = Pending()
    for time_ns, step in enumerate(steps, first_ns):
        enact(layer, *step, time_ns)
    return layer


def plain(steps: list[tuple[str, int, int]]) -> bytes:
    """The same on bytes: published ones are `p`, written ones `w`."""
    data = bytearray(PUBLISHED)
    for kind, at, length in steps:
        size = {"write": at + length, "punch": 0, "truncate": at, "extend": at}[kind]
        if kind == "truncate":
            del data[size:]
        data.extend(bytes(max(0, size - len(data))))
        if kind in ("write", "punch"):
            end = min(at + length, len(data))
            data[at:end] = (b"w" if kind == "write" else b"\0") * max(0, end - at)
    return bytes(data)


def shown(layer: Pending) -> bytes:
    size = layer.size_over(len(PUBLISHED))
    below = PUBLISHED.ljust(size, b"\0")
    found = b""
    for start, end, where in layer.split(0, size):
        assert start == len(found) < end
        length = end - start
        found += {"local": b"w" * length, "zero": bytes(length), "below": below[start:end]}[where]
    return found


def check(layer: Pending) -> None:
    assert not any(layer.holes.overlaps(*written) for written in layer.dirty)
    assert layer.low is None or layer.holes.end <= layer.low


@settings(deadline=None)
@given(changes)
def test_changes_show_as_on_plain_bytes(steps: list[tuple[str, int, int]]) -> None:
    layer = layer_of(steps)
    check(layer)
    assert shown(layer) == plain(steps)
    assert bool(layer) == bool(steps)


@settings(deadline=None)
@given(changes, changes)
def test_two_layers_are_as_good_as_one(first: list[tuple[str, int, int]], second: list[tuple[str, int, int]]) -> None:
    both = layer_of(first).followed_by(layer_of(second, 1 + len(first)))
    assert not any(both.holes.overlaps(*written) for written in both.dirty)
    assert shown(both) == plain(first + second)
    assert both.dirty == layer_of(first + second).dirty


@settings(deadline=None, max_examples=30)
@given(changes, changes)
def test_the_log_tells_the_same(
    tmp_path_factory: object, first: list[tuple[str, int, int]], second: list[tuple[str, int, int]]
) -> None:
    """Written anew with `first` in it, and then entry by entry."""
    path = Path(tmp_path_factory.mktemp("log")) / "log"  # type: ignore[attr-defined]
    log = RangeLog(path, 7, "boot", 5)
    log.start(3, layer_of(first))
    for time_ns, (kind, at, length) in enumerate(second, 1 + len(first)):
        if kind == "write":
            log.write(at, at + length, time_ns)
        elif kind == "punch":
            log.punch(at, at + length, time_ns)
        elif kind == "truncate":
            log.truncate(at, time_ns)
        else:
            log.extend(at, time_ns)
    log.close()
    found = replay(path, "boot")
    assert found is not None
    assert (found.ino, found.sid, found.same_boot) == (7, 5, True)
    want = layer_of(first + second)
    left = found.remaining(lambda *_: False)
    assert shown(left) == shown(want)
    assert (left.dirty, left.low, left.mtime_ns) == (want.dirty, want.low, want.mtime_ns)
