"""`picie convert`: write the predictions of a folder in an annotation format."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from picie import registry
from picie.conversion.base import ConvertOptions, Format, Picture, Target, unused
from picie.data.images import image_size
from picie.data.loading import read_ahead
from picie.errors import InputError, none_can
from picie.inference.prediction_folder import PredictedImage, PredictionFolder, open_predictions
from picie.runtime.atomic_write import partial_file, partial_folder
from picie.runtime.interrupts import graceful_stop
from picie.runtime.output_paths import is_empty
from picie.runtime.progress import Progress, log
from picie.version import __version__

MANIFEST = "conversion.json"
# Endings that promise a file. A folder's name may have other dots, e.g. v1.2.
_FILE_SUFFIXES = frozenset(
    {".zip", ".tar", ".gz", ".tgz", ".7z", ".json", ".xml", ".csv", ".yaml", ".yml", ".txt", ".parquet", ".geojson"}
)
_BYTES = 20  # memory of a conversion for each pixel of the label map


@dataclass
class Summary:
    """The result of `convert`.

    Attributes:
        out: the file or folder.
        converted: the number of images in it.
        skipped: the reason for each image that is not, by its name.
    """

    out: Path
    converted: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def convert(
    predictions: str | Path,
    to: str,
    out: str | Path,
    options: ConvertOptions | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Write a folder of predictions in another format.

    Memory does not grow with the number of images. The result appears at `out` when it is
    complete; before, and if the call fails or is interrupted, nothing is there or what was there
    before. An image whose label map cannot be used is left out, with a warning.

    Args:
        predictions: the folder that `picie predict` wrote.
        to: a key of `picie.registry.FORMATS`, or "my_package.my_module:MyFormat".
        out: the file or folder to write.
        options: options; each format uses some of them.
        overwrite: replace an earlier conversion at `out`.
        progress: whether to show a progress bar.

    Returns:
        What was written and left out.

    Raises:
        InputError: the folder, the format, `out` or an option cannot be used, a package is
            missing, or no label map is usable.
        Stopped: SIGINT or SIGTERM arrived.
    """
    out, options = Path(out).absolute(), options or ConvertOptions()
    make = find_format(to, options)
    folder = open_predictions(predictions)
    _check_out(make, to, out, overwrite)
    target = Target(folder.names, folder.colors, folder.root, out, len(folder.images))
    out.parent.mkdir(parents=True, exist_ok=True)
    with (partial_file if make.suffixes else partial_folder)(out) as place:
        with contextlib.closing(make(target, options, place)) as writer:
            summary = _write_all(writer, folder, Progress(progress))
        if not make.suffixes:
            (place / MANIFEST).write_text(json.dumps(_manifest(to, folder, options, summary), indent=2) + "\n", "utf-8")
    for reason in summary.skipped.values():
        log.warning("skipped: %s", reason)
    if renamed := folder.new_names():
        old, new = next(iter(renamed.items()))
        log.warning(
            "%s: has the names of the time it was predicted; the run has other ones now, e.g. %r instead of %r; repeat "
            "`picie predict`, then `picie convert --overwrite`",
            folder.folder,
            new,
            old,
        )
    return summary


def find_format(to: str, options: ConvertOptions | None = None, where: str = "--to") -> type[Format]:
    """Return a format that can be used with `options`.

    Its name is trusted for this call alone, because the caller gave it.

    Args:
        to: a key of `picie.registry.FORMATS`, or "my_package.my_module:MyFormat".
        options: the options; None for the defaults.
        where: the option that holds the name, for error messages.

    Raises:
        InputError: there is no such format, it does not use an option, or a package is missing.
    """
    make = registry.find(registry.FORMATS, to, where, trusted=True)
    if not (isinstance(make, type) and issubclass(make, Format)):
        raise InputError(f"{where}: {to!r} is not a subclass of picie.conversion.base.Format; see docs/extending.md")
    _check(make, f"{where} {to}", options or ConvertOptions())
    return make


def default_name(to: str) -> str:
    """The usual name of the file or folder of a format.

    >>> default_name("coco")
    'coco.json'
    """
    make: type[Format] = registry.find(registry.FORMATS, to, "--format", trusted=True)
    return to.rpartition(":")[2] + (make.suffixes[0] if make.suffixes else "")


