"""For machines without the native extension: every lock is refused with ENOLCK.

pyfuse3 has no lock handlers, and without any the kernel grants locks by itself: two machines would both hold one. So
pyfuse3's reference to libfuse's `fuse_session_new` (its entry in the global offset table) is led through a function of
this module, which adds handlers that refuse. Whatever is not as expected raises `Unsupported`: then nothing is mounted.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Where the handlers are among the pointers of struct fuse_lowlevel_ops: the same in every libfuse 3.
_GETLK, _SETLK, _FLOCK = 31, 32, 39
_POINTER_BYTES = 8

# ELF-64, little-endian (gabi 4: Ehdr, Phdr, Dyn, Sym, Rela).
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23
_SYMBOL_BYTES, _RELOCATION_BYTES = 24, 24
# Relocations that are a pointer to a function: GLOB_DAT and JUMP_SLOT of x86-64 and of aarch64.
_POINTERS = frozenset({6, 7, 1025, 1026})

_Reply = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
# The names of the function, and the number of its arguments: one more from libfuse 3.17 on.
_SESSION_NEW = {b"fuse_session_new": 4, b"fuse_session_new_versioned": 5}


class Unsupported(Exception):
    """Locks cannot be refused here."""


class LockRefusal:
    """Sessions that pyfuse3 makes from now on refuse locks. `sessions` counts them. Lives as long as the process."""

    def __init__(self, module: Path) -> None:
        """`module`: pyfuse3's shared object, which is loaded."""
        self.sessions = 0
        self._libfuse: Any = ctypes.CDLL(str(module))  # and through it, all that it needs
        self._refuse = _Reply(self._refused)
        name, entry = _reference(module)
        self._real: Any = getattr(self._libfuse, name.decode())
        self._real.restype = ctypes.c_void_p
        self._real.argtypes = [ctypes.c_void_p] * _SESSION_NEW[name]
        prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, *[ctypes.c_void_p] * _SESSION_NEW[name])
        self._function = prototype(self._session_new)
        target = ctypes.cast(self._function, ctypes.c_void_p).value
        assert target is not None
        _write_pointer(entry, target)

    def _session_new(self, arguments: int, operations: int, size: int, *rest: int | None) -> int | None:
        if size <= _FLOCK * _POINTER_BYTES:
            return None  # pyfuse3 reports that there is no session
        copy = ctypes.create_string_buffer(ctypes.string_at(operations, size), size)
        refuse = ctypes.cast(self._refuse, ctypes.c_void_p).value
        for index in (_GETLK, _SETLK, _FLOCK):
            struct.pack_into("=Q", copy, index * _POINTER_BYTES, refuse)
        self.sessions += 1
        session: int | None = self._real(arguments, ctypes.addressof(copy), size, *rest)  # it makes its own copy
        return session

    def _refused(self, request: int, *rest: object) -> None:
        """getlk, setlk and flock: what comes after the request does not matter."""
        self._libfuse.fuse_reply_err(ctypes.c_void_p(request), errno.ENOLCK)


def _reference(module: Path) -> tuple[bytes, int]:
    """The function that pyfuse3 makes its session with, and the address of its pointer to it."""
    image = module.read_bytes()
    if image[:6] != b"\x7fELF\x02\x01":
        raise Unsupported(f"{module} is no 64-bit little-endian ELF file")
    try:
        offsets = list(_function_pointers(image))
    except (struct.error, ValueError, KeyError, StopIteration, RuntimeError) as error:
        raise Unsupported(f"{module} is not understood ({error!r})") from None
    for name, offset in offsets:
        if name in _SESSION_NEW:
            return name, _load_address(module) + offset
    raise Unsupported(f"{module} does not call fuse_session_new")


def _function_pointers(image: bytes) -> Iterator[tuple[bytes, int]]:
    """(name, address relative to where the file is loaded) of each pointer that the loader fills in."""
    table, size, count = struct.unpack_from("<Q", image, 32)[0], *struct.unpack_from("<HH", image, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", image, table + index * size) for index in range(count)]
    loaded = [(address, offset, length) for kind, _, offset, address, _, length, *_ in headers if kind == _PT_LOAD]

    def in_file(address: int) -> int:
        place: int = next(
            offset + address - start for start, offset, length in loaded if start <= address < start + length
        )
        return place

    start, length = next((offset, length) for kind, _, offset, _, _, length, *_ in headers if kind == _PT_DYNAMIC)
    dynamic = dict(struct.iter_unpack("<qQ", image[start : start + length]))
    symbols, names = in_file(dynamic[_DT_SYMTAB]), in_file(dynamic[_DT_STRTAB])
    for place, extent in ((_DT_JMPREL, _DT_PLTRELSZ), (_DT_RELA, _DT_RELASZ)):
        if place not in dynamic:
            continue
        first = in_file(dynamic[place])
        for position in range(first, first + dynamic[extent], _RELOCATION_BYTES):
            offset, info = struct.unpack_from("<QQ", image, position)
            if info & 0xFFFFFFFF in _POINTERS:
                name = names + struct.unpack_from("<I", image, symbols + (info >> 32) * _SYMBOL_BYTES)[0]
                yield image[name : image.index(b"\0", name)], offset


def _load_address(module: Path) -> int:
    """Where the file's first byte is mapped."""
    found = module.stat()
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, offset, _, inode, *_ = line.split()
        if int(inode) == found.st_ino and int(offset, 16) == 0 and line.endswith(module.name):
            return int(addresses.partition("-")[0], 16)
    raise Unsupported(f"{module} is not loaded")


def _write_pointer(address: int, value: int) -> None:
    """The loader may have made the page read-only (RELRO)."""
    page = address & -mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_WRITE):
        raise Unsupported(f"mprotect: errno {ctypes.get_errno()}")
    ctypes.c_uint64.from_address(address).value = value
