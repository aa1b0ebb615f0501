"""`picie evaluate` and `picie score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from picie.cli.options import Trust, join_options
from picie.runtime.output_paths import check_file, write_json

_JsonFile = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Also write the scores to this file.")]
_Bootstrap = Annotated[int, typer.Option(min=0, help="Bootstrap resamples for confidence intervals; 0 for none.")]


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="[evaluate.key=value]...", help="E.g. evaluate.size=320 evaluate.crop=false."),
    ] = None,
    data: Annotated[Optional[Path], typer.Option(help="Labelled folder to score on. [default: the run's data]")] = None,
    dataset: Annotated[
        Optional[str], typer.Option(help="Dataset format of --data; see `picie list datasets`. [default: the run's]")
    ] = None,
    split: Annotated[Optional[str], typer.Option(help="Split to score. [default: the run's evaluate.split, val]")] = None,
    matching: Annotated[
        Optional[str], typer.Option(help="one-to-one, one-to-one-iou or many-to-one. [default: the run's evaluate.matching]")
    ] = None,
    json_file: _JsonFile = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also score a constant prediction, and k-means on colour and backbone features."),
    ] = False,
    probes: Annotated[
        bool,
        typer.Option("--probes", help="Also score more clusters and, with training labels, linear probes."),
    ] = False,
    clicks: Annotated[
        Optional[list[int]],
        typer.Option(
            metavar="N", help="Also score the run as if taught by N clicks a class, drawn from training labels; repeatable."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Random draws of --clicks.")] = 8,
    name_clusters: Annotated[
        bool,
        typer.Option(
            "--name-clusters", help="Name the run's clusters after the classes they match, with an IoU of 5 % or more."
        ),
    ] = False,
    bootstrap: _Bootstrap = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    trust: Trust = False,
) -> None:
    """Score a run on labelled images. The run is only read, unless --name-clusters is given."""
    from picie.cli import tables
    from picie.scoring import clicks as taught
    from picie.scoring import evaluation
    from picie.scoring.baselines import evaluate_baselines
    from picie.scoring.probes import evaluate_probes

    check_file("--json", json_file)
    flags = {"evaluate.split": split, "evaluate.matching": matching}
    changes = join_options({key: value for key, value in flags.items() if value is not None}, overrides or [])
    options = evaluation.ScoreOptions(dataset, changes, device)
    result = evaluation.evaluate(run, data, name_clusters=name_clusters, bootstrap=bootstrap, options=options)
    extras = {"baselines": (baselines, evaluate_baselines), "probes": (probes, evaluate_probes)}
    extra_scores = {kind: evaluate(run, data, options=options) for kind, (wanted, evaluate) in extras.items() if wanted}
    click_scores = taught.evaluate_clicks(run, data, clicks=clicks, draws=draws, options=options) if clicks else []
    tables.show_evaluation(result, {name: row for rows in extra_scores.values() for name, row in rows.items()})
    tables.show_clicks(click_scores)
    content = result.to_dict()
    if click_scores:
        content["clicks"] = [scores.to_dict() for scores in click_scores]
    for kind, rows in extra_scores.items():
        keys = ("accuracy", "miou", "matching", "protocol")
        content[kind] = {name: {key: row.to_dict()[key] for key in keys} for name, row in rows.items()}
    write_json(json_file, content)


def score(
    predictions: Annotated[Path, typer.Argument(metavar="PRED_DIR", help="Folder of predicted label maps (index PNGs).")],
    labels: Annotated[Path, typer.Argument(metavar="LABEL_DIR", help="Folder of label maps with the same names and sizes.")],
    classes: Annotated[str, typer.Option(help="A classes.toml, or the name of a label set, e.g. cocostuff27.")],
    matching: Annotated[str, typer.Option(help="one-to-one, one-to-one-iou, many-to-one or identity.")] = "one-to-one",
    prediction_suffix: Annotated[str, typer.Option(help="Suffix of prediction file names, e.g. _leftImg8bit.")] = "",
    label_suffix: Annotated[str, typer.Option(help="Suffix of label file names, e.g. _gtFine_labelIds.")] = "",
    unpredicted: Annotated[
        Optional[int], typer.Option(metavar="VALUE", help="Value that means no prediction; it counts as an error.")
    ] = None,
    json_file: _JsonFile = None,
    bootstrap: _Bootstrap = 1000,
) -> None:
    """Score label maps that any method predicted; no run is needed."""
    from picie.cli import tables
    from picie.scoring import folders as scoring

    check_file("--json", json_file)
    result = scoring.score_folders(
        predictions,
        labels,
        classes,
        matching,
        bootstrap=bootstrap,
        options=scoring.FolderOptions(prediction_suffix, label_suffix, unpredicted),
    )
    tables.show_evaluation(result, {})
    write_json(json_file, result.to_dict())
