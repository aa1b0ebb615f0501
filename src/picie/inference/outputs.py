"""What a segmenter returns for a picture beside its label map, from the logits of its cells.

Shapes: K clusters, V segments, H W pixels, h w feature cells.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from picie.inference.confidence import margin, segment_probabilities
from picie.inference.enlarging import enlarged


@dataclass(frozen=True)
class Mixture:
    """How the logits of clusters become probabilities of segments.

    Attributes:
        assignment: (K,) the segment of each cluster.
        n_segments: V.
        temperature: the logits are divided by it before the softmax.
    """

    assignment: Sequence[int]
    n_segments: int
    temperature: float

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return (B, V, ...) float32 probabilities of segments of logits (B, K, ...)."""
        return segment_probabilities(logits, self.assignment, self.n_segments, self.temperature)

    def margin(self, logits: Tensor) -> Tensor:
        """Return the margin (B, ...) uint8 of logits (B, K, ...), 255 for a difference of 1."""
        return margin(self.probabilities(logits)).mul(255).round().to(torch.uint8)


class Maps(NamedTuple):
    """The maps of a picture, or of some of its rows.

    Attributes:
        labels: (H, W) uint8, or uint16 for more than 256 values.
        margin: (H, W) uint8, 255 times the largest probability minus the second largest; or None.
    """

    labels: np.ndarray
    margin: np.ndarray | None = None

    def rows(self, first: int, last: int) -> Maps:
        """Return some of the rows."""
        return Maps(self.labels[first:last], None if self.margin is None else self.margin[first:last])


def joined(parts: Sequence[Maps]) -> Maps:
    """Join the rows of maps, from top to bottom."""
    margins = [part.margin for part in parts if part.margin is not None]
    return Maps(np.concatenate([part.labels for part in parts]), np.concatenate(margins) if margins else None)


@torch.inference_mode()
def probability_map(logits: Tensor, size: tuple[int, int], mixture: Mixture) -> Tensor:
    """Return (V, H, W) float32 probabilities; `logits` (1, K, h, w) are enlarged to `size`."""
    result = torch.empty((mixture.n_segments, *size), device=logits.device)
    for rows, columns, part in enlarged(logits, size):
        result[:, rows, columns] = mixture.probabilities(part)[0]
    return result


@torch.inference_mode()
def margin_map(logits: Tensor, size: tuple[int, int], mixture: Mixture) -> np.ndarray:
    """Return the (H, W) uint8 margin between the best two segments of each pixel, 255 for 1.

    `logits` (1, K, h, w) are enlarged to `size`.
    """
    result = torch.empty(size, dtype=torch.uint8)
    for rows, columns, part in enlarged(logits, size):
        result[rows, columns] = mixture.margin(part)[0].cpu()
    return result.numpy()


@torch.inference_mode()
def masks(logits: Tensor, size: tuple[int, int], mixture: Mixture, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the segments of a picture as an image-segmentation pipeline of transformers does.

    Args:
        logits: (1, K, h, w), enlarged to `size`.
        size: (H, W) of the picture.
        mixture: how they become probabilities.
        names: the V names.

    Returns:
        "score", "label" and "mask" of each segment that occurs, by ascending value.
    """
    value_of_cluster = torch.tensor(mixture.assignment, device=logits.device)
    labels = torch.empty(size, dtype=torch.int64)
    totals = torch.zeros(len(names), dtype=torch.float64)
    for rows, columns, part in enlarged(logits, size):
        values = value_of_cluster[part.max(1).indices]  # (1, rows, columns)
        inside = mixture.probabilities(part).gather(1, values[:, None]).flatten()
        totals += torch.zeros_like(totals).index_add_(0, values.flatten().cpu(), inside.double().cpu())
        labels[rows, columns] = values[0].cpu()
    found, counts = (array.tolist() for array in np.unique(labels.numpy(), return_counts=True))
    return [
        {
            "score": float(totals[value]) / count,
            "label": names[value],
            "mask": Image.fromarray((labels == value).numpy().astype(np.uint8) * 255),
        }
        for value, count in zip(found, counts, strict=True)
    ]


def swatches(names: Sequence[str], colors: Sequence[str]) -> str:
    """Return HTML that lists values and names beside their colours "#rrggbb", for notebooks."""
    cells = (
        f'<span style="display:inline-block;margin:2px 10px 2px 0"><span style="display:inline-block;width:1em;height:1em;'
        f'background:{color};border:1px solid #888;vertical-align:-2px"></span> {value} {html.escape(name)}</span>'
        for value, (name, color) in enumerate(zip(names, colors, strict=True))
    )
    return f"<div>{''.join(cells)}</div>"
