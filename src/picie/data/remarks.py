"""Warnings about images that were read, but perhaps not as intended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

_DARK, _BRIGHT, _FLAT = 20, 235, 3  # thresholds for values in 0..255
_TONES = ("nearly black", "nearly white", "of one colour")
_MAX_NAMES = 3
_MIN_SIDE = 4  # pixels
MORE_BANDS = "more bands"
"""Note on an image whose further bands are not used, e.g. near infrared."""


def inspect(image: Image.Image) -> tuple[str, ...]:
    """Remarks on an image: the notes of `open_image`, and whether it is almost empty.

    An image is almost empty if it is nearly black, nearly white or of one colour.
    """
    values = np.asarray(image.resize((min(64, image.width), min(64, image.height)), Image.Resampling.NEAREST))
    darkest, brightest = np.percentile(values, (1, 99))
    tone = None
    if min(image.size) < _MIN_SIDE:
        pass  # a strip of a few pixels
    elif int(values.max()) <= _DARK or brightest <= _DARK / 2:
        tone = _TONES[0]
    elif darkest >= _BRIGHT:
        tone = _TONES[1]
    elif (np.ptp(values, axis=(0, 1)) <= _FLAT).all():
        tone = _TONES[2]
    notes: tuple[str, ...] = image.info.get("notes", ())
    return notes if tone is None else (*notes, tone)


class Remarks:
    """Collects the remarks on many images and summarises them in a few lines."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = {}
        self._n = 0

    def add(self, name: str, remarks: Sequence[str]) -> None:
        """Add what `inspect` returned for the image `name`."""
        self._n += 1
        for remark in remarks:
            pages = remark.endswith(" pages")
            self._by_kind.setdefault("pages" if pages else remark, []).append(f"{name} ({remark})" if pages else name)

    def lines(self) -> list[str]:
        """One line for each kind of remark."""
        lines = []
        tones = [f"{len(names)} of {self._n} images are {tone}" for tone in _TONES if (names := self._by_kind.get(tone))]
        if tones:
            first = next(names[0] for tone in _TONES if (names := self._by_kind.get(tone)))
            lines.append(f"{', '.join(tones)}, e.g. {first}; check their bit depth, nodata value and data.scale")
        if names := self._by_kind.get("pages"):
            lines.append(f"only the first page or frame is used of {_listing(names)}")
        if names := self._by_kind.get(MORE_BANDS):
            lines.append(f"only the first bands are used, as RGB, of {_listing(names)}")
        return lines


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{', '.join(names[:_MAX_NAMES])}{more}"
