"""`picie compare` and `picie ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from picie.cli.options import data_options, join_options
from picie.errors import InputError
from picie.runtime.output_paths import check_file, write_json

_Against = Annotated[
    str | None, typer.Option(metavar="SETTING", help="Test the others against this one. [default: every pair]")
]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs' folders, or folders that hold runs.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot of the scores: .png, .svg or .pdf.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write it all here, too.")] = None,
    against: _Against = None,
) -> None:
    """Say what differs between runs, and whether their scores differ by more than noise.

    Runs that differ in their seed alone are one setting. Scores are the last epoch's: mean and standard deviation over seeds.
    """
    from picie.comparing import comparison, comparison_view

    if out is not None:
        comparison_view.check_plot(out)
    check_file("--json", json_file)
    found = comparison.compare(runs, against=against)
    comparison_view.show_comparison(found)
    if out is not None:
        comparison_view.save_plot(found, out)
        typer.echo(f"{out}")
    write_json(json_file, found.to_dict())


def ablate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs; the same command goes on with it.")],
    data: Annotated[str | None, typer.Argument(help="As for `picie train`.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Of all runs.")] = None,
    vary: Annotated[
        list[str] | None, typer.Option(metavar="KEY=V1|V2...", help="An option and its values; repeat it for a matrix.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Settings by name (`picie list recipes`), or a .toml file.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each setting: seeds `seed`, `seed` + 1, ...")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each a process with its share of the cores.")] = 1,
    against: _Against = None,
    preset: Annotated[str | None, typer.Option(help="As for `picie train`.")] = None,
    config: Annotated[Path | None, typer.Option(help="As for `picie train`.")] = None,
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", help="Number of clusters K.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, where a setting does not say so itself.")] = None,
) -> None:
    """Train every setting with every seed, and compare them.

    What is finished is not run again and what was stopped goes on, so the same command goes on with an ablation. The values of
    --vary are separated by | and each is written as in section.key=value: --vary 'views.invariance=[]|brightness,blur'.
    """
    given = {"cluster.k": clusters, "train.epochs": epochs}
    flags: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    options = join_options(flags, overrides or [])
    base = [*data_options(data, options), *options]

    from picie.comparing import ablation_plan

    plan = ablation_plan.plan(ablation_plan.variants(recipe, vary or []), out, seeds, base, preset, config)
    if plan[0].config.data.name == "folder" and plan[0].config.data.root is None:
        raise InputError("DATA is missing; give a folder of images, e.g. picie ablate photos/ ...")

    from picie.comparing import ablation  # torch: seconds, which a mistaken option need not wait for

    ablation.ablate(plan, out, jobs, against)
