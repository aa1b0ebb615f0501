"""Training steps: backward passes of a batch's losses, and the optimisers' updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from picie.config import TrainConfig
from picie.methods.base import Method
from picie.runtime import distributed
from picie.runtime.profiling import stage
from picie.views.two_views import BatchViews


class Optimizer:
    """Takes the training steps of a run.

    It uses Adam over the method's parameter groups, and the method's own optimisers.

    Args:
        config: section [train].
        method: the method that is trained.
    """

    def __init__(self, config: TrainConfig, method: Method) -> None:
        self.config, self.method = config, method
        groups = [group for group in method.parameter_groups() if group["params"]]
        # Adam may have no parameters, if the network is frozen.
        self._adam = torch.optim.Adam(groups, lr=config.lr, fused=True) if groups else None
        self._start_rates = [] if self._adam is None else [group["lr"] for group in self._adam.param_groups]

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """The run's optimiser, if it trains anything, then those of the method."""
        own = self.method.optimizers()
        return (*own,) if self._adam is None else (self._adam, *own)

    def set_rate(self, epochs_done: float) -> None:
        """Set the learning rates of the run's optimiser for a fractional epoch."""
        if self.config.schedule == "cosine" and self._adam is not None:
            progress = epochs_done / self.config.epochs
            for group, start in zip(self._adam.param_groups, self._start_rates, strict=True):
                group["lr"] = start * (0.5 + 0.5 * math.cos(math.pi * progress))

    def step(self, batch: BatchViews, labels: Tensor, share: float = 1.0) -> tuple[list[str], Tensor]:
        """One step on a batch.

        Args:
            batch: views of the images of this process's shard.
            labels: pseudo-labels, as `Method.losses` takes them.
            share: number of images of the shard divided by that of the batch; may be 0.

        Returns:
            The names of the loss and of its parts, and their values (names,) before the step, on
            the device; reading them waits for the device.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        parts: dict[str, Tensor] = {}
        for term in self.method.losses(batch, labels):
            if term["loss"].requires_grad:
                with stage("backward"):
                    (term["loss"] * share).backward()
            for name, value in term.items():
                parts[name] = parts[name] + value.detach() if name in parts else value.detach()
        with stage("optimise"):
            values = self._reduce(torch.stack(list(parts.values())), share)
            for optimizer in self.optimizers:
                optimizer.step()
        return list(parts), values

    def _reduce(self, values: Tensor, share: float) -> Tensor:
        """Sum the gradients over the processes, and return the sum of `values` weighted by `share`.

        It runs once after all terms. DistributedDataParallel is not used, because it reduces
        within the backward pass and supports only one backward pass per step.
        """
        if distributed.world_size() == 1:
            return values
        trained = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in trained if p.grad is not None]
        flat = torch.cat([summand.flatten() for summand in (*gradients, values * share)])
        # The mean loss of an empty shard is not a number, so its summand is set to 0.
        reduced = distributed.all_reduce_sum(flat if share else torch.zeros_like(flat))
        *sums, weighted = reduced.split([summand.numel() for summand in (*gradients, values)])
        for gradient, total in zip(gradients, sums, strict=True):
            gradient.copy_(total.view_as(gradient))
        result: Tensor = weighted
        return result


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore an optimizer from a checkpoint, with more checks than `load_state_dict`.

    Raises:
        ValueError: the state does not fit the optimizer's parameters; a damaged checkpoint may
            also raise other errors.
    """
    before = [_kinds(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    if [_kinds(group) for group in optimizer.param_groups] != before:
        raise ValueError("the optimizer's options are not those of its configuration")
    kinds = []
    for parameter, values in optimizer.state.items():
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        # A fused optimizer reads as many values of each tensor as the parameter has, whatever the tensor's size.
        if not isinstance(parameter, Tensor) or any(
            t.numel() != 1 if name == "step" else t.shape != parameter.shape for name, t in tensors.items()
        ):
            raise ValueError("the optimizer's state does not fit the parameters")
        kinds.append({name: (type(value), getattr(value, "dtype", None)) for name, value in values.items()})
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError("the optimizer's state differs from parameter to parameter")


def _kinds(group: dict[str, Any]) -> dict[str, Any]:
    """The type of each option of a parameter group."""
    options = {name: value for name, value in group.items() if name != "params"}
    return {name: [type(v) for v in value] if isinstance(value, tuple) else type(value) for name, value in options.items()}
