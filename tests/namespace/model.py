"""A POSIX tree as simple as it can be, with its own idea of every op's errno: what apply is compared with.

Files are lists with one cell for each byte: None in a hole, else (object number, byte of that object). Nothing is
shared with the code under test but the ops and the errno numbers.
"""

from __future__ import annotations

import errno
import stat
from collections import Counter
from dataclasses import dataclass, field

from s3vfs.namespace import ops

Cell = tuple[int, int] | None
STALE = errno.ESTALE


@dataclass
class Node:
    mode: int
    uid: int
    gid: int
    mtime: int
    atime: int
    ctime: int
    target: bytes = b""
    cells: list[Cell] = field(default_factory=list)
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: set[tuple[int, bytes]] = field(default_factory=set)
    holders: set[int] = field(default_factory=set)
    version: int = 1

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def linked(self) -> bool:
        return self.is_directory or bool(self.names)

    def changed(self, time: int) -> None:
        self.ctime = max(time, self.ctime + 1)

    def entries_changed(self, time: int) -> None:
        self.mtime = max(time, self.mtime + 1)
        self.changed(time)


class Refused(Exception):
    """The model's verdict."""

    def __init__(self, number: int) -> None:
        self.errno = number


class Model:
    """`sizes`: bytes of each object that is known and not condemned. `quota`: bytes and inodes, 0 for none."""

    def __init__(self, sizes: dict[int, int], blocks: dict[int, tuple[int, int]], quota: tuple[int, int]) -> None:
        self.nodes = {1: Node(stat.S_IFDIR | 0o755, 0, 0, 100, 100, 100)}
        self.sizes = dict(sizes)
        self.condemned: set[int] = set()
        self.blocks = blocks
        self.quota = quota

    def apply(self, op: ops.Op, sid: int) -> tuple[int, int]:
        """(errno, value)"""
        try:
            return 0, getattr(self, type(op).__name__.lower())(op, sid) or 0
        except Refused as refused:
            return refused.errno, 0

    # -- what is there --------------------------------------------------------------------------------------------

    def nlink(self, ino: int) -> int:
        node = self.nodes[ino]
        if node.is_directory:
            return 2 + sum(self.nodes[child].is_directory for child in node.entries.values())
        return len(node.names)

    def used(self) -> tuple[int, int]:
        linked = [node for node in self.nodes.values() if node.linked]
        return sum(cell is not None for node in linked for cell in node.cells), len(linked)

    def live(self) -> Counter[int]:
        """Bytes of each object that are in files."""
        return Counter(cell[0] for node in self.nodes.values() for cell in node.cells if cell is not None)

    def directory(self, ino: int) -> Node:
        node = self.nodes.get(ino)
        _refuse_if(node is None, errno.ENOENT)
        assert node is not None
        _refuse_if(not node.is_directory, errno.ENOTDIR)
        return node

    def file(self, ino: int) -> Node:
        node = self.nodes.get(ino)
        _refuse_if(node is None, errno.ENOENT)
        assert node is not None
        _refuse_if(node.is_directory, errno.EISDIR)
        _refuse_if(not node.is_file, errno.EINVAL)
        return node

    def below(self, ino: int, top: int) -> bool:
        """Whether `ino` is `top` or in its subtree, found from the top."""
        todo = [top]
        while todo:
            here = todo.pop()
            if here == ino:
                return True
            todo.extend(self.nodes[here].entries.values())
        return False

    # -- names ----------------------------------------------------------------------------------------------------

    def create(self, op: ops.Create, sid: int) -> None:
        parent = self.directory(op.parent)
        _refuse_if(op.name in parent.entries, errno.EEXIST)
        _refuse_if(0 < self.quota[1] < self.used()[1] + 1, errno.EDQUOT)
        start, end = self.blocks[sid]
        _refuse_if(not start <= op.ino < end, STALE)
        self.blocks[sid] = (op.ino + 1, end)
        node = Node(op.mode, op.uid, op.gid, op.time_ns, op.time_ns, op.time_ns, op.target)
        if parent.mode & stat.S_ISGID:
            node.gid = parent.gid
            node.mode |= stat.S_ISGID if node.is_directory else 0
        self.nodes[op.ino] = node
        self.add(op.parent, op.name, op.ino, op.time_ns)

    def add(self, parent: int, name: bytes, ino: int, time: int) -> None:
        self.nodes[parent].entries[name] = ino
        self.nodes[ino].names.add((parent, name))
        if time >= 0:
            self.nodes[parent].entries_changed(time)

    def take(self, parent: int, name: bytes, time: int) -> Node:
        node = self.nodes[self.nodes[parent].entries.pop(name)]
        node.names.remove((parent, name))
        if time >= 0:
            self.nodes[parent].entries_changed(time)
        return node

    def link(self, op: ops.Link, sid: int) -> None:
        parent = self.directory(op.parent)
        node = self.nodes.get(op.ino)
        _refuse_if(node is None or not node.linked, errno.ENOENT)
        _refuse_if(op.name in parent.entries, errno.EEXIST)
        assert node is not None
        _refuse_if(node.is_directory, errno.EPERM)
        self.add(op.parent, op.name, op.ino, op.time_ns)
        node.changed(op.time_ns)

    def seen(self, parent: Node, name: bytes, ino: int) -> Node:
        _refuse_if(name not in parent.entries, errno.ENOENT)
        _refuse_if(parent.entries[name] != ino, STALE)
        return self.nodes[ino]

    def sticky(self, parent: Node, node: Node, uid: int) -> None:
        forbidden = parent.mode & stat.S_ISVTX and uid != 0 and uid != parent.uid and uid != node.uid
        _refuse_if(bool(forbidden), errno.EPERM)

    def unlink(self, op: ops.Unlink, sid: int) -> None:
        parent = self.directory(op.parent)
        node = self.seen(parent, op.name, op.ino)
        self.sticky(parent, node, op.uid)
        _refuse_if(node.is_directory, errno.EISDIR)
        self.take(op.parent, op.name, op.time_ns)
        self.lost_a_link(node, op.hold, sid, op.time_ns)

    def lost_a_link(self, node: Node, hold: bool, sid: int, time: int) -> None:
        node.changed(time)
        if hold and not node.names:
            node.holders.add(sid)

    def rmdir(self, op: ops.Rmdir, sid: int) -> None:
        parent = self.directory(op.parent)
        node = self.seen(parent, op.name, op.ino)
        self.sticky(parent, node, op.uid)
        _refuse_if(not node.is_directory, errno.ENOTDIR)
        _refuse_if(bool(node.entries), errno.ENOTEMPTY)
        self.take(op.parent, op.name, op.time_ns)
        del self.nodes[op.ino]

    def rename(self, op: ops.Rename, sid: int) -> None:
        exchange, noreplace = op.flags == 2, op.flags == 1
        parent, new_parent = self.directory(op.parent), self.directory(op.new_parent)
        node = self.seen(parent, op.name, op.ino)
        there = new_parent.entries.get(op.new_name, 0)
        _refuse_if(bool(there) and noreplace, errno.EEXIST)
        _refuse_if(there != op.replaced, STALE)
        _refuse_if(exchange and not there, errno.ENOENT)
        if there == op.ino:
            return
        _refuse_if(node.is_directory and self.below(op.new_parent, op.ino), errno.EINVAL)
        other = self.nodes[there] if there else None
        if other is not None and exchange:
            _refuse_if(other.is_directory and self.below(op.parent, there), errno.EINVAL)
        self.sticky(parent, node, op.uid)
        if other is not None:
            self.sticky(new_parent, other, op.uid)
            if not exchange:
                _refuse_if(node.is_directory and not other.is_directory, errno.ENOTDIR)
                _refuse_if(other.is_directory and not node.is_directory, errno.EISDIR)
                _refuse_if(bool(other.entries), errno.ENOTEMPTY)
        self.take(op.parent, op.name, -1)
        if other is not None:
            self.take(op.new_parent, op.new_name, -1)
            if exchange:
                self.add(op.parent, op.name, there, -1)
                other.changed(op.time_ns)
            elif other.is_directory:
                del self.nodes[there]
            else:
                self.lost_a_link(other, op.hold, sid, op.time_ns)
        self.add(op.new_parent, op.new_name, op.ino, -1)
        node.changed(op.time_ns)
        for ino in {op.parent, op.new_parent}:
            self.nodes[ino].entries_changed(op.time_ns)

    # -- attributes -------------------------------------------------------------------------------------------------

    def setattr(self, op: ops.Setattr, sid: int) -> None:
        node = self.nodes.get(op.ino)
        _refuse_if(node is None, errno.ENOENT)
        assert node is not None
        if op.mask & 8:
            self.file(op.ino)
            self.store(node, node.cells[: op.size] + [None] * (op.size - len(node.cells)))
            node.mtime = op.time_ns
        if op.mask & 6 and not op.mask & 1 and not node.is_directory:
            node.mode &= ~0o6000 if node.mode & 0o10 else ~0o4000
        if op.mask & 1:
            node.mode = node.mode & 0o170000 | op.mode & 0o7777
        node.uid = op.uid if op.mask & 2 else node.uid
        node.gid = op.gid if op.mask & 4 else node.gid
        node.atime = op.atime_ns if op.mask & 16 else node.atime
        node.mtime = op.mtime_ns if op.mask & 32 else node.mtime
        node.changed(op.time_ns)

    def setxattr(self, op: ops.Setxattr, sid: int) -> None:
        node = self.nodes.get(op.ino)
        _refuse_if(node is None, errno.ENOENT)
        assert node is not None
        _refuse_if(op.flags == 1 and op.name in node.xattrs, errno.EEXIST)
        _refuse_if(op.flags == 2 and op.name not in node.xattrs, errno.ENODATA)
        node.xattrs[op.name] = op.value
        node.changed(op.time_ns)

    def removexattr(self, op: ops.Removexattr, sid: int) -> None:
        node = self.nodes.get(op.ino)
        _refuse_if(node is None, errno.ENOENT)
        assert node is not None
        _refuse_if(op.name not in node.xattrs, errno.ENODATA)
        del node.xattrs[op.name]
        node.changed(op.time_ns)

    # -- bytes ------------------------------------------------------------------------------------------------------

    def store(self, node: Node, cells: list[Cell]) -> None:
        """New content; objects that are in no file any more are condemned."""
        if node.cells != cells:
            node.version += 1
        before = self.live()
        node.cells = cells
        after = self.live()
        for number in before:
            if not after[number]:
                self.condemned.add(number)
                self.sizes.pop(number, None)

    def placed(self, node: Node, pieces: list[tuple[int, list[Cell]]], size: int) -> list[Cell]:
        cells = list(node.cells)
        for offset, piece in pieces:
            cells += [None] * (offset + len(piece) - len(cells))
            cells[offset : offset + len(piece)] = piece
        cells += [None] * (size - len(cells))
        if node.linked and self.quota[0]:
            more = sum(cell is not None for cell in cells) - sum(cell is not None for cell in node.cells)
            _refuse_if(more > 0 and self.used()[0] + more > self.quota[0], errno.EDQUOT)
        return cells

    def piece(self, extent: ops.ExtentWrite | ops.Append) -> list[Cell]:
        number = int.from_bytes(extent.object, "big")
        start, end = extent.object_offset, extent.object_offset + extent.length
        _refuse_if(extent.length == 0, errno.EINVAL)
        _refuse_if(end > self.sizes.get(number, 0), STALE)
        return [(number, byte) for byte in range(start, end)]

    def write(self, op: ops.Write, sid: int) -> None:
        node = self.file(op.ino)
        pieces = [(extent.offset, self.piece(extent)) for extent in op.extents]
        self.rewrite(node, self.placed(node, pieces, op.size), bool(pieces), op.mtime_ns, op.time_ns)

    def append(self, op: ops.Append, sid: int) -> int:
        node = self.file(op.ino)
        offset = len(node.cells)
        self.rewrite(node, self.placed(node, [(offset, self.piece(op))], 0), True, op.mtime_ns, op.time_ns)
        return offset

    def rewrite(self, node: Node, cells: list[Cell], always: bool, mtime: int, time: int) -> None:
        version = node.version + 1 if always else None
        self.store(node, cells)
        node.version = version or node.version  # also when the same bytes are written again
        node.mtime = mtime
        node.changed(time)

    def punch(self, op: ops.Punch, sid: int) -> None:
        node = self.file(op.ino)
        _refuse_if(op.length == 0, errno.EINVAL)
        end = min(op.offset + op.length, len(node.cells))
        hole: list[Cell] = [None] * max(end - op.offset, 0)
        self.rewrite(node, self.placed(node, [(op.offset, hole)] if hole else [], 0), False, op.time_ns, op.time_ns)

    def clone(self, op: ops.Clone, sid: int) -> None:
        source, node = self.file(op.source), self.file(op.ino)
        _refuse_if(op.source_version not in (0, source.version), STALE)
        end = op.source_offset + op.length
        _refuse_if(op.length == 0 or end > len(source.cells), errno.EINVAL)
        overlap = set(range(op.source_offset, end)) & set(range(op.offset, op.offset + op.length))
        _refuse_if(source is node and bool(overlap), errno.EINVAL)
        piece = source.cells[op.source_offset : end]
        cells = self.placed(node, [(op.offset, piece)], 0)
        self.rewrite(node, cells, any(cell is not None for cell in piece), op.time_ns, op.time_ns)

    # -- orphans and objects ------------------------------------------------------------------------------------------

    def hold(self, op: ops.Hold, sid: int) -> None:
        node = self.nodes.get(op.ino)
        _refuse_if(node is None, errno.ENOENT)
        assert node is not None
        _refuse_if(node.linked, errno.EINVAL)
        node.holders.add(sid)

    def drop(self, op: ops.Drop, sid: int) -> None:
        node = self.nodes.get(op.ino)
        _refuse_if(node is None or sid not in node.holders, errno.ENOENT)
        assert node is not None
        node.holders.remove(sid)

    def reap(self, op: ops.Reap, sid: int) -> None:
        node = self.nodes.get(op.ino)
        _refuse_if(node is None or node.linked, errno.ENOENT)
        assert node is not None
        _refuse_if(bool(node.holders), errno.EBUSY)
        self.store(node, [])
        del self.nodes[op.ino]

    def condemn(self, op: ops.Condemn, sid: int) -> None:
        number = int.from_bytes(op.object, "big")
        _refuse_if(number not in self.sizes and number not in self.condemned, errno.ENOENT)
        _refuse_if(self.live()[number] > 0, errno.EBUSY)
        self.sizes.pop(number, None)
        self.condemned.add(number)

    def collected(self, op: ops.Collected, sid: int) -> None:
        number = int.from_bytes(op.object, "big")
        _refuse_if(number not in self.sizes and number not in self.condemned, errno.ENOENT)
        _refuse_if(number not in self.condemned, errno.EBUSY)
        self.condemned.remove(number)

    def declareobject(self, op: ops.DeclareObject, sid: int) -> None:
        number = int.from_bytes(op.object, "big")
        _refuse_if(number in self.sizes or number in self.condemned, errno.EEXIST)
        self.sizes[number] = op.size


def _refuse_if(condition: bool, number: int) -> None:
    if condition:
        raise Refused(number)
