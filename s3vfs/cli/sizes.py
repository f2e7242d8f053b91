"""Sizes and counts as people write them. Pure."""

from __future__ import annotations

import re

_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
_DECIMAL = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(i?)(B?)", re.IGNORECASE)
_MAX = 2**63 - 1


def parse_size(text: str) -> int:
    """Bytes: "4096", "8MiB", "20G" (binary, as dd reads it), "1.5TB" (decimal, with its B). Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"unreadable size {text!r}: write 4096, 8MiB, 20GiB or 10TiB")
    number, unit, binary, byte = match.groups()
    unit = unit.upper()
    if binary and not unit:
        raise ValueError(f"unreadable size {text!r}: write 4096, 8MiB, 20GiB or 10TiB")
    factor = _DECIMAL[unit] if unit and byte and not binary else _BINARY[unit]
    whole, _, fraction = number.partition(".")
    size = int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)
    if size > _MAX:
        raise ValueError(f"size {text!r} is too large")
    return size


def parse_quota(text: str) -> int:
    """As parse_size; "none" is 0, which means no quota."""
    return 0 if text.lower() == "none" else parse_size(text)


def format_size(size_bytes: int | float) -> str:
    """ "0 B", "512 B", "8.0 MiB"."""
    if size_bytes < 1024:
        return f"{int(size_bytes)} B"
    value = float(size_bytes)
    for unit in "KMGTP":
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}iB"
    return f"{value / 1024:.1f} EiB"


def format_count(number: int) -> str:
    """12,345."""
    return f"{number:,}"
