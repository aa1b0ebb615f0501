"""Tables of scores fit a narrow terminal, whatever the number of classes and clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.sparse import coo_array

from picie.cli.tables import _listed, show_evaluation
from picie.data.base import ClassMap
from picie.display.colors import palette, rgb_to_hex
from picie.scoring.results import Evaluation, stack_counts, summarise, with_intervals


def result_of(
    n_classes: int, k: int, groups: Sequence[str] = (), matching: str = "one-to-one", void: int | None = None
) -> Evaluation:
    names = tuple(f"class [b] number {i}" for i in range(n_classes))
    classes = ClassMap(names, tuple(rgb_to_hex(c) for c in palette(n_classes)), groups=tuple(groups))
    rng = np.random.default_rng(0)
    images = [coo_array(rng.integers(0, 10**7, (n_classes, k))) for _ in range(4)]
    return with_intervals(summarise(stack_counts(images, n_classes, k), classes, matching, "val", void), 20)


def shown(result: Evaluation, capsys: pytest.CaptureFixture[str], baselines: dict[str, Evaluation] | None = None) -> str:
    show_evaluation(result, baselines or {})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    return out


def test_every_number_is_in_the_table_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(4, 4, ("things", "things", "stuff", "stuff"))
    told = result.to_dict()
    lines = [
        " ".join(line.replace("│", " ").split()) for line in shown(result, capsys, {"k-means on colour": result}).splitlines()
    ]

    def cells(scores: dict[str, float], ends: dict[str, list[float]] | None) -> str:
        parts = []
        for key in ("accuracy", "miou"):
            low, high = ends[key] if ends else (0, 0)
            parts.append(f"{scores[key]:.1f}" + (f" ({low:.1f} to {high:.1f})" if ends else ""))
        return " ".join(parts)

    assert f"all classes, one-to-one {cells(told, told['intervals'])}" in lines
    for group in ("things", "stuff"):
        own = cells(told["groups"][group], told["intervals"]["groups"][group])
        assert f"{group}, all errors counted {own}" in lines
        assert f"{group}, published arithmetic {cells(told['groups_published'][group], None)}" in lines
    for name in ("one-to-one-iou", "many-to-one"):
        assert f"matched {name} {cells(told['matchings'][name], None)}" in lines
    assert f"k-means on colour, one-to-one {cells(told, None)}" in lines
    assert "in brackets: 95 % confidence intervals from 20 resamples of the images" in lines
    assert f"pixel accuracy {told['accuracy']:.1f} mIoU {told['miou']:.1f} (4 images, mIoU of 4 classes)" in lines
    row = told["per_class"][2]
    assert f"{row['name']} {row['iou']:.1f} {row['accuracy']:.1f} {row['pixels']:,} {row['cluster']}" in lines


@pytest.mark.parametrize(
    ("n_classes", "k", "matching"), [(171, 171, "one-to-one"), (171, 600, "many-to-one"), (3, 600, "one-to-one")]
)
def test_many_classes_and_clusters_stay_readable(
    capsys: pytest.CaptureFixture[str], n_classes: int, k: int, matching: str
) -> None:
    out = shown(result_of(n_classes, k, ("things",) * n_classes, matching), capsys)
    assert out.count("class [b] number ") == n_classes
    assert len(out.splitlines()) < n_classes + 30


def test_clusters_are_listed_up_to_a_number() -> None:
    assert _listed([], 3) == "-"
    assert _listed([4, 2, 7], 3) == "4, 2, 7"
    assert _listed([4, 2, 7, 1, 9], 3) == "4, 2, 7 +2"


def test_pixels_without_a_prediction_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = result_of(3, 5, void=4)
    share = 100 * result.confusion[:, 4].sum() / result.confusion.sum()
    out = shown(result, capsys)
    assert f"labelled pixels without a prediction (they count as errors): {share:.1f} %" in out
    (left,) = [line for line in out.splitlines() if line.startswith("clusters without a class")]
    assert left.endswith(": " + ", ".join(str(i) for i in range(4) if result.assignment[i] == -1))
