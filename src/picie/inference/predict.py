"""`picie predict`: label maps and overlays for files and folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from picie.data.images import measure_scales, open_or_error
from picie.data.loading import read_ahead
from picie.data.remarks import Remarks, inspect
from picie.data.search import report, search_photos
from picie.display.colors import rgb_to_hex
from picie.display.overlays import index_image, legend, overlay
from picie.errors import InputError, UnreadableImageError
from picie.inference.segmenter import Segmenter
from picie.runtime.progress import Progress, log
from picie.version import __version__

_LEGEND = "legend"
_LABELS = ("classes.toml", "annotations", "stuffthingmaps")  # if one is beside images/, only images/ holds photos
_LEGEND_WIDTH = 640


def predict_files(
    run: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> int:
    """Segment `paths`, files or folders, and write the results to `out`.

    photo.jpg becomes photo.png, an indexed PNG of the photo's own upright size, and
    photo_overlay.jpg. The structure of folders is kept. legend.png shows the colours;
    predictions.json lists the files, names and shares of pixels. Label maps beside photos are left
    out; `include` and `exclude` are patterns of images in folders.

    Returns:
        The number of images segmented.

    Raises:
        InputError: a path does not exist or has no image, `out` holds other files, or no image can
            be read.
    """
    out = Path(out)
    segmenter = Segmenter.load(run, device)
    colors = [rgb_to_hex(color) for color in segmenter.colors]
    earlier = _earlier(out, {"run": str(Path(run).absolute()), "names": list(segmenter.names), "colors": colors})
    sources = _plan([Path(p) for p in paths], out, earlier, include, exclude)
    entries = {}
    skipped: dict[str, str] = {}
    remarks = Remarks()
    with Progress() as bars, bars.bar("predict", len(sources)) as advance:
        files = list(sources.values())
        reading = segmenter.reading.with_scales(measure_scales(files, segmenter.reading))
        readable = read_ahead(partial(open_or_error, reading=reading), files, ahead=4)
        for (name, path), image in zip(sources.items(), readable, strict=True):
            advance(1)
            if isinstance(image, UnreadableImageError):
                skipped[str(path)] = str(image)
                continue
            remarks.add(path.name, inspect(image))
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
    for problem in skipped.values():  # warn at the end, so that paths without any readable image give one line, not hundreds
        log.warning("skipped: %s", problem)
    for line in remarks.lines():
        log.warning("%s", line)
    legend(segmenter.names, segmenter.colors, _LEGEND_WIDTH).save(out / f"{_LEGEND}.png")
    record = {
        "picie": __version__,
        "run": str(Path(run).absolute()),
        "names": list(segmenter.names),
        "colors": colors,
        "images": earlier | entries,
        "skipped": skipped,
        "scale": reading.scales,
    }
    (out / "predictions.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return len(entries)


def _earlier(out: Path, made_by: dict[str, Any]) -> dict[str, Any]:
    """The images that `out` already has predictions of.

    Raises `InputError` if they have other names or colours.
    """
    file = out / "predictions.json"
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text("utf-8"))
        images: dict[str, Any] = record["images"]
        same = all(record[key] == value for key, value in made_by.items())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: was not written by picie; give another --out") from error
    if not same:
        raise InputError(f"--out {out}: holds predictions of another run, or with other names; give another folder")
    return images


def _plan(
    paths: Sequence[Path], out: Path, earlier: Mapping[str, Any], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, Path]:
    """Map the output name (relative to `out`, without suffix) to each image.

    Raises `InputError` before anything is written.
    """
    found: list[tuple[Path, Path]] = []  # (path relative to out, file)
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give images or folders of images")
        if path.is_dir():
            labelled = (path / "images").is_dir() and any((path / name).exists() for name in _LABELS)
            folder = path / "images" if labelled else path  # do not segment label maps
            search = search_photos(folder, include, exclude)
            report(search)
            files = search.images
            if not files:
                raise InputError(f"{folder}: has no image file, also not in its subfolders; give another folder")
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
    names = {file: name for name, file in found}  # a file that is given twice is predicted once
    stems = Counter(name.with_suffix("").as_posix() for name in names.values())
    taken = {entry["labels"].removesuffix(".png"): source for source, entry in earlier.items()}
    planned: dict[str, Path] = {}
    for file, name in names.items():
        stem = name.with_suffix("").as_posix()
        if stems[stem] > 1:  # photo.jpg beside photo.png: add the suffix to the name
            stem = f"{stem}_{name.suffix[1:].lower()}"
        unique, number = stem, 2
        while unique in planned or unique == _LEGEND or taken.get(unique, str(file)) != str(file):
            unique, number = f"{stem}_{number}", number + 1
        planned[unique] = file
    return planned


def _shares(labels: np.ndarray, segmenter: Segmenter) -> dict[str, float]:
    """The share of pixels of each value that occurs, largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(segmenter.names)) / labels.size
    order = np.argsort(-counts, kind="stable")
    return {segmenter.names[i]: round(float(counts[i]), 4) for i in order if counts[i] > 0}
