"""`picie predict`: label maps and overlays for files and folders."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from picie.config import with_overrides
from picie.config.sections import LARGEST
from picie.data.frames import VIDEO_SUFFIXES
from picie.data.images import decoding_bytes, measure_scales
from picie.data.loading import read_ahead
from picie.data.remarks import Remarks
from picie.display.colors import rgb_to_hex
from picie.errors import InputError, PicieError, UnreadableImageError, none_can
from picie.inference.input_files import find_inputs, output_names
from picie.inference.picture_prediction import PicturePrediction
from picie.inference.prediction_files import Extras, PredictionFiles
from picie.inference.prediction_record import FILE_NAME, LEGEND, OWN_BANDS, MadeBy, Prediction, Record
from picie.inference.prediction_sources import Picture, open_source, remarks_on
from picie.inference.segmenter import Segmenter
from picie.inference.tiles import Tiling, make_tiling
from picie.runtime import checkpoint
from picie.runtime.atomic_write import is_disk_full
from picie.runtime.interrupts import graceful_stop
from picie.runtime.progress import Progress, log

# These errors affect all files.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class PredictOptions:
    """Options of `predict_files`.

    Attributes:
        size: the short side in pixels that images are computed at; None uses the run's
            `Config.predict_size`, or with tiles each image's own.
        tile: the side in pixels of the tiles that images are computed in; None computes them whole.
        overlap: pixels that neighbouring tiles share; None is a quarter of `tile`, or the
            network's coarsest stride if that is more.
        bands: the bands of TIFFs, from 1, to use; empty uses those of the run.
        frames: "all" predicts every frame of animations and every page of TIFFs, "first" the first;
            of videos all are predicted.
        steady: the share of earlier frames in the labels of a video, in [0, 1); 0 predicts each
            frame on its own. None is 0.5, or 0 with tiles or `refine`.
        refine: whether borders follow the edges of the picture.
        overlay: whether to write overlays.
        confidence: whether to write the margin at each pixel.
        labels: whether overlays show the names of large regions.
        overwrite: delete the earlier predictions in the folder, and predict everything again.
        progress: whether to show a progress bar.
        max_pixels: images with more pixels are not read; None uses the run's `data.max_pixels`.
        include: patterns of the images in folders to use; empty uses all.
        exclude: patterns of the images in folders to leave out.
        root: a folder above all single files; their outputs keep the folders below it. None gives
            them no folders.
    """

    size: int | None = None
    tile: int | None = None
    overlap: int | None = None
    bands: Sequence[int] = ()
    frames: Literal["first", "all"] = "first"
    steady: float | None = None
    refine: bool = False
    overlay: bool = True
    confidence: bool = False
    labels: bool = False
    overwrite: bool = False
    progress: bool = True
    max_pixels: int | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    root: Path | None = None


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
    photo_overlay.jpg. With `confidence`, photo_confidence.png is a grey image of the margin: the
    largest probability of a segment minus the second largest, 255 for 1. The structure of folders
    is kept. legend.png shows the colours; predictions.json lists the files, names and shares of
    pixels. Label maps beside photos are left out; `include` and `exclude` are patterns of images
    in folders.

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
        if options.size > LARGEST:
            raise InputError(f"--size {options.size}: give at most {LARGEST}")
        scale = options.size / segmenter.config.views.size
        segmenter.config = with_overrides(segmenter.config, [f"evaluate.scale={scale!r}"])
    if options.max_pixels is not None:
        segmenter.reading = replace(segmenter.reading, max_pixels=options.max_pixels)
    if options.bands:
        segmenter.reading = replace(segmenter.reading, bands=tuple(options.bands))
    tiling = _tiling(segmenter, options)
    segments = segmenter.segments
    made_by = MadeBy(
        model=checkpoint.fingerprint(state["method"]),
        classifier=checkpoint.classifier_fingerprint(checkpoint.classifier_in_use(state)),
        names=list(segments.names),
        colors=[rgb_to_hex(color) for color in segmenter.colors],
        assignment=list(segments.assignment),
    )
    files = find_inputs([Path(path) for path in paths], out, options.include, options.exclude, options.root)
    _check_folder(out)
    record = Record(out, str(Path(run).absolute()), made_by)
    if options.overwrite:
        record.clear()
    _check_earlier(record)
    earlier = {path: prediction.stem for path, prediction in record.images.items()}
    names = output_names({**record.outdated(), **files}, earlier, reserved=[LEGEND])
    return _Prediction(segmenter, record, options, tiling).run(names)


def _tiling(segmenter: Segmenter, options: PredictOptions) -> Tiling | None:
    """Return the tiles that the options ask for. Raises `InputError`."""
    if options.refine and options.steady:
        raise InputError("--refine: frames are refined one by one, and not averaged; leave out --steady or --refine")
    if options.tile is None:
        if options.overlap is not None:
            raise InputError("--overlap: is the overlap of tiles; give --tile too")
        return None
    if options.steady:
        raise InputError("--steady: frames that are computed in tiles are not averaged; leave out --tile or --steady")
    return make_tiling(segmenter, options.tile, options.overlap, options.size)


def _described(options: PredictOptions, tiling: Tiling | None, source: Path) -> str:
    """The options other than `size` that change what is written for `source`, for the record."""
    is_video = source.suffix.lower() in VIDEO_SUFFIXES
    parts = {
        f"{tiling}": tiling is not None,
        _chosen_bands(options): bool(options.bands),
        "all frames": options.frames == "all",
        f"steady {options.steady}": is_video and options.steady is not None,
        "refined": options.refine,
        "names in overlays": options.overlay and options.labels and not is_video,
    }
    return "; ".join(text for text, given in parts.items() if given)


def _chosen_bands(options: PredictOptions) -> str:
    return f"bands {','.join(map(str, options.bands))}" if options.bands else ""


class _Prediction:
    """One call of `predict_files`."""

    def __init__(self, segmenter: Segmenter, record: Record, options: PredictOptions, tiling: Tiling | None) -> None:
        self.segmenter, self.record, self.options, self.tiling = segmenter, record, options, tiling
        # None: each image's own
        self.size = None if tiling is not None and tiling.size is None else segmenter.config.predict_size
        self.out = record.folder
        self.files = PredictionFiles(record, segmenter.names, segmenter.colors, options.labels)
        self.summary = Summary()
        self.pictures = PicturePrediction(
            segmenter, self.files, tiling, Extras(options.overlay, options.confidence), options.steady, options.refine
        )

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
            reason = "the disk is full" if is_disk_full(error) else error.strerror
            raise PicieError(
                f"{self.out}: {reason}; {self._done(len(sources))}. Free some space and repeat the command to continue"
            ) from error
        finally:
            self._end()
        if sources and not (summary.predicted or summary.present):
            reason = next(iter(summary.skipped.values()))
            raise InputError(none_can(len(sources), "image", "be predicted", reason))
        # Warn at the end, so that the error above is one line if no image is readable.
        for reason in summary.skipped.values():
            log.warning("skipped: %s", reason)
        return summary

    def _how(self, source: Path) -> str:
        return _described(self.options, self.tiling, source)

    def _remaining(self, sources: Mapping[str, Path]) -> dict[str, Path]:
        """Return the images without a prediction, or with one that this call would change."""
        images = self.record.images
        wanted = [kind for kind in ("overlay", "confidence") if getattr(self.options, kind)]
        return {
            name: source
            for name, source in sources.items()
            if (earlier := images.get(str(source))) is None
            or not self.record.is_current(source, earlier, (self.size, self._how(source)), wanted)
        }

    def _predict_all(self, remaining: Mapping[str, Path], total: int) -> None:
        names, remarks = {source: name for name, source in remaining.items()}, Remarks()
        stopping, bars = graceful_stop("saving what is predicted"), Progress(self.options.progress)
        with stopping as stop, bars, bars.bar("predict", len(names)) as advance:
            reading = self.segmenter.reading
            bands = _chosen_bands(self.options) or OWN_BANDS
            earlier = self.record.scales.get(bands, {})
            scales = {**measure_scales(list(names), reading.with_scales(earlier)), **earlier}
            if scales:
                self.record.scales[bands] = scales
            reading = reading.with_scales(scales)
            opened = partial(open_source, reading=reading, frames=self.options.frames)
            self.pictures.bars = bars
            self.pictures.check_stop = lambda: stop.check(f"stopped; {self._done(total)}. Repeat the command to continue")
            for source, read, picture in read_ahead(opened, list(names), ahead=4, cost=decoding_bytes):
                if isinstance(picture, UnreadableImageError):
                    reason: str | None = str(picture)
                else:
                    remarks.add((PurePosixPath(names[source]).parent / source.name).as_posix(), remarks_on(picture))
                    reason = self._predict(source, names[source], picture, read)
                if reason is None:
                    self.summary.predicted += 1
                else:
                    self.summary.skipped[str(source)] = reason
                del picture  # before the next one is read
                if self.files.begun:
                    self.record.save_if_due()
                advance(1)
                self.pictures.check_stop()
        for line in remarks.lines():
            log.warning("%s", line)

    def _done(self, total: int) -> str:
        return f"{self.summary.present + self.summary.predicted} of {total} images are done"

    def _predict(self, source: Path, name: str, picture: Picture, read: list[int]) -> str | None:
        """Write the files of one image, or return the reason why that is not possible.

        `read` is the signature of the file that the image was read from.
        """
        prediction = Prediction(
            labels=f"{name}.png",
            overlay=None,
            size=min(picture.height, picture.width) if self.size is None else self.size,
            how=self._how(source),
            source=read,
            share={},
        )
        try:
            with self.files.deleted_on_error(str(source)):
                prediction = prediction.model_copy(update=self.pictures.write(name, picture))
        except MemoryError:
            return f"{source}: {picture.width} x {picture.height} pixels do not fit into memory"
        except UnreadableImageError as error:
            return str(error)
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            return f"{source}: its predictions cannot be written to {self.out} ({error.strerror})"
        earlier = self.record.images.get(str(source))
        if earlier is not None:
            self.record.delete(sorted(set(earlier.files()) - set(prediction.files())))
        self.record.images[str(source)] = prediction
        return None

    def _end(self) -> None:
        """Save the record of the finished predictions."""
        if self.files.begun:
            self.record.skipped = self.summary.skipped
            with contextlib.suppress(OSError):  # on a full disk the last record stays
                self.record.save()


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
