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

from picie.scoring.metrics import (
    MATCHINGS,
    UNMATCHED,
    confusion_matrix,
    group_scores,
    match_identity,
    match_many_to_one,
    match_one_to_one,
    match_one_to_one_iou,
    published_group_scores,
    score,
)

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
    labelled = np.flatnonzero(confusion.sum(1))
    assert len(matched) == min(len(labelled), k) == len(set(matched.tolist()))
    assert set(matched.tolist()) <= set(labelled.tolist())  # a class without pixels takes no cluster
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
    """After matching the index is the class, in every field."""
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


@given(confusions, st.booleans())
@settings(deadline=None)
def test_iou_matching_is_the_best_of_all_injections(confusion: np.ndarray, with_void: bool) -> None:
    n_classes, k = confusion.shape
    rows, columns = confusion.sum(1), confusion.sum(0)
    void = k - 1 if with_void else None
    candidates = [j for j in range(k) if j != void]

    def iou(c: int, j: int) -> float:
        union = rows[c] + columns[j] - confusion[c, j]
        return confusion[c, j] / union if union else 0.0

    if len(candidates) <= n_classes:
        injections = (list(zip(pick, candidates, strict=True)) for pick in permutations(range(n_classes), len(candidates)))
    else:
        injections = (list(enumerate(pick)) for pick in permutations(candidates, n_classes))
    best = max(sum(iou(c, j) for c, j in pairs) for pairs in injections)
    assignment = match_one_to_one_iou(confusion, void)
    found = [(c, j) for j, c in enumerate(assignment) if c != UNMATCHED]
    assert len(found) == min(int((rows > 0).sum()), len(candidates)) == len({c for c, _ in found})
    assert void not in [j for _, j in found]
    assert sum(iou(c, j) for c, j in found) == pytest.approx(best)


def test_the_two_one_to_one_matchings_differ_where_a_large_class_outweighs_a_small_one() -> None:
    confusion = np.array([[60, 40], [15, 0]])
    assert match_one_to_one(confusion).tolist() == [0, 1]  # 60 pixels against 55
    assert match_one_to_one_iou(confusion).tolist() == [1, 0]  # 60 / 115 against 40 / 100 + 15 / 75
    assert score(confusion, np.array([1, 0])).miou == pytest.approx(0.3)


@given(confusions)
@settings(deadline=None)
def test_many_to_one_is_the_majority_and_never_below_one_to_one(confusion: np.ndarray) -> None:
    assignment = match_many_to_one(confusion)
    for j, c in enumerate(assignment):
        column = confusion[:, j].tolist()
        assert c == (column.index(max(column)) if sum(column) else UNMATCHED)
    if confusion.sum():
        assert score(confusion, assignment).accuracy == confusion.max(0).sum() / confusion.sum()
        assert score(confusion, assignment).accuracy >= score(confusion, match_one_to_one(confusion)).accuracy


@pytest.mark.parametrize(("n_classes", "k"), [(4, 4), (3, 7), (6, 2)])
def test_identity_is_scikit_learns_plain_score(n_classes: int, k: int) -> None:
    labels, clusters = pixels(n_classes, k, seed=2)
    confusion = confusion_matrix(labels, clusters, n_classes, k, IGNORE)
    kept = labels != IGNORE
    scores = score(confusion, match_identity(confusion))
    truth, predicted = labels[kept].astype(int), clusters[kept]
    iou = jaccard_score(truth, predicted, labels=range(n_classes), average=None, zero_division=0)
    np.testing.assert_allclose(scores.iou, iou)
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))


@pytest.mark.parametrize("name", MATCHINGS)
def test_pixels_without_a_prediction_are_errors_under_every_matching(name: str) -> None:
    confusion = np.array([[1, 0, 50], [0, 2, 40]])
    assignment = MATCHINGS[name](confusion, 2)
    assert assignment.tolist() == [0, 1, UNMATCHED]
    assert score(confusion, assignment).iou.tolist() == [1 / 51, 2 / 42]


# Two things and two stuffs whose clusters are not in class order: A -> 2, B -> 0, C -> 3, D -> 1.
BY_HAND = np.array([[0, 0, 6, 1], [5, 1, 0, 0], [1, 0, 2, 7], [0, 8, 1, 0]])
GROUPS = ("things", "things", "stuff", "stuff")