def _write_all(writer: Format, folder: PredictionFolder, bars: Progress) -> Summary:
    """Encode and write every image."""
    out, total = writer.target.out, len(folder.images)
    summary = Summary(out)
    encoded = read_ahead(partial(_encode, writer, folder), folder.images, ahead=4, cost=_cost)
    with graceful_stop("stopping after this image") as stop, bars, bars.bar("convert", total) as advance:
        for image, result in zip(folder.images, encoded, strict=True):
            if isinstance(result, _Skipped):
                summary.skipped[image.name] = result.reason
            else:
                writer.write(result)
                summary.converted += 1
            del result
            advance(1)
            stop.check(f"stopped; {out} was not written. Repeat the command")
        if not summary.converted:
            reason = next(iter(summary.skipped.values()))
            raise InputError(none_can(total, "prediction", "be converted", reason))
        writer.finish()
    return summary


@dataclass(frozen=True)
class _Skipped:
    """The reason why an image is left out."""

    reason: str


def _cost(image: PredictedImage) -> int:
    """The memory in bytes that the conversion of an image takes; 0 if its label map is unreadable."""
    try:
        height, width = image_size(image.labels)
    except InputError:
        return 0
    return _BYTES * height * width


def _encode(writer: Format, folder: PredictionFolder, image: PredictedImage) -> Any:
    """Return what the writer stores about an image, or why that is not possible."""
    try:
        labels = _labels(image, len(folder.names))
        return writer.encode(Picture(image.name, image.photo, image.source, image.labels, labels))
    except InputError as error:
        return _Skipped(str(error))
    except OSError as error:
        return _Skipped(f"{error.filename or image.labels}: {error.strerror or error}")
    except UnicodeError:
        return _Skipped(f"{image.photo!r}: the name is not valid Unicode; rename the photo and predict it again")
    except MemoryError:
        return _Skipped(f"{image.labels}: does not fit into memory")


def _labels(image: PredictedImage, n_segments: int) -> np.ndarray:
    """Read a label map as `Picture.labels`."""
    stored = image.read()
    kind, nothing = (np.uint8, 255) if n_segments <= 255 else (np.uint16, 65535)
    labels: np.ndarray = stored.astype(kind)
    labels[(stored < 0) | (stored >= n_segments)] = nothing
    return labels


def _check(make: type[Format], where: str, options: ConvertOptions) -> None:
    """Raise `InputError` if an option does not fit the format, or a package is missing."""
    for name in unused(options, make.options):
        accepted = ", ".join(f"--{other.replace('_', '-')}" for other in sorted(make.options)) or "none"
        raise InputError(f"{where}: does not use --{name.replace('_', '-')}; its options are: {accepted}")
    for module, extra in make.needs(options).items():
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{where}: needs {module}; pip install 'picie[{extra}]'")


def _check_out(make: type[Format], to: str, out: Path, overwrite: bool) -> None:
    """Raise `InputError` unless `out` can be written, or replaced if that is wanted."""
    if make.suffixes and out.suffix.lower() not in make.suffixes:
        raise InputError(f"--out {out}: {to} writes one file; give a name that ends in {' or '.join(make.suffixes)}")
    if not make.suffixes and out.suffix.lower() in _FILE_SUFFIXES:
        raise InputError(f"--out {out}: {to} writes a folder, not a {out.suffix} file; give a name without {out.suffix}")
    if make.suffixes and out.is_dir():
        raise InputError(f"--out {out}: is a folder; give a file")
    if not make.suffixes and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; {to} writes a folder")
    if out.is_dir() and is_empty(out):
        return
    if out.exists() and not overwrite:
        raise InputError(f"--out {out}: exists already; give another name, or --overwrite to replace it")
    if out.is_dir() and not (out / MANIFEST).is_file():
        raise InputError(f"--out {out}: holds other files than an earlier conversion; give another folder")


def _manifest(to: str, folder: PredictionFolder, options: ConvertOptions, summary: Summary) -> dict[str, Any]:
    """What a folder of converted predictions was made from."""
    made = {"picie": __version__, "format": to, "predictions": str(folder.folder.absolute()), "photos": str(folder.root)}
    return {**made, "options": asdict(options), "images": summary.converted, "skipped": summary.skipped}
