"""Who answers by itself on the strength of the session's leases: the native front, where there is one."""

from __future__ import annotations

from typing import Protocol

from s3vfs.namespace.rows import LeaseId


class Reliant(Protocol):
    """Is told at once of everything that it may not rely on any more. Calls are on the trio thread, may not raise, and
    have no checkpoint."""

    def named(self, directory: int, name: bytes) -> None:
        """The directory changes, and may have that name from now on; empty: it has no new one."""
        ...

    def estrange(self, ino: int) -> None:
        """Others have a say in this inode, or in the entries of this directory."""
        ...

    def lease_over(self, lease: LeaseId) -> None:
        """It has ended, or is ending."""
        ...

    def distrust(self) -> None:
        """No lease may be relied on, until more is heard."""
        ...


class NobodyRelies:
    """Where nothing is answered ahead of the session."""

    def named(self, directory: int, name: bytes) -> None: ...

    def estrange(self, ino: int) -> None: ...

    def lease_over(self, lease: LeaseId) -> None: ...

    def distrust(self) -> None: ...
