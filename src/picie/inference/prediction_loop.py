"""The loop of `picie predict` over pictures."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence
from functools import partial

from picie.data.frames import VIDEO_SUFFIXES
from picie.data.images import decoding_bytes
from picie.data.loading import read_ahead
from picie.data.remarks import Remarks
from picie.errors import InputError, PicieError, UnreadableImageError
from picie.inference.output_folder import Uploads
from picie.inference.picture_prediction import PicturePrediction
from picie.inference.prediction_files import Extras, PredictionFiles
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.prediction_record import Prediction, Record
from picie.inference.prediction_sources import Picture, measured_scales, open_source, remarks_on
from picie.inference.remote_files import Source, fetched, temporary_folder
from picie.inference.segmenter import Segmenter
from picie.inference.tiles import Tiling
from picie.runtime.atomic_write import is_disk_full
from picie.runtime.interrupts import graceful_stop
from picie.runtime.progress import Progress, log

# These errors affect all files.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


class PredictionLoop:
    """One call of `predict_files`."""

    def __init__(self, segmenter: Segmenter, record: Record, options: PredictOptions, tiling: Tiling | None) -> None:
        self.segmenter, self.record, self.options, self.tiling = segmenter, record, options, tiling
        # None: each image's own
        self.size = None if tiling is not None and tiling.size is None else segmenter.config.evaluate_size
        self.uploads = Uploads()
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
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            reason = "the disk is full" if is_disk_full(error) else error.strerror
            raise PicieError(
                f"{self.record.out}: {reason}; {self._done(len(sources))}. Free some space and repeat the command to continue"
            ) from error
        finally:
            self._end()
        if sources and not (summary.predicted or summary.present or self.record.is_shared):
            reason = next(iter(summary.skipped.values()))
            raise InputError(f"none of the {len(sources)} image files can be predicted; the first: {reason}")
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
        return {
            name: source
            for name, source in sources.items()
            if (earlier := images.get(str(source))) is None
            or not self.record.is_current(source, earlier, (self.size, self._how(source)), wanted)
        }

    def _predict_all(self, remaining: Mapping[str, Source], total: int, measured: Sequence[Source] | None) -> None:
        names, remarks = {source: name for name, source in remaining.items()}, Remarks()
        with contextlib.ExitStack() as stack:
            stop, bars = stack.enter_context(graceful_stop()), stack.enter_context(Progress(self.options.progress))
            advance, copies = stack.enter_context(bars.bar("predict", len(names))), stack.enter_context(temporary_folder())
            if all(_bands(earlier.how) != _chosen_bands(self.options) for earlier in self.record.known.values()):
                self.record.scale = {}  # it is that of other bands
            reading = self.segmenter.reading.with_scales(self.record.scale)
            measured = list(names) if measured is None or not names else measured
            self.record.scale = {**measured_scales(measured, reading), **self.record.scale}
            reading = reading.with_scales(self.record.scale)
            opened = partial(open_source, reading=reading, frames=self.options.frames)
            self.pictures.bars = bars
            self.pictures.check_stop = lambda: stop.check(f"stopped; {self._done(total)}. Repeat the command to continue")
            files = fetched(list(names), copies)
            for file, read, picture in read_ahead(opened, files, ahead=4, cost=lambda file: decoding_bytes(file.path)):
                if isinstance(picture, UnreadableImageError):
                    reason: str | None = str(picture)
                else:
                    remarks.add(file.source.name, remarks_on(picture))
                    reason = self._predict(file.source, names[file.source], picture, read)
                if reason is not None:
                    self.summary.skipped[str(file.source)] = file.named(reason)
                del picture  # before the next one is read
                file.release()
                if self.files.begun:
                    self.record.save_if_due()
                advance(1)
                self.pictures.check_stop()
            self.uploads.finish()
        for line in remarks.lines():
            log.warning("%s", line)

    def _done(self, total: int) -> str:
        return f"{self.summary.present + self.summary.predicted} of {total} images are done"

    def _predict(self, source: Source, name: str, picture: Picture, read: list[int]) -> str | None:
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
            return f"{source}: its predictions cannot be written to {self.record.out} ({error.strerror})"
        self.uploads.add(self.record.out.publish(prediction.files()), partial(self._take, source, prediction))
        return None

    def _take(self, source: Source, prediction: Prediction, failed: OSError | None) -> None:
        """Record a prediction whose files are where they belong, or the reason why they are not."""
        if failed is not None:
            self.summary.skipped[str(source)] = (
                f"{source}: its predictions cannot be written to {self.record.out} ({failed.strerror})"
            )
            return
        earlier = self.record.images.get(str(source))
        if earlier is not None:
            self.record.out.delete(sorted(set(earlier.files()) - set(prediction.files())))
        self.record.images[str(source)] = prediction
        self.summary.predicted += 1

    def _end(self) -> None:
        """Save the record of the finished predictions."""
        with contextlib.suppress(Exception):  # the error that ended the loop is raised
            self.uploads.finish()
        if self.files.begun or self.record.is_shared:
            self.record.skipped = self.summary.skipped
            with contextlib.suppress(OSError):  # on a full disk the last record stays
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
        "names in overlays": options.overlay and options.labels,
    }
    return "; ".join(text for text, given in parts.items() if given)


def _chosen_bands(options: PredictOptions) -> str:
    return f"bands {','.join(map(str, options.bands))}" if options.bands else ""


def _bands(described: str) -> str:
    """The part of `_described` that names the bands, or ""."""
    return next((part for part in described.split("; ") if part.startswith("bands ")), "")
