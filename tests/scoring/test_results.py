"""What an evaluation comes to, as plain values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array

from picie.config import EvaluateConfig
from picie.data.base import ClassMap
from picie.scoring.intervals import bootstrap
from picie.scoring.metrics import MATCHINGS, UNMATCHED, group_scores, published_group_scores, score
from picie.scoring.results import (
    _DESCRIPTIONS,
    Evaluation,
    named_assignment,
    percent,
    stack_counts,
    summarise,
    unmatched_clusters,
    with_intervals,
)

CLASSES = ClassMap(("cat", "dog", "sky"), ("#ff0000", "#00ff00", "#0000ff"), groups=("things", "things", "stuff"))


def images(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 30, (n, 3, k))


def result_of(confusions: np.ndarray, matching: str = "one-to-one", classes: ClassMap = CLASSES) -> Evaluation:
    counts = stack_counts([coo_array(image) for image in confusions], len(classes), confusions.shape[2])
    return summarise(counts, classes, matching, "how")


def test_counts_are_stacked_image_by_image_even_of_different_width() -> None:
    wide = images(4, 5)
    wide[2, :, 3:] = 0  # an image in which the last two clusters do not occur
    narrow = [coo_array(image[:, :3] if i == 2 else image) for i, image in enumerate(wide)]
    counts = stack_counts(narrow, 3, 5)
    assert np.array_equal(counts.toarray(), wide.reshape(4, 15))
    assert np.array_equal(result_of(wide).confusion, wide.sum(0))
    assert stack_counts([], 3, 5).shape == (0, 15)


def test_the_dictionary_holds_plain_values_in_percent() -> None:
    found: dict[str, Any] = result_of(np.array([[[1, 4], [5, 0], [0, 0]]])).to_dict()
    assert found == json.loads(json.dumps(found))
    assert found["per_class"] == [
        {"name": "cat", "iou": 80.0, "accuracy": 80.0, "pixels": 5, "cluster": 1, "clusters": [1]},
        {"name": "dog", "iou": 83.3333, "accuracy": 100.0, "pixels": 5, "cluster": 0, "clusters": [0]},
        {"name": "sky", "iou": None, "accuracy": None, "pixels": 0, "cluster": None, "clusters": []},
    ]
    assert (found["accuracy"], found["miou"]) == (90.0, 81.6667)
    assert (found["matching"], found["n_images"], found["intervals"]) == ("one-to-one", 1, None)
    assert (
        found["protocol"] == "how; K = 2, 3 classes; one-to-one Hungarian on pixels over the split; mIoU over classes present"
    )
    assert found["groups"]["things"] == {"accuracy": 90.0, "miou": 81.6667}
    assert found["groups"]["stuff"] == {"accuracy": None, "miou": None}
    assert "groups_published" not in found  # two clusters, three classes
    assert list(found["matchings"]) == ["one-to-one", "one-to-one-iou", "many-to-one"]
    assert percent(1 / 3) == 33.3333
    assert percent(float("nan")) is None


def test_a_class_with_several_clusters_names_them_all_the_largest_first() -> None:
    row = result_of(np.array([[[3, 0, 9], [0, 4, 1], [0, 0, 0]]]), "many-to-one").to_dict()["per_class"]
    assert (row[0]["cluster"], row[0]["clusters"]) == (2, [2, 0])
    assert (row[2]["cluster"], row[2]["clusters"]) == (None, [])


def test_the_published_arithmetic_is_given_where_it_applies_alone() -> None:
    confusions = images(3, 3)
    result = result_of(confusions)
    expected = published_group_scores(result.confusion, result.assignment, CLASSES.groups)
    told = result.to_dict()["groups_published"]
    assert told == {name: {"accuracy": percent(r.accuracy), "miou": percent(r.miou)} for name, r in expected.items()}
    assert list(told) == ["things", "stuff"]
    for other in (
        result_of(confusions, "one-to-one-iou"),
        result_of(confusions, "many-to-one"),
        result_of(confusions, "identity"),
        result_of(images(3, 4)),
        result_of(images(3, 2)),
        result_of(confusions, classes=replace(CLASSES, groups=())),
        result_of(
            confusions, classes=replace(CLASSES, groups=("stuff", "things", "stuff"))
        ),  # cut out as one block: no meaning
    ):
        assert "groups_published" not in other.to_dict()
    assert result_of(confusions, classes=replace(CLASSES, groups=())).to_dict()["groups"] == {}


def test_each_matching_is_told_with_its_own_score() -> None:
    result = result_of(images(3, 5), "identity")
    told = result.to_dict()["matchings"]
    assert list(told) == list(MATCHINGS)
    for name, match in MATCHINGS.items():
        expected = score(result.confusion, match(result.confusion, None))
        assert told[name] == {"accuracy": percent(expected.accuracy), "miou": percent(expected.miou)}
        assert told[name]["accuracy"] == percent(result_of(images(3, 5), name).scores.accuracy)
    assert told["one-to-one"]["accuracy"] <= told["many-to-one"]["accuracy"]


def test_every_matching_can_be_named_in_a_protocol_and_all_but_identity_in_a_configuration() -> None:
    assert list(_DESCRIPTIONS) == list(MATCHINGS)
    assert EvaluateConfig.model_fields["matching"].annotation.__args__ == tuple(m for m in MATCHINGS if m != "identity")  # type: ignore[union-attr]


def test_intervals_are_those_of_the_matching_found_on_all_images_and_none_for_a_single_image() -> None:
    result = with_intervals(result_of(images(6, 3)), 50)
    expected = bootstrap(result.counts, 3, lambda _: result.assignment, CLASSES.groups, 50)
    assert result.intervals == expected
    told = result.to_dict()["intervals"]
    assert told == json.loads(json.dumps(told))
    assert (told["level"], told["resamples"]) == (95, 50)
    assert told["accuracy"] == [percent(expected.accuracy.low), percent(expected.accuracy.high)]
    assert told["groups"]["stuff"]["miou"] == [percent(end) for end in expected.groups["stuff"][1]]
    assert told["accuracy"][0] < result.to_dict()["accuracy"] < told["accuracy"][1]
    assert with_intervals(result_of(images(6, 3)), 0).intervals is None
    assert with_intervals(result_of(images(1, 3)), 50).intervals is None


@pytest.mark.parametrize("matching", MATCHINGS)
def test_a_void_column_is_no_cluster(matching: str) -> None:
    confusions = images(3, 4)
    counts = stack_counts([coo_array(image) for image in confusions], 3, 4)
    result = summarise(counts, CLASSES, matching, "how", void=3)
    assert result.assignment[3] == UNMATCHED
    assert 3 not in unmatched_clusters(result)
    assert "groups_published" not in result.to_dict()
    without = score(confusions.sum(0)[:, :3], result.assignment[:3])
    missed = confusions[:, :, 3].sum()
    assert result.scores.accuracy == pytest.approx(without.accuracy * (1 - missed / confusions.sum()))
    assert result.groups == group_scores(result.scores, CLASSES.groups)
    assert with_intervals(result, 20).intervals.accuracy.high < 1 - 0.5 * missed / confusions.sum()  # type: ignore[union-attr]


@pytest.mark.parametrize(("agree", "named"), [(5, True), (4, False)])
def test_a_cluster_is_named_after_a_class_from_an_iou_of_5_percent(agree: int, named: bool) -> None:
    confusion = np.array([[500, 0, 0], [0, agree, 45], [0, 50, 0]])  # dog and cluster 1: `agree` of 100 pixels
    confusion[1, 2] = 50 - agree
    result = result_of(confusion[None])
    result = replace(result, assignment=np.array([0, 1, UNMATCHED]), scores=score(confusion, np.array([0, 1, UNMATCHED])))
    assert result.scores.iou[1] == agree / 100
    assert named_assignment(result).tolist() == [0, 1 if named else UNMATCHED, UNMATCHED]


def test_a_small_cluster_of_many_to_one_is_named_by_the_iou_of_the_whole_class() -> None:
    confusion = np.array([[96, 2, 0], [0, 0, 50], [0, 0, 0]])
    result = result_of(confusion[None], "many-to-one")
    assert named_assignment(result).tolist() == result.assignment.tolist() == [0, 0, 1]
