"""`picie predict`: label maps and overlays for files and folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picie.data.images import find_images, open_or_error
from picie.data.loading import read_ahead
from picie.display.colors import rgb_to_hex
from picie.display.overlays import index_image, legend, overlay
from picie.errors import InputError, UnreadableImageError
from picie.inference.segmenter import Segmenter
from picie.runtime.progress import Progress, log
from picie.version import __version__

_LEGEND = "legend"
_LABELS = ("classes.toml", "annotations", "stuffthingmaps")  # beside images/ they say that only that holds photos
_LEGEND_WIDTH = 640


def predict_files(run: str | Path, paths: Sequence[str | Path], out: str | Path, device: str = "auto") -> int:
    """Segment `paths`, files or folders, into `out`.

    For photo.jpg, `out` gets photo.png (an indexed PNG at the photo's own upright size) and photo_overlay.jpg; below them,
    folders are kept. legend.png shows what colours mean, predictions.json lists files, names and shares of pixels.

    Returns:
        The number of images segmented.

    Raises:
        InputError: no such path, no image, an output folder with other things in it, or nothing that can be read.
    """
    out = Path(out)
    segmenter = Segmenter.load(run, device)
    colors = [rgb_to_hex(color) for color in segmenter.colors]
    earlier = _earlier(out, {"run": str(Path(run).absolute()), "names": list(segmenter.names), "colors": colors})
    sources = _plan([Path(p) for p in paths], out, earlier)
    entries = {}
    skipped: dict[str, str] = {}
    with Progress() as bars, bars.bar("predict", len(sources)) as advance:
        readable = read_ahead(open_or_error, list(sources.values()), ahead=4)
        for (name, path), image in zip(sources.items(), readable, strict=True):
            advance(1)
            if isinstance(image, UnreadableImageError):
                skipped[str(path)] = str(image)
                continue
            labels = segmenter.predict(image)
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            index_image(labels, segmenter.colors).save(target.with_name(target.name + ".png"))
            overlay(image, labels, segmenter.colors).save(target.with_name(target.name + "_overlay.jpg"), quality=92)
            entries[str(path)] = {
                "labels": f"{name}.png",
                "overlay": f"{name}_overlay.jpg",
                "share": _shares(labels, segmenter),
            }
    if not entries:
        raise InputError(f"none of the {len(sources)} image files can be read; the first: {next(iter(skipped.values()))}")
    for problem in skipped.values():  # only now, so that paths without a good image are one line, not hundreds
        log.warning("skipped: %s", problem)
    legend(segmenter.names, segmenter.colors, _LEGEND_WIDTH).save(out / f"{_LEGEND}.png")
    record = {
        "picie": __version__,
        "run": str(Path(run).absolute()),
        "names": list(segmenter.names),
        "colors": colors,
        "images": earlier | entries,
        "skipped": skipped,
    }
    (out / "predictions.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return len(entries)


def _earlier(out: Path, made_by: dict[str, Any]) -> dict[str, Any]:
    """The images that `out` holds predictions of already, by the same run and names; there, others would mix colours."""
    file = out / "predictions.json"
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text("utf-8"))
        images: dict[str, Any] = record["images"]
        same = all(record[key] == value for key, value in made_by.items())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is not what picie writes; give another --out") from error
    if not same:
        raise InputError(f"--out {out}: holds predictions of another run, or under other names; give another folder")
    return images


def _plan(paths: Sequence[Path], out: Path, earlier: Mapping[str, Any]) -> dict[str, Path]:
    """Output name (no suffix, below `out`) -> image file. Raises `InputError` before anything is written."""
    found: list[tuple[Path, Path]] = []  # (name below out, file)
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give images or folders of images")
        if path.is_dir():
            labelled = (path / "images").is_dir() and any((path / name).exists() for name in _LABELS)
            folder = path / "images" if labelled else path  # label maps are no photos
            files = find_images(folder)
            if not files:
                raise InputError(f"{folder}: no image file in it or below it; give another folder")
            found += [(file.relative_to(folder), file) for file in files]
        else:
            found.append((Path(path.name), path))
    inside = next((file for _, file in found if out.resolve() in file.resolve().parents), None)
    if inside is not None:
        raise InputError(f"--out {out}: holds the image {inside}, which might be overwritten; give another folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "predictions.json").is_file():
        raise InputError(f"--out {out}: holds other files; give a new folder, so that nothing is overwritten")
    names = {file: name for name, file in found}  # a file that is given twice is one
    stems = Counter(name.with_suffix("").as_posix() for name in names.values())
    taken = {entry["labels"].removesuffix(".png"): source for source, entry in earlier.items()}
    planned: dict[str, Path] = {}
    for file, name in names.items():
        stem = name.with_suffix("").as_posix()
        if stems[stem] > 1:  # photo.jpg beside photo.png: keep both apart by their suffix
            stem = f"{stem}_{name.suffix[1:].lower()}"
        unique, number = stem, 2
        while unique in planned or unique == _LEGEND or taken.get(unique, str(file)) != str(file):
            unique, number = f"{stem}_{number}", number + 1
        planned[unique] = file
    return planned


def _shares(labels: np.ndarray, segmenter: Segmenter) -> dict[str, float]:
    """Share of the pixels of each value that occurs, largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(segmenter.names)) / labels.size
    order = np.argsort(-counts, kind="stable")
    return {segmenter.names[i]: round(float(counts[i]), 4) for i in order if counts[i] > 0}
