"""SGI images of 16 bits, of which Pillow reads only the high byte."""

from __future__ import annotations

import struct

import numpy as np

_HEADER_BYTES = 512
_START = struct.Struct(">hBBHHHH")  # magic, run lengths, bytes, dimensions, width, height, channels
_MAGIC = 474


def is_sgi16(start: bytes) -> bool:
    """Whether the first bytes of a file are those of an SGI image of 16 bits."""
    return len(start) >= _START.size and _START.unpack_from(start)[:3] in {(_MAGIC, 0, 2), (_MAGIC, 1, 2)}


def decode_sgi16(data: bytes) -> np.ndarray:
    """Decode an SGI image of 16 bits.

    Returns:
        (H, W) or (H, W, C) uint16, with the top row first.

    Raises:
        ValueError: the file is damaged.
    """
    _, compressed, _, dimensions, width, height, channels = _START.unpack_from(data)
    height, channels = (1, 1) if dimensions == 1 else (height, channels if dimensions == 3 else 1)
    n = height * channels
    if compressed:
        starts = np.frombuffer(data, ">u4", n, _HEADER_BYTES)
        lengths = np.frombuffer(data, ">u4", n, _HEADER_BYTES + 4 * n)
        rows = [_expanded(data[i : i + length], width) for i, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
        values = np.stack(rows)
    else:
        values = np.frombuffer(data, ">u2", n * width, _HEADER_BYTES).astype(np.uint16)
    planes = values.reshape(channels, height, width)[:, ::-1]  # stored from the bottom up
    return planes[0] if channels == 1 else np.ascontiguousarray(np.moveaxis(planes, 0, -1))


def _expanded(data: bytes, width: int) -> np.ndarray:
    """(W,) the values of a row that is stored in runs.

    The low seven bits of a value are a count, and 0 ends the row. With the eighth bit set, that many
    values follow; otherwise one follows, which is repeated.
    """
    codes = np.frombuffer(data[: len(data) // 2 * 2], ">u2")
    parts, position = [np.zeros(0, np.uint16)], 0
    while position < len(codes) and (count := int(codes[position]) & 0x7F):
        n = count if codes[position] & 0x80 else 1
        run = codes[position + 1 : position + 1 + n]
        parts.append(run if n == count else np.repeat(run, count))
        position += 1 + n
    row = np.concatenate(parts).astype(np.uint16)
    if len(row) != width:
        raise ValueError(f"a row has {len(row)} values instead of {width}")
    return row
