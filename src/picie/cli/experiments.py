"""`picie compare` and `picie ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from picie.cli.options import Trust, data_options, join_options, named_flags
from picie.errors import InputError
from picie.runtime.output_paths import check_file, write_json

_Against = Annotated[
    str | None, typer.Option(metavar="SETTING", help="Setting that the others are tested against. [default: test every pair]")
]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or folders that contain runs.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot of the scores: .png, .svg or .pdf.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the comparison to this file.")
    ] = None,
    against: _Against = None,
    trust: Trust = False,
) -> None:
    """Show how runs differ, and whether the differences of their scores are significant.

    Runs that differ only in their seed form one setting. Scores are those of the last epoch: mean
    and standard deviation over the seeds.
    """
    from picie.comparing import comparison, comparison_view

    if out is not None:
        comparison_view.check_plot(out)
    check_file("--json", json_file)
    result = comparison.compare(runs, against=against)
    comparison_view.show_comparison(result)
    if out is not None:
        comparison_view.save_plot(result, out)
        typer.echo(f"{out}")
    write_json(json_file, result.to_dict())


def ablate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs. Run the same command again to continue.")],
    data: Annotated[str | None, typer.Argument(help="As for `picie train`.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[section.key=value]...", help="Options of all runs.")
    ] = None,
    vary: Annotated[
        list[str] | None, typer.Option(metavar="KEY=V1|V2...", help="An option and its values; repeat for all combinations.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe of settings (`picie list recipes`), or a .toml file.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds for each setting: `seed`, `seed` + 1, ...")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Number of runs at a time, each in its own process.")] = 1,
    tasks: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="A table of options for each task; settings are compared by their mean."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Hold out, in turn, the images whose names share their first N characters."),
    ] = None,
    probes: Annotated[bool, typer.Option("--probes", help="Also score more clusters and a linear probe of every run.")] = False,
    against: _Against = None,
    preset: Annotated[str | None, typer.Option(help="As for `picie train`.")] = None,
    config: Annotated[Path | None, typer.Option(help="As for `picie train`.")] = None,
    clusters: Annotated[int | None, typer.Option("--clusters", "-k", help="Number of clusters K.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs, unless the setting defines it.")] = None,
    trust: Trust = False,
) -> None:
    """Train every setting with every seed, and compare them.

    Run the same command again to continue an ablation: finished runs are skipped, and stopped runs
    are resumed. The values of --vary are separated by |, and each is written as in
    section.key=value: --vary 'views.invariance=[]|brightness,blur'.
    """
    given = {"cluster.k": clusters, "train.epochs": epochs}
    flags: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    options = join_options(flags, overrides or [])
    base = [*data_options(data, options), *options]

    from picie.comparing import ablation_plan
    from picie.comparing.tasks import plan_tasks
    from picie.config import load

    settings = ablation_plan.variants(recipe, vary or [])
    with named_flags([("cluster.k", "-k"), ("train.epochs", "--epochs")] if flags else []):
        complete = load(preset, config, base)
    grid = ablation_plan.Grid(settings, seeds, plan_tasks(tasks, folds, complete))
    plan = ablation_plan.plan(grid, out, base, preset, config)
    if plan[0].config.data.name == "folder" and plan[0].config.data.root is None:
        raise InputError("DATA is missing; give a folder of images, e.g. picie ablate photos/ ...")

    # imported here, after the options are checked, because torch takes seconds
    from picie.comparing import ablation

    ablation.ablate(plan, out, jobs, against, probes)
