"""Gradient steps: a batch's losses propagated back, and the optimisers moved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from picie.config import TrainConfig
from picie.methods.base import Method
from picie.runtime import distributed
from picie.runtime.profiling import stage
from picie.views.two_views import BatchViews


class Optimizer:
    """What takes the gradient steps of a run.

    Args:
        config: its section [train].
        method: what is trained.
    """

    def __init__(self, config: TrainConfig, method: Method) -> None:
        self.config, self.method = config, method
        trained = [p for p in method.network.parameters() if p.requires_grad]
        self._network = torch.optim.Adam(trained, lr=config.lr, fused=True)

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """That of the network, then those of the method."""
        return (self._network, *self.method.optimizers())

    def set_rate(self, epochs_done: float) -> None:
        """The network's learning rate where so many `epochs_done`, a fraction included, are behind."""
        if self.config.schedule == "cosine":
            share = epochs_done / self.config.epochs
            self._network.param_groups[0]["lr"] = self.config.lr * (0.5 + 0.5 * math.cos(math.pi * share))

    def take(self, batch: BatchViews, labels: Tensor, share: float = 1.0) -> tuple[list[str], Tensor]:
        """One step on a batch, as `Method.losses` takes it, or on this process's `share` of a batch, which may be 0.

        Returns:
            The names of the loss and its parts, and (names,) their values before the step, on the device: whoever reads
            them waits for it.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        parts: dict[str, Tensor] = {}
        for term in self.method.losses(batch, labels):
            with stage("backward"):
                (term["loss"] * share).backward()
            for name, value in term.items():
                parts[name] = parts[name] + value.detach() if name in parts else value.detach()
        with stage("optimise"):
            values = self._exchange(torch.stack(list(parts.values())), share)
            for optimizer in self.optimizers:
                optimizer.step()
        return list(parts), values

    def _exchange(self, values: Tensor, share: float) -> Tensor:
        """Sum the gradients over the processes, and `values`, of this process's `share` of the batch, weighted by it.

        Once, after all terms: DistributedDataParallel, which does it within the backward, takes one backward a step.
        """
        if distributed.world_size() == 1:
            return values
        trained = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        summands = [p.grad for p in trained if p.grad is not None] + [values * share]
        flat = torch.cat([summand.flatten() for summand in summands])
        # Of no image the mean loss is not a number.
        sums = distributed.all_reduce_sum(flat if share else torch.zeros_like(flat)).split(
            [summand.numel() for summand in summands]
        )
        for gradient, found in zip(summands[:-1], sums[:-1], strict=True):
            gradient.copy_(found.view_as(gradient))
        weighted: Tensor = sums[-1]
        return weighted
