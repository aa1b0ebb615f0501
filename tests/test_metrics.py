"""Counts, matching and ratios against scikit-learn and brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from picie.metrics import UNMATCHED, confusion_matrix, match_one_to_one, score

IGNORE = 255
confusions = hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 50))


def pixels(n_classes: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, (20, 30)).astype(np.uint8)
    clusters = np.where(rng.random(labels.shape) < 0.6, labels.astype(int) % k, rng.integers(0, k, labels.shape))
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    return labels, clusters


@pytest.mark.parametrize(("n_classes", "k"), [(4, 4), (3, 7), (6, 2)])
def test_counts_are_scikit_learns(n_classes: int, k: int) -> None:
    labels, clusters = pixels(n_classes, k)
    kept = labels != IGNORE
    wide = sklearn_confusion(labels[kept], clusters[kept], labels=range(max(n_classes, k)))
    ours = confusion_matrix(labels, clusters, n_classes, k, IGNORE)
    assert np.array_equal(ours, wide[:n_classes, :k])
    assert ours.sum() == kept.sum()


def test_counts_do_not_depend_on_types_and_add_up_over_images() -> None:
    labels, clusters = pixels(3, 300)
    clusters[0, :5] = 299  # above what one byte holds
    wide = confusion_matrix(labels.astype(np.int64), clusters, 3, 300, IGNORE)
    assert np.array_equal(confusion_matrix(labels, clusters.astype(np.uint16), 3, 300, IGNORE), wide)
    halves = [confusion_matrix(labels[half], clusters[half], 3, 300, IGNORE) for half in (slice(0, 9), slice(9, None))]
    assert np.array_equal(sum(halves), wide)
    negative = np.where(labels == IGNORE, -1, labels.astype(np.int64))
    assert np.array_equal(confusion_matrix(negative, clusters, 3, 300, -1), wide)


@given(confusions)
@settings(deadline=None)
def test_matching_is_the_best_of_all_injections(confusion: np.ndarray) -> None:
    n_classes, k = confusion.shape
    if k <= n_classes:
        best = max(sum(confusion[c, j] for j, c in enumerate(pick)) for pick in permutations(range(n_classes), k))
    else:
        best = max(sum(confusion[c, j] for c, j in enumerate(pick)) for pick in permutations(range(k), n_classes))
    assignment = match_one_to_one(confusion)
    matched = assignment[assignment != UNMATCHED]
    assert assignment.shape == (k,)
    assert len(matched) == min(n_classes, k) == len(set(matched.tolist()))
    assert sum(confusion[c, j] for j, c in enumerate(assignment) if c != UNMATCHED) == best


@given(confusions, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_scores_do_not_depend_on_how_clusters_are_numbered(confusion: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(confusion.shape[1])
    a = score(confusion, match_one_to_one(confusion))
    b = score(confusion[:, order], match_one_to_one(confusion[:, order]))
    assert a.accuracy == pytest.approx(b.accuracy, nan_ok=True)
    # The class scores of a given matching move with it, column by column.
    c = score(confusion[:, order], match_one_to_one(confusion)[order])
    np.testing.assert_array_equal(a.iou, c.iou)


@pytest.mark.parametrize(("n_classes", "k"), [(4, 4), (3, 7), (6, 2)])
def test_ratios_are_scikit_learns(n_classes: int, k: int) -> None:
    labels, clusters = pixels(n_classes, k, seed=1)
    confusion = confusion_matrix(labels, clusters, n_classes, k, IGNORE)
    assignment = match_one_to_one(confusion)
    kept = labels != IGNORE
    truth, predicted = labels[kept].astype(int), assignment[clusters[kept]]  # -1 where unmatched: never right
    scores = score(confusion, assignment)
    classes = list(range(n_classes))
    iou = jaccard_score(truth, predicted, labels=classes, average=None, zero_division=0)
    np.testing.assert_allclose(scores.iou, iou)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.miou == pytest.approx(iou.mean())
    np.testing.assert_allclose(scores.class_accuracy, recall_score(truth, predicted, labels=classes, average=None))
    assert np.array_equal(scores.pixels, np.bincount(truth, minlength=n_classes))


def test_unmatched_clusters_count_as_errors() -> None:
    confusion = np.array([[6, 0, 4], [0, 10, 0]])  # cluster 2 holds 4 pixels of class 0
    assignment = match_one_to_one(confusion)
    assert assignment.tolist() == [0, 1, UNMATCHED]
    scores = score(confusion, assignment)
    assert scores.accuracy == 16 / 20  # dropping them, as a widely copied evaluator does, would say 1
    assert scores.iou.tolist() == [6 / 10, 1.0]


def test_columns_move_to_class_order() -> None:
    """METHOD 4.11: after matching the index is the class, in every field."""
    confusion = np.array([[0, 0, 5], [7, 0, 1], [2, 3, 0]])
    assignment = match_one_to_one(confusion)
    assert assignment.tolist() == [1, 2, 0]
    scores = score(confusion, assignment)
    assert scores.iou.tolist() == [5 / 6, 7 / 10, 3 / 5]
    assert scores.class_accuracy.tolist() == [1, 7 / 8, 3 / 5]
    assert scores.pixels.tolist() == [5, 8, 5]


def test_several_clusters_of_one_class_add_up() -> None:
    scores = score(np.array([[4, 5, 1], [1, 0, 9]]), np.array([0, 0, 1]))
    assert scores.accuracy == 18 / 20
    assert scores.iou.tolist() == [9 / 11, 9 / 11]


def test_miou_is_the_mean_over_classes_that_occur_in_labels_or_predictions() -> None:
    confusion = np.array([[8, 2, 0], [0, 0, 0], [0, 0, 0]])  # class 1 is predicted though absent; class 2 nowhere
    scores = score(confusion, np.array([0, 1, 2]))
    assert scores.iou[:2].tolist() == [0.8, 0.0]
    assert np.isnan(scores.iou[2])
    assert scores.miou == pytest.approx(0.4)
    assert np.isnan(scores.class_accuracy[1:]).all()


def test_no_labelled_pixel_gives_no_number() -> None:
    scores = score(np.zeros((2, 3), dtype=np.int64), np.array([0, 1, UNMATCHED]))
    assert np.isnan([scores.accuracy, scores.miou]).all()
