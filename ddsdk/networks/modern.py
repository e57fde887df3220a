"""MobileNet, EfficientNet, ConvNeXt and ViT for small images, from torchvision's builders.

Their strides are those of small images, their random layers are off, and their builders draw the published initial
weights. The arguments `image_shape` and `num_classes` are the shape of the images, (C, H, W), and the number of
classes K >= 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ddsdk.foundation import require
from ddsdk.networks.network import Network
from ddsdk.networks.shapes import ImageShape, check_request


def mobilenet(image_shape: ImageShape, num_classes: int) -> Network:
    """Return a MobileNetV2 with the first two strides of 2 at 1, as is usual for 32x32 images: 1280 features.

    References:
        Sandler et al., CVPR 2018, arXiv 1801.04381.
    """
    original = _torchvision().mobilenet_v2(num_classes=num_classes, dropout=0.0)
    return _from_features(original, image_shape, num_classes, strides=2)


def efficientnet_b0(image_shape: ImageShape, num_classes: int) -> Network:
    """Return an EfficientNet-B0 with the first two strides of 2 at 1: 1280 features.

    References:
        Tan and Le, ICML 2019, arXiv 1905.11946.
    """
    original = _torchvision().efficientnet_b0(num_classes=num_classes, dropout=0.0, stochastic_depth_prob=0.0)
    return _from_features(original, image_shape, num_classes, strides=2)


def convnext_tiny(image_shape: ImageShape, num_classes: int) -> Network:
    """Return a ConvNeXt-T whose first convolution has patches of 2x2 pixels in the place of 4x4: 768 features.

    Images must have at least 16x16 pixels.

    References:
        Liu et al., CVPR 2022, arXiv 2201.03545.
    """
    check_request(image_shape, num_classes)
    size = f"{image_shape[1]}x{image_shape[2]}"
    require(min(image_shape[1:]) >= 16, "image_shape", "be at least 16x16 pixels for ConvNeXt-T", size)
    original = _torchvision().convnext_tiny(num_classes=num_classes, stochastic_depth_prob=0.0)
    original.features[0][0] = nn.Conv2d(image_shape[0], 96, 2, 2)
    norm = nn.Sequential(*list(original.classifier)[:1])
    return Network(nn.Sequential(*original.features, original.avgpool, norm), nn.Linear(768, num_classes))


def vit_tiny(image_shape: ImageShape, num_classes: int, *, patch: int | None = None) -> Network:
    """Return a ViT-Ti: 12 layers of 3 heads and width 192, with a class token: 192 features.

    Args:
        image_shape: Shape of the images, (C, H, W), with H = W.
        num_classes: Number of classes K >= 2.
        patch: Side of a patch in pixels, a divisor of the side of the image. None for the divisor that gives about
            8x8 patches, at least 4x4: 4 at 28 and 32 pixels.

    References:
        Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; sizes of Touvron et al., ICML 2021, arXiv 2012.12877.
    """
    check_request(image_shape, num_classes)
    channels, height, width = image_shape
    require(height == width, "image_shape", "be square for ViT-Ti", image_shape)
    if patch is None:
        divisors = [side for side in range(1, max(1, height // 4) + 1) if height % side == 0]
        patch = min(divisors, key=lambda side: abs(height / side - 8))
    require(patch >= 1 and height % patch == 0, "patch", f"divide the side of {height} pixels", patch)
    original = _torchvision().VisionTransformer(height, patch, 12, 3, 192, 768, num_classes=num_classes)
    if channels != 3:
        original.conv_proj = nn.Conv2d(channels, 192, patch, patch)
    original.heads = nn.Identity()
    return Network(nn.Sequential(original), nn.Linear(192, num_classes))


def _from_features(original: Any, image_shape: ImageShape, num_classes: int, strides: int) -> Network:  # noqa: ANN401
    check_request(image_shape, num_classes)
    convolutions = [layer for layer in original.features.modules() if isinstance(layer, nn.Conv2d)]
    for layer in [layer for layer in convolutions if layer.stride == (2, 2)][:strides]:
        layer.stride = (1, 1)
    first, features = original.features[0][0], original.classifier[-1].in_features
    original.features[0][0] = nn.Conv2d(image_shape[0], first.out_channels, 3, padding=1, bias=False)
    return Network(nn.Sequential(*original.features, nn.AdaptiveAvgPool2d(1)), nn.Linear(features, num_classes))


def _torchvision() -> Any:  # noqa: ANN401
    # The caller may be inside `with torch.device("meta")`, but constants of an imported module need memory.
    with torch.device("cpu"):
        from torchvision import models
    return models
