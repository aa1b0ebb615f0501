"""The benchmark's command line, `python -m benchmarks`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from picie.cli.exit_status import run_app
from picie.cli.options import data_options, join_options
from picie.config import Config
from picie.errors import InputError, nearest
from picie.models.catalogue import SHIPPED
from picie.runtime.output_paths import check_file

_IMAGES = 367  # the size of CamVid's training split

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status; None takes the arguments of the process."""
    return run_app(app, "python -m benchmarks", arguments)


@app.command()
def bench(
    data: Annotated[str | None, typer.Argument(help="Folder of images. Without it, images are generated.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Any option of picie train.")
    ] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="timm model; repeat the option to measure several.")] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train only the FPN.")] = False,
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", help="Number of clusters K. [default: 11]")] = None,
    size: Annotated[int | None, typer.Option(help="Side of a view in pixels. [default: 160]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, in training and in k-means. [default: 16]")] = None,
    images: Annotated[
        int | None,
        typer.Option(min=2, help=f"Number of generated images, 480x360, if DATA is not given. [default: {_IMAGES}]"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measured epochs of each contestant.")] = 2,
    naive: Annotated[
        bool | None,
        typer.Option("--naive/--no-naive", help="Also measure the naive recipe, by far the slowest. [default: --naive]"),
    ] = None,
    grow: Annotated[
        str | None,
        typer.Option(help="Measure only picie, at growing images (1, 4, 16 times), size (96 to 320) or k (8 to 512)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append one JSON line per setting to this file, or in this folder to a file named by date and machine.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only, no progress.")] = False,
) -> None:
    """Measure an epoch and its stages, and compare it with two references that do the same work.

    The floor is the bare network: as many forward and backward passes as picie's epoch makes, on
    inputs that are already in memory. The naive recipe is the published method as it is usually
    written. Compare ratios, not seconds. The default backbone starts from its ImageNet weights; the
    others use model.pretrained=false unless model.weights or model.pretrained is given, because
    speed does not depend on the weights. An unreadable image is an error, since all contestants
    must process the same images. Everything is written to a temporary folder.
    """
    from benchmarks import pictures
    from benchmarks.meters import stoppable
    from benchmarks.settings import EXTRA_EPOCHS, setting
    from picie.runtime.progress import set_up_logging

    set_up_logging(quiet)
    extra = list(overrides or [])
    if data is not None and "=" in data and not Path(data).exists():
        extra.insert(0, data)  # `python -m benchmarks run.device=cpu` has no DATA
        data = None
    generated = data is None and not any(option.startswith("data.") for option in extra)
    if images is not None and not generated:
        raise InputError("--images is the number of images generated without DATA; leave out one of the two")
    check_out(out)
    flags = {"cluster.k": clusters, "views.size": size, "train.batch_size": batch_size, "cluster.batch_size": batch_size}
    if freeze:
        flags["model.freeze"] = True
    options = join_options({key: value for key, value in flags.items() if value is not None}, extra)
    if grow is not None:
        if naive:
            raise InputError("--grow measures only picie; leave out --naive")
        _check_grow(grow, options)
    with stoppable(), tempfile.TemporaryDirectory(prefix="picie-bench-") as temporary:
        folder = Path(temporary)
        source = data_options(str(folder / "pictures") if generated else data, options)
        settings = [setting(name, [*source, *options], rounds + EXTRA_EPOCHS) for name in backbone or [SHIPPED]]
        if generated:
            pictures.write(folder / "pictures", images or _IMAGES)
        if grow is None:
            _compare(settings, folder, rounds, naive is not False, out)
        for number, config in enumerate(settings if grow is not None else ()):
            _grow(config, grow, folder / f"growth-{number}", rounds, out)


def check_out(out: Path | None) -> None:
    """Raise `InputError` before measuring if `out`, a file or a folder, cannot be written."""
    if out is None:
        return
    check_file("--out", None if out.is_dir() else out)
    if not out.suffix and not out.exists():
        raise InputError(f"--out {out}: no such folder; make it first, or give a file name with a suffix, e.g. {out}.jsonl")
    try:
        if out.is_dir():
            tempfile.TemporaryFile(dir=out).close()
        else:
            new = not out.exists()
            out.open("a").close()
            if new:
                out.unlink()
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); give another place") from error


def _check_grow(grow: str, options: Sequence[str]) -> None:
    from benchmarks.settings import STEPS, check_grown

    if grow not in STEPS:
        raise InputError(f"--grow: unknown quantity {grow!r}; {nearest(grow, STEPS)}")
    check_grown(cast(Any, grow), options)


def _compare(settings: list[Config], folder: Path, rounds: int, naive: bool, out: Path | None) -> None:
    from benchmarks import bench, bench_tables

    for record in bench.bench(settings, folder, rounds, naive):
        bench_tables.show_record(record)
        if out is not None:
            typer.echo(f"{bench.append(out, record)}")


def _grow(config: Config, quantity: Any, folder: Path, rounds: int, out: Path | None) -> None:
    from benchmarks import bench, bench_tables

    records, file = [], None
    try:
        for record in bench.growth(config, quantity, folder, rounds):
            records.append(record)
            file = out and bench.append(out, record)
    finally:  # also show what was measured before an interrupt
        if records:
            bench_tables.show_growth(records)
    if file is not None:
        typer.echo(f"{file}")
