"""`picie predict`: label maps and overlays for files and folders."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from picie.config import with_overrides
from picie.data.images import decoding_bytes, measure_scales, open_or_error
from picie.data.loading import read_ahead
from picie.data.remarks import Remarks, inspect
from picie.data.scaling import Reading
from picie.display.colors import rgb_to_hex
from picie.display.overlays import draw_overlay, index_image, legend
from picie.errors import InputError, PicieError, UnreadableImageError
from picie.inference.input_files import find_inputs, output_names
from picie.inference.prediction_record import FILE_NAME, LEGEND, OVERLAY, MadeBy, Prediction, Record, fingerprint, signature
from picie.inference.segmenter import Segmenter
from picie.runtime import checkpoint
from picie.runtime.atomic_write import clear_partials, write_atomically
from picie.runtime.interrupts import graceful_stop
from picie.runtime.progress import Progress, log

_LEGEND_WIDTH = 640
_MAX_JPEG = 65_500  # pixels a side; a longer overlay is a PNG
# These errors affect all files.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class PredictOptions:
    """Options of `predict_files`.

    Attributes:
        size: the short side in pixels that images are computed at; None uses the run's
            `evaluate.size`.
        overlay: whether to write overlays.
        overwrite: delete the earlier predictions in the folder, and predict everything again.
        progress: whether to show a progress bar.
        max_pixels: images with more pixels are not read; None uses the run's `data.max_pixels`.
        include: patterns of the images in folders to use; empty uses all.
        exclude: patterns of the images in folders to leave out.
    """

    size: int | None = None
    overlay: bool = True
    overwrite: bool = False
    progress: bool = True
    max_pixels: int | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()


@dataclass
class Summary:
    """The result of `predict_files`.

    Attributes:
        predicted: the number of images predicted.
        present: the number of images that had been predicted earlier.
        skipped: the reason for each image that could not be predicted, by its absolute path.
    """

    predicted: int = 0
    present: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


def predict_files(
    run: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    device: str = "auto",
    options: PredictOptions | None = None,
) -> Summary:
    """Segment `paths`, files or folders, and write the results to `out`.

    photo.jpg becomes photo.png, an indexed PNG of the photo's own upright size, and
    photo_overlay.jpg. The structure of folders is kept. legend.png shows the colours;
    predictions.json lists the files, names and shares of pixels. Label maps beside photos are left
    out; `include` and `exclude` are patterns of images in folders.

    Images that the same run has predicted into `out` earlier are skipped, so that an interrupted
    call can be repeated. If the run's segments have changed since, all images with predictions in
    `out` are predicted again. An image that cannot be read or written is skipped, with a warning.

    Raises:
        InputError: a path does not exist or has no image, `out` holds other files or predictions
            of another run, or no image can be predicted.
        Stopped: SIGINT or SIGTERM arrived.
        PicieError: the disk is full or fails.
    """
    out, options = Path(out), options or PredictOptions()
    state = checkpoint.load(run)
    segmenter = Segmenter.from_state(state, device)
    if options.size is not None:
        segmenter.config = with_overrides(segmenter.config, [f"evaluate.size={options.size}"])
    if options.max_pixels is not None:
        segmenter.reading = replace(segmenter.reading, max_pixels=options.max_pixels)
    segments = segmenter.segments
    made_by = MadeBy(
        model=fingerprint(state),
        names=list(segments.names),
        colors=[rgb_to_hex(color) for color in segmenter.colors],
        assignment=list(segments.assignment),
    )
    files = find_inputs([Path(path) for path in paths], out, options.include, options.exclude)
    _check_folder(out)
    record = Record(out, str(Path(run).absolute()), made_by)
    if options.overwrite:
        record.clear()
    _check_earlier(record)
    earlier = {path: prediction.labels.removesuffix(".png") for path, prediction in record.images.items()}
    names = output_names({**record.outdated(), **files}, earlier, reserved=[LEGEND])
    return _Prediction(segmenter, record, options).run(names)


class _Prediction:
    """One call of `predict_files`."""

    def __init__(self, segmenter: Segmenter, record: Record, options: PredictOptions) -> None:
        self.segmenter, self.record, self.options = segmenter, record, options
        self.out, self.size = record.folder, segmenter.config.evaluate_size
        self.summary = Summary()
        self.begun = False

    def run(self, sources: Mapping[str, Path]) -> Summary:
        """Predict `sources`, image files by output name."""
        summary, remaining = self.summary, self._remaining(sources)
        summary.present = len(sources) - len(remaining)
        if summary.present:
            log.info("%d of %d images are there already; --overwrite predicts them again", summary.present, len(sources))
        try:
            self._predict_all(remaining, len(sources))
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise PicieError(
                f"{self.out}: {error.strerror}; {self._done(len(sources))}. Free some space and repeat the command to continue"
            ) from error
        finally:
            self._end()
        if sources and not (summary.predicted or summary.present):
            reason = next(iter(summary.skipped.values()))
            raise InputError(f"none of the {len(sources)} image files can be predicted; the first: {reason}")
        # Warn at the end, so that the error above is one line if no image is readable.
        for reason in summary.skipped.values():
            log.warning("skipped: %s", reason)
        return summary

    def _remaining(self, sources: Mapping[str, Path]) -> dict[str, Path]:
        """Return the images without a prediction, or with one that this call would change."""
        images, overlay = self.record.images, self.options.overlay
        return {
            name: source
            for name, source in sources.items()
            if (earlier := images.get(str(source))) is None or not self.record.is_current(source, earlier, self.size, overlay)
        }

    def _predict_all(self, remaining: Mapping[str, Path], total: int) -> None:
        names, remarks = {source: name for name, source in remaining.items()}, Remarks()
        with graceful_stop() as stop, Progress(self.options.progress) as bars, bars.bar("predict", len(names)) as advance:
            reading = self.segmenter.reading.with_scales(self.record.scale)
            self.record.scale = {**measure_scales(list(names), reading), **self.record.scale}
            reading = reading.with_scales(self.record.scale)
            images = read_ahead(partial(_open, reading=reading), list(names), ahead=4, cost=decoding_bytes)
            for source, read, image in images:
                if isinstance(image, UnreadableImageError):
                    reason: str | None = str(image)
                else:
                    remarks.add(source.name, inspect(image))
                    reason = self._predict(source, names[source], image, read)
                if reason is None:
                    self.summary.predicted += 1
                else:
                    self.summary.skipped[str(source)] = reason
                del image  # before the next one is read
                if self.begun:
                    self.record.save_if_due()
                advance(1)
                stop.check(f"stopped; {self._done(total)}. Repeat the command to continue")
        for line in remarks.lines():
            log.warning("%s", line)

    def _done(self, total: int) -> str:
        return f"{self.summary.present + self.summary.predicted} of {total} images are done"

    def _predict(self, source: Path, name: str, image: Image.Image, read: list[int]) -> str | None:
        """Write the files of one image, or return the reason why that is not possible.

        `read` is the signature of the file that the image was read from.
        """
        try:
            labels = self.segmenter.predict(image)
        except MemoryError:
            return f"{source}: {image.width} x {image.height} pixels do not fit into memory"
        self._begin()
        prediction = Prediction(
            labels=f"{name}.png",
            overlay=self._overlay_name(name, image) if self.options.overlay else None,
            size=self.size,
            source=read,
            share=_shares(labels, self.segmenter),
        )
        try:
            self._write(prediction.labels, _encoded(index_image(labels, self.segmenter.colors), "PNG"))
            if prediction.overlay is not None:
                draw_overlay(image, labels, self.segmenter.colors)
                kind = "PNG" if prediction.overlay.endswith(".png") else "JPEG"
                self._write(prediction.overlay, _encoded(image, kind))
        except OSError as error:
            for file in prediction.files():
                with contextlib.suppress(OSError):
                    (self.out / file).unlink(missing_ok=True)
            if error.errno in _DISK_ERRORS:
                raise
            return f"{source}: its predictions cannot be written to {self.out} ({error.strerror})"
        self.record.images[str(source)] = prediction
        return None

    def _overlay_name(self, name: str, image: Image.Image) -> str:
        return f"{name}{OVERLAY}.{'jpg' if max(image.size) <= _MAX_JPEG else 'png'}"

    def _begin(self) -> None:
        """Write the record and the legend, once there is something to write. Raises `OSError`."""
        if not self.begun:
            self.out.mkdir(parents=True, exist_ok=True)
            clear_partials(self.out)
            self.record.save()
            self._write(f"{LEGEND}.png", _encoded(legend(self.segmenter.names, self.segmenter.colors, _LEGEND_WIDTH), "PNG"))
            self.begun = True

    def _write(self, name: str, data: bytes) -> None:
        """Write a file in one step. Raises `OSError`."""
        target = self.out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda file: file.write(data))

    def _end(self) -> None:
        """Save the record of the finished predictions."""
        if self.begun:
            self.record.skipped = self.summary.skipped
            with contextlib.suppress(OSError):  # on a full disk the last record stays
                self.record.save()


def _open(source: Path, reading: Reading) -> tuple[Path, list[int], Image.Image | UnreadableImageError]:
    """Return an image file, its signature, and the image or the error."""
    try:
        read = signature(source)
    except OSError as error:
        return source, [0, 0], UnreadableImageError(f"{source}: cannot be read ({error.strerror})")
    return source, read, open_or_error(source, reading)


def _check_folder(out: Path) -> None:
    """Raise `InputError` if `out` is a file or holds other files than predictions."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / FILE_NAME).is_file():
        raise InputError(f"--out {out}: holds other files; give a new folder, so that nothing is overwritten")


def _check_earlier(record: Record) -> None:
    """Mark the earlier predictions as outdated if the run's segments have changed.

    Raises:
        InputError: they were made by another run.
    """
    earlier, made_by = record.earlier, record.made_by
    if earlier is None:
        return
    if earlier.model != made_by.model:
        raise InputError(
            f"--out {record.folder}: holds predictions of another run, or from before further training; give another folder, "
            "or --overwrite to replace them"
        )
    if any(getattr(earlier, key) != value for key, value in made_by.model_dump().items()):
        record.mark_outdated()
        log.info("the run's segments have changed: %d earlier predictions are made again", len(record.images))


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return file.getvalue()


def _shares(labels: np.ndarray, segmenter: Segmenter) -> dict[str, float]:
    """Return the share of pixels of each value that occurs, largest first."""
    counts = np.zeros(len(segmenter.names), dtype=np.int64)
    for row in labels:  # by rows, because bincount copies its input as int64
        counts += np.bincount(row, minlength=len(counts))
    shares = counts / labels.size
    order = np.argsort(-shares, kind="stable")
    return {segmenter.names[i]: round(float(shares[i]), 4) for i in order if counts[i] > 0}
