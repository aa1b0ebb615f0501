"""`picie bench`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from picie.cli.options import data_options, join_options
from picie.config import Config
from picie.errors import InputError, nearest
from picie.registry import SHIPPED_BACKBONE
from picie.runtime.output_paths import check_file

_IMAGES = 367  # CamVid's


def bench(
    data: Annotated[str | None, typer.Argument(help="Folder of images; without it, pictures are made up.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Any option.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="timm model; give it again for several.")] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train the FPN alone.")] = False,
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", help="Number of clusters K. [default: 11]")] = None,
    size: Annotated[int | None, typer.Option(help="As for `picie train`. [default: 160]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, of training and of k-means. [default: 16]")] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help=f"How many pictures are made up, 480x360, without DATA. [default: {_IMAGES}]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Epochs counted of each contestant.")] = 2,
    naive: Annotated[
        bool | None,
        typer.Option("--naive/--no-naive", help="Run the naive recipe, too: by far the slowest. [default: --naive]"),
    ] = None,
    grow: Annotated[
        str | None,
        typer.Option(help="Instead, picie alone at growing images (1, 4, 16 times), size (96 to 320) or k (8 to 512)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a JSON line a setting; in a folder, to a file named by date and machine."),
    ] = None,
) -> None:
    """Measure an epoch beside two yardsticks on the same work, and its stages; everything is written to a temporary folder.

    The floor is the bare network: as many forwards and backwards as picie's epoch makes, on ready tensors. The naive recipe is
    the published method as it is usually written. Ratios count, not seconds. The default backbone starts from its ImageNet
    weights; others have model.pretrained=false, unless model.weights or model.pretrained says otherwise: speed does not depend
    on it. An image that cannot be read is an error here, for all contestants must have the same.
    """
    from benchmarks import pictures
    from benchmarks.meters import stoppable
    from benchmarks.settings import EXTRA_EPOCHS, setting

    given = list(overrides or [])
    if data is not None and "=" in data and not Path(data).exists():
        given.insert(0, data)  # `picie bench run.device=cpu`: there is no DATA
        data = None
    made_up = data is None and not any(option.startswith("data.") for option in given)
    if images is not None and not made_up:
        raise InputError("--images is how many pictures are made up without DATA; leave out the one or the other")
    _check_out(out)
    flags = {"cluster.k": clusters, "views.size": size, "train.batch_size": batch_size, "cluster.batch_size": batch_size}
    if freeze:
        flags["model.freeze"] = True
    options = join_options({key: value for key, value in flags.items() if value is not None}, given)
    if grow is not None:
        if naive:
            raise InputError("--grow measures picie alone; leave out --naive")
        _check_grow(grow, options)
    with stoppable(), tempfile.TemporaryDirectory(prefix="picie-bench-") as temporary:
        folder = Path(temporary)
        source = data_options(str(folder / "pictures") if made_up else data, options)
        settings = [setting(name, [*source, *options], rounds + EXTRA_EPOCHS) for name in backbone or [SHIPPED_BACKBONE]]
        if made_up:
            pictures.write(folder / "pictures", images or _IMAGES)
        if grow is None:
            _compare(settings, folder, rounds, naive is not False, out)
        for number, config in enumerate(settings if grow is not None else ()):
            _grow(config, grow, folder / f"growth-{number}", rounds, out)


def _check_out(out: Path | None) -> None:
    """Raise `InputError` unless a line can be appended to `out`, a file or a folder, when all is measured."""
    if out is None:
        return
    check_file("--out", None if out.is_dir() else out)
    if not out.suffix and not out.exists():
        raise InputError(f"--out {out}: no such folder; make it first, or give a file's name with an ending, e.g. {out}.jsonl")
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
    finally:  # of a growth that is stopped, too, what was measured
        if records:
            bench_tables.show_growth(records)
    if file is not None:
        typer.echo(f"{file}")
