"""apply against a simple POSIX tree: after every op equal verdicts, and at every step equal trees, bytes and counts."""

from __future__ import annotations

import stat
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from s3vfs.namespace import ops
from s3vfs.namespace.apply import apply_op
from s3vfs.namespace.digest import digest_of
from s3vfs.namespace.ops import NumberedOp, Op
from s3vfs.namespace.rows import Rows
from s3vfs.namespace.scratch import ScratchTransaction
from s3vfs.namespace.transaction import ReadTransaction
from s3vfs.namespace.verdict import Context
from tests.namespace.model import Cell, Model
from tests.namespace.volumes import OTHER, SID, TestVolume, declare, object_id

OBJECT_BYTES = 24
NAMES = (b"a", b"b", b"c")
XATTRS = (b"user.p", b"user.q")
MODES = (
    *(stat.S_IFREG | 0o644, stat.S_IFREG | 0o6755, stat.S_IFDIR | 0o755, stat.S_IFDIR | 0o1777),
    *(stat.S_IFDIR | 0o2775, stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o600),
)

COMMANDS = (
    *(["create"] * 6 + ["rename"] * 6 + ["write"] * 5 + ["clone"] * 3 + ["object"] * 2),
    *("append", "append", "punch", "punch", "link", "link", "unlink", "unlink", "rmdir", "rmdir", "setattr", "setattr"),
    *("truncate", "setxattr", "setxattr", "removexattr", "hold", "drop", "reap", "reap", "condemn", "collected"),
)


class Chooser:
    """Makes ops, most of which make sense in the model as it is. Its choices are a seeded generator's, since Hypothesis
    by itself is slow to come to deep trees; what it shrinks is the number of steps."""

    def __init__(self, model: Model, random: Random, sid: int, time: int) -> None:
        self.model, self.random, self.sid, self.time = model, random, sid, time

    def number(self) -> int:
        return self.random.randrange(60)

    def pick(self, options: list[int]) -> int:
        """One of them; now and then an inode that is of another kind or not there."""
        everything = sorted(self.model.nodes)
        choice = self.number()
        if not options or choice >= 57:
            return [*everything, 99][choice % (len(everything) + 1)]
        return options[choice % len(options)]

    def directory(self) -> int:
        return self.pick([ino for ino, node in sorted(self.model.nodes.items()) if node.is_directory])

    def file(self) -> int:
        return self.pick([ino for ino, node in sorted(self.model.nodes.items()) if node.is_file])

    def any(self) -> int:
        return self.pick(sorted(self.model.nodes))

    def name(self) -> bytes:
        return NAMES[self.number() % len(NAMES)]

    def entry(self) -> tuple[int, bytes]:
        """A directory and a name in it that is mostly there."""
        there = [(ino, name) for ino, node in sorted(self.model.nodes.items()) for name in sorted(node.entries)]
        return self.random.choice(there) if there and self.number() < 45 else (self.directory(), self.name())

    def seen(self, parent: int, name: bytes) -> int:
        """What the author saw under the name; now and then something else."""
        node = self.model.nodes.get(parent)
        there = node.entries.get(name, 0) if node is not None else 0
        choice = self.number()
        return there if choice < 55 else [0, 1, 99, *sorted(self.model.nodes)][choice % (3 + len(self.model.nodes))]

    def extent(self) -> ops.ExtentWrite:
        start, offset = self.number() % OBJECT_BYTES, self.number()
        length = 1 + self.number() % (OBJECT_BYTES - start)
        if offset == 59:
            length += OBJECT_BYTES  # behind the object's end
        return ops.ExtentWrite(offset, length, object_id(self.number() % 8), start)

    def op(self, kind: str) -> Op:
        time, number = self.time, self.number
        uid = (0, 0, 1, 2)[number() % 4]
        match kind:
            case "create":
                mode = MODES[number() % len(MODES)]
                ino = self.model.blocks[self.sid][0] + (0, 0, 0, 3, -1)[number() % 5]
                target = b"t" * (1 + number()) if stat.S_ISLNK(mode) else b""
                return ops.Create(self.directory(), self.name(), ino, mode, uid, number() % 3, 0, target, time)
            case "link":
                return ops.Link(self.file(), self.directory(), self.name(), time)
            case "unlink":
                parent, name = self.entry()
                return ops.Unlink(parent, name, self.seen(parent, name), uid, number() % 2 == 0, time)
            case "rmdir":
                parent, name = self.entry()
                return ops.Rmdir(parent, name, self.seen(parent, name), uid, time)
            case "rename":
                (parent, name), (new_parent, new_name) = self.entry(), (self.directory(), self.name())
                ino, replaced = self.seen(parent, name), self.seen(new_parent, new_name)
                flags, hold = (0, 0, 1, 2)[number() % 4], number() % 2 == 0
                return ops.Rename(parent, name, ino, new_parent, new_name, replaced, flags, uid, hold, time)
            case "setattr":
                mask, mode = number() & ~8, (0o644, 0o6755, 0o1777, 0o2775)[number() % 4]
                return ops.Setattr(self.any(), mask, mode, number() % 3, number() % 3, 0, number(), number(), time)
            case "truncate":
                return ops.Setattr(self.file(), 8, 0, 0, 0, number(), 0, 0, time)
            case "write":
                extents = tuple(self.extent() for _ in range((1, 1, 2, 0)[number() % 4]))
                return ops.Write(self.file(), extents, number(), number(), time)
            case "append":
                extent = self.extent()
                return ops.Append(self.file(), extent.length, extent.object, extent.object_offset, number(), time)
            case "punch":
                return ops.Punch(self.file(), number(), number(), time)
            case "clone":
                source, ino = self.file(), self.file()
                node = self.model.nodes.get(source)
                size = len(node.cells) if node is not None else 0
                start = number() % (size + 1)
                length = number() % (size - start + 2)
                version = node.version if node is not None and number() % 2 else number() % 3
                return ops.Clone(source, start, length, ino, number(), version, time)
            case "setxattr":
                return ops.Setxattr(self.any(), XATTRS[number() % 2], b"v" * number(), number() % 3, time)
            case "removexattr":
                return ops.Removexattr(self.any(), XATTRS[number() % 2], time)
            case "object":
                return declare(number() % 12, OBJECT_BYTES)
            case "condemn":
                return ops.Condemn(object_id(number() % 12))
            case "collected":
                return ops.Collected(object_id(number() % 12))
        orphans = [ino for ino, node in sorted(self.model.nodes.items()) if not node.linked]
        ino = self.pick(orphans)
        return {"hold": ops.Hold(ino), "drop": ops.Drop(ino), "reap": ops.Reap(ino)}[kind]


