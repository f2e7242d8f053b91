"""The second look: it finds every wrong byte, name and size, and waits for what is not there yet."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import parity
from bench.inputs import source_tree
from bench.parity import Check, NotThere, await_absence, await_parity


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "d" / "empty").mkdir(parents=True)
    (folder / "d" / "f").write_bytes(b"0123456789")
    (folder / "g").write_bytes(b"")
    return folder


def test_a_tree_is_what_its_manifest_says_also_through_a_file(tree: Path) -> None:
    manifest = parity.manifest_of(tree)
    assert set(manifest) == {"d", "d/empty", "d/f", "g"}
    parity.save(manifest, tree.parent / "manifest")
    assert parity.load(tree.parent / "manifest") == manifest
    assert Check(tree, manifest).look() == {}


@pytest.mark.parametrize(
    ("harm", "path", "what"),
    [
        (lambda tree: (tree / "d" / "f").write_bytes(b"0123456780"), "d/f", "other bytes"),
        (lambda tree: (tree / "d" / "f").write_bytes(bytes(10)), "d/f", "other bytes"),
        (lambda tree: os.truncate(tree / "d" / "f", 9), "d/f", "another size"),
        (lambda tree: (tree / "g").unlink(), "g", "No such file or directory"),
        (lambda tree: (tree / "d" / "more").touch(), "d", "1 names too many, such as more"),
        (lambda tree: (tree / "d" / "empty").rmdir(), "d/empty", "No such file or directory"),
    ],
)
def test_what_is_wrong_is_found(tree: Path, harm: Callable[[Path], object], path: str, what: str) -> None:
    manifest = parity.manifest_of(tree)
    harm(tree)
    assert Check(tree, manifest).look()[path] == what


def test_wrong_bytes_that_stay_are_an_error_with_the_name(tree: Path) -> None:
    manifest = parity.manifest_of(tree)
    (tree / "d" / "f").write_bytes(b"0123456780")
    with pytest.raises(NotThere, match="d/f: other bytes"):
        await_parity(tree, manifest, limit_s=0)


def test_what_comes_late_is_waited_for(tree: Path) -> None:
    manifest = parity.manifest_of(tree)
    (tree / "d" / "f").rename(tree.parent / "late")
    timer = threading.Timer(0.05, (tree.parent / "late").rename, [tree / "d" / "f"])
    timer.start()
    figures = await_parity(tree, manifest, limit_s=60)
    timer.join()
    assert figures["wrong at first look"] == 2  # the file, and the listing


def test_a_tree_is_gone_when_no_file_is_left(tree: Path) -> None:
    with pytest.raises(NotThere, match="2 files"):
        await_absence(tree, limit_s=0)
    (tree / "g").unlink()
    (tree / "d" / "f").unlink()
    await_absence(tree, limit_s=0)


def test_the_source_tree_is_the_same_every_time() -> None:
    made = source_tree(60)
    assert made == source_tree(60)
    assert len(made.files) == 60
    assert len(set(made.files.values())) == 60
    assert parity.digest(b"".join(made.files.values())) == "273acee22158288d51487bf65eab6f7d"
