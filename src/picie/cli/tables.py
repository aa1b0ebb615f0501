"""Tables for the terminal: scores, and the names that options accept."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from picie import registry
from picie.comparing.recipes import recipe_names, recipe_text
from picie.config import ViewsConfig, preset_names, preset_text
from picie.data.label_statistics import listing
from picie.models.catalogue import KNOWN, VIEW_CELLS
from picie.scoring.boundaries import RADIUS
from picie.scoring.clicks import ClickScores
from picie.scoring.intervals import LEVEL
from picie.scoring.results import Evaluation, unmatched_clusters


def show_evaluation(result: Evaluation, baselines: Mapping[str, Evaluation]) -> None:
    """Print a table of the classes, a table of all scores and `baselines`, and the protocol."""
    summary = result.to_dict()
    console = Console()
    rows = [row for row in summary["per_class"] if row["pixels"] or row["cluster"] is not None]
    console.print(_class_table(rows))
    if len(rows) < len(summary["per_class"]):
        console.print(f"not listed: {len(summary['per_class']) - len(rows)} classes that occur in no label")
    unmatched = [i for i in unmatched_clusters(result) if result.confusion[:, i].any()]
    if unmatched:
        console.print(f"clusters without a class (their pixels count as errors): {_listed(unmatched, 12, ' and another ')}")
    console.print(_score_table(result, summary, baselines))
    if result.intervals is not None:
        console.print(
            f"in brackets: {LEVEL} % confidence intervals from {result.intervals.resamples:,} resamples of the images"
        )
    if result.void is not None:
        share = result.confusion[:, result.void].sum() / result.confusion.sum()
        console.print(f"labelled pixels without a prediction (they count as errors): {100 * share:.1f} %")
    console.print(
        f"pixel accuracy {_number(summary['accuracy'])}  mIoU {_number(summary['miou'])}  "
        f"({result.n_images} images, mIoU of {summary['n_classes_in_miou']} classes)"
    )
    if result.borders is not None and result.borders.any():
        accuracy = _number(summary["boundary_accuracy"])
        console.print(f"boundary accuracy {accuracy}  (pixels within {RADIUS} px of a border between classes)")
    if result.labels is not None:
        ignored, values = result.labels["ignored"], listing(result.labels["values"])
        console.print(f"labels: ignored pixels {ignored:.1f} %; values {values}", highlight=False)
    console.print(f"protocol: {result.protocol}", highlight=False)


def show_clicks(rows: Sequence[ClickScores]) -> None:
    """Print the scores of each number of clicks: mean, standard deviation and each draw."""
    if not rows:
        return
    table = Table("clicks a class", *(_right(name) for name in ("pixel accuracy %", "mIoU %")), "each draw")
    for row in rows:
        plain = row.to_dict()
        cells = [" ± ".join(_number(value) for value in plain[key] if value is not None) for key in ("accuracy", "miou")]
        each = ", ".join(f"{_number(draw['accuracy'])} / {_number(draw['miou'])}" for draw in plain["draws"])
        table.add_row(str(row.clicks), *cells, each)
    console = Console()
    console.print(table)
    console.print(f"± is the standard deviation over {len(rows[0].results)} draws; protocol of the first:", highlight=False)
    console.print(rows[0].results[0].protocol, highlight=False)


def _class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("class", *(_right(name) for name in ("IoU %", "accuracy %", "pixels", "cluster")))
    for row in rows:
        numbers = (_number(row["iou"]), _number(row["accuracy"]), f"{row['pixels']:,}", _listed(row["clusters"], 2))
        table.add_row(escape(row["name"]), *numbers)
    return table


def _score_table(result: Evaluation, summary: Mapping[str, Any], baselines: Mapping[str, Evaluation]) -> Table:
    """Pixel accuracy and mIoU of each grouping and matching, with confidence intervals."""
    table = Table("", *(_right(name) for name in ("pixel accuracy %", "mIoU %")))
    intervals = summary["intervals"] or {"groups": {}}

    def add(name: str, scores: Mapping[str, Any], ends: Mapping[str, Any] | None = None) -> None:
        cells = [f"{_number(scores[key])}{_bracketed((ends or {}).get(key))}" for key in ("accuracy", "miou")]
        table.add_row(escape(name), *cells)

    add(f"all classes, {result.matching}", summary, intervals)
    for name, scores in summary["groups"].items():
        add(f"{name}, all errors counted", scores, intervals["groups"].get(name))
    for name, scores in summary.get("groups_published", {}).items():
        add(f"{name}, published arithmetic", scores)
    table.add_section()
    for name, scores in summary["matchings"].items():
        if name != result.matching:
            add(f"matched {name}", scores)
    table.add_section()
    for name, other in baselines.items():
        add(f"{name}, {other.matching}", other.to_dict())
    return table


def _bracketed(ends: Sequence[float | None] | None) -> str:
    return "" if ends is None else f" ({_number(ends[0])} to {_number(ends[1])})"


def _listed(numbers: Sequence[int], limit: int, between: str = " +") -> str:
    """The first `limit` of `numbers`, and how many more there are."""
    more = f"{between}{len(numbers) - limit}" if len(numbers) > limit else ""
    return ", ".join(map(str, numbers[:limit])) + more if numbers else "-"


def _right(name: str) -> Any:
    return Column(name, justify="right")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def show_list(what: str) -> None:
    """Print all names of one kind, each with the first line of its description."""
    if what == "backbones":
        _show_backbones()
        return
    rows = list(_list_rows(what))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        Console().print(f"{name:<{width}}  {text}", soft_wrap=True, markup=False, highlight=False)


def _show_backbones() -> None:
    """Print the table of the catalogue, without a frame: lines are not cut when they are piped."""
    rows = [("name", "parameters", "MB", "pixels per cell", "view", "licence of the weights", "what")]
    for name, known in KNOWN.items():
        cells = ", ".join(map(str, known.strides)) if known.is_vit else f"{known.strides[0]} to {known.strides[-1]}"
        view = f"{VIEW_CELLS * known.strides[0]} px" if known.is_vit else f"{ViewsConfig.model_fields['size'].default} px"
        rows.append((name, f"{known.millions:g} M", f"{known.megabytes:,}", cells, view, known.licence, known.about))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = (1, 2)
    lines = [
        "  ".join(
            f"{cell:>{width}}" if i in right else f"{cell:<{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    console = Console()
    for line in [
        *lines,
        "",
        "MB: the weights in float32, fetched once from timm's hub; or give model.weights=FILE. view: default of views.size.",
        "One number of pixels per cell: a ViT. All are frozen unless model.freeze=false. Any other model of timm works too,",
        "by its name there, if it has a feature pyramid or patches. See docs/guides/choosing.md.",
    ]:
        console.print(line.rstrip(), soft_wrap=True, markup=False, highlight=False)


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
                transform = registry.find(entries, name, "list")
                signature = inspect.signature(transform)
                parameters = ", ".join(f"{p.name}={p.default}" for p in signature.parameters.values())
                yield f"{name}({parameters})", f"views.{option}: {_first_line(transform)}"
    else:
        entries = {
            "datasets": registry.DATASETS,
            "methods": registry.METHODS,
            "losses": registry.LOSSES,
            "formats": registry.FORMATS,
        }[what]
        for name in entries:
            yield name, _first_line(registry.find(entries, name, "list"))


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
