"""Segments: the meaning of the values of a label map, and changes to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from picie.data.base import ClassMap
from picie.display.colors import palette, rgb_to_hex
from picie.errors import InputError
from picie.inference.segments import Segments, read_file, write_file

CLASSES = ClassMap(("a", "b"), ("#010203", "#FF8000"))
PLAIN = Segments.plain(5)


def test_a_matching_gives_the_classes_then_the_clusters_left_over() -> None:
    got = Segments.matched(CLASSES, np.array([1, -1, -1]))  # nothing is class a
    assert got.names == ("a", "b", "cluster 1", "cluster 2")
    assert got.colors[:2] == CLASSES.colors
    assert got.assignment == (1, 2, 3)
    assert not got.user_defined
    assert (got.clusters(0), got.clusters(1)) == ([], [0])


def test_a_checkpoint_keeps_all_of_it() -> None:
    given = PLAIN.renamed({0: ("sky", "")})
    assert Segments.of(given.state()) == given


def test_names_and_colours_are_changed_each_by_itself() -> None:
    got = PLAIN.renamed({0: ("sky", ""), 3: (" my road ", "#0000FF"), 4: ("", "#00ff00")})
    assert got.names == ("sky", "cluster 1", "cluster 2", "my road", "cluster 4")
    assert got.colors == (*PLAIN.colors[:3], "#0000ff", "#00ff00")
    assert (got.assignment, got.user_defined) == (PLAIN.assignment, True)


def test_names_can_be_exchanged() -> None:
    one = PLAIN.renamed({0: ("a", ""), 1: ("b", "")})
    assert one.renamed({0: ("b", ""), 1: ("a", "")}).checked().names[:2] == ("b", "a")


def test_merged_segments_take_the_lowest_place_and_others_move_up() -> None:
    got = PLAIN.merged([((3, 1), "plant", ""), ((0, 4), "", "#123456")])
    assert got.names == ("cluster 0", "plant", "cluster 2")
    assert got.assignment == (0, 1, 2, 1, 0)
    assert got.colors == ("#123456", PLAIN.colors[3], PLAIN.colors[2])  # that of the first listed, if none is given


def test_a_cluster_number_finds_its_segment_after_others_are_merged() -> None:
    merged = PLAIN.merged([((0, 2), "plant", "")])
    assert [merged.find(cluster) for cluster in range(5)] == [0, 1, 0, 2, 3]
    assert [merged.find(text) for text in ("plant", " 4 ", "cluster 4")] == [0, 3, 3]
    matched = Segments.matched(CLASSES, np.array([1, -1, 0]))
    assert [matched.find(cluster) for cluster in range(3)] == [1, 2, 0]
    assert [matched.find(name) for name in matched.names] == [0, 1, 2]
    numbered = Segments(("3", "b"), ("#000000", "#ffffff"), (1, 1, 1, 0))  # a class may be called "3"
    assert numbered.find("3") == 0


def test_a_split_segment_keeps_its_place_and_adds_the_other_parts_last() -> None:
    road = PLAIN.merged([((1, 3), "road", "")])  # road: clusters 1 and 3; then cluster 2, cluster 4
    got = road.split(1, [0, 0, 1, 2, 1, 2], 9)  # each cluster in three: new ones 5, 6 and 7, 8
    assert got.names == ("cluster 0", "road.1", "cluster 2", "cluster 4", "road.2", "road.3")
    assert got.assignment == (0, 1, 2, 1, 3, 4, 5, 4, 5)
    assert len(set(got.colors)) == 6
    assert PLAIN.split(2, [0, 1], 6) == Segments.plain(6)  # unnamed clusters stay unnamed


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda s: s.find(5), "5: no such cluster; they are 0..4"),
        (lambda s: s.find("cluster 9"), "'cluster 9': no segment of that name; did you mean 'cluster"),
        (lambda s: s.renamed({0: ("12", "")}), "'12': is not a valid name"),
        (lambda s: s.renamed({0: ("  ", "")}), "'': is not a valid name"),
        (lambda s: s.renamed({0: ("a\nb", "")}), "is not a valid name"),
        (lambda s: s.renamed({0: ("a", "#12345")}), "'#12345': is not a colour"),
        (lambda s: s.find("9" * 5000), "no such cluster; they are 0..4"),
        (
            lambda s: s.renamed({0: ("a", ""), 2: ("a", "")}).checked(),
            "'a': is the name of 2 segments; merge them by --merge 0,2='a'",
        ),
        (lambda s: s.merged([((1, 2), "x", ""), ((2, 3), "y", "")]), "'cluster 2': is merged twice"),
    ],
)
def test_what_cannot_be_is_refused(change: Callable[[Segments], object], part: str) -> None:
    with pytest.raises(InputError) as error:
        change(PLAIN)
    assert part in str(error.value)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    given = PLAIN.merged([((3, 1), 'plant "x" é', "")]).renamed({0: ("sky", "#010203")})
    write_file(tmp_path / "n.toml", given, "abc")
    assert read_file(tmp_path / "n.toml", 5, "abc") == given


def test_a_file_of_too_many_segments_is_refused_at_once(tmp_path: Path) -> None:
    rows = "".join(f'[[segments]]\nname = "s{i}"\nclusters = []\n' for i in range(4097))
    (tmp_path / "n.toml").write_text(rows)
    with pytest.raises(InputError, match="lists 4097 segments; list at most 4096"):
        read_file(tmp_path / "n.toml", 5, "abc")


def test_a_file_by_hand_may_list_some(tmp_path: Path) -> None:
    (tmp_path / "n.toml").write_text('segments = [{name = "plant", clusters = [4, 1]}, {name = "none", clusters = []}]')
    got = read_file(tmp_path / "n.toml", 5, "abc")
    assert got.names == ("plant", "none", "cluster 0", "cluster 2", "cluster 3")
    assert got.assignment == (2, 0, 3, 4, 0)
    assert got.colors[0] == rgb_to_hex(palette(5)[4])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("k = 7\nsegments = []", "was made for 7 clusters, and the run has 5; names are valid only"),
        ("names = []", "is not a file of names"),
        ('segments = [{name = "a"}]', "segment 0: give name"),
        ('segments = [{name = "a", clusters = [5]}]', "cluster 5 is not in 0..4"),
        ('segments = [{name = "a", clusters = [true]}]', "cluster True is not in 0..4"),
        ('segments = [{name = "a", clusters = [1, 1]}]', "or is listed twice"),
        ('segments = [{name = "a", clusters = [1], colour = "#000000"}]', "segment 0: give name"),
        ('segments = [{name = "a", clusters = [1], color = "red"}]', "'red': is not a colour"),
        ("k =", "not valid TOML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "n.toml").write_text(text)
    with pytest.raises(InputError) as error:
        read_file(tmp_path / "n.toml", 5, "abc")
    assert part in str(error.value)


def test_a_file_of_other_clusters_is_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "n.toml", Segments.plain(5), "abc")
    with pytest.raises(InputError, match="was made for other clusters than the run has now"):
        read_file(tmp_path / "n.toml", 5, "def")
