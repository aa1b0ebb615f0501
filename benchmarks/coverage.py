"""Measure the coverage of 95 % confidence intervals, with the matching fixed or recomputed per
resample.

    python -m benchmarks.coverage

The population is 4000 simulated images of 12 classes. Their clusters follow the classes loosely,
and differently in each image. The true score is that of the whole population. Samples of the
population are scored, each with both kinds of intervals.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from picie.scoring.intervals import bootstrap
from picie.scoring.metrics import match_one_to_one, score

CLASSES, WORLD, PIXELS, SAMPLES, RESAMPLES = 12, 4000, 5000, 100, 100


def main() -> None:
    """Simulate and print a Markdown table."""
    print("| clusters | images | matching fixed: accuracy, mIoU | recomputed |\n|---|---|---|---|")
    for k in (12, 40):
        world = _world(k, np.random.default_rng(5))
        truth = _scores(world)[1]
        for n in (15, 100, 500):
            inside = np.zeros((2, 2), dtype=int)
            for seed in range(SAMPLES):
                images = world[np.random.default_rng(seed).choice(WORLD, n, replace=False)]
                kept = _scores(images)[0]
                for row, match in enumerate((lambda _, a=kept: a, match_one_to_one)):
                    found = bootstrap(csr_array(images.reshape(n, -1)), CLASSES, match, resamples=RESAMPLES, seed=seed)
                    inside[row] += [
                        low <= true <= high for (low, high), true in zip((found.accuracy, found.miou), truth, strict=True)
                    ]
            shown = [", ".join(f"{100 * times / SAMPLES:.0f} %" for times in row) for row in inside]
            print(f"| {k} | {n} | {shown[0]} | {shown[1]} |", flush=True)


def _world(k: int, rng: np.random.Generator) -> np.ndarray:
    """(WORLD, CLASSES, k) confusion matrices."""
    # distribution of a class over the clusters
    usual = 0.6 * rng.dirichlet(np.full(k, 0.15), CLASSES)
    usual[np.arange(CLASSES), np.arange(CLASSES) % k] += 0.4
    images = np.zeros((WORLD, CLASSES, k), dtype=np.int64)
    for image in images:
        pixels = rng.multinomial(PIXELS, rng.dirichlet(np.full(CLASSES, 0.15)))
        for c in np.flatnonzero(pixels):
            image[c] = rng.multinomial(pixels[c], rng.dirichlet(3 * usual[c] + 1e-3))
    return images


def _scores(images: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    confusion = images.sum(0)
    assignment = match_one_to_one(confusion)
    scores = score(confusion, assignment)
    return assignment, (scores.accuracy, scores.miou)


if __name__ == "__main__":
    main()
