"""Photometric transforms, which features must ignore (paper, section 3.2.1: invariance).

Most are affine in colour, c -> A c + b. Consecutive affine transforms are composed into one 3x3
matrix and one offset per image, so a list of six costs one pass over the pixels. The result
differs from applying them one at a time only because values are clipped to [0, 1] once, at the end
of the sequence.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from picie.runtime.device import to_device
from picie.runtime.rng import ImageRNG
from picie.views.base import Params, Photometric, chance, check_probability
from picie.views.resampling import filtered, gaussian


class _Constants:
    """The constant matrices that the transforms use, on one device."""

    def __init__(self, device: torch.device) -> None:
        # ITU-R BT.601, as for greyscale in Pillow and torchvision.
        luminance = torch.tensor([0.299, 0.587, 0.114])
        to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
        self.luminance, self.to_yiq = luminance.to(device), to_yiq.to(device)
        self.from_yiq, self.eye = torch.linalg.inv(to_yiq).to(device), torch.eye(3, device=device)


# Cached, because copying values to a GPU would synchronise with it.
_on = functools.cache(_Constants)


class ColorAffine(Photometric):
    """A photometric transform that is affine in colour."""

    @abstractmethod
    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Return A (B, 3, 3) and b (B, 3) of c -> A c + b.

        `mean` (B, 3) is each image's mean colour before the transform. All tensors are float32 on
        the images' device; reading their values here would synchronise with a GPU.
        """

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return apply_photometric([self], images, [params])


def apply_photometric(transforms: Sequence[Photometric], images: Tensor, params: Sequence[Params]) -> Tensor:
    """Apply `transforms` in order to `images` (B, 3, H, W), floating point in [0, 1].

    Consecutive transforms that are affine in colour are merged into one.
    """
    position = 0
    while position < len(transforms):
        run = position
        while run < len(transforms) and isinstance(transforms[run], ColorAffine):
            run += 1
        if run > position:
            images = _apply_affine(transforms[position:run], images, params[position:run])
            position = run
        else:
            images = transforms[position].apply(images, params[position])
            position += 1
    return images


def _apply_affine(transforms: Sequence[Photometric], images: Tensor, params: Sequence[Params]) -> Tensor:
    mean = images.mean((2, 3), dtype=torch.float32)
    matrix, offset = _on(mean.device).eye.expand(len(images), 3, 3), torch.zeros_like(mean)
    for transform, values in zip(transforms, params, strict=True):
        assert isinstance(transform, ColorAffine)
        a, b = transform.affine({name: to_device(value, mean.device) for name, value in values.items()}, mean)
        matrix = a @ matrix
        offset = torch.einsum("bij,bj->bi", a, offset) + b
        mean = torch.einsum("bij,bj->bi", a, mean) + b
    flat = images.flatten(2)
    out = torch.baddbmm(offset.to(images)[:, :, None], matrix.to(images), flat)
    return out.clamp_(0, 1).view(images.shape)


def _factor(rng: ImageRNG, strength: float, p: float) -> Tensor:
    """(B,) float32: 1 + uniform[-strength, strength] with probability `p`, otherwise 1."""
    active = chance(rng, p)
    return torch.where(active, torch.from_numpy(rng.uniform(1 - strength, 1 + strength)).float(), 1.0)


class _Strength(ColorAffine):
    """A transform with a factor in [1 - strength, 1 + strength], drawn with probability `p`.

    A factor of 1 changes nothing.
    """

    def __init__(self, strength: float = 0.3, p: float = 0.8) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength = {strength} must lie in [0, 1]")
        self.strength, self.p = float(strength), check_probability(p)

    def draw(self, rng: ImageRNG) -> Params:
        return {"factor": _factor(rng, self.strength, self.p)}


class Brightness(_Strength):
    """Multiplies all channels by a factor in [1 - strength, 1 + strength], with probability p."""

    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        return params["factor"][:, None, None] * _on(mean.device).eye, torch.zeros_like(mean)


class Contrast(_Strength):
    """Scales distances from the image's mean grey, with probability `p`.

    The factor lies in [1 - strength, 1 + strength].
    """

    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        factor = params["factor"]
        # Not a matrix-vector product: its rounding depends on the number of images in the batch
        # (MKL).
        grey = (mean * _on(mean.device).luminance).sum(1)
        offset = (1 - factor) * grey
        return factor[:, None, None] * _on(mean.device).eye, offset[:, None].expand(-1, 3)


