"""The ConvNet, the standard student network of dataset distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

from ddsdk.foundation import require
from ddsdk.networks.network import Network
from ddsdk.networks.norms import Norm, norm_layer
from ddsdk.networks.pooling import AvgPool2
from ddsdk.networks.shapes import ImageShape, check_request, head_inputs

# In place, because nothing else reads the output of the normalisation, and memory traffic dominates the cost.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky-relu": partial(nn.LeakyReLU, inplace=True),
    "sigmoid": nn.Sigmoid,
}
POOLINGS: dict[str, Callable[[], nn.Module] | None] = {"avg": AvgPool2, "max": partial(nn.MaxPool2d, 2), "none": None}


def derived_depth(image_shape: ImageShape) -> int:
    """Return the number of blocks that the papers use for images of a shape (C, H, W): 3 at 32 pixels, 4 at 64."""
    return max(2, round(math.log2(min(image_shape[1:]) / 4)))


def convnet(
    image_shape: ImageShape,
    num_classes: int,
    *,
    depth: int | None = None,
    width: int = 128,
    norm: Norm = "instance",
    pooling: Literal["avg", "max", "none"] = "avg",
    activation: Literal["relu", "leaky-relu", "sigmoid"] = "relu",
    edges: Literal["zeros", "circular"] = "zeros",
) -> Network:
    """Return a ConvNet: blocks of 3x3 convolution, normalisation, activation and 2x2 pooling, and a linear head.

    As in the papers, the first convolution pads grey 28x28 images to 32x32, which gives 128*4*4 = 2048 features.
    Images of all other sizes have padding 1. Each pooling halves the sides and rounds down.

    Args:
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K >= 2.
        depth: Number of blocks, >= 1. None takes the papers' number for the smaller side: 3 at 28 or 32 pixels, 4 at
            64, 5 at 128, so that the last map has about 4x4 pixels; at least 2.
        width: Number of channels of each block, >= 1.
        norm: Name of the normalisation layer, see `ddsdk.networks.norms.norm_layer`.
        pooling: Type of the pooling; "none" keeps the resolution.
        activation: Activation function of each block.
        edges: Padding of the convolutions: "zeros", or "circular" (the opposite edge) for images that are tiled.

    Examples:
        >>> import ddsdk
        >>> student = ddsdk.network_factory("convnet", (3, 32, 32), 10)(ddsdk.generator(0))
        >>> student.head.in_features, len(student.body)
        (2048, 3)

    References:
        Gidaris and Komodakis, CVPR 2018, arXiv 1804.09458; Zhao et al., ICLR 2021, arXiv 2006.05929.
    """
    check_request(image_shape, num_classes)
    depth = derived_depth(image_shape) if depth is None else depth
    require(depth >= 1, "depth", "be at least 1", depth)
    require(width >= 1, "width", "be at least 1", width)
    require(pooling in POOLINGS, "pooling", f"be one of {', '.join(POOLINGS)}", pooling)
    require(activation in ACTIVATIONS, "activation", f"be one of {', '.join(ACTIVATIONS)}", activation)
    require(edges in ("zeros", "circular"), "edges", "be zeros or circular", edges)
    channels, height, columns = image_shape
    padding = 3 if tuple(image_shape) == (1, 28, 28) else 1
    halvings = 0 if pooling == "none" else depth
    last_map = [(size + 2 * padding - 2) >> halvings for size in (height, columns)]
    features = head_inputs(f"a ConvNet of depth {depth}", image_shape, width, *last_map)
    blocks = []
    for level in range(depth):
        in_channels, pad = (channels, padding) if level == 0 else (width, 1)
        conv = nn.Conv2d(in_channels, width, 3, padding=pad, padding_mode=edges)
        layers = [conv, norm_layer(norm, width), ACTIVATIONS[activation]()]
        pool = POOLINGS[pooling]
        blocks.append(nn.Sequential(*layers, *([] if pool is None else [pool()])))
    return Network(nn.Sequential(*blocks), nn.Linear(features, num_classes))
