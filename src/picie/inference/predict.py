"""`picie predict`: label maps and overlays for files and folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import torch

from picie.config import with_overrides
from picie.config.sections import LARGEST
from picie.display.colors import rgb_to_hex
from picie.errors import InputError
from picie.inference.input_files import find_inputs, output_names
from picie.inference.output_folder import FILE_NAME, SHARDS, OutputFolder, opened_output
from picie.inference.prediction_loop import PredictionLoop
from picie.inference.prediction_options import PredictOptions, Summary
from picie.inference.prediction_record import LEGEND, MadeBy, Record
from picie.inference.remote_files import Source, is_remote
from picie.inference.segmenter import Segmenter
from picie.inference.shard_record import ShardRecord
from picie.inference.sharding import Shard
from picie.inference.tiles import Tiling, make_tiling
from picie.runtime import checkpoint


def predict_files(
    run: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    device: str = "auto",
    options: PredictOptions | None = None,
) -> Summary:
    """Segment `paths`, files, folders or their URLs, and write the results to `out`.

    photo.jpg becomes photo.png, an indexed PNG of the photo's own upright size, and
    photo_overlay.jpg. With `confidence`, photo_confidence.png is a grey image of the margin: the
    largest probability of a segment minus the second largest, 255 for 1. The structure of folders
    is kept. legend.png shows the colours; predictions.json lists the files, names and shares of
    pixels. Label maps beside photos are left out; `include` and `exclude` are patterns of images
    in folders.

    Images that the same run has predicted into `out` earlier are skipped, so that an interrupted
    call can be repeated. If the run's segments have changed since, all images with predictions in
    `out` are predicted again. An image that cannot be read or written is skipped, with a warning.

    With `shard`, the processes of all shards write to the same `out`, each with a record of its
    own, and `gather` joins the records.

    Raises:
        InputError: a path does not exist or has no image, `out` holds other files or predictions
            of another run, or no image can be predicted. A shard may have none.
        Stopped: SIGINT or SIGTERM arrived.
        PicieError: the disk is full or fails.
    """
    options = options or PredictOptions()
    state = checkpoint.load(run)
    segmenter = _segmenter(state, device, options)
    tiling = _tiling(segmenter, options)
    segments = segmenter.segments
    made_by = MadeBy(
        model=checkpoint.fingerprint(state["method"]),
        classifier=checkpoint.classifier_fingerprint(checkpoint.classifier_in_use(state)),
        names=list(segments.names),
        colors=[rgb_to_hex(color) for color in segmenter.colors],
        assignment=list(segments.assignment),
    )
    files = find_inputs(paths, None if is_remote(out) else Path(out), options.include, options.exclude, options.root)
    with opened_output(out) as folder:
        _check_folder(folder, options)
        if options.shard is not None:
            shard_record = ShardRecord(folder, str(Path(run).absolute()), made_by, options.shard)
            return _predict_shard(segmenter, shard_record, files, options)
        record = Record(folder, str(Path(run).absolute()), made_by)
        if options.overwrite:
            record.clear()
        record.check_earlier()
        names = output_names({**record.outdated(), **files}, _stems(record), reserved=[LEGEND])
        return PredictionLoop(segmenter, record, options, tiling).run(names)


def _segmenter(state: dict[str, Any], device: str, options: PredictOptions) -> Segmenter:
    """Return the segmenter of a checkpoint, which reads and computes as the options say."""
    segmenter = Segmenter.from_state(state, _device(device, options.shard))
    if options.size is not None:
        if options.size > LARGEST:
            raise InputError(f"--size {options.size}: give at most {LARGEST}")
        scale = options.size / segmenter.config.views.size
        segmenter.config = with_overrides(segmenter.config, [f"evaluate.scale={scale!r}"])
    if options.max_pixels is not None:
        segmenter.reading = replace(segmenter.reading, max_pixels=options.max_pixels)
    if options.bands:
        segmenter.reading = replace(segmenter.reading, bands=tuple(options.bands))
    return segmenter


def _predict_shard(
    segmenter: Segmenter, record: ShardRecord, files: Mapping[Source, PurePath], options: PredictOptions
) -> Summary:
    """Predict the part of `files` that is the record's shard.

    The names of outputs, the division and the scale depend on all files, and are equal in all shards.
    """
    listed: dict[Source, PurePath] = {**record.outdated(), **files}
    record.take_shards()
    names = output_names(listed, _stems(record), reserved=[LEGEND])
    part = set(record.take_part(list(listed)))
    sources = {name: source for name, source in names.items() if source in part}
    return PredictionLoop(segmenter, record, options, _tiling(segmenter, options)).run(sources, list(listed))


def _device(name: str, shard: Shard | None) -> str:
    """The device of this process: each of those that a launcher started takes the next GPU."""
    if shard is None or shard.local is None or name not in {"auto", "cuda"} or not torch.cuda.is_available():
        return name
    return f"cuda:{shard.local % torch.cuda.device_count()}"


def _stems(record: Record) -> dict[str, str]:
    return {path: prediction.stem for path, prediction in record.images.items()}


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


def _check_folder(out: OutputFolder, options: PredictOptions) -> None:
    """Raise `InputError` if `out` is a file, or holds other files than predictions."""
    if out.path.exists() and not out.path.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    if options.shard is not None and options.overwrite:
        raise InputError("--overwrite: would delete what other shards write; delete the folder, or leave it out")
    has_shards = (out.path / SHARDS).is_dir()
    if options.shard is None and has_shards:
        raise InputError(
            f"--out {out}: holds shards that are not joined; run `picie gather {out}` first, or give another folder"
        )
    if not (out.is_empty() or has_shards or out.has(FILE_NAME)):
        raise InputError(f"--out {out}: holds other files; give a new folder, so that nothing is overwritten")