def test_group_scores_and_the_published_arithmetic_by_hand() -> None:
    assignment = match_one_to_one(BY_HAND)
    assert assignment.tolist() == [1, 3, 0, 2]
    scores = score(BY_HAND, assignment)
    ours = group_scores(scores, GROUPS)
    assert ours["things"] == pytest.approx((11 / 13, (6 / 10 + 5 / 7) / 2))  # A: 6 of 7 + 9 - 6, B: 5 of 6 + 6 - 5
    assert ours["stuff"] == pytest.approx((15 / 19, (7 / 11 + 8 / 10) / 2))  # C: 7 of 10 + 8 - 7, D: 8 of 9 + 9 - 8
    # Rows in cluster order are B, D, A, C: "things" is the block of B and D in clusters 0 and 1, [[5, 1], [0, 8]], and
    # "stuff" that of A and C in clusters 2 and 3, [[6, 1], [2, 7]].
    published = published_group_scores(BY_HAND, assignment, GROUPS)
    assert published["things"] == pytest.approx((13 / 14, (5 / 6 + 8 / 9) / 2))
    assert published["stuff"] == pytest.approx((13 / 16, (6 / 9 + 7 / 10) / 2))


@given(st.integers(1, 6).flatmap(lambda n: hnp.arrays(np.int64, (n, n), elements=st.integers(0, 50))))
@settings(deadline=None)
def test_moving_rows_to_cluster_order_leaves_scores_over_all_classes_alone(confusion: np.ndarray) -> None:
    confusion = confusion + np.eye(len(confusion), dtype=np.int64)  # every class has a pixel, so all are matched
    assignment = match_one_to_one(confusion)
    ours, moved = score(confusion, assignment), score(confusion[assignment], np.arange(len(confusion)))
    assert moved.accuracy == pytest.approx(ours.accuracy, nan_ok=True)
    assert moved.miou == pytest.approx(ours.miou, nan_ok=True)
    one_group = published_group_scores(confusion, assignment, ["all"] * len(confusion))["all"]
    assert one_group == pytest.approx((ours.accuracy, ours.miou), nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_group_scores_are_a_plain_restatement_with_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(2, 7)), int(rng.integers(2, 9))
    confusion = rng.integers(0, 30, (n, k))
    groups = rng.choice(["things", "stuff", "other"], n).tolist()
    assignment = match_many_to_one(confusion) if seed % 2 else match_one_to_one(confusion)
    for group, found in group_scores(score(confusion, assignment), groups).items():
        members = [c for c in range(n) if groups[c] == group]
        right = sum(int(confusion[c, j]) for c in members for j in range(k) if assignment[j] == c)
        ious = []
        for c in members:
            agree = sum(int(confusion[c, j]) for j in range(k) if assignment[j] == c)
            missed = sum(int(confusion[c, j]) for j in range(k) if assignment[j] != c)
            wrong = sum(int(confusion[other, j]) for other in range(n) for j in range(k) if other != c and assignment[j] == c)
            ious.append(agree / (agree + missed + wrong))
        assert found == pytest.approx((right / sum(int(confusion[c].sum()) for c in members), sum(ious) / len(ious)))


@pytest.mark.parametrize("seed", range(20))
def test_the_published_arithmetic_is_a_plain_restatement_with_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_things, n_stuff = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    n = n_things + n_stuff
    confusion = rng.integers(1, 30, (n, n))
    assignment = match_one_to_one(confusion)
    rows: list[list[int]] = [[] for _ in range(n)]
    for c in range(n):
        rows[int(np.flatnonzero(assignment == c)[0])] = confusion[c].tolist()
    found = published_group_scores(confusion, assignment, ["things"] * n_things + ["stuff"] * n_stuff)
    for group, low, high in (("things", 0, n_things), ("stuff", n_things, n)):
        block = [row[low:high] for row in rows[low:high]]
        agree = [block[i][i] for i in range(high - low)]
        total = sum(map(sum, block))
        ious = [a / (sum(block[i]) + sum(row[i] for row in block) - a) for i, a in enumerate(agree)]
        assert found[group] == pytest.approx((sum(agree) / total, sum(ious) / len(ious)))
