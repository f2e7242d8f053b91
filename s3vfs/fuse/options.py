"""What a FUSE mount is asked to be: names shown, time-outs, task counts. A plain value; imports no FUSE."""

from __future__ import annotations

from dataclasses import dataclass

SUBTYPE = "s3vfs"


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options of one mount. `source` is shown as its device (no credentials in it)."""

    source: str = "s3vfs"
    allow_other: bool = False
    read_only: bool = False
    # The kernel may answer from names and attributes for so long. They are withdrawn as soon as a record changes them,
    # so this is what holds while the bucket is silent or the daemon stopped (DESIGN 7: at most 30 s).
    entry_timeout_s: float = 30.0
    attribute_timeout_s: float = 30.0
    # The kernel's readahead: enough for two 1 MiB requests on the way while a third is consumed. Contents read further
    # ahead by themselves; more here would only make random page faults dearer.
    readahead_bytes: int = 2 << 20
    # Handler tasks. 8 idle ones spare starting a task a request. At `max_tasks` busy ones nothing is read from the
    # kernel, FORGET and RELEASE included; every wait for the network holds one, for at most io_timeout. Programs wait
    # with one request a thread (readahead adds 12 for the whole mount), so 512 is far above what waits on a busy
    # machine.
    min_tasks: int = 8
    max_tasks: int = 512
    # How long requests that are being handled may take to finish after a stop signal.
    grace_s: float = 10.0
    kernel_options: tuple[str, ...] = ()

    def as_fuse_options(self) -> set[str]:
        """The `-o` words for libfuse. A comma would begin another option, so libfuse wants it escaped."""
        source = self.source.replace("\\", "\\\\").replace(",", "\\,")
        words = {"default_permissions", f"fsname={source}", f"subtype={SUBTYPE}", *self.kernel_options}
        if self.allow_other:
            words.add("allow_other")
        if self.read_only:
            words.add("ro")
        return words
