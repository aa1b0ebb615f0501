"""Scores and confusion as tables."""

from __future__ import annotations

import numpy as np
from tests.report.conftest import decode

from picie.data.base import ClassMap
from picie.report.score_tables import class_rows, confusion_matrices
from picie.scoring.evaluation import Evaluation
from picie.scoring.metrics import match_one_to_one, score


def evaluation(confusion: np.ndarray, assignment: np.ndarray | None = None) -> Evaluation:
    names = tuple(f"class {i}" for i in range(len(confusion)))
    classes = ClassMap(names, ("#112233",) * len(names), 65535)
    assignment = match_one_to_one(confusion) if assignment is None else assignment
    return Evaluation(confusion, assignment, score(confusion, assignment), classes, "protocol", 1, "one-to-one", None)


def test_a_row_for_each_class_and_none_for_what_has_no_meaning() -> None:
    rows = class_rows(evaluation(np.array([[6, 0, 2], [0, 0, 0], [1, 3, 0]]), np.array([0, 2, -1])))
    assert [row.clusters for row in rows] == [[0], [], [1]]
    assert (rows[0].iou, rows[0].accuracy, rows[0].share, rows[0].pixels) == (6 / 9, 6 / 8, 8 / 12, 8)
    assert (rows[1].iou, rows[1].accuracy, rows[1].share) == (None, None, 0.0)


def test_matching_moves_columns_and_keeps_every_pixel() -> None:
    confusion = np.array([[1, 0, 7, 2], [0, 4, 0, 6]])
    before, after = confusion_matrices(evaluation(confusion, np.array([-1, 1, 0, 1])))
    assert before.columns == ["0", "1", "2", "3"]
    assert [[pixels for _, pixels, _ in cells] for _, cells in before.rows] == confusion.tolist()
    assert after.columns == ["class 0", "class 1", "cluster 0"]
    assert [[pixels for _, pixels, _ in cells] for _, cells in after.rows] == [[7, 2, 1], [0, 10, 0]]  # two clusters, one class
    assert [[own for _, _, own in cells] for _, cells in after.rows] == [[True, False, False], [False, True, False]]
    assert after.rows[0][1][0][0] == 0.7


def test_many_classes_become_a_picture() -> None:
    confusion = np.eye(50, dtype=np.int64) * 9
    confusion[3] = 0
    before, after = confusion_matrices(evaluation(confusion, np.roll(np.arange(50), 1)))
    for matrix in (before, after):
        assert not matrix.rows
        assert matrix.picture is not None
        assert decode(matrix.picture).size == (50, 50)
    alpha = np.asarray(decode(before.picture or ""))[..., 3]
    assert np.array_equal(alpha == 255, confusion > 0)
    assert set(alpha.ravel().tolist()) == {0, 255}
