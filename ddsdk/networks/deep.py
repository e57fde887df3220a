"""ResNet and DenseNet for small images, from torchvision's builders."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from ddsdk.foundation import require
from ddsdk.networks.network import Network
from ddsdk.networks.norms import norm_layer
from ddsdk.networks.shapes import ImageShape, check_request

DeepNorm = Literal["instance", "batch"]


def resnet10(image_shape: ImageShape, num_classes: int, *, norm: DeepNorm = "instance") -> Network:
    """Return a ResNet-10, with one basic block per stage; sizes and arguments as in `resnet18`."""
    return _resnet("ResNet-10", "BasicBlock", (1, 1, 1, 1), image_shape, num_classes, norm)


def resnet18(image_shape: ImageShape, num_classes: int, *, norm: DeepNorm = "instance") -> Network:
    """Return a ResNet-18 for small images: the stem is one 3x3 convolution of stride 1, without max pooling.

    The network has 512 features (2048 for ResNet-152), averaged over the last map of ceil(H/8) x ceil(W/8) pixels.
    With instance normalisation the last map must have more than one pixel, because all features of a single pixel
    are constant. ValueError is raised otherwise.

    Args:
        image_shape: Shape of the images, (C, H, W), with H and W >= 8.
        num_classes: Number of classes K >= 2.
        norm: Name of the normalisation: "batch" as published, or "instance" for batches of a few distilled images.

    Examples:
        >>> import ddsdk
        >>> ddsdk.network_factory("resnet18", (3, 32, 32), 10)(ddsdk.generator(0)).head.in_features
        512

    References:
        He et al., CVPR 2016, arXiv 1512.03385.
    """
    return _resnet("ResNet-18", "BasicBlock", (2, 2, 2, 2), image_shape, num_classes, norm)


def resnet50(image_shape: ImageShape, num_classes: int, *, norm: DeepNorm = "batch") -> Network:
    """Return a ResNet-50, with 3, 4, 6 and 3 bottleneck blocks; sizes as in `resnet18`, and BatchNorm by default."""
    return _resnet("ResNet-50", "Bottleneck", (3, 4, 6, 3), image_shape, num_classes, norm)


def resnet152(image_shape: ImageShape, num_classes: int, *, norm: DeepNorm = "instance") -> Network:
    """Return a ResNet-152, with 3, 8, 36 and 3 bottleneck blocks; sizes and arguments as in `resnet18`."""
    return _resnet("ResNet-152", "Bottleneck", (3, 8, 36, 3), image_shape, num_classes, norm)


def densenet121(image_shape: ImageShape, num_classes: int, *, norm: DeepNorm = "instance") -> Network:
    """Return a DenseNet-121 for small images, whose stem is one 3x3 convolution of stride 1 without max pooling.

    The network has 1024 features, averaged over the last map of floor(H/8) x floor(W/8) pixels. The arguments are
    those of `resnet18`.

    References:
        Huang et al., CVPR 2017, arXiv 1608.06993.
    """
    check_request(image_shape, num_classes)
    _check_last_map("DenseNet-121", image_shape, [side // 8 for side in image_shape[1:]], norm)
    original = _torchvision("densenet").DenseNet(32, (6, 12, 24, 16), 64, num_classes=num_classes)
    stages = dict(original.features.named_children())
    del stages["pool0"]
    stages["conv0"] = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
    body = nn.Sequential(*stages.values(), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    if norm == "instance":
        _replace_batch_norm(body)
    return Network(body, nn.Linear(1024, num_classes))


def _resnet(
    name: str, block: str, layers: tuple[int, ...], image_shape: ImageShape, num_classes: int, norm: DeepNorm
) -> Network:
    check_request(image_shape, num_classes)
    _check_last_map(name, image_shape, [-(-side // 8) for side in image_shape[1:]], norm)
    module = _torchvision("resnet")
    original = module.ResNet(getattr(module, block), list(layers), num_classes, norm_layer=partial(norm_layer, norm))
    stem = nn.Sequential(nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False), norm_layer(norm, 64), nn.ReLU())
    stages = [original.layer1, original.layer2, original.layer3, original.layer4]
    body = nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1))
    return Network(body, nn.Linear(original.fc.in_features, num_classes))


def _torchvision(module: str) -> Any:  # noqa: ANN401
    # The caller may be inside `with torch.device("meta")`, but constants of an imported module need memory.
    with torch.device("cpu"):
        from torchvision.models import densenet, resnet
    return {"densenet": densenet, "resnet": resnet}[module]


def _check_last_map(name: str, image_shape: ImageShape, last_map: list[int], norm: str) -> None:
    require(norm in ("instance", "batch"), "norm", "be one of instance, batch", norm)
    size = f"{image_shape[1]}x{image_shape[2]}"
    require(min(last_map) >= 1, "image_shape", f"be at least 8x8 pixels for {name}", size)
    rule = f"leave more than one pixel in the last map of {name} with norm 'instance' (use norm='batch')"
    require(norm == "batch" or max(last_map) > 1, "image_shape", rule, size)


def _replace_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm_layer("instance", child.num_features))
        else:
            _replace_batch_norm(child)
