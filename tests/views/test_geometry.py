"""One continuous box for images, features and labels, against slicing, torch, Pillow and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from picie.views.geometry import Geometry

CELLS = 8  # boxes below are aligned to eighths of the frame


def one(box: list[float], transpose: bool = False) -> Geometry:
    return Geometry(torch.tensor([box], dtype=torch.float64), torch.tensor([transpose]))


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def aligned(draw: st.DrawFn) -> Geometry:
    """A flipped and turned square box on the grid of eighths."""
    side = draw(st.sampled_from([2, 4, 8]))
    y, x = draw(st.integers(0, CELLS - side)), draw(st.integers(0, CELLS - side))
    rows, columns = [y, y + side], [x, x + side]
    box = (rows[::-1] if draw(st.booleans()) else rows) + (columns[::-1] if draw(st.booleans()) else columns)
    return one([edge / CELLS for edge in box], draw(st.booleans()))


def side_of(geometry: Geometry) -> float:
    return float((geometry.box[0, 1] - geometry.box[0, 0]).abs())


def test_the_identity_changes_nothing() -> None:
    x, labels = pictures(3, 2, 7, 10), torch.arange(3 * 70).view(3, 7, 10)
    assert torch.equal(Geometry.identity(3).apply(x, (7, 10)), x)
    assert torch.equal(Geometry.identity(3).apply_labels(labels, (7, 10)), labels)


@pytest.mark.parametrize("size", [(5, 9), (32, 32), (20, 31), (64, 48), (96, 7)])
def test_the_whole_frame_equals_torch_and_torchvision(size: tuple[int, int]) -> None:
    x = pictures(2, 3, 32, 32)
    out = Geometry.identity(2).apply(x, size)
    torch.testing.assert_close(out, F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True))
    torch.testing.assert_close(out, tv.resize(x, list(size), antialias=True))


@given(
    st.tuples(*[st.floats(0, 0.6)] * 2),
    st.tuples(*[st.floats(0.1, 0.4)] * 2),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.booleans(), st.booleans()),
)
@settings(max_examples=60, deadline=None)
def test_any_box_equals_pillows_continuous_box(corner: tuple, extent: tuple, size: tuple, flips: tuple) -> None:
    x = pictures(1, 1, 30, 24)
    (y0, x0), (dy, dx) = corner, extent
    area = (x0 * 24, y0 * 30, (x0 + dx) * 24, (y0 + dy) * 30)
    expected = np.asarray(Image.fromarray(x[0, 0].numpy()).resize(size[::-1], Image.Resampling.BILINEAR, box=area))
    expected = np.flip(expected, [axis for axis in (0, 1) if flips[axis]])
    rows, columns = [y0, y0 + dy], [x0, x0 + dx]
    box = (rows[::-1] if flips[0] else rows) + (columns[::-1] if flips[1] else columns)
    np.testing.assert_allclose(one(box).apply(x, size)[0, 0].numpy(), expected, atol=2e-5)


def test_an_aligned_box_at_scale_one_is_a_slice() -> None:
    x, labels = pictures(2, 3, 16, 16), torch.arange(2 * 256).view(2, 16, 16)
    boxes = torch.tensor([[2, 10, 4, 12], [8, 16, 0, 8]], dtype=torch.float64) / 16  # a box of its own for each image
    geometry = Geometry(boxes, torch.zeros(2, dtype=torch.bool))
    torch.testing.assert_close(geometry.apply(x, (8, 8)), torch.stack([x[0, :, 2:10, 4:12], x[1, :, 8:, :8]]))
    expected = torch.stack([labels[0, 2:10, 4:12], labels[1, 8:, :8]])
    assert torch.equal(geometry.apply_labels(labels, (8, 8)), expected)


@pytest.mark.parametrize(("box", "dims"), [([0, 1, 1, 0], [3]), ([1, 0, 0, 1], [2]), ([1, 0, 1, 0], [2, 3])])
def test_boxes_that_run_backwards_flip(box: list[float], dims: list[int]) -> None:
    x, labels = pictures(1, 3, 6, 9), torch.arange(54).view(1, 6, 9)
    torch.testing.assert_close(one(box).apply(x, (6, 9)), x.flip(dims))
    assert torch.equal(one(box).apply_labels(labels, (6, 9)), labels.flip([d - 1 for d in dims]))


def test_transpose_exchanges_rows_and_columns_before_the_box_is_taken() -> None:
    x, labels = pictures(2, 5, 8, 8), torch.arange(128).view(2, 8, 8)
    box = torch.tensor([[0.5, 1.0, 0.0, 0.5]] * 2, dtype=torch.float64)
    geometry = Geometry(box, torch.tensor([True, False]))
    expected = torch.stack([x[0].transpose(1, 2)[:, 4:, :4], x[1, :, 4:, :4]])
    torch.testing.assert_close(geometry.apply(x, (4, 4)), expected)
    assert torch.equal(geometry.apply_labels(labels, (4, 4)), torch.stack([labels[0].T[4:, :4], labels[1, 4:, :4]]))


@given(aligned(), aligned())
@settings(deadline=None)
def test_then_equals_one_after_the_other(first: Geometry, second: Geometry) -> None:
    x, labels = pictures(1, 2, 64, 64), torch.arange(64 * 64).view(1, 64, 64)
    middle = round(64 * side_of(first))
    size = (round(middle * side_of(second)),) * 2
    both = first.then(second)
    torch.testing.assert_close(both.apply(x, size), second.apply(first.apply(x, (middle, middle)), size))
    sequential = second.apply_labels(first.apply_labels(labels, (middle, middle)), size)
    assert torch.equal(both.apply_labels(labels, size), sequential)


@given(aligned(), aligned(), aligned())
@settings(deadline=None)
def test_then_is_associative_with_the_identity_as_its_unit(a: Geometry, b: Geometry, c: Geometry) -> None:
    left, right = a.then(b).then(c), a.then(b.then(c))
    torch.testing.assert_close(left.box, right.box)
    assert torch.equal(left.transpose, right.transpose)
    for same in (a.then(Geometry.identity(1)), Geometry.identity(1).then(a)):
        assert torch.equal(same.box, a.box)
        assert torch.equal(same.transpose, a.transpose)


@given(aligned(), st.sampled_from([1, 2, 3]))
@settings(deadline=None)
def test_labels_move_as_their_indicator_maps_do(geometry: Geometry, enlarge: int) -> None:
    labels = torch.arange(64).view(1, 8, 8)  # each cell its own, so that the nearest outweighs all others
    size = (round(8 * side_of(geometry)) * enlarge,) * 2
    indicators = geometry.apply(F.one_hot(labels, 64).permute(0, 3, 1, 2).double(), size)
    assert torch.equal(geometry.apply_labels(labels, size), indicators.argmax(1))


def test_labels_of_any_type_keep_it() -> None:
    for dtype in (torch.uint8, torch.int64, torch.bool):
        assert one([0.0, 1.0, 1.0, 0.0]).apply_labels(torch.ones(1, 4, 4, dtype=dtype), (2, 2)).dtype == dtype


@given(aligned(), st.integers(5, 12))
@settings(deadline=None, max_examples=25)
def test_the_memory_layout_does_not_matter(geometry: Geometry, channels: int) -> None:
    x = pictures(1, channels, 12, 12)
    dense = geometry.apply(x, (10, 10))
    last = geometry.apply(x.contiguous(memory_format=torch.channels_last), (10, 10))
    torch.testing.assert_close(last, dense)
    assert last.is_contiguous(memory_format=torch.channels_last) or bool(geometry.transpose)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_flow_and_are_right(layout: torch.memory_format) -> None:
    geometry = Geometry(torch.tensor([[0.1, 0.7, 0.9, 0.2], [0.0, 1.0, 0.3, 0.8]]).double(), torch.tensor([True, False]))
    x = pictures(2, 6, 5, 5).double().contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: geometry.apply(t, (4, 3)), (x,))


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_no_images_there_is_nothing_but_a_gradient(layout: torch.memory_format, channels: int) -> None:
    x = torch.zeros(0, channels, 8, 8).contiguous(memory_format=layout).requires_grad_()
    out = Geometry.identity(0).apply(x, (4, 6))
    assert out.shape == (0, channels, 4, 6)
    out.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("side", "size"), [((64, 64), (32, 32)), ((320, 320), (160, 160)), ((60, 96), (25, 40)), ((32, 32), (32, 32))]
)
def test_bf16_frames_are_resampled_as_float32_ones(side: tuple[int, int], size: tuple[int, int]) -> None:
    x = pictures(4, 3, *side).bfloat16()
    boxes = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.1, 0.73, 0.9, 0.3], [0.4, 0.95, 0.0, 0.5], [1.0, 0.0, 1.0, 0.0]])
    geometry = Geometry(boxes.double(), torch.tensor([False, False, False, side[0] == side[1]]))
    out = geometry.apply(x, size)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), geometry.apply(x.float(), size), atol=2 / 256, rtol=0)
