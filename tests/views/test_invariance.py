"""The law of photometric transforms, and each against an independent implementation (DESIGN, contract B)."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from picie.errors import InputError
from picie.registry import EQUIVARIANCE, INVARIANCE
from picie.runtime.rng import ImageRNG
from picie.views.base import Photometric, build_transform
from picie.views.invariance import Blur, Brightness, Contrast, Gamma, Greyscale, Hue, Saturation, apply_photometric

N = 16
NEUTRAL = {name: {"strength": 0.0} for name in INVARIANCE} | {"greyscale": {"p": 0.0}, "blur": {"sigma": [0.0, 0.0]}}
POINTWISE = [name for name in INVARIANCE if name != "blur"]


def make(name: str, **params: object) -> Photometric:
    transform = build_transform(Photometric, {"name": name} | params)
    assert isinstance(transform, Photometric)
    return transform


def draws(n: int = N, name: str = "test") -> ImageRNG:
    return ImageRNG((0, 0, name), range(n))


def images(low: float = 0.0, high: float = 1.0, side: int = 24, n: int = N) -> Tensor:
    return low + (high - low) * torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(4))


def run(name: str, x: Tensor, **params: object) -> Tensor:
    transform = make(name, **params)
    return transform.apply(x, transform.draw(draws(len(x))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", INVARIANCE)
def test_law_keeps_shape_dtype_and_range(name: str, dtype: torch.dtype) -> None:
    x = images(side=320, n=4).to(dtype)
    x[:, :, :4], x[:, :, -4:] = 0, 1  # the ends of the range, where it could be left
    before = x.clone()
    out = run(name, x, p=1.0)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert (out.min() >= 0, out.max() <= 1) == (True, True)
    assert torch.equal(x, before)  # the frames serve the next view too
    assert (out - x).abs().max() > 0.01


@pytest.mark.parametrize("name", INVARIANCE)
def test_law_moves_nothing_under_flips_and_turns(name: str) -> None:
    """A transform that moved pixels by (dy, dx) would move a mirrored picture the other way."""
    transform = make(name, p=1.0)
    x, params = images(side=640, n=2), transform.draw(draws(2))
    moves: list[Callable[[Tensor], Tensor]] = [lambda t: t.flip(2), lambda t: t.flip(3), lambda t: t.mT]
    for move in moves:
        torch.testing.assert_close(transform.apply(move(x), params), move(transform.apply(x, params)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", POINTWISE)
def test_law_commutes_with_any_reordering_of_pixels(name: str) -> None:
    transform = make(name, p=1.0)
    x, params = images().flatten(2), transform.draw(draws())
    order = torch.randperm(x.shape[2], generator=torch.Generator().manual_seed(0))
    out = transform.apply(x.view(N, 3, 24, 24), params).flatten(2)
    moved = transform.apply(x[:, :, order].view(N, 3, 24, 24), params).flatten(2)
    torch.testing.assert_close(moved, out[:, :, order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", INVARIANCE)
def test_law_is_the_identity_at_probability_zero_and_at_strength_zero(name: str) -> None:
    x = images()
    torch.testing.assert_close(run(name, x, p=0.0), x, atol=2e-6, rtol=0)
    torch.testing.assert_close(run(name, x, **NEUTRAL[name]), x, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", INVARIANCE)
def test_law_each_image_has_a_parameter_of_its_own_with_the_given_probability(name: str) -> None:
    params = make(name, p=0.4).draw(draws(2000))
    assert all(len(values) == 2000 for values in params.values())
    flat = torch.cat([values.reshape(2000, -1).double() for values in params.values()], dim=1)
    neutral = torch.cat([v.reshape(1, -1).double() for v in make(name, p=0.0).draw(draws(1)).values()], dim=1)
    active = (flat != neutral).any(1)
    assert stats.binomtest(int(active.sum()), 2000, 0.4).pvalue > 1e-3
    if name != "greyscale":  # on or off is all it draws
        assert len(flat[active].unique(dim=0)) > 0.95 * int(active.sum())


@pytest.mark.parametrize("name", INVARIANCE)
def test_law_images_of_a_batch_do_not_influence_each_other(name: str) -> None:
    transform = make(name, p=0.5)
    x, params = images(), transform.draw(draws())
    alone = [transform.apply(x[i : i + 1], {key: v[i : i + 1] for key, v in params.items()}) for i in range(N)]
    torch.testing.assert_close(transform.apply(x, params), torch.cat(alone), atol=1e-6, rtol=0)


def test_a_composed_run_equals_one_after_the_other() -> None:
    x = images(0.4, 0.6)  # so that nothing is clipped on the way
    names = ["brightness", "contrast", "cast", "saturation", "blur", "hue", "contrast", "greyscale", "gamma", "brightness"]
    transforms = [make(name, p=0.8) for name in names]
    params = [t.draw(draws(name=f"{i}")) for i, t in enumerate(transforms)]
    sequential = x
    for transform, values in zip(transforms, params, strict=True):
        sequential = transform.apply(sequential, values)
        assert 0 < sequential.min() < sequential.max() < 1
    torch.testing.assert_close(apply_photometric(transforms, x, params), sequential, atol=1e-5, rtol=0)
    assert torch.equal(apply_photometric([], x, []), x)


@pytest.mark.parametrize(
    ("transform", "oracle"),
    [
        (Brightness(p=1.0), tv.adjust_brightness),
        (Contrast(p=1.0), tv.adjust_contrast),
        (Saturation(p=1.0), tv.adjust_saturation),
    ],
)
def test_factors_act_as_torchvisions(transform: Photometric, oracle: Callable[[Tensor, float], Tensor]) -> None:
    x, params = images(0.3, 0.7), transform.draw(draws())
    assert params["factor"].min() < 0.85
    assert params["factor"].max() > 1.15
    expected = torch.stack([oracle(image, float(f)) for image, f in zip(x, params["factor"], strict=True)])
    torch.testing.assert_close(transform.apply(x, params), expected, atol=5e-4, rtol=0)


def test_greyscale_is_torchvisions() -> None:
    x = images()
    expected = tv.rgb_to_grayscale(x, num_output_channels=3)
    torch.testing.assert_close(Greyscale(1.0).apply(x, Greyscale(1.0).draw(draws())), expected, atol=5e-4, rtol=0)


def test_gamma_by_hand() -> None:
    x = torch.tensor([0.25, 0.5, 1.0, 0.0]).view(1, 1, 2, 2).expand(2, 3, 2, 2)
    out = Gamma().apply(x, {"power": torch.tensor([2.0, 0.5])})
    torch.testing.assert_close(out[:, 0].flatten(1), torch.tensor([[0.0625, 0.25, 1, 0], [0.5, 0.5**0.5, 1, 0]]))
    power = Gamma(0.5, 1.0).draw(draws(4000))["power"]
    assert stats.kstest((power.log() / np.log(1.5)).numpy() / 2 + 0.5, "uniform").pvalue > 1e-3  # as often darker as lighter


def turned(color: list[float], turn: float) -> list[float]:
    out = Hue().apply(torch.tensor(color).view(1, 3, 1, 1).repeat(1, 1, 2, 2), {"turn": torch.tensor([turn])})
    return out[0, :, 0, 0].tolist()


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.07, 0.25, 0.4])
def test_hue_keeps_greys_and_luminance_and_comes_round(turn: float) -> None:
    assert turned([0.4, 0.4, 0.4], turn) == pytest.approx([0.4, 0.4, 0.4], abs=1e-3)
    color = [0.55, 0.45, 0.4]
    luminance = np.array([0.299, 0.587, 0.114])
    assert luminance @ turned(color, turn) == pytest.approx(luminance @ color, abs=1e-4)
    assert turned(color, turn + 1) == pytest.approx(turned(color, turn), abs=1e-5)
    assert turned(turned(color, turn), -turn) == pytest.approx(color, abs=1e-5)


@pytest.mark.parametrize("turn", [-0.1, -0.05, 0.05, 0.1, 1 / 3, -1 / 3])
@pytest.mark.parametrize("hue", [0.0, 1 / 3, 2 / 3])
def test_hue_turns_the_way_hsv_does(hue: float, turn: float) -> None:
    red, green, blue = turned(list(colorsys.hsv_to_rgb(hue, 0.2, 0.6)), turn)
    got = colorsys.rgb_to_hsv(red, green, blue)[0]
    error = (got - hue - turn + 0.5) % 1 - 0.5
    assert abs(error) < 0.08  # the circles of YIQ and HSV are not evenly divided alike; a turn the wrong way errs by more
    moved = (got - hue + 0.5) % 1 - 0.5
    assert moved * turn > 0


@pytest.mark.parametrize("shape", [(320, 320), (320, 400)])
@pytest.mark.parametrize(("at", "scale"), [(None, 1.0), (640, 0.5)])
def test_blur_is_scipys_and_its_sigma_is_in_pixels_of_the_view_or_scales_with_it(
    shape: tuple[int, int], at: int | None, scale: float
) -> None:
    x = torch.rand(3, 3, *shape, generator=torch.Generator().manual_seed(4))
    blur = Blur((0.0, 2.5 / scale), at=at)
    out = blur.apply(x, {"sigma": torch.tensor([0.0, 1.0, 2.5]) / scale}).numpy()
    assert np.array_equal(out[0], x[0].numpy())
    for i, sigma in ((1, 1.0), (2, 2.5)):
        expected = ndimage.gaussian_filter(x[i].double().numpy(), (0, sigma, sigma), truncate=8)
        np.testing.assert_allclose(out[i, :, 20:-20, 20:-20], expected[:, 20:-20, 20:-20], atol=2e-6)


def test_blur_keeps_an_impulse_centred_and_a_constant_constant() -> None:
    impulse = torch.zeros(1, 3, 33, 65)
    impulse[:, :, 12, 40] = 1
    out = Blur((0.0, 3.0)).apply(impulse, {"sigma": torch.tensor([1.5])})[0, 0].double()
    assert divmod(int(out.argmax()), 65) == (12, 40)
    assert out.sum() == pytest.approx(1, abs=1e-4)
    assert float((out.sum(1) * torch.arange(33)).sum()) == pytest.approx(12, abs=1e-3)
    assert float((out.sum(0) * torch.arange(65)).sum()) == pytest.approx(40, abs=1e-3)
    assert out.max() < 0.1
    flat = Blur((0.0, 3.0)).apply(torch.full((1, 3, 20, 20), 0.3), {"sigma": torch.tensor([3.0])})
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))  # edges are not darkened


def test_blur_takes_the_magnitude_of_a_negative_draw_and_its_own_coin() -> None:
    sigma = Blur((-1.8, 0.1), 1.0).draw(draws(5000))["sigma"]  # what the published code draws
    assert sigma.min() >= 0
    assert sigma.mean() == pytest.approx((1.8**2 + 0.1**2) / 2 / 1.9, abs=0.03)
    coin = Blur((0.1, 2.0), 0.5).draw(draws(5000))["sigma"]
    assert stats.kstest((coin[coin > 0].numpy() - 0.1) / 1.9, "uniform").pvalue > 1e-3  # not tied to the coin


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "brihgtness"}, ["views.invariance", "'brihgtness'", "'brightness'"]),
        ({"name": "gray"}, ["'gray'", "greyscale"]),
        ({"name": "hue", "strenght": 0.1}, ["hue", "'strenght'", "'strength'"]),
        ({"name": "hue", "strength": 0.7}, ["hue", "0.7", "[0, 0.5]"]),
        ({"name": "contrast", "strength": -1}, ["contrast", "-1", "[0, 1]"]),
        ({"name": "gamma", "strength": -0.1}, ["gamma", "-0.1"]),
        ({"name": "greyscale", "p": 2}, ["greyscale", "2", "[0, 1]"]),
        ({"name": "blur", "sigma": [2, 1]}, ["blur", "[2, 1]"]),
        ({"name": "blur", "sigma": 1.0}, ["blur"]),
        ({"name": "blur", "at": 0}, ["blur", "at = 0", "640"]),
        ({"name": "picie.views.equivariance:Crop"}, ["Crop", "Photometric"]),
        *[({"name": name}, ["views.invariance", repr(name), "views.equivariance"]) for name in EQUIVARIANCE],
    ],
)
def test_errors_say_what_is_wrong_and_what_would_be_right(spec: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build_transform(Photometric, spec)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("name", INVARIANCE)
def test_bf16_frames_are_recoloured_as_float32_ones(name: str) -> None:
    x = images(side=320, n=6).bfloat16()  # of a size at which the blur is one
    out = run(name, x, p=1.0)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), run(name, x.float(), p=1.0), atol=2 / 256, rtol=0)


def test_bf16_frames_are_recoloured_by_all_transforms_as_float32_ones() -> None:
    x, transforms = images(side=320, n=6).bfloat16(), [make(name) for name in INVARIANCE]
    params = [transform.draw(draws(len(x), name)) for name, transform in zip(INVARIANCE, transforms, strict=True)]
    out = apply_photometric(transforms, x, params)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), apply_photometric(transforms, x.float(), params), atol=3 / 256, rtol=0)
