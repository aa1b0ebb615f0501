"""File sizes as text."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")


def decimal(size: int) -> str:
    """A number of bytes in decimal units.

    >>> decimal(999), decimal(1_234_567)
    ('999 bytes', '1.2 MB')
    """
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    power = 1
    while size >= 1000 ** (power + 1) and power < len(_UNITS):
        power += 1
    return f"{size / 1000**power:,.1f} {_UNITS[power - 1]}"
