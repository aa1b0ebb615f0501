"""`picie predict`, `export`, `neighbors` and `import-checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from picie.cli.conversion import Formats, check_formats, convert_all
from picie.cli.options import Exclude, Include, Trust, one_of, parse_bands
from picie.errors import InputError
from picie.runtime import distributed

if TYPE_CHECKING:
    from picie.inference.sharding import Shard


def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[str, typer.Option(help="Output folder for label maps and overlays, or its URL, e.g. gs://bucket/maps.")],
    paths: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="PATH...", help="Images, folders searched recursively, or URLs, e.g. s3://bucket/photos."),
    ] = None,
    from_: Annotated[
        Optional[Path],
        typer.Option("--from", metavar="FILE", help="File with further paths, one a line or separated by NUL; - for stdin."),
    ] = None,
    root: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Folder above all files; outputs keep their folders below it.")
    ] = None,
    size: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            help="Short side in pixels to compute at. [default: evaluate.scale * views.size; with --tile, each image's own]",
        ),
    ] = None,
    tile: Annotated[
        Optional[int], typer.Option(metavar="N", min=1, help="Compute in tiles of N pixels, for details in large images.")
    ] = None,
    overlap: Annotated[
        Optional[int], typer.Option(metavar="M", min=0, help="Pixels that tiles share. [default: a quarter of N or more]")
    ] = None,
    bands: Annotated[
        Optional[str], typer.Option(metavar="R,G,B", help="Bands of TIFFs to use, e.g. 3,2,1. [default: the run's]")
    ] = None,
    frames: Annotated[str, typer.Option(metavar="all|first", help="Frames of animations and pages of TIFFs to use.")] = "first",
    steady: Annotated[
        Optional[float],
        typer.Option(min=0, max=0.99, help="Share of earlier frames in the labels of a video. [default: 0.5; 0 with --tile]"),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Let borders follow the edges of the image; takes some time.")
    ] = False,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Write overlays.")] = True,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Write the margin between the best two segments as a grey image, white for 1.")
    ] = False,
    labels: Annotated[
        bool, typer.Option("--labels", help="Write the names of large regions into overlays, but not of videos.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier predictions in --out and predict everything again.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only, without log lines and progress.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    include: Include = None,
    exclude: Exclude = None,
    max_pixels: Annotated[
        Optional[int], typer.Option(min=1, help="Skip images with more pixels. [default: the run's data.max_pixels]")
    ] = None,
    shard: Annotated[
        Optional[str],
        typer.Option(
            metavar="I/N|env",
            help="Predict part I of N, one process each, then join with picie gather; env: of torchrun or srun.",
        ),
    ] = None,
    formats: Formats = None,
    trust: Trust = False,
) -> None:
    """Segment images: write an index PNG of the same size and an overlay for each, and one legend.

    Images that the run has already predicted into --out are skipped, so an interrupted command can
    be repeated.
    """
    from picie.inference import predict
    from picie.inference.prediction_options import PredictOptions
    from picie.runtime.progress import set_up_logging

    part = own_shard(shard)
    if part is not None and formats:
        raise InputError("--format: needs the predictions of all shards; give it to picie gather")
    _check_formats(formats, out)
    set_up_logging(quiet=quiet)
    options = PredictOptions(
        size=size,
        tile=tile,
        overlap=overlap,
        bands=parse_bands(bands),
        frames=one_of("--frames", frames, ("all", "first")),
        steady=steady,
        refine=refine,
        overlay=overlay,
        confidence=confidence,
        labels=labels,
        overwrite=overwrite,
        # several processes on one terminal would draw over each other's bars
        progress=not quiet and (part is None or part.local is None or part.index == 1),
        max_pixels=max_pixels,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        root=root,
        shard=part,
    )
    summary = predict.predict_files(run, _given(run, paths, from_), out, device, options)
    present = f" ({summary.present} more were there already)" if summary.present else ""
    skipped = f", {len(summary.skipped)} skipped" if summary.skipped else ""
    name = f"shard {part}: " if part is not None else ""
    typer.echo(f"{name}{summary.predicted} images -> {out}{present}{skipped}")
    convert_all(Path(out), formats or (), progress=not quiet)


def _given(run: Path, paths: list[str] | None, from_: Path | None) -> list[str]:
    """Return the images and folders to predict. Raises `InputError` if there are none."""
    from picie.inference.input_files import listed_paths

    given = [*(paths or ()), *(listed_paths(from_) if from_ is not None else ())]
    if given:
        return given
    if run.exists() and not (run / "checkpoint.pt").is_file() and run.suffix != ".pt":
        raise InputError(f"{run}: is not a run; give the run's folder first, then the images: picie predict RUN {run} ...")
    raise InputError("give images or folders of images after the run, or a list of them with --from FILE")


def _check_formats(formats: list[str] | None, out: str) -> None:
    """Raise `InputError` for an unknown format, or a format of predictions that are not here."""
    from picie.inference.remote_files import is_remote

    if formats and is_remote(out):
        raise InputError("--format: needs the predictions on this machine; give a folder as --out")
    check_formats(formats or ())


def own_shard(text: str | None) -> Shard | None:
    """Return the shard of this process, which then works alone.

    Raises `InputError` if there are several processes and no shard was asked for.
    """
    from picie.inference.sharding import parse_shard

    if text is None and distributed.launched() > 1:
        raise InputError(
            f"{distributed.launched()} processes (WORLD_SIZE) would predict the same images; give --shard env, or start one"
        )
    shard = None if text is None else parse_shard(text)
    distributed.stand_alone()
    return shard


def gather(
    out: Annotated[str, typer.Argument(help="Folder, or its URL, that picie predict --shard wrote to.")],
    formats: Formats = None,
) -> None:
    """Join the records of picie predict --shard into one predictions.json, as a single run writes it."""
    from picie.inference import shard_record

    _check_formats(formats, out)
    summary = shard_record.gather(out)
    skipped = f", {len(summary.skipped)} skipped" if summary.skipped else ""
    typer.echo(f"{summary.predicted} images -> {out}{skipped}")
    convert_all(Path(out), formats or (), progress=True)


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="Checkpoint of the authors' published code; no code in it is executed.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the new run.")],
    dataset: Annotated[str, typer.Option(help="Dataset to score it on; see `picie list datasets`.")] = "cocostuff27",
) -> None:
    """Convert a checkpoint of the published code to a run for evaluate, predict and export."""
    from picie.inference import import_published

    typer.echo(f"{import_published.import_checkpoint(file, out, dataset)}")


def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    file: Annotated[Path, typer.Argument(help="File to write: .pt2 (torch.export) or .onnx.")],
    size: Annotated[
        Optional[tuple[int, int]], typer.Option(metavar="HEIGHT WIDTH", help="Fix the size of the input. [default: any]")
    ] = None,
    trust: Trust = False,
) -> None:
    """Export the segmentation network to one file that does not need picie."""
    from picie.inference import export

    typer.echo(f"{export.export(run, file, size)}")


def neighbors(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    image: Annotated[Path, typer.Argument(help="Image that contains the query pixel.")],
    x: Annotated[int, typer.Argument(help="Column of the query pixel, from 0.")],
    y: Annotated[int, typer.Argument(help="Row of the query pixel, from 0.")],
    folder: Annotated[Path, typer.Option("--in", metavar="DIR", help="Folder of images to search, recursively.")],
    k: Annotated[int, typer.Option("--neighbors", "-k", help="Number of neighbours.")] = 10,
    per_image: Annotated[int, typer.Option(help="Maximum number of neighbours per image.")] = 1,
    out: Annotated[
        Optional[Path], typer.Option(help="Write a picture of query and neighbours, a .png, and a .json file next to it.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust: Trust = False,
) -> None:
    """Find the pixels of a folder that are most similar to one pixel, by exact search."""
    from picie.inference import neighbors as neighborhood

    query = neighborhood.Query(image, x, y, folder, k, per_image)
    for neighbor in neighborhood.neighbors(run, query, out, device):
        typer.echo(f"{neighbor.similarity:.3f}  {neighbor.path} ({neighbor.x}, {neighbor.y})  {neighbor.name}")
    if out is not None:
        typer.echo(f"{out}")
