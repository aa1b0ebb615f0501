"""Score a run: predict a labelled split, count, match clusters to classes, compute the scores.

The result states its protocol in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from picie import registry
from picie.config import Config, EvaluateConfig, with_overrides
from picie.data import label_summary, open_dataset, split_title, takes_folder
from picie.data.base import UNMATCHED, Dataset
from picie.errors import InputError, nearest
from picie.inference.segmenter import Segmenter
from picie.runtime import checkpoint
from picie.runtime.progress import Progress, log
from picie.scoring.boundaries import BorderCounts
from picie.scoring.by_name import ByName, match_by_name
from picie.scoring.counting import Pairs, score_split
from picie.scoring.intervals import RESAMPLES, check_resamples

# re-exported, because it is the result type of this module
from picie.scoring.results import Evaluation as Evaluation
from picie.scoring.results import named_assignment, with_intervals


@dataclass(frozen=True)
class ScoreOptions:
    """Options that `evaluate`, `evaluate_baselines` and `evaluate_probes` share.

    Attributes:
        dataset: type of the dataset in the folder that is scored, a name from `picie list
            datasets`; None uses the run's own.
        overrides: "evaluate.key=value" strings applied to the run's configuration: size, crop,
            split or matching.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: whether to show progress bars on a terminal.
    """

    dataset: str | None = None
    overrides: Sequence[str] = ()
    device: str = "auto"
    progress: bool = True


DEFAULTS = ScoreOptions()


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    name_clusters: bool = False,
    bootstrap: int = RESAMPLES,
    options: ScoreOptions = DEFAULTS,
) -> Evaluation:
    """Score a run on a labelled split.

    The run is only read, unless `name_clusters` is set.

    Args:
        run: the run's folder or its checkpoint file.
        data: folder of labelled images; None uses the run's own dataset.
        split: split to score; None uses the run's `evaluate.split`.
        name_clusters: whether to store the matching in the run's checkpoint, so that predictions
            carry the class names.
        bootstrap: number of bootstrap resamples for the confidence intervals; 0 computes none.
        options: how to score.

    Raises:
        InputError: the run, data or split does not exist, the split has no labels, the labels
            cannot be used, or an override is not an `evaluate` option.
    """
    check_resamples(bootstrap)
    path = checkpoint.find_checkpoint(run)
    state = checkpoint.load(path)
    segmenter = Segmenter.from_state(state, options.device)
    config = scored_config(segmenter.config, options.overrides)
    labelled, split = open_labelled(config, data, split, options.dataset)
    if checkpoint.taught_clicks(state) is None and segmenter.k != (trained := len(state["classifier"]["weight"])):
        log.info("scoring the %d clusters made by `picie name`, not the %d trained ones", segmenter.k, trained)
    matching = _taught_matching(state, segmenter, labelled, options)
    assert labelled.classes is not None
    borders = BorderCounts(len(labelled.classes), segmenter.k, labelled.classes.ignore)
    with Progress(options.progress) as bars:
        pairs = Pairs(labelled, config, borders=borders)
        result = score_split(segmenter.clusters, segmenter.k, pairs, split, bars, matching)
    labels, warnings = label_summary(labelled)
    for line in warnings:
        log.warning("%s", line)
    result = replace(result, labels=labels, borders=borders.total())
    if name_clusters:
        _store_matching(path, state, result)
    return with_intervals(result, bootstrap)


def _taught_matching(state: dict[str, Any], segmenter: Segmenter, labelled: Dataset, options: ScoreOptions) -> ByName | None:
    """The matching by name of a run that was taught classes; None for other runs.

    It is also None if the caller chose a matching; that of the clusters is then by labels.
    """
    clicks = checkpoint.taught_clicks(state)
    if clicks is None:
        return None
    if any(override.partition("=")[0].strip() == "evaluate.matching" for override in options.overrides):
        log.warning("the run was taught classes, and this matching looks at the labels instead of their names")
        return None
    assert labelled.classes is not None
    matching = match_by_name(segmenter.segments, labelled.classes, clicks)
    others = [segmenter.names[v] for v in np.unique(segmenter.value_of_cluster[matching.assignment == UNMATCHED])]
    if others:
        log.warning("not a class of the labels, so their pixels count as errors: %s", ", ".join(others))
    return matching


def scored_config(config: Config, overrides: Sequence[str]) -> Config:
    """Apply "evaluate.key=value" strings to a run's configuration.

    Raises:
        InputError: a key that is not an `evaluate` option, or an invalid value.
    """
    valid = [f"evaluate.{key}" for key in EvaluateConfig.model_fields if key != "every"]
    for key in (override.partition("=")[0].strip() for override in overrides):
        if key not in valid:
            raise InputError(f"{key!r} cannot be changed when scoring a trained run; {nearest(key, valid)}")
    return with_overrides(config, overrides)


def open_labelled(
    config: Config,
    data: str | Path | None = None,
    split: str | None = None,
    name: str | None = None,
    part: Literal["train", "scored"] = "scored",
) -> tuple[Dataset, str]:
    """Open a labelled split, by default the one that a run is scored on.

    Args:
        config: the run's configuration.
        data: folder of labelled images; None uses the run's own.
        split: name of the split; None uses `evaluate.split`.
        name: type of the dataset; None uses the run's own.
        part: with `data.held_out`, the images to open, as for `open_dataset`; all images of
            another folder `data` are opened.

    Returns:
        The dataset and the name of its split, for the protocol.

    Raises:
        InputError: there is no such dataset, or it has no labels.
    """
    run_data = config.data
    if name is not None:
        registry.trust([name])  # the caller named the dataset explicitly
    else:
        name = run_data.name if data is None or takes_folder(run_data.name) else "folder"
    root = str(data) if data is not None else run_data.root if takes_folder(name) else None
    held_out = run_data.held_out if data is None else ()
    source = run_data.model_copy(update={"name": name, "root": root, "held_out": held_out})
    if root is None and takes_folder(name):
        raise InputError("the run has no dataset of its own; give a labelled folder: --data FOLDER")
    split = split or config.evaluate.split
    dataset = open_dataset(source, split, part)
    if dataset.classes is None:
        advice = (
            "images/, labels/ and classes.toml" if name == "folder" else f"them; see `picie data check {name} {source.root}`"
        )
        needs = f"scores need {advice}, or labelled images by --data"
        raise InputError(f"{source.root}: split {split!r} has no labels; {needs}")
    return dataset, split if part == "train" else split_title(split, source)


def _store_matching(path: Path, scored: dict[str, Any], result: Evaluation) -> None:
    """Store the matching in the checkpoint, unless another process is using the run or has changed
    it.
    """
    with checkpoint.exclusive(path.parent) as locked:
        state = checkpoint.load(path) if locked else scored
        weights = [checkpoint.classifier_in_use(s)[0] for s in (state, scored)]
        if not locked or weights[0].shape != weights[1].shape or not torch.equal(*weights):
            log.warning("another picie process is using this run, so its clusters were not named; evaluate it again later")
            return
        state["matching"] = matching_state(result)
        try:
            checkpoint.save(path, state)
        except OSError as error:
            log.warning("cannot write the run (%s): its clusters were not named", error.strerror)
            return
    naming = state.get("naming")
    if naming is not None and naming["segments"]["user_defined"]:
        log.info(
            "the names given with `picie name` stay in use instead of the class names; `picie name RUN --reset` removes them"
        )
        return
    named, matched = named_assignment(result), result.assignment
    doubtful = np.flatnonzero((named == UNMATCHED) & (matched != UNMATCHED))
    left = ", ".join(f"{cluster} ({result.classes.names[matched[cluster]]})" for cluster in doubtful)
    log.info(
        "named %d of %d clusters%s; predict again to use the names",
        *((named != UNMATCHED).sum(), len(named), f", but not those with an IoU below 5 %: {left}" if left else ""),
    )


def matching_state(result: Evaluation) -> dict[str, Any]:
    """The part of an evaluation that a checkpoint stores."""
    classes = result.classes
    return {
        "names": list(classes.names),
        "colors": list(classes.colors),
        "ignore": classes.ignore,
        "assignment": named_assignment(result).tolist(),
        "protocol": result.protocol,
    }
