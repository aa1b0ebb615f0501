"""`picie report`: one HTML page about a run.

The page needs no other file, no network and no script.

subject           opens the run and notes everything that is missing
examples          image | prediction | overlay | confidence | label
score_tables      one row per class, the confusion matrix before and after matching
contact_sheets    what each cluster looks like
curves            losses, k-means and scores by epoch
view_pairs        invariance and equivariance
settings          options, versions, machine
pictures          images as data URIs
templates/        the page itself
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import jinja2

from picie.config import to_toml
from picie.display.colors import rgb_to_hex
from picie.report.contact_sheets import gather_sheets
from picie.report.curves import epoch_charts, epoch_table
from picie.report.examples import UNLABELLED, Example, gather_examples
from picie.report.score_tables import class_rows, confusion_matrices
from picie.report.settings import changed_options, environment
from picie.report.subject import Subject, open_subject
from picie.report.view_pairs import gather_views
from picie.runtime.atomic_write import write_atomically
from picie.runtime.checkpoint import find_checkpoint
from picie.runtime.output_paths import check_file
from picie.scoring.evaluation import Evaluation
from picie.version import __version__

FILE_NAME = "report.html"


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    evaluation: Evaluation | None = None,
) -> Path:
    """Write one HTML page about a run: curves, examples, scores, clusters, views and settings.

    Parts that are not available (labels, images that have moved, an epoch) are left out, and the
    page says so.

    Args:
        run: a run's folder or checkpoint file.
        out: the file to write. None writes report.html in the run's folder.
        data: the folder that holds the run's dataset now. None uses the folder that the run was
            trained on.
        device: where to compute.
        evaluation: the run's scores, if they are known already. None evaluates the run.

    Returns:
        The path of the page.

    Raises:
        InputError: `run` or `data` does not exist, or `out` cannot be a file.
    """
    start = time.perf_counter()
    path = Path(out) if out is not None else find_checkpoint(run).parent / FILE_NAME
    check_file("--out", path)
    subject = open_subject(run, data, device, evaluation)
    page = _render(subject, run, start)
    # "replace", because file names may not be valid Unicode
    write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))
    return path


def _render(subject: Subject, run: str | Path, start: float) -> str:
    examples = gather_examples(subject)
    sheets, n_sheet_images = gather_sheets(subject)
    content = {
        "title": subject.folder.absolute().name,
        "run": shlex.quote(str(run)),
        "config": subject.config,
        "summary": _summary(subject),
        "charts": epoch_charts(subject.metrics),
        "metrics": epoch_table(subject.metrics),
        "examples": examples,
        "legend": _legend(subject),
        "label_legend": _label_legend(subject, examples),
        "result": subject.evaluation,
        "class_rows": class_rows(subject.evaluation) if subject.evaluation else [],
        "matrices": confusion_matrices(subject.evaluation) if subject.evaluation else [],
        "sheets": sheets,
        "n_sheet_images": n_sheet_images,
        "views": gather_views(subject),
        "changed": changed_options(subject.config),
        "toml": to_toml(subject.config),
        "environment": environment(subject),
        "skipped": subject.record.get("skipped", {}),
        "notes": subject.notes,
        "version": __version__,
    }
    loader = jinja2.PackageLoader("picie.report")
    templates = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return templates.get_template("report.html").render(content, seconds=time.perf_counter() - start)


def _summary(subject: Subject) -> list[tuple[str, str]]:
    """(name, value) of the key figures at the top of the page."""
    config, record = subject.config, subject.record
    latest = subject.metrics[-1] if subject.metrics else {}
    scores = subject.evaluation.to_dict() if subject.evaluation is not None else latest
    epochs = f"{subject.state['epoch']} of {config.train.epochs}" if config.train.epochs else "none: not trained"
    numbers = [("clusters", _clusters(subject)), ("epochs", epochs)]
    if "images" in record:
        numbers.append(("images", f"{record['images']:,}"))
    if "accuracy" in scores:
        numbers += [("pixel accuracy", _percent(scores["accuracy"])), ("mIoU", _percent(scores["miou"]))]
    if "seconds" in record:
        minutes, seconds = divmod(round(record["seconds"]), 60)
        numbers.append(("time", f"{minutes} min {seconds} s" if minutes else f"{seconds} s"))
    return numbers


def _clusters(subject: Subject) -> str:
    """The number of clusters in use, and the trained number if it differs."""
    trained = subject.config.cluster.k
    k = trained if subject.segmenter is None else subject.segmenter.k
    return str(k) if k == trained else f"{k}, trained with {trained}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _legend(subject: Subject) -> list[tuple[str, str]]:
    """(name, "#rrggbb") of every value in a predicted label map."""
    segmenter = subject.segmenter
    return [] if segmenter is None else [(n, rgb_to_hex(c)) for n, c in zip(segmenter.names, segmenter.colors, strict=True)]


def _label_legend(subject: Subject, examples: Sequence[Example]) -> list[tuple[str, str]]:
    """The colours of labels that are missing in the predictions' legend."""
    classes = subject.labelled.classes if subject.labelled is not None else None
    if classes is None:
        return []
    entries = list(zip(classes.names, (color.lower() for color in classes.colors), strict=True))
    missing = [] if set(entries) <= set(_legend(subject)) else entries
    return [*missing, ("not labelled", rgb_to_hex(UNLABELLED))] if any(example.unlabelled for example in examples) else missing
