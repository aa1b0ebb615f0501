"""What a format of `picie convert` is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from picie.display.colors import Color, hex_to_rgb


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `convert`. Each format uses some of them: `Format.options`.

    Attributes:
        shape: write pixels as masks, or their outlines as polygons.
        per: one object for each segment of an image, or for each of its connected components.
        min_area: leave out components of fewer pixels.
        tolerance: how far polygons are simplified, in pixels; 0 keeps every pixel. An outline
            loses corners whose triangle with their neighbours is smaller than the square of it,
            and neighbours keep a common border.
        fill_holes: add the pixels that a component encloses to it.
        photos: "link" links the photos into the folder, "copy" copies them, "none" does neither.
        url: what stands before a photo's path in its address.
    """

    shape: Literal["mask", "polygon"] = "mask"
    per: Literal["segment", "component"] = "segment"
    min_area: int = 0
    tolerance: float = 1.0
    fill_holes: bool = False
    photos: Literal["link", "copy", "none"] = "link"
    url: str | None = None


@dataclass(frozen=True)
class Target:
    """What a format is made for.

    Attributes:
        names: the name of each segment.
        colors: the "#rrggbb" of each segment.
        root: the folder of the photos.
        out: the file or folder as the user named it. It is written elsewhere first.
        n_images: the number of images, of which some may turn out to be unreadable.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...]
    root: Path
    out: Path
    n_images: int

    def rgb(self) -> list[Color]:
        """The colours as (R, G, B) in 0..255."""
        return [hex_to_rgb(color) for color in self.colors]


@dataclass(frozen=True)
class Picture:
    """A predicted image.

    Attributes:
        name: its unique name: a relative path with "/", without suffix.
        photo: the path of the photo relative to `Target.root`, with "/".
        source: the absolute path of the photo.
        map_file: the file of the label map.
        labels: (H, W) uint8 or uint16, the index of a segment, or the largest value of the type
            for pixels without one.
    """

    name: str
    photo: str
    source: Path
    map_file: Path
    labels: np.ndarray

    @property
    def height(self) -> int:
        """The height of the upright photo in pixels."""
        return int(self.labels.shape[0])

    @property
    def width(self) -> int:
        """The width of the upright photo in pixels."""
        return int(self.labels.shape[1])


class Format(ABC):
    """One annotation format. Its module is named in `picie.registry.FORMATS`.

    An instance writes one conversion: `write` is called with the result of `encode` for each
    image, and `close` once at the end, even after an error.

    Args:
        target: what is converted.
        options: the options.
        place: the file or the existing empty folder to write.
    """

    options: ClassVar[frozenset[str]]
    """The names of the `ConvertOptions` that the format uses; others are refused."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """The endings of the file that it writes. A format without one writes a folder."""

    def __init__(self, target: Target, options: ConvertOptions, place: Path) -> None:
        self.target, self.chosen, self.place = target, options, place

    @classmethod
    def needs(cls, options: ConvertOptions) -> dict[str, str]:
        """The optional packages that it needs, and the extra of picie that installs each."""
        return {}

    @abstractmethod
    def encode(self, picture: Picture) -> Any:
        """Return what `write` stores about an image. Threads call it; it must change nothing.

        Raises `InputError` for an image that cannot be converted; the others go on.
        """

    @abstractmethod
    def write(self, encoded: Any) -> None:
        """Store what `encode` returned. Raises `OSError`."""

    def finish(self) -> None:  # noqa: B027 (few formats write an end)
        """Write what comes after the last image. Raises `OSError`."""

    def close(self) -> None:  # noqa: B027 (few formats keep files open)
        """Close open files."""


MASKS = frozenset({"shape", "per", "min_area", "tolerance", "fill_holes"})
"""The options of formats that write masks or polygons."""


def unused(options: ConvertOptions, used: frozenset[str]) -> Sequence[str]:
    """The options that differ from their defaults and are not in `used`."""
    defaults = ConvertOptions()
    return [name for name in vars(defaults) if name not in used and getattr(options, name) != getattr(defaults, name)]
