"""Normalisation layers by name, and what batch normalisation needs from its user."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ddsdk.foundation import require

M = TypeVar("M", bound=nn.Module)
Norm = Literal["instance", "batch", "layer", "group", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return the affine normalisation layer that the field means by `norm`.

    Args:
        norm: Name: "instance" (one group per channel), "batch", "layer" (one group), "group" (four) or "none".
        channels: Channels of the map.
    """
    require(norm in NORMS, "norm", f"be one of {', '.join(NORMS)}", norm)
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        require(channels % 4 == 0, "channels", "be a multiple of 4 for norm 'group'", channels)
    groups = {"instance": channels, "layer": 1, "group": 4}[norm]
    return nn.GroupNorm(groups, channels)


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether any layer normalises with statistics of the batch."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return whether an image's output depends on the rest of its batch, as it does while batch norm trains."""
    return any(isinstance(layer, _BatchNorm) and layer.training for layer in module.modules())


def calibrate_batch_norm_(network: M, x: Tensor) -> M:
    """Fix the statistics of every batch norm layer to those of one batch, in place.

    A batch of a few distilled images gives poor statistics, so gradient matching measures them once on real
    images (16 per class in the paper's code) and then freezes them. The batch norm layers are left in
    eval mode; a later ``network.train()`` would thaw them. Without batch norm this does nothing.

    Args:
        network: Network, which is returned too.
        x: Real images in the value space, (B, C, H, W), with B >= 2.

    Differences from the published algorithm: the running statistics become those of the batch; the paper's
    code mixes them into the initial 0 and 1 with PyTorch's momentum of 0.1.

    References:
        Zhao et al., ICLR 2021, arXiv 2006.05929.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        return network
    require(x.shape[0] >= 2, "x", "hold at least 2 images", tuple(x.shape))
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        # Without momentum PyTorch keeps the plain average over batches, which after one batch is that batch.
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        network(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    return network
