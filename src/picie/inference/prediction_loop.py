"""The loop of `picie predict` over pictures."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from picie.data.frames import VIDEO_SUFFIXES
from picie.data.images import decoding_bytes
from picie.data.loading import default_workers, read_ahead
from picie.data.remarks import Remarks
from picie.errors import InputError, PicieError, UnreadableImageError, none_can
from picie.inference.outputs import Maps
from picie.inference.picture_prediction import PicturePrediction
from picie.inference.prediction_files import Extras, PredictionFiles
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.prediction_record import OWN_BANDS, Prediction, Record
from picie.inference.prediction_sources import Opened, grouped, measured_scales, open_source, remarks_on
from picie.inference.remote_files import Fetched, Source, fetched, temporary_folder
from picie.inference.segmenter import Segmenter
from picie.inference.tiles import Tiling
from picie.inference.write_behind import WriteBehind
from picie.runtime.atomic_write import is_disk_full
from picie.runtime.interrupts import StopRequest, graceful_stop
from picie.runtime.progress import Progress, log

# These errors affect all files.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# Bytes of memory per pixel of a picture that is being written: 4 for Pillow's RGB, 1 for the labels
# and 1 for the indexed image.
_BYTES = 6
T = TypeVar("T")
_Outcome = Prediction | str


class _Job(NamedTuple):
    """One picture that is predicted.

    Attributes:
        source: its file.
        shape: its width and height in pixels.
        name: its output name.
        size: the short side that it is computed at.
        signature: the signature of the file that it was read from.
    """

    source: Source
    shape: tuple[int, int]
    name: str
    size: int
    signature: list[int]


class PredictionLoop:
    """One call of `predict_files`."""

    def __init__(self, segmenter: Segmenter, record: Record, options: PredictOptions, tiling: Tiling | None) -> None:
        self.segmenter, self.record, self.options, self.tiling = segmenter, record, options, tiling
        # None: each image's own
        self.size = None if tiling is not None and tiling.size is None else segmenter.config.predict_size
        self.behind: WriteBehind[_Outcome]
        self.files = PredictionFiles(record, segmenter.names, segmenter.colors, options.labels)
        self.summary = Summary()
        self.pictures = PicturePrediction(
            segmenter, self.files, tiling, Extras(options.overlay, options.confidence), options.steady, options.refine
        )

    def run(self, sources: Mapping[str, Source], measured: Sequence[Source] | None = None) -> Summary:
        """Predict files.

        Args:
            sources: image files by output name.
            measured: the files that values of more than 8 bits are scaled by; None takes those
                that are predicted.
        """
        summary, remaining = self.summary, self._remaining(sources)
        summary.present = len(sources) - len(remaining)
        if summary.present:
            log.info("%d of %d images are there already; --overwrite predicts them again", summary.present, len(sources))
        try:
            self._predict_all(remaining, len(sources), measured)
            self.record.complete = True
            self._end()
        except BaseException as error:
            with contextlib.suppress(OSError):  # on a full disk the last record stays
                self._end()
            if not isinstance(error, OSError) or error.errno not in _DISK_ERRORS:
                raise
            reason = "the disk is full" if is_disk_full(error) else error.strerror
            raise PicieError(
                f"{self.record.out}: {reason}; {self._done(len(sources))}. Free some space and repeat the command to continue"
            ) from error
        if sources and not (summary.predicted or summary.present or self.record.is_shared):
            reason = next(iter(summary.skipped.values()))
            raise InputError(none_can(len(sources), "image", "be predicted", reason))
        # Warn at the end, so that the error above is one line if no image is readable.
        for reason in summary.skipped.values():
            log.warning("skipped: %s", reason)
        return summary

    def _how(self, source: Source) -> str:
        return _described(self.options, self.tiling, source)

    def _remaining(self, sources: Mapping[str, Source]) -> dict[str, Source]:
        """Return the images without a prediction, or with one that this call would change."""
        images = self.record.images
        wanted = [kind for kind in ("overlay", "confidence") if getattr(self.options, kind)]
        remaining = {
            name: source
            for name, source in sources.items()
            if (earlier := images.get(str(source))) is None
            or not self.record.is_current(source, earlier, (self.size, self._how(source)), wanted)
        }
        if changed := sum(map(self._has_other_options, remaining.values())):
            log.info("%d earlier predictions had another size or other options, and are made again", changed)
        return remaining

    def _has_other_options(self, source: Source) -> bool:
        """Whether there is a prediction of `source` by the same segments with other options."""
        earlier = self.record.images.get(str(source))
        if earlier is None or earlier.size == 0:  # 0: of other segments
            return False
        return earlier.how != self._how(source) or self.size not in {None, earlier.size}

    def _predict_all(self, remaining: Mapping[str, Source], total: int, measured: Sequence[Source] | None) -> None:
        names, remarks = {source: name for name, source in remaining.items()}, Remarks()
        with contextlib.ExitStack() as stack:
            stop, bars = (
                stack.enter_context(graceful_stop("saving what is predicted")),
                stack.enter_context(Progress(self.options.progress)),
            )
            advance, copies = stack.enter_context(bars.bar("predict", len(names))), stack.enter_context(temporary_folder())
            bands, reading = _chosen_bands(self.options) or OWN_BANDS, self.segmenter.reading
            earlier = self.record.scales.get(bands, {})
            measured = list(names) if measured is None or not names else measured
            scales = {**measured_scales(measured, reading.with_scales(earlier)), **earlier}
            if scales:
                self.record.scales[bands] = scales
            reading = reading.with_scales(scales)
            opened = partial(open_source, reading=reading, frames=self.options.frames)
            self.pictures.bars = bars
            self.behind = stack.enter_context(WriteBehind[_Outcome](self.record.out.workers or default_workers()))
            self.pictures.check_stop = lambda: self._check(stop, total)
            # closed, and so their threads ended, before the folder of the copies is deleted
            files = stack.enter_context(contextlib.closing(fetched(list(names), copies)))
            ahead = read_ahead(opened, files, ahead=4, cost=lambda file: decoding_bytes(file.path))
            opening = stack.enter_context(contextlib.closing(ahead))
            for group in grouped(opening, self.pictures.batch_size):
                for file, _, picture in group:
                    name = PurePosixPath(names[file.source]).parent / file.source.name
                    remarks.add(name.as_posix(), remarks_on(picture))
                self._predict_group(group, names, advance)
                del group, picture  # before the next one is read
                if self.files.begun:
                    self._save_if_due()
                self.pictures.check_stop()
            self.behind.finish()
        for line in remarks.lines():
            log.warning("%s", line)

    def _predict_group(self, group: Sequence[Opened], names: Mapping[Source, str], advance: Callable[[int], None]) -> None:
        """Predict pictures that have been opened. Those in memory are written in threads."""
        computed = iter(self.pictures.maps_of([picture for _, _, picture in group if isinstance(picture, Image.Image)]))
        for file, signed, picture in group:
            take = partial(self._take, file, advance)
            if isinstance(picture, UnreadableImageError):
                take(str(picture))
            else:
                size = min(picture.height, picture.width) if self.size is None else self.size
                job = _Job(file.source, (picture.width, picture.height), names[file.source], size, signed)
                if isinstance(picture, Image.Image):
                    self._predict_image(job, picture, next(computed), take)
                else:
                    take(self._tried(job, partial(self._write, job, partial(self.pictures.write, job.name, picture))))
            file.release()

    def _predict_image(self, job: _Job, image: Image.Image, maps: Maps | None, take: Callable[[_Outcome], None]) -> None:
        found = self._tried(job, partial(self.pictures.maps, image)) if maps is None else maps
        if isinstance(found, str):
            take(found)
            return
        write = partial(self._write, job, partial(self.pictures.write_maps, job.name, image, found))
        self.behind.submit(partial(self._tried, job, write), take, _BYTES * image.width * image.height)

    def _write(self, job: _Job, write: Callable[[], dict[str, Any]]) -> Prediction:
        """Write the files of one image. `write` returns the fields of its `Prediction` that name them."""
        with self.files.deleted_on_error(str(job.source)):
            prediction = Prediction(size=job.size, how=self._how(job.source), source=job.signature, **write())
            self.record.out.publish(prediction.files())
        return prediction

    def _tried(self, job: _Job, work: Callable[[], T]) -> T | str:
        """Return the result of `work` on one image, or the reason why it is not possible."""
        try:
            return work()
        except MemoryError:
            return f"{job.source}: {job.shape[0]} x {job.shape[1]} pixels do not fit into memory"
        except UnreadableImageError as error:
            return str(error)
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            return f"{job.source}: its predictions cannot be written to {self.record.out} ({error.strerror})"

    def _take(self, file: Fetched, advance: Callable[[int], None], outcome: _Outcome) -> None:
        """Record a prediction, or the reason why there is none."""
        source = str(file.source)
        advance(1)
        if isinstance(outcome, str):
            self.summary.skipped[source] = file.named(outcome)
            return
        earlier = self.record.images.get(source)
        if earlier is not None:
            self.record.out.delete(sorted(set(earlier.files()) - set(outcome.files())))
        self.record.images[source] = outcome
        self.summary.predicted += 1

    def _save_if_due(self) -> None:
        """Save the record now and then. What fails, except for the disk, is tried again later."""
        try:
            self.record.save_if_due()
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise
            log.warning("%s: the record cannot be written yet (%s); it is tried again", self.record.out, error.strerror)

    def _check(self, stop: StopRequest, total: int) -> None:
        """Raise `Stopped` if a signal has arrived, after what is being written."""
        if stop.signum is not None:
            self.behind.finish()
            stop.check(f"stopped; {self._done(total)}. Repeat the command to continue")

    def _done(self, total: int) -> str:
        return f"{self.summary.present + self.summary.predicted} of {total} images are done"

    def _end(self) -> None:
        """Save the record of the finished predictions. Raises `OSError`."""
        if self.files.begun or self.record.is_shared:
            self.record.skipped = self.summary.skipped
            self.record.save()


def _described(options: PredictOptions, tiling: Tiling | None, source: Source) -> str:
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
