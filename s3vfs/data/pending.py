"""What was done to one inode's contents and is not in the journal yet, as a value. Pure; knows no files.

Both the live working file and the replay of its log are made of this, so that a restart sees what the daemon saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from s3vfs.data.ranges import RangeSet

ENDLESS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Share:
    """What one commit carries of the captured changes. `parts`: bytes; `holes`: those that are made; `cut`: the
    truncate; `final`: all that the commits before it have not. `contents`: it changes bytes or size, so that it moves
    the inode's version; `version` is that of before."""

    parts: RangeSet
    holes: RangeSet
    cut: bool
    final: bool
    contents: bool
    version: int


@dataclass(slots=True)
class Pending:
    """Unpublished changes since the last capture.

    `dirty`: bytes written. `holes`: bytes punched and not written since, so disjoint from those: nothing of the
    published contents shows there. `low`: the lowest size that a truncate has set, None when there was none: nothing of
    the published contents shows at or beyond it. `end`: the end of the file as far as these changes decide it. The size
    is max(low, or else the published size, end), so foreign growth shows through and shrinking needs an observed
    truncate.
    `mtime_ns`, `atime_ns`: set by a write, a truncate or explicitly; `ctime_ns`: when the last change was made.
    """

    dirty: RangeSet = field(default_factory=RangeSet)
    holes: RangeSet = field(default_factory=RangeSet)
    low: int | None = None
    end: int = 0
    mtime_ns: int | None = None
    atime_ns: int | None = None
    ctime_ns: int = 0

    def __bool__(self) -> bool:
        if self.mtime_ns is not None or self.atime_ns is not None or self.low is not None:
            return True
        return self.dirty.total_bytes > 0 or self.holes.total_bytes > 0

    @property
    def cuts(self) -> bool:
        """Whether it hides any of the published contents but by writing over them."""
        return self.low is not None or self.holes.total_bytes > 0

    @property
    def ops(self) -> int:
        """How many ops on the inode these changes become, where one commit takes them all: `apply` moves ctime with
        each."""
        cut = self.low is not None
        holes = len(self.holes) if self.holes.total_bytes else 0
        dirty = self.dirty.total_bytes > 0
        written = dirty or self.end > (self.low or 0)
        carried = dirty or (cut and not holes)
        times = self.atime_ns is not None or (self.mtime_ns is not None and not carried)
        return cut + holes + written + times

    def write(self, start: int, end: int, time_ns: int) -> None:
        """Bytes [start, end) were written."""
        self.dirty.add(start, end)
        self.holes.remove(start, end)
        self.end = max(self.end, end)
        self._changed(time_ns)

    def punch(self, start: int, end: int, time_ns: int) -> None:
        """Bytes [start, end) became zeros that take no space; the size stays."""
        self.dirty.remove(start, end)
        self.holes.add(start, end if self.low is None else min(end, self.low))
        self._changed(time_ns)

    def extend(self, size: int, time_ns: int) -> None:
        """The file became at least so long."""
        self.end = max(self.end, size)
        self._changed(time_ns)

    def truncate(self, size: int, time_ns: int) -> None:
        """The size was set, down or up."""
        self.dirty.remove(size, ENDLESS)
        self.holes.remove(size, ENDLESS)
        self.low = size if self.low is None else min(self.low, size)
        self.end = size
        self._changed(time_ns)

    def set_times(self, atime_ns: int | None, mtime_ns: int | None, time_ns: int) -> None:
        """utimensat: None leaves a time as it is."""
        if atime_ns is not None:
            self.atime_ns = atime_ns
        if mtime_ns is not None:
            self.mtime_ns = mtime_ns
        self.ctime_ns = time_ns

    def _changed(self, time_ns: int) -> None:
        self.mtime_ns = time_ns
        self.ctime_ns = time_ns

    def size_over(self, published: int) -> int:
        """The file's size, given the size underneath."""
        return max(published if self.low is None else self.low, self.end)

    def settle(self, share: Share) -> None:
        """These changes are in the journal."""
        self.dirty.subtract(share.parts)
        self.holes.subtract(share.holes)
        if share.cut:
            self.low = None
        if share.final:
            self.dirty.clear()
            self.holes.clear()
            self.low = self.mtime_ns = self.atime_ns = None
            self.end = 0

    def followed_by(self, later: Pending) -> Pending:
        """This and then `later`, as one."""
        dirty, holes = self.dirty.copy(), self.holes.copy()
        both = Pending(dirty, holes, self.low, self.end, self.mtime_ns, self.atime_ns, self.ctime_ns)
        if later.low is not None:
            dirty.remove(later.low, ENDLESS)
            holes.remove(later.low, ENDLESS)
            both.low = later.low if self.low is None else min(self.low, later.low)
            both.end = later.end
        else:
            both.end = max(self.end, later.end)
        dirty.subtract(later.holes)
        holes.update(later.holes)
        dirty.update(later.dirty)
        holes.subtract(later.dirty)
        if later.mtime_ns is not None:
            both.mtime_ns = later.mtime_ns
        if later.atime_ns is not None:
            both.atime_ns = later.atime_ns
        both.ctime_ns = max(self.ctime_ns, later.ctime_ns)
        return both

    def split(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        """[start, end) as (start, end, where) parts: "local" = written, "zero", "below" = as it was."""
        for low, high, dirty in self.dirty.split(start, end):
            if dirty:
                yield low, high, "local"
                continue
            shown = high if self.low is None else max(low, min(high, self.low))
            for first, last, hole in self.holes.split(low, shown):
                yield first, last, "zero" if hole else "below"
            if shown < high:
                yield shown, high, "zero"