def _saturate(factor: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    grey = _on(mean.device).luminance.expand(3, 3)
    return factor[:, None, None] * _on(mean.device).eye + (1 - factor)[:, None, None] * grey, torch.zeros_like(mean)


class Saturation(_Strength):
    """Scales each pixel's distance from its own grey, with probability `p`.

    The factor lies in [1 - strength, 1 + strength].
    """

    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        return _saturate(params["factor"], mean)


class Greyscale(ColorAffine):
    """Removes colour with probability `p`."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = check_probability(p)

    def draw(self, rng: ImageRNG) -> Params:
        return {"factor": 1 - chance(rng, self.p).float()}

    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        return _saturate(params["factor"], mean)


class Hue(ColorAffine):
    """Rotates the hue by uniform[-strength, strength] of the full circle, with probability `p`.

    The rotation is about the grey axis in YIQ. It is linear, so it can be composed with the other
    colour operators, and it keeps luminance, which a rotation in HSV does not.
    """

    def __init__(self, strength: float = 0.1, p: float = 0.8) -> None:
        if not 0 <= strength <= 0.5:
            raise ValueError(f"strength = {strength} must lie in [0, 0.5] (a fraction of the colour circle)")
        self.strength, self.p = float(strength), check_probability(p)

    def draw(self, rng: ImageRNG) -> Params:
        return {"turn": _factor(rng, self.strength, self.p) - 1}

    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        # In YIQ's orientation, red moves towards green, as in HSV.
        angle = params["turn"] * (-2 * math.pi)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        rotation = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
        return _on(mean.device).from_yiq @ rotation @ _on(mean.device).to_yiq, torch.zeros_like(mean)


class Cast(_Strength):
    """A colour cast: scales each channel by its own factor, with probability `p`.

    The factors lie in [1 - strength, 1 + strength].
    """

    def __init__(self, strength: float = 0.1, p: float = 0.8) -> None:
        super().__init__(strength, p)

    def draw(self, rng: ImageRNG) -> Params:
        active = chance(rng, self.p)
        channels = [torch.from_numpy(rng.uniform(1 - self.strength, 1 + self.strength)).float() for _ in range(3)]
        return {"factor": torch.where(active[:, None], torch.stack(channels, dim=1), 1.0)}

    def affine(self, params: Params, mean: Tensor) -> tuple[Tensor, Tensor]:
        return torch.diag_embed(params["factor"]), torch.zeros_like(mean)


class Gamma(Photometric):
    """Raises values to a power, with probability `p`.

    The power is log-uniform in [1 / (1 + strength), 1 + strength].
    """

    def __init__(self, strength: float = 0.3, p: float = 0.8) -> None:
        if strength < 0:
            raise ValueError(f"strength = {strength} must not be negative")
        self.strength, self.p = float(strength), check_probability(p)

    def draw(self, rng: ImageRNG) -> Params:
        active = chance(rng, self.p)
        limit = math.log1p(self.strength)
        return {"power": torch.where(active, torch.from_numpy(rng.uniform(-limit, limit)).float().exp(), 1.0)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return images ** params["power"].to(images)[:, None, None, None]


class Blur(Photometric):
    """A Gaussian blur with probability `p`.

    Args:
        sigma: Bounds of the uniform standard deviation, in pixels of the view. The magnitude of a
            negative draw is used, which preset `reference` needs.
        p: Probability.
        at: Short side of the image, in pixels, for which `sigma` is stated; sigma is then scaled
            to the size of the view. The published code blurs frames of 640. None: the view's own
            size.
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5, at: int | None = None) -> None:
        low, high = sigma
        if not low <= high:
            raise ValueError(f"sigma = {list(sigma)} must hold two rising numbers, e.g. [0.1, 2.0]")
        if at is not None and at < 1:
            raise ValueError(f"at = {at} must be the short side of an image in pixels, e.g. 640")
        self.sigma, self.p, self.at = (float(low), float(high)), check_probability(p), at

    def draw(self, rng: ImageRNG) -> Params:
        active = chance(rng, self.p)
        return {"sigma": torch.where(active, torch.from_numpy(rng.uniform(*self.sigma)).float().abs(), 0.0)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        height, width = images.shape[2:]
        scale = 1.0 if self.at is None else min(height, width) / self.at
        sigma, max_sigma = params["sigma"] * scale, max(map(abs, self.sigma)) * scale
        # Below this, the weights of neighbours are under 1e-80.
        blurred = (sigma > 0.05).nonzero()[:, 0]
        if not len(blurred):
            return images
        sigma, where = sigma[blurred], to_device(blurred, images.device)
        rows, columns = (gaussian(sigma, side, max_sigma, images.device) for side in (height, width))
        return images.index_copy(0, where, filtered(images[where], rows, columns).clamp_(0, 1))
