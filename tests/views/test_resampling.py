"""Means of near cells against dense matrices, scipy and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from picie.views.resampling import filtered, gaussian, resampling_matrix, triangle


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def dense(start: torch.Tensor, stop: torch.Tensor, n_in: int, n_out: int) -> torch.Tensor:
    """(B, n_out, n_in) float64: the triangles of all cells, by their definition."""
    cells = (torch.arange(n_out, dtype=torch.float64) + 0.5) / n_out
    centres = (start[:, None] + (stop - start)[:, None] * cells) * n_in
    width = ((stop - start).abs() * n_in / n_out).clamp(min=1)
    weights = (1 - (torch.arange(n_in) + 0.5 - centres[:, :, None]).abs() / width[:, None, None]).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


ends = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3)
sides = st.integers(1, 150)  # up to five bands


@given(ends, sides, sides, sides, sides)
@settings(deadline=None, max_examples=80)
def test_bands_give_what_all_cells_give(boxes: list, height: int, width: int, rows: int, columns: int) -> None:
    start, stop = torch.tensor(boxes, dtype=torch.float64).T
    x = pictures(len(boxes), 2, height, width)
    by_rows, by_columns = dense(start, stop, height, rows), dense(stop, start, width, columns)
    out = filtered(x, triangle(start, stop, height, rows), triangle(stop, start, width, columns))
    torch.testing.assert_close(out, by_rows[:, None] @ x @ by_columns.mT[:, None], atol=1e-5, rtol=0)
    torch.testing.assert_close(resampling_matrix(start, stop, height, rows).double(), by_rows, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(20, 33), (160, 160), (321, 100)])
def test_a_blur_equals_scipys_with_the_border_left_out(height: int, width: int) -> None:
    x, sigma = pictures(4, 3, height, width), torch.tensor([0.05, 0.6, 3.0, 40.0])  # the last reaches beyond any picture
    out = filtered(x, gaussian(sigma, height, 40.0), gaussian(sigma, width, 40.0)).numpy()
    for image, found, width_of in zip(x.numpy(), out, sigma.tolist(), strict=True):
        for channel, ours in zip(image, found, strict=True):
            total, share = (
                ndimage.gaussian_filter(values, width_of, mode="constant", truncate=12)
                for values in (channel, np.ones_like(channel))
            )
            np.testing.assert_allclose(ours, total / share, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types_are_kept_and_no_picture_is_none(dtype: torch.dtype) -> None:
    for n in (0, 2):
        start, stop = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
        by = triangle(start, stop, 40, 70)
        out = filtered(pictures(n, 3, 40, 40).to(dtype), by, by)
        assert out.dtype == dtype
        assert out.shape == (n, 3, 70, 70)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 30), st.integers(1, 30))
@settings(deadline=None)
def test_rows_of_the_resampling_matrix_are_means(start: float, stop: float, n_in: int, n_out: int) -> None:
    matrix = resampling_matrix(torch.tensor([start]).double(), torch.tensor([stop]).double(), n_in, n_out)
    assert matrix.shape == (1, n_out, n_in)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(2), torch.ones(1, n_out))
    # Turned round, it takes the same cells in the opposite order.
    backwards = resampling_matrix(torch.tensor([stop]).double(), torch.tensor([start]).double(), n_in, n_out)
    torch.testing.assert_close(backwards.flip(1), matrix, atol=1e-5, rtol=0)


def test_resampling_by_hand() -> None:
    def matrix(start: float, stop: float, n_in: int, n_out: int) -> list:
        return resampling_matrix(torch.tensor([start]).double(), torch.tensor([stop]).double(), n_in, n_out)[0].tolist()

    # Two cells become four: centres at -0.25, 0.25, 0.75, 1.25 in cells; the outer ones repeat the border.
    assert matrix(0, 1, 2, 4) == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    # Four become two: the triangle is two cells wide, weights 3/4, 3/4, 1/4 of the distances 0.5, 0.5, 1.5.
    np.testing.assert_allclose(matrix(0, 1, 4, 2), np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7, rtol=1e-6)
    # A box moved by a quarter cell at scale 1.
    np.testing.assert_allclose(matrix(0.3125, 0.8125, 4, 2), [[0, 0.75, 0.25, 0], [0, 0, 0.75, 0.25]], rtol=1e-6)
