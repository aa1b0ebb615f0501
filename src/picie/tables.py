"""Tables for the terminal: scores, and what options can name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import timm
from rich.console import Console
from rich.table import Column, Table

from picie import registry
from picie.config import preset_names, preset_text
from picie.evaluation import Evaluation, unmatched_clusters
from picie.recipes import recipe_names, recipe_text


def show_evaluation(result: Evaluation, baselines: Mapping[str, Evaluation]) -> None:
    """Print the table per class, the scores of the whole, those of `baselines`, and the protocol."""
    summary = result.to_dict()
    table = Table("class", *(_right(name) for name in ("IoU %", "accuracy %", "pixels", "cluster")))
    for row in summary["per_class"]:
        cluster = "-" if row["cluster"] is None else str(row["cluster"])
        table.add_row(row["name"], _number(row["iou"]), _number(row["accuracy"]), f"{row['pixels']:,}", cluster)
    console = Console()
    console.print(table)
    left = unmatched_clusters(result)
    if left:
        console.print(f"clusters without a class (their pixels count as errors): {', '.join(map(str, left))}")
    if baselines:
        compared = Table("", *(_right(name) for name in ("pixel accuracy %", "mIoU %")))
        compared.add_row("this run", _number(summary["accuracy"]), _number(summary["miou"]))
        for name, other in baselines.items():
            values = other.to_dict()
            compared.add_row(name, _number(values["accuracy"]), _number(values["miou"]))
        console.print(compared)
    console.print(f"pixel accuracy {_number(summary['accuracy'])}  mIoU {_number(summary['miou'])}  ({result.n_images} images)")
    console.print(f"protocol: {result.protocol}", highlight=False)


def _right(name: str) -> Any:
    return Column(name, justify="right")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show_list(what: str) -> None:
    """Print the names of one kind, each with the first line of its description."""
    rows = list(_list_rows(what))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        Console().print(f"{name:<{width}}  {text}", soft_wrap=True, markup=False, highlight=False)


def _list_rows(what: str) -> Iterator[tuple[str, str]]:
    if what == "presets":
        for name in preset_names():
            yield name, preset_text(name).splitlines()[0].lstrip("# ")
    elif what == "recipes":
        for name in recipe_names():
            yield name, recipe_text(name).splitlines()[0].lstrip("# ")
    elif what == "transforms":
        for option, entries in (("invariance", registry.INVARIANCE), ("equivariance", registry.EQUIVARIANCE)):
            for name in entries:
                made = registry.find(entries, name, "list")
                parameters = ", ".join(f"{p.name}={p.default}" for p in inspect.signature(made).parameters.values())
                yield f"{name}({parameters})", f"views.{option}: {_first_line(made)}"
    elif what == "backbones":
        for name in registry.BACKBONES:
            shipped = name == registry.SHIPPED_BACKBONE
            yield name, "ImageNet weights installed with picie" if shipped else "weights from timm's hub, or model.weights=FILE"
        yield f"... and {len(timm.list_models()):,} more of timm", "any with a feature pyramid or patches"
    else:
        entries = {"datasets": registry.DATASETS, "methods": registry.METHODS}[what]
        for name in entries:
            yield name, _first_line(registry.find(entries, name, "list"))


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
