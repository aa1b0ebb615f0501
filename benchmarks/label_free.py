"""Correlation of label-free numbers with the mIoU of finished runs.

    python -m benchmarks.label_free RUN... [--out FILE.jsonl]

It answers whether the best of several runs could be chosen without labels. For each run, the
numbers are those of `NUMBERS`; runs are grouped by the name of their dataset, and the
correlations are Spearman's, within each group and over all runs after each group's mean is removed
from the ranks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata, spearmanr

from picie.comparing.run_records import Run, find_runs
from picie.data.images import centre_frame
from picie.data.loading import readable
from picie.inference.sampling import classify, sample_predicted, training_images
from picie.inference.segmenter import Segmenter
from picie.naming.suggestion import judge
from picie.runtime.progress import Progress
from picie.runtime.rng import permutation
from picie.views.two_views import BatchViews, TwoViews

NUMBERS = {
    "agreement": "share of cells that are in the same cluster in both views of an image",
    "silhouette": "simplified silhouette of the features, clustered anew",
    "calinski": "Calinski-Harabasz of the features, clustered anew",
    "stability": "adjusted Rand index of clusterings of halves of the images",
    "inertia": "mean squared distance to the centroid, clustered anew (negated)",
    "entropy": "entropy of the clusters' shares, divided by ln K",
    "loss": "training loss of the last epoch (negated)",
    "cross": "cross-view loss of the last epoch (negated)",
}
_IMAGES, _POINTS, _BATCH = 64, 2**12, 16
_DRAWS = 10**6  # an epoch whose draws no training has seen


def measure(path: Path) -> dict[str, Any]:
    """The label-free numbers of a run; larger is meant to be better."""
    run = Run.read(path)
    segmenter = Segmenter.load(path, "cpu")
    images = training_images(segmenter.config.data)
    config, k = segmenter.config, segmenter.k
    with Progress(False) as bars:
        sample = sample_predicted(segmenter, images, bars, _IMAGES, _POINTS)
    figures = judge(sample.points, sample.images, [k], config.cluster.kmeans_metric, config.seed)[0]
    shares = torch.bincount(classify(sample.points, *segmenter.classifier)[0], minlength=k).double() / len(sample.points)
    numbers = {
        "agreement": agreement(segmenter, [int(i) for i in permutation(len(images), config.seed, "label-free")[:_IMAGES]]),
        "silhouette": figures.silhouette,
        "calinski": figures.calinski,
        "stability": figures.stability,
        "inertia": -figures.inertia,
        "entropy": float(-torch.special.xlogy(shares, shares).sum()) / np.log(k),
        "loss": None if run.value("loss") is None else -float(run.last["loss"]),
        "cross": None if run.value("cross") is None else -float(run.last["cross"]),
    }
    scores = {key: run.value(key) for key in ("accuracy", "miou")}
    name = Path(config.data.root).name if config.data.root is not None else config.data.name
    name = " without ".join([name, *map(str, config.data.held_out or ())])
    return {"run": f"{path.parent.name}/{path.name}", "group": name, **scores, **numbers}


@torch.no_grad()
def agreement(segmenter: Segmenter, indices: Sequence[int]) -> float:
    """Share of cells whose cluster is the same in both views, over the images `indices`."""
    config, method = segmenter.config, segmenter.method
    draws = TwoViews(config.views.invariance, config.views.equivariance, config.seed)
    weight, offset = segmenter.classifier
    pictures = list(readable(training_images(config.data), indices))
    same, n = 0, 0
    for start in range(0, len(pictures), _BATCH):
        batch = pictures[start : start + _BATCH]
        frames = torch.stack([torch.from_numpy(centre_frame(image, config.views.frame_size)) for _, image in batch])
        views = BatchViews(draws.draw(_DRAWS, [index for index, _ in batch], 2), config.views.view_size, frames.float() / 255)
        clusters = [
            classify(method.features(views, view).permute(0, 2, 3, 1).flatten(0, 2), weight, offset)[0] for view in (0, 1)
        ]
        same += int((clusters[0] == clusters[1]).sum())
        n += len(clusters[0])
    return same / n


def correlations(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int, dict[str, float]]]:
    """(group, number of runs, Spearman's correlation of each number with mIoU)."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    results = []
    centred: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in NUMBERS}
    for group, members in groups.items():
        found = {}
        for name in NUMBERS:
            pairs = np.array([(r[name], r["miou"]) for r in members if r[name] is not None and r["miou"] is not None])
            if len(pairs) < 4:
                continue
            found[name] = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
            ranks = [rankdata(column) / len(pairs) for column in pairs.T]
            centred[name].append((ranks[0] - ranks[0].mean(), ranks[1] - ranks[1].mean()))
        results.append((group, len(members), found))
    pooled = {
        name: float(np.corrcoef(*(np.concatenate(part) for part in zip(*parts, strict=True)))[0, 1])
        for name, parts in centred.items()
        if parts
    }
    return [*results, ("all", len(rows), pooled)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure runs and print a Markdown table; None takes the arguments of the process."""
    parser = argparse.ArgumentParser("python -m benchmarks.label_free", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or folders that hold some")
    parser.add_argument("--out", type=Path, help="file of the numbers; runs in it are not measured again")
    given = parser.parse_args(arguments)
    known = given.out.read_text("utf-8").splitlines() if given.out is not None and given.out.exists() else []
    rows = [json.loads(line) for line in known]
    measured = {row["path"] for row in rows}
    for path in find_runs(given.runs):
        if str(path.resolve()) in measured:
            continue
        rows.append({"path": str(path.resolve()), **measure(path)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if given.out is not None:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(f"| runs | n | {' | '.join(NUMBERS)} |\n|---|---|{'---|' * len(NUMBERS)}")
    for group, n, found in correlations(rows):
        print(f"| {group} | {n} | {' | '.join(f'{found[k]:.2f}' if k in found else '-' for k in NUMBERS)} |")


if __name__ == "__main__":
    main()
