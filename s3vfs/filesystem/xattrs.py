"""Extended attributes.

Which names: `user.` and `trusted.`, and `security.` (file capabilities; the labels of security modules are kept as they
come). POSIX ACLs and everything else of `system.` are not supported. Who may do what is checked by the kernel, but for
`trusted.` in a list, which only root may see.
"""

from __future__ import annotations

import errno

from s3vfs.errors import PosixError
from s3vfs.filesystem.contracts import Caller
from s3vfs.filesystem.core import Core
from s3vfs.namespace.ops import AnyOp, Removexattr, Setxattr
from s3vfs.namespace.rows import Rows

_SUPPORTED = (b"user.", b"trusted.", b"security.")


class ExtendedAttributes(Core):
    """getxattr, setxattr, listxattr, removexattr."""

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value. ENODATA where there is none, EOPNOTSUPP for names that there cannot be.

        The kernel asks for security.capability before every write, so the answer comes from the inode's row alone where
        it has no attributes at all.
        """
        _require_supported(name)
        with self._session.view() as txn:
            rows = Rows(txn)
            value = rows.xattr(ino, name) if self._inode(rows, ino).xattrs else None
        if value is None:
            raise PosixError(errno.ENODATA)
        return value

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """`flags` as setxattr(2): EEXIST, ENODATA."""
        _require_supported(name)
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            self._inode(rows, ino)
            return Setxattr(ino, name, value, flags, time_ns)

        await self._commit(evaluate)

    async def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        with self._session.view() as txn:
            rows = Rows(txn)
            names = list(rows.xattr_names(ino)) if self._inode(rows, ino).xattrs else []
        return [name for name in names if caller.uid == 0 or not name.startswith(b"trusted.")]

    async def removexattr(self, ino: int, name: bytes) -> None:
        _require_supported(name)
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            self._inode(rows, ino)
            return Removexattr(ino, name, time_ns)

        await self._commit(evaluate)


def _require_supported(name: bytes) -> None:
    if not name.startswith(_SUPPORTED):
        raise PosixError(errno.EOPNOTSUPP)
