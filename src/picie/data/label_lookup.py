"""Find the label map of an image among the files of a label folder."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path, PurePosixPath

LABEL_FOLDERS = ("labels", "annotations", "masks", "label", "annotation", "mask", "ann", "gt", "ground_truth", "segmentation")
"""Names of folders with label maps, in the order of preference."""

_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".npy")
_SUFFIXES = (
    *("", "_mask", "_masks", "_label", "_labels", "_labelIds", "_gtFine_labelIds", "_gt", "_seg", "_segmentation"),
    *("_annotation", "_annotations", "_L", "-mask", "-label", ".mask", ".label"),
)
_IMAGE_SUFFIX = "_leftImg8bit"  # suffix of Cityscapes images; their labels have another suffix


class LabelLookup:
    """The label maps of a folder by the names of their images.

    The label of a/p0.jpg is a/p0.png, or a file with another usual ending (in any case) or suffix,
    such as a/p0_mask.tif or a/p0.jpg.png.

    Args:
        folder: the folder with the label maps.
        suffix: the only suffix to accept; None: the usual ones.
    """

    def __init__(self, folder: Path, suffix: str | None = None) -> None:
        self.folder, self.suffix = folder, suffix

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Files by their path below the folder without ending, and again in lower case."""
        found: dict[str, tuple[int, Path]] = {}
        for name, folders, files in os.walk(self.folder, followlinks=True):
            folders.sort()
            for file in sorted(files):
                path = Path(name, file)
                ending = path.suffix.lower()
                if ending in _ENDINGS and not file.startswith("."):
                    key = path.relative_to(self.folder).with_suffix("").as_posix()
                    entry = (_ENDINGS.index(ending), path)
                    for spelling in (key, f"lower:{key.lower()}"):
                        found[spelling] = min(found.get(spelling, entry), entry, key=lambda e: e[0])
        return {key: path for key, (_, path) in found.items()}

    def find(self, image: str) -> Path | None:
        """The label map of an image, or None if there is none.

        `image` is the path of the image below the folder of images.
        """
        stem = PurePosixPath(image).with_suffix("").as_posix()
        for suffix in _SUFFIXES if self.suffix is None else (self.suffix,):
            for base in (stem, image, stem.removesuffix(_IMAGE_SUFFIX)):
                key = f"{base}{suffix}"
                path = self._files.get(key) or self._files.get(f"lower:{key.lower()}")
                if path is not None and path.is_file():
                    return path
        return None

    def hint(self, image: str) -> str:
        """Advice about a missing label, based on the files in the folder."""
        stem = PurePosixPath(image).with_suffix("").as_posix()
        keys = [key for key in self._files if not key.startswith("lower:")]
        similar = next((key for key in sorted(keys) if key.startswith(stem)), None)
        if similar is not None:
            return f"found {self._files[similar]}: set data.label_suffix={similar[len(stem) :]}"
        if keys:
            return f"the folder has {self._files[min(keys)].name} and others; rename them, or set data.label_suffix"
        return "add it or remove the image"
