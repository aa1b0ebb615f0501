"""The run that a report describes, and a note for each thing that is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from picie.config import Config, from_dict
from picie.data.base import Dataset
from picie.data.folder import Folder
from picie.errors import InputError
from picie.inference.sampling import training_images
from picie.inference.segmenter import Segmenter
from picie.runtime import checkpoint
from picie.runtime.run_record import RunRecord, read_metrics
from picie.scoring.evaluation import Evaluation, ScoreOptions, evaluate, open_labelled
from picie.scoring.results import named_assignment


@dataclass
class Subject:
    """A run that has been opened.

    Attributes:
        folder: the run's folder.
        config: its configuration.
        state: its checkpoint.
        record: run.json; empty if there is none.
        metrics: the lines of metrics.jsonl.
        segmenter: its network and clusters; None if it was stopped before its first clusters.
        images: the images that it was trained on; None if they cannot be found.
        labelled: the split that it is scored on; None without labels.
        evaluation: its scores on that split; None without labels.
        notes: sentences that say what is missing in the report, and why.
    """

    folder: Path
    config: Config
    state: dict[str, Any]
    record: dict[str, Any]
    metrics: list[dict[str, Any]]
    segmenter: Segmenter | None = None
    images: Dataset | None = None
    labelled: Dataset | None = None
    evaluation: Evaluation | None = None
    notes: list[str] = field(default_factory=list)


def open_subject(run: str | Path, data: str | Path | None, device: str, evaluation: Evaluation | None) -> Subject:
    """Open `run`, its images and its labels.

    Args:
        run: a run's folder or checkpoint file.
        data: the folder that holds its dataset now. None uses the folder that the run was trained
            on.
        device: where to compute.
        evaluation: its scores, if they are known already. None evaluates the run.

    Raises:
        InputError: `run` or `data` does not exist, or the device is not available.
    """
    path = checkpoint.find_checkpoint(run)
    state = checkpoint.load(path)
    if data is not None and not Path(data).is_dir():
        raise InputError(f"--data {data}: no such folder; give the one that holds the run's dataset")
    folder = path.parent
    subject = Subject(folder, from_dict(state["config"]), state, RunRecord(folder).read(), read_metrics(folder))
    notes = subject.notes
    try:
        subject.images = training_images(subject.config.data, data)
    except InputError as error:
        notes.append(f"No crops and no views: the training images cannot be found ({error}). Give their folder by --data DIR.")
    if not (state["epoch"] or state["step"] or state["finished"]):
        notes.append("No segments and no scores: the run was stopped before its first clusters.")
        return subject
    subject.segmenter = Segmenter.from_state(state, device)
    if evaluation is not None or not _is_plain_folder(subject.images):
        try:
            subject.labelled, _ = open_labelled(subject.config, data)
            subject.evaluation = evaluation or evaluate(path, data, bootstrap=0, options=ScoreOptions(device=device))
        except InputError as error:
            notes.append(f"No scores: {error}.")
    _share_names(subject)
    naming = state.get("naming")
    if subject.metrics and naming is not None and naming["clusters"] is not None:
        trained = subject.config.cluster.k
        by = "picie name" if checkpoint.taught_clicks(state) is None else "picie teach"
        notes.append(
            f"No curves of the clusters in use: {by} made them after training. The curves show the {trained} trained ones."
        )
    if not subject.metrics:
        notes.append("No curves: the run has no metrics.jsonl. It was imported, or the file was removed.")
    return subject


def _is_plain_folder(images: Dataset | None) -> bool:
    """Whether these are images of a folder that has no labels and is not meant to have any."""
    return isinstance(images, Folder) and images.classes is None and images.why_unlabelled is None


def _share_names(subject: Subject) -> None:
    """Name unnamed clusters after the classes of the evaluation, as the tables do."""
    segmenter, result = subject.segmenter, subject.evaluation
    assert segmenter is not None
    if result is not None and segmenter.names == tuple(f"cluster {i}" for i in range(segmenter.k)):
        segmenter.name_clusters(result.classes, named_assignment(result))
