"""Extended attributes and POSIX ACLs.

Which names: `user.`, `trusted.`, `security.` (file capabilities; the labels of security modules are kept as they come),
and the two ACLs of `system.`. Who may do what is checked by the kernel, but for `trusted.` in a list, which only root
may see, and for whose access ACL may keep setgid.
"""

from __future__ import annotations

import errno

from s3vfs.errors import PosixError
from s3vfs.filesystem.attributes import Attributes
from s3vfs.filesystem.contracts import Caller
from s3vfs.filesystem.core import ATTRIBUTES_WITHIN_S
from s3vfs.namespace import acl
from s3vfs.namespace.attributes import CAPABILITY
from s3vfs.namespace.ops import XATTR_DROP_SETGID, AnyOp, Removexattr, Setxattr
from s3vfs.namespace.rows import Rows

_SUPPORTED = (b"user.", b"trusted.", b"security.")


class ExtendedAttributes(Attributes):
    """getxattr, setxattr, listxattr, removexattr."""

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """The value. ENODATA where there is none, EOPNOTSUPP for names that there cannot be.

        The kernel asks for security.capability before every write, and for ACLs of everything that others may reach: so
        the answer comes from the inode's row alone where it has no attributes at all. And a write waits for no look at
        the tail, however long the bucket is silent: of a file that is open here, capabilities are those of the open or
        newer (so that an execve is as fresh as its open), and publishing takes them away in any case.
        """
        _require_supported(name)
        if name != CAPABILITY or not self._orphans.is_open(ino):
            await self._session.fresh(ATTRIBUTES_WITHIN_S)
        with self._session.view() as txn:
            rows = Rows(txn)
            inode = self._inode(rows, ino)
            value = rows.xattr(ino, name) if inode.xattrs else None
        if value is None:
            raise PosixError(errno.ENODATA)
        return acl.shown(value, inode.mode) if name == acl.ACCESS else value

    async def setxattr(self, ino: int, name: bytes, value: bytes, caller: Caller, flags: int = 0) -> None:
        """`flags` as setxattr(2): EEXIST, ENODATA. An ACL is checked, and an access ACL sets the mode."""
        _require_supported(name)
        if name == CAPABILITY and self._contents.unseen_writers(ino) - {caller.uid}:
            raise PosixError(errno.ETXTBSY)  # as setuid: see Files
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp:
            inode = self._inode(rows, ino)
            drop = name == acl.ACCESS and not self._is_in_group(inode, caller)
            return Setxattr(ino, name, value, flags | (XATTR_DROP_SETGID if drop else 0), time_ns)

        await self._commit(evaluate, ino)
        self._contents.reconsider(ino)

    async def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        await self._session.fresh(ATTRIBUTES_WITHIN_S)
        with self._session.view() as txn:
            rows = Rows(txn)
            names = list(rows.xattr_names(ino)) if self._inode(rows, ino).xattrs else []
        return [name for name in names if caller.uid == 0 or not name.startswith(b"trusted.")]

    async def removexattr(self, ino: int, name: bytes) -> None:
        """ENODATA where there is none, but of ACLs: there, nothing is what was asked for."""
        _require_supported(name)
        time_ns = self._now_ns()

        def evaluate(rows: Rows) -> AnyOp | None:
            self._inode(rows, ino)
            if name in acl.NAMES and rows.xattr(ino, name) is None:
                return None
            return Removexattr(ino, name, time_ns)

        try:
            await self._commit(evaluate, ino)
        except PosixError as error:
            if error.errno != errno.ENODATA or name not in acl.NAMES:
                raise


def _require_supported(name: bytes) -> None:
    if name in _SUPPORTED:
        raise PosixError(errno.EINVAL)  # a name space is no name
    if not name.startswith(_SUPPORTED) and name not in acl.NAMES:
        raise PosixError(errno.EOPNOTSUPP)
