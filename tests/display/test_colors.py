"""Colours: the palette's distances, and CIELAB against published values."""

from __future__ import annotations

import numpy as np
import pytest

from picie.display.colors import DEFICIENCIES, hex_to_rgb, palette, rgb_to_hex, simulated, srgb_to_lab

PUBLISHED = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 0): (97.14, -21.55, 94.48),
    (0, 255, 255): (91.11, -48.09, -14.13),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (128, 128, 128): (53.59, 0.0, 0.0),
    (1, 1, 1): (0.27, 0.0, 0.0),  # the linear pieces of both curves
}


@pytest.mark.parametrize("color", PUBLISHED)
def test_lab_of_known_colours(color: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(srgb_to_lab(np.array([color]) / 255)[0], PUBLISHED[color], atol=0.03)


def test_lab_of_greys_has_no_colour_and_rising_lightness() -> None:
    lab = srgb_to_lab(np.repeat(np.linspace(0, 1, 256)[:, None], 3, axis=1))
    assert np.abs(lab[:, 1:]).max() < 0.02
    assert (np.diff(lab[:, 0]) > 0).all()
    assert np.diff(lab[:, 0]).max() < 0.6  # no jump where the pieces of the curves meet


def test_hex_and_back() -> None:
    assert hex_to_rgb("#0aFf80") == (10, 255, 128)
    assert rgb_to_hex((10, 255, 128)) == "#0aff80"


@pytest.mark.parametrize(("n", "least"), [(12, 28), (27, 26), (171, 11)])
def test_no_two_colours_of_a_palette_are_close(n: int, least: float) -> None:
    lab = srgb_to_lab(np.array(palette(n)) / 255)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(n)
    assert distance.min() > least
    assert lab[:, 0].min() > 29  # visible on black and on white
    assert lab[:, 0].max() < 81


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_first_colours_differ_for_colour_blind_people(deficiency: str) -> None:
    lab = srgb_to_lab(simulated(np.array(palette(12)) / 255, deficiency))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1000 * np.eye(12)
    assert distance.min() > 16  # of any two
    assert np.linalg.norm(np.diff(lab, axis=0), axis=1).min() > 30  # of neighbours in the legend


def test_red_and_green_are_confused_by_some_and_not_by_others() -> None:
    def distance(deficiency: str) -> float:
        lab = srgb_to_lab(simulated(np.array([[200, 80, 60], [130, 130, 60]]) / 255, deficiency))
        return float(np.linalg.norm(lab[0] - lab[1]))

    assert distance("deuteranopia") < 16
    assert distance("tritanopia") > 40
    greys = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [1, 1, 1]])
    for kind in DEFICIENCIES:  # the rows of each matrix sum to 1
        np.testing.assert_allclose(simulated(greys, kind), greys, atol=1e-5)


def test_no_colour_hides_the_photo_below_it() -> None:
    colors = np.array(palette(40))
    assert np.ptp(colors, axis=1).max() <= 140
    assert (np.ptp(colors, axis=1) <= 0.7 * colors.max(1)).all()
    lab = srgb_to_lab(colors / 255)
    for vivid in ([0, 255, 255], [255, 0, 255], [255, 0, 0]):
        assert np.linalg.norm(lab - srgb_to_lab(np.array([vivid]) / 255), axis=1).min() > 23


def test_a_longer_palette_begins_with_the_shorter() -> None:
    assert palette(40)[:12] == palette(12)
