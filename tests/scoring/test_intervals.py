"""Bootstrap intervals against brute force: every resample there is, a plain loop, and how often the truth lies inside."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array

from picie.errors import InputError
from picie.scoring import intervals
from picie.scoring.intervals import bootstrap, check_resamples, resampled
from picie.scoring.metrics import group_scores, match_identity, match_one_to_one, score


def split_of(n: int, n_classes: int, k: int, seed: int = 0) -> np.ndarray:
    """(n, C, K) confusion matrices of images that differ a lot, most cells empty."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 40, (n, n_classes, k)) * (rng.random((n, n_classes, k)) < 0.4)
    for c in range(min(n_classes, k)):
        counts[:, c, c] += rng.integers(0, 60, n)
    return counts


def sparse(images: np.ndarray) -> csr_array:
    return csr_array(images.reshape(len(images), -1))


def test_intervals_are_those_of_all_resamples_there_are() -> None:
    images, groups = split_of(4, 3, 4), ("things", "stuff", "stuff")
    found: dict[str, list[float]] = {"accuracy": [], "miou": [], "things": [], "stuff": []}
    for drawn in product(range(4), repeat=4):  # 256, all as likely
        confusion = sum(images[i] for i in drawn)
        scores = score(confusion, match_one_to_one(confusion))
        found["accuracy"].append(scores.accuracy)
        found["miou"].append(scores.miou)
        for group, ratios in group_scores(scores, groups).items():
            found[group].append(ratios.miou)
    ours = bootstrap(sparse(images), 3, match_one_to_one, groups, resamples=6000)
    got = {"accuracy": ours.accuracy, "miou": ours.miou, "things": ours.groups["things"][1], "stuff": ours.groups["stuff"][1]}
    for name, values in found.items():
        # The distribution has steps, so the ends are compared with its 2 and 3, and 97 and 98, percent.
        low, high = np.percentile(values, [2.0, 3.0]), np.percentile(values, [97.0, 98.0])
        assert low[0] - 1e-9 <= got[name].low <= low[1] + 1e-9, name
        assert high[0] - 1e-9 <= got[name].high <= high[1] + 1e-9, name
        assert got[name].low < got[name].high


def test_each_resample_is_n_whole_images_drawn_with_replacement() -> None:
    n = 7
    one_cell_an_image = np.diag(np.arange(1, n + 1)).reshape(n, 1, n)  # image i has i + 1 pixels, all in cluster i
    drawn = np.array([confusion[0] for confusion in resampled(sparse(one_cell_an_image), 1, 4000, 0)]) / np.arange(1, n + 1)
    assert (drawn == drawn.round()).all()
    assert (drawn.sum(1) == n).all()
    assert drawn.max() > 2
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.08)  # 5 standard errors
    np.testing.assert_allclose(drawn.var(0), 1 - 1 / n, atol=0.15)


def test_resamples_do_not_depend_on_how_many_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = sparse(split_of(9, 3, 5))
    at_once = list(resampled(counts, 3, 20, 1))
    assert at_once[0].shape == (3, 5)
    monkeypatch.setattr(intervals, "_CELLS", 50)  # three at a time
    np.testing.assert_array_equal(at_once, list(resampled(counts, 3, 20, 1)))
    monkeypatch.setattr(intervals, "_CELLS", 1)
    np.testing.assert_array_equal(at_once, list(resampled(counts, 3, 20, 1)))
    assert not np.array_equal(at_once, list(resampled(counts, 3, 20, 2)))


def test_the_truth_lies_inside_as_often_as_it_should() -> None:
    rng, truth, ends = np.random.default_rng(3), 0.7, []
    for trial in range(200):
        right = rng.binomial(100, rng.beta(7, 3, 60))  # 60 images of 100 pixels; images differ in how hard they are
        counts = csr_array(np.stack([right, 100 - right], axis=1))
        ends.append(bootstrap(counts, 1, match_identity, resamples=150, seed=trial).accuracy)
    low, high = np.array(ends).T
    assert 0.89 <= ((low <= truth) & (truth <= high)).mean() <= 0.98
    assert 0.06 < (high - low).mean() < 0.08  # 3.9 x 0.145 / sqrt(60); pixels taken as independent would give 0.02


def test_every_resample_is_matched_as_it_is_asked_for() -> None:
    # Two images whose classes are named by different clusters: with one image drawn twice, a new matching is perfect.
    images = np.array([[[9, 0], [0, 9]], [[0, 9], [9, 0]]])
    assert bootstrap(sparse(images), 2, match_one_to_one, resamples=200).accuracy == (0.5, 1.0)
    assert bootstrap(sparse(images), 2, lambda _: np.array([0, 1]), resamples=200).accuracy == (0.0, 1.0)
    assert bootstrap(sparse(images), 2, match_identity, resamples=200).accuracy == (0.0, 1.0)


def test_no_labelled_pixel_gives_no_interval() -> None:
    found = bootstrap(csr_array((3, 4), dtype=np.int64), 2, match_identity, resamples=5)
    assert np.isnan([*found.accuracy, *found.miou]).all()


@pytest.mark.parametrize("resamples", [-1, 100_001, 10**9])
def test_numbers_of_resamples_that_take_hours_are_refused(resamples: int) -> None:
    with pytest.raises(InputError, match=f"--bootstrap {resamples}: give a number from 0 to 100000"):
        check_resamples(resamples)
    check_resamples(0)
    check_resamples(100_000)
