"""The network f: from pixels to one feature vector per cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from picie.config import ModelConfig
from picie.errors import InputError
from picie.models.backbones import build_backbone
from picie.models.depthwise import speed_up_depthwise
from picie.models.folding import Pair, foldable, folded
from picie.models.fpn import FPN, channel_blocks
from picie.models.synced_batchnorm import uncounted
from picie.runtime import distributed


class Extractor(nn.Module):
    """The network f: normalisation by the backbone's own mean and std, backbone, FPN.

    Args:
        config: section [model].
        pretrained: load the backbone's weights. None uses `model.pretrained`; False if a
            checkpoint is loaded next.

    Attributes:
        dim: D, number of channels of the features: `model.dim`, or fewer if the PCA that initialises
            the FPN has fewer components.
        frozen: whether the backbone's weights stay as they are.
        stride: pixels of the image per feature cell, along each side.
    """

    def __init__(self, config: ModelConfig, pretrained: bool | None = None) -> None:
        super().__init__()
        self.backbone = build_backbone(config, config.pretrained if pretrained is None else pretrained)
        # Further outputs of the FPN would start, and without a loss stay, at 0.
        self.dim: int = config.dim if config.laterals == "random" else sum(channel_blocks(self.backbone.channels, config.dim))
        self.fpn = FPN(self.backbone.channels, self.dim)
        # A backbone of another class may lack the attribute.
        self.patch_tokens: bool = getattr(self.backbone, "patch_tokens", False)
        self.frozen: bool = bool(config.freeze)
        if self.frozen:
            self.backbone.requires_grad_(False)
        self.stride: int = min(self.backbone.strides)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.backbone, name), dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(f"input_{name}", values, persistent=False)
        self.input_mean: Tensor
        self.input_std: Tensor
        self.autocast_to: torch.dtype | None = None  # set by `prepare`
        self._foldable: list[Pair] | None = None

    def layer_rates(self, decay: float) -> list[tuple[list[nn.Parameter], float]]:
        """Return the backbone's trainable parameters in groups, each with a factor for its rate.

        Args:
            decay: the factor from each block of a ViT to the one before; 1 gives one group.

        Raises:
            InputError: `decay` is not 1 and the backbone is not a ViT of timm.
        """
        parameters = [p for p in self.backbone.parameters() if p.requires_grad]
        if decay == 1 or not parameters:
            return [(parameters, 1.0)]
        if not self.patch_tokens:
            raise InputError("train.layer_decay is for the blocks of a ViT, and the backbone is none; leave it out")
        net: Any = self.backbone.net
        groups = param_groups_layer_decay(net.model, weight_decay=0.0, layer_decay=decay)
        return [(group["params"], group["lr_scale"]) for group in groups]

    def prepare(self, device: torch.device, bf16: bool) -> None:
        """Move the network to `device` and let it compute in bfloat16, or in float32."""
        self.autocast_to = torch.bfloat16 if bf16 else None
        if bf16 and device.type == "cpu":
            speed_up_depthwise(self)
        self.to(device)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dim() == 4:  # Module.to refuses networks that also have weights with 5 dimensions
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Extractor:
        """As for any module, except that a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    @contextlib.contextmanager
    def folded(self, size: tuple[int, int]) -> Iterator[None]:
        """Fold BatchNorm into the backbone's convolutions within the block.

        See `picie.models.folding`.

        Use it only for passes that do not change, differentiate or save the backbone's weights,
        which are restored exactly afterwards. In training mode it has no effect.

        Args:
            size: (H, W) of the pictures that will be passed.
        """
        if self.backbone.training:
            yield
            return
        if self._foldable is None:
            with self._autocast():
                self._foldable = foldable(self.backbone, self.input_mean.new_zeros(1, 3, *size))
        with folded(self._foldable, self.autocast_to or torch.float32):
            yield

    def levels(self, images: Tensor) -> Sequence[Tensor]:
        """Return the backbone's feature maps of `images`, fine to coarse.

        `images` are (B, 3, H, W), floating point in [0, 1].

        A process whose shard of a batch is empty (B = 0) computes a black image instead, because
        layers that communicate wait for all processes and many other layers refuse an empty batch.
        """
        if distributed.world_size() > 1 and not len(images):
            with uncounted(self.backbone):
                return [level[:0] for level in self.levels(images.new_zeros(1, *images.shape[1:]))]
        normalised = ((images - self.input_mean) / self.input_std).contiguous(memory_format=torch.channels_last)
        with self._autocast(), torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            levels: Sequence[Tensor] = self.backbone(normalised)
        return levels

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Return features (B, D, h, w) of the maps that `levels` returned.

        They are not normalised, and are float32 or bfloat16.
        """
        with self._autocast():
            out: Tensor = self.fpn(levels)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D, h, w) float32 of `images` (B, 3, H, W) float32 in [0, 1].

        They are not normalised.
        """
        return self.decode(self.levels(images)).float()

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.autocast_to is None:
            # A disabled autocast would become part of an exported program.
            return contextlib.nullcontext()
        return torch.autocast(self.input_mean.device.type, self.autocast_to)
