"""`picie report`: a run on one page of HTML that needs no other file, no network and no script.

subject          the run, opened, and a note for everything that cannot be had
charts           its curves                    score_tables    a row a class, the confusion matrix
examples         image | prediction | label    contact_sheets  what each cluster looks like
view_pairs       invariance and equivariance   pictures        data URIs
templates/       the page
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from picie.checkpoint import find_checkpoint, write_atomically
from picie.colors import rgb_to_hex
from picie.config import Config, to_toml
from picie.errors import InputError
from picie.evaluation import Evaluation
from picie.report.charts import HEIGHT, WIDTH, Chart, line_chart
from picie.report.contact_sheets import gather_sheets
from picie.report.examples import UNLABELLED, gather_examples
from picie.report.score_tables import class_rows, confusion_matrices
from picie.report.subject import Subject, open_subject
from picie.report.view_pairs import gather_views
from picie.version import __version__

FILE_NAME = "report.html"
_LOSSES = {
    "loss": "loss",
    "within": "within",
    "cross": "cross",
    "over_within": "within, K2",
    "over_cross": "cross, K2",
    "mse": "MSE",
}


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    evaluation: Evaluation | None = None,
) -> Path:
    """Show a run on one page: curves, examples, scores, what each cluster looks like, both views, and its settings.

    What cannot be had (labels, images that have moved, an epoch) is left out, and the page says so.

    Args:
        run: a run's folder or checkpoint file.
        out: the page; none: report.html in the run's folder.
        data: where the run's dataset lies now; none: where it lay.
        device: where to compute.
        evaluation: the run's scores, if they are known already; otherwise it is scored.

    Returns:
        The page's path.

    Raises:
        InputError: no such run or data, or an `out` that cannot be a file.
    """
    began = time.perf_counter()
    path = Path(out) if out is not None else find_checkpoint(run).parent / FILE_NAME
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; give a file in it, e.g. {path / FILE_NAME}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {path}: no such folder; make it first")
    subject = open_subject(run, data, device, evaluation)
    page = _render(subject, began)
    write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))  # names of files may be no Unicode
    return path


def _render(subject: Subject, began: float) -> str:
    sheets, looked_at = gather_sheets(subject)
    content = {
        "title": subject.folder.absolute().name,
        "config": subject.config,
        "summary": _summary(subject),
        "charts": curves(subject.metrics),
        "metrics": _table(subject.metrics),
        "examples": gather_examples(subject),
        "legend": _legend(subject),
        "label_legend": _label_legend(subject),
        "result": subject.evaluation,
        "class_rows": class_rows(subject.evaluation) if subject.evaluation else [],
        "matrices": confusion_matrices(subject.evaluation) if subject.evaluation else [],
        "sheets": sheets,
        "looked_at": looked_at,
        "views": gather_views(subject),
        "changed": _changed(subject.config),
        "toml": to_toml(subject.config),
        "environment": _environment(subject),
        "skipped": subject.record.get("skipped", {}),
        "notes": subject.notes,
        "version": __version__,
        "chart_size": (WIDTH, HEIGHT),
    }
    loader = jinja2.PackageLoader("picie.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(content, seconds=time.perf_counter() - began)


def _summary(subject: Subject) -> list[tuple[str, str]]:
    """The run in a few numbers."""
    config, record, result = subject.config, subject.record, subject.evaluation
    done = f"{subject.state['epoch']} of {config.train.epochs}" if config.train.epochs else "none: not trained"
    numbers = [("clusters", str(config.cluster.k)), ("epochs", done)]
    if "images" in record:
        numbers.append(("images", f"{record['images']:,}"))
    if result is not None:
        summary = result.to_dict()
        numbers += [("pixel accuracy", _percent(summary["accuracy"])), ("mIoU", _percent(summary["miou"]))]
    if "seconds" in record:
        minutes, seconds = divmod(round(record["seconds"]), 60)
        numbers.append(("time", f"{minutes} min {seconds} s" if minutes else f"{seconds} s"))
    return numbers


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of a run's lines of metrics, of those with two epochs or more."""

    def series(keys: Mapping[str, str]) -> dict[str, list[tuple[int, float | None]]]:
        return {name: [(line["epoch"], line.get(key)) for line in metrics] for key, name in keys.items()}

    def by_view(key: str) -> dict[str, list[tuple[int, float | None]]]:
        views = max((len(line.get(key, ())) for line in metrics), default=0)
        return {f"view {v + 1}": [(line["epoch"], line[key][v]) for line in metrics if key in line] for v in range(views)}

    charts = [
        line_chart("Loss", "its parts, mean over the epoch's images", series(_LOSSES)),
        line_chart("K-means objective", "mean squared distance of a cell to its centroid", by_view("objective")),
        line_chart("Imbalance", "K × Σ share²: 1 if all clusters are of one size, K if one holds all", by_view("imbalance")),
        line_chart(
            "Scores in %", "by labels, which training never sees", series({"accuracy": "pixel accuracy", "miou": "mIoU"})
        ),
    ]
    return [chart for chart in charts if chart is not None]


def _table(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the numbers behind the curves; of what has one value a view, both."""
    keys = [*_LOSSES, "objective", "imbalance", "empty", "accuracy", "miou"]
    keys = ["epoch", *(key for key in keys if any(line.get(key) is not None for line in metrics))]
    return keys, [[_shown(line.get(key)) for key in keys] for line in metrics]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(_shown(item) for item in value)
    return "–" if value is None else f"{value:.4g}"


def _legend(subject: Subject) -> list[tuple[str, str]]:
    """(name, "#rrggbb") of every value of a predicted map."""
    segmenter = subject.segmenter
    return [] if segmenter is None else [(n, rgb_to_hex(c)) for n, c in zip(segmenter.names, segmenter.colors, strict=True)]


def _label_legend(subject: Subject) -> list[tuple[str, str]]:
    """What the predictions' legend does not say of the labels: unlabelled pixels, and classes that no value carries."""
    classes = subject.labelled.classes if subject.labelled is not None else None
    if classes is None:
        return []
    entries = list(zip(classes.names, (color.lower() for color in classes.colors), strict=True))
    unlabelled = ("not labelled", rgb_to_hex(UNLABELLED))
    return [unlabelled] if set(entries) <= set(_legend(subject)) else [*entries, unlabelled]


def _changed(config: Config) -> list[tuple[str, str, str]]:
    """Each option that is not picie's default: its name, value and default."""
    given, default = config.model_dump(mode="json"), Config().model_dump(mode="json")
    rows = []
    for section, values in given.items():
        pairs = values.items() if isinstance(values, dict) else [("", values)]
        for key, value in pairs:
            usual = default[section][key] if key else default[section]
            if value != usual:
                rows.append((f"{section}.{key}" if key else section, _text(value), _text(usual)))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        rest = ", ".join(f"{key}={_text(item)}" for key, item in value.items() if key != "name")
        return f"{value.get('name', '')}({rest})"
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _environment(subject: Subject) -> list[tuple[str, str]]:
    """What the run was made with, from run.json."""
    record, engine = subject.record, subject.record.get("engine", {})
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    memory = record.get("peak_memory_mb")
    rows = {
        "folder": str(subject.folder.absolute()),
        "status": record.get("status"),
        "started": record.get("started"),
        "device": ", ".join(f"{value}" if key == "device" else f"{key} {value}" for key, value in engine.items()),
        "peak memory": f"{memory / 1000:.1f} GB" if memory else None,
        "platform": record.get("platform"),
        "commit": record.get("git"),
        "versions": versions,
    }
    return [(name, str(value)) for name, value in rows.items() if value]
