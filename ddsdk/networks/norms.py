"""Normalisation layers by name, and the calibration of batch normalisation on real images."""

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
    """Return an affine normalisation layer by its name in the papers.

    Args:
        norm: Name of the layer: "instance" (one group per channel), "batch", "layer" (one group), "group" (four
            groups) or "none" (identity).
        channels: Number of channels of the feature map; a multiple of 4 for "group".
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
    """Return whether a module has batch normalisation layers."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return whether the output of an image depends on the other images of its batch.

    That is the case while a batch normalisation layer is in training mode.
    """
    return any(isinstance(layer, _BatchNorm) and layer.training for layer in module.modules())


def calibrate_batch_norm_(network: M, x: Tensor) -> M:
    """Set the running statistics of all batch normalisation layers to those of one batch, in place.

    A batch of a few distilled images gives poor statistics. Gradient matching therefore measures them once on real
    images (16 per class in the code of the paper) and then freezes them: the layers stay in evaluation mode. A later
    ``network.train()`` would update them again. A network without batch normalisation is not changed.

    Args:
        network: Network to calibrate, in place.
        x: Real images in the value space, (B, C, H, W), with B >= 2.

    Returns:
        Argument `network` itself.

    Differences from the published algorithm: the running statistics become those of the batch; the code of the paper
    averages them with the initial 0 and 1, with PyTorch's momentum of 0.1.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4, norm="batch")
        >>> student = make_student(ddsdk.generator(0))
        >>> student = ddsdk.networks.calibrate_batch_norm_(student, torch.rand(16, 1, 8, 8))
        >>> ddsdk.networks.uses_batch_statistics(student)
        False

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
        # With momentum None PyTorch averages over all batches; after one batch the average is that of the batch.
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        network(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    return network
