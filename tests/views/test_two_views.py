"""The draws behind two views: one geometry, two sets of colours, each a function of (seed, epoch, image)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from picie.config import ViewsConfig
from picie.errors import InputError
from picie.views.geometry import Geometry
from picie.views.two_views import TwoViews, ViewDraws

DEFAULT = ViewsConfig()
INVARIANCE, EQUIVARIANCE = list(DEFAULT.invariance), list(DEFAULT.equivariance)


def views(invariance: list = INVARIANCE, equivariance: list = EQUIVARIANCE, seed: int = 0) -> TwoViews:
    return TwoViews(invariance, equivariance, seed)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def rows(drawn: ViewDraws, keep: list[int]) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    params = [[values[keep] for spec in view for values in spec.values()] for view in drawn.photometric]
    return drawn.geometry.box[keep], params


def test_geometry_is_shared_and_colours_are_not() -> None:
    drawn = views().draw(0, range(40))
    assert isinstance(drawn.geometry, Geometry)  # one, so both views have it
    assert len(drawn.photometric) == 2
    for first, second in zip(*drawn.photometric, strict=True):
        assert not same(first, second)


def test_draws_do_not_depend_on_the_batch() -> None:
    whole = views().draw(3, list(range(10)))
    part = views().draw(3, np.array([7, 2]))
    box, params = rows(whole, [7, 2])
    assert torch.equal(box, part.geometry.box)
    for wanted, got in zip(params, rows(part, [0, 1])[1], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


@pytest.mark.parametrize("other", [(1, 3), (0, 4)])
def test_seed_and_epoch_change_every_draw(other: tuple[int, int]) -> None:
    a, b = views(seed=0).draw(3, range(40)), views(seed=other[0]).draw(other[1], range(40))
    assert not (a.geometry.box == b.geometry.box).all(1).any()
    for view in (0, 1):
        assert not any(same(p, q) for p, q in zip(a.photometric[view], b.photometric[view], strict=True))


@pytest.mark.parametrize("dropped", range(len(INVARIANCE)))
def test_dropping_a_photometric_transform_leaves_the_other_draws_alone(dropped: int) -> None:
    full = views().draw(1, range(20))
    less = views(INVARIANCE[:dropped] + INVARIANCE[dropped + 1 :]).draw(1, range(20))
    assert torch.equal(full.geometry.box, less.geometry.box)
    for view in (0, 1):
        kept = [p for i, p in enumerate(full.photometric[view]) if i != dropped]
        assert all(same(p, q) for p, q in zip(kept, less.photometric[view], strict=True))


def test_dropping_a_geometric_transform_leaves_the_other_draws_alone() -> None:
    crop, flip = EQUIVARIANCE
    crops, flips = views(equivariance=[crop]).draw(1, range(20)), views(equivariance=[flip]).draw(1, range(20))
    both = views().draw(1, range(20))
    assert torch.equal(crops.geometry.then(flips.geometry).box, both.geometry.box)
    assert all(same(p, q) for p, q in zip(crops.photometric[0], both.photometric[0], strict=True))


def test_changing_a_strength_leaves_the_coins_alone() -> None:
    def active(strength: float) -> torch.Tensor:
        drawn = views([{"name": "brightness", "strength": strength, "p": 0.5}]).draw(0, range(50))
        return drawn.photometric[0][0]["factor"] != 1

    assert torch.equal(active(0.1), active(0.9))
    assert 10 < int(active(0.1).sum()) < 40


def test_a_transform_listed_twice_draws_twice() -> None:
    drawn = views([{"name": "brightness", "p": 1.0}] * 2).draw(0, range(20))
    assert not same(*drawn.photometric[0])


def test_recolor_uses_the_colours_of_its_view() -> None:
    drawn = views([{"name": "brightness", "p": 1.0}]).draw(0, range(8))
    x = torch.full((8, 3, 4, 4), 0.5)
    for view in (0, 1):
        expected = 0.5 * drawn.photometric[view][0]["factor"]
        torch.testing.assert_close(drawn.recolor(x, view)[:, 0, 0, 0], expected)


def test_recolouring_commutes_with_the_crop_for_colour_operators() -> None:
    """So view 0 may be recoloured at the size that the network sees, as `recolor` says."""
    drawn = views([{"name": n, "p": 1.0} for n in ("brightness", "saturation", "hue", "cast")]).draw(0, range(8))
    x = 0.3 + 0.4 * torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cropped_first = drawn.recolor(drawn.geometry.apply(x, (32, 32)), 0)
    torch.testing.assert_close(cropped_first, drawn.geometry.apply(drawn.recolor(x, 0), (32, 32)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("side", "size"), [(320, 160), (64, 32), (40, 56)])
def test_a_picture_does_not_depend_on_those_beside_it(dtype: torch.dtype, side: int, size: int) -> None:
    """Training takes pictures that clustering made in other batches, or makes them anew after a resume."""
    drawing, n = views([{"name": "contrast"}, {"name": "blur"}]), 24
    frames = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)).to(dtype)
    found: list[torch.Tensor] = []
    for batches in ([range(n)], [range(8), range(8, n)], [range(i, n, 3) for i in range(3)], [[i] for i in range(n)]):
        pictures = torch.empty(2, n, 3, size, size, dtype=dtype)
        for batch in map(list, batches):
            drawn = drawing.draw(0, batch)
            for view in (0, 1):
                pictures[view, batch] = drawn.pictures(frames[batch], view, (size, size))
        found.append(pictures)
    assert all(torch.equal(pictures, found[0]) for pictures in found[1:])


def test_fewer_views_leave_geometry_and_the_others_alone() -> None:
    both = views().draw(2, range(9))
    for n in (0, 1):
        fewer = views().draw(2, range(9), n)
        assert torch.equal(fewer.geometry.box, both.geometry.box)
        assert len(fewer.photometric) == n
        assert all(
            same(p, q) for view in range(n) for p, q in zip(fewer.photometric[view], both.photometric[view], strict=True)
        )


def test_one_view_and_no_transforms() -> None:
    drawn = TwoViews([], [], 0).draw(0, [4, 5], n_views=1)
    assert drawn.photometric == ((),)
    assert torch.equal(drawn.geometry.box, Geometry.identity(2).box)
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(drawn.recolor(x, 0), x)


def test_a_transform_in_the_wrong_list_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'hflip' belongs in views\.equivariance"):
        TwoViews([{"name": "hflip"}], [], 0)
    with pytest.raises(InputError, match=r"'blur' belongs in views\.invariance"):
        TwoViews([], [{"name": "blur"}], 0)
