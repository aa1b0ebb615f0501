"""How sure a segmenter is: probabilities of segments, and the margin between the best two.

The softmax of the logits over `loss.temperature`, as in the loss, is the probability of a cluster.
A segment's probability is the sum over its clusters. Nothing calibrates it to frequencies, so use
it to rank pixels and pictures, not as the chance of an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def segment_probabilities(logits: Tensor, assignment: Sequence[int], n_segments: int, temperature: float) -> Tensor:
    """Return the probabilities of segments.

    Args:
        logits: (B, K, ...) floating point, of clusters.
        assignment: (K,) the segment of each cluster.
        n_segments: V.
        temperature: divides the logits, above 0.

    Returns:
        (B, V, ...) float32 in [0, 1]; the sum over V is 1. A segment without clusters has 0.

    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    >>> segment_probabilities(logits, [0, 0, 0, 1], 2, temperature=0.3)
    tensor([[0.7500, 0.2500]])
    """
    clusters = (logits.float() / temperature).softmax(1)
    index = torch.as_tensor(assignment, dtype=torch.int64, device=logits.device)
    return torch.zeros_like(clusters[:, :1]).expand(-1, n_segments, *clusters.shape[2:]).index_add(1, index, clusters)


def margin(probabilities: Tensor) -> Tensor:
    """Return the largest probability minus the second largest, (B, ...) in [0, 1].

    `probabilities` are (B, V, ...). With a single segment the margin is 1.

    >>> margin(torch.tensor([[0.7, 0.1, 0.2]]))
    tensor([0.5000])
    """
    if probabilities.shape[1] == 1:
        return torch.ones_like(probabilities[:, 0])
    best = probabilities.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]