def assert_equal(rows: Rows, model: Model) -> None:
    """The whole tree, attributes, bytes, usage and objects."""
    inodes = {int.from_bytes(key[1:], "big") for key, _ in rows.txn.range(b"I", b"J")}
    assert inodes == set(model.nodes)
    for ino, node in model.nodes.items():
        inode = rows.inode(ino)
        assert inode is not None
        assert (inode.mode, inode.uid, inode.gid, inode.nlink) == (node.mode, node.uid, node.gid, model.nlink(ino))
        assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (node.atime, node.mtime, node.ctime)
        assert (inode.version, inode.target) == (node.version, node.target)
        assert inode.size == (len(node.cells) if node.is_file else len(node.target))
        assert inode.allocated == sum(cell is not None for cell in node.cells)
        assert {name: entry.ino for name, entry in rows.entries(ino)} == node.entries
        assert {name: rows.xattr(ino, name) for name in rows.xattr_names(ino)} == node.xattrs
        assert set(rows.links(ino)) == node.names
        assert set(rows.holders(ino)) == node.holders
        assert (rows.orphan(ino) is None) == node.linked
        assert cells_of(rows, ino, len(node.cells)) == node.cells
    usage = rows.usage()
    assert (usage.bytes, usage.inodes) == model.used()
    live = model.live()
    for number in range(12):
        row = rows.object(object_id(number))
        if row is None:
            assert number not in model.sizes
            assert number not in model.condemned
        else:
            assert row.live_bytes == live[number]
            assert bool(row.condemned) == (number in model.condemned)


def cells_of(rows: Rows, ino: int, size: int) -> list[Cell]:
    """A file's bytes, each by object and place, as its extents say."""
    cells: list[Cell] = [None] * size
    for offset, extent in rows.extents(ino):
        for position in range(extent.length):
            cells[offset + position] = (int.from_bytes(extent.object, "big"), extent.object_offset + position)
    return cells


def content(txn: ReadTransaction) -> dict[bytes, bytes]:
    """All rows but the sessions', whose op counts only whole records keep."""
    return {key: value for key, value in txn.range(b"", b"\xff") if key[:1] != b"S"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(50, 200), st.sampled_from([(0, 0), (0, 0), (150, 0), (0, 9), (200, 12)]))
def test_apply_and_the_model_agree(seed: int, steps: int, quota: tuple[int, int]) -> None:
    random = Random(seed)
    volume = TestVolume()
    volume.ok(*(declare(number, OBJECT_BYTES) for number in range(7)), ops.Config(None, *quota))
    model = Model(dict.fromkeys(range(7), OBJECT_BYTES), {SID: (16, 1016), OTHER: (1016, 2016)}, quota)
    base = volume.base.copy()
    layer = ScratchTransaction(base)
    for step in range(steps):
        sid = random.choice((SID, SID, OTHER))
        op = Chooser(model, random, sid, 1000 + step * 2 - random.randrange(5)).op(random.choice(COMMANDS))
        before = content(volume.base)
        [verdict] = volume.apply(op, sid=sid)
        assert (verdict.errno, verdict.value) == model.apply(op, sid), op
        assert not verdict.errno or content(volume.base) == before, op
        assert_equal(Rows(volume.base), model)
        numbered = NumberedOp(1, None, op)  # type: ignore[arg-type]
        assert apply_op(layer, numbered, Context(volume.seq, 0, sid, 1)) == verdict
    volume.sound()
    assert content(layer) == content(volume.base)
    layer.merge_into(base)
    assert content(base) == content(volume.base)
    assert volume.txn.digest == digest_of(volume.base.items())
