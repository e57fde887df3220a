"""MLP, LeNet, AlexNet and VGG-11, with which the papers measure the cross-architecture accuracy of distilled sets.

The arguments `image_shape` and `num_classes` are the shape of the images, (C, H, W), and the number of classes K >= 2.
"""

from __future__ import annotations

from torch import nn

from ddsdk.foundation import require
from ddsdk.networks.network import Network
from ddsdk.networks.norms import Norm, norm_layer
from ddsdk.networks.shapes import ImageShape, check_request, head_inputs

# Channels of the convolutions of each stage.
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def mlp(image_shape: ImageShape, num_classes: int, *, width: int = 128) -> Network:
    """Return a multi-layer perceptron with two hidden ReLU layers of `width` units each."""
    check_request(image_shape, num_classes)
    require(width >= 1, "width", "be at least 1", width)
    channels, height, columns = image_shape
    hidden1 = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * columns, width), nn.ReLU())
    hidden2 = nn.Sequential(nn.Linear(width, width), nn.ReLU())
    return Network(nn.Sequential(hidden1, hidden2), nn.Linear(width, num_classes))


def lenet(image_shape: ImageShape, num_classes: int) -> Network:
    """Return LeNet-5 with ReLU and max pooling: 5x5 convolutions of 6 and 16 channels, then 120 and 84 units.

    The first convolution pads grey images by 2 pixels, so that the last map of 28x28 images has the usual 5x5 pixels.
    Grey images must have at least 12x12 pixels, colour images 16x16.

    References:
        LeCun et al., Proceedings of the IEEE 1998.
    """
    check_request(image_shape, num_classes)
    padding = 2 if image_shape[0] == 1 else 0
    last_map = [((size + 2 * padding - 4) // 2 - 4) // 2 for size in image_shape[1:]]
    features = head_inputs("LeNet", image_shape, 16, *last_map)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(image_shape[0], 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Linear(features, 120), nn.ReLU()),
        nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
    )
    return Network(body, nn.Linear(84, num_classes))


def alexnet(image_shape: ImageShape, num_classes: int) -> Network:
    """Return the AlexNet for small images: five convolutions, three max poolings, and no dropout.

    Images must have at least 8x8 pixels. The first convolution pads grey 28x28 images to 32x32. The network has
    192 * H/8 * W/8 features.

    References:
        Krizhevsky et al., NeurIPS 2012; small-image form of Zhao et al., ICLR 2021, arXiv 2006.05929.
    """
    check_request(image_shape, num_classes)
    padding = 4 if tuple(image_shape) == (1, 28, 28) else 2
    last_map = [(size + 2 * padding - 4) >> 3 for size in image_shape[1:]]
    features = head_inputs("AlexNet", image_shape, 192, *last_map)
    body = nn.Sequential(
        nn.Sequential(nn.Conv2d(image_shape[0], 128, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(192, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 192, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    return Network(body, nn.Linear(features, num_classes))


def alexnet_cifar(image_shape: ImageShape, num_classes: int) -> Network:
    """Return the AlexNet of DD, SLDD and LD for colour images: two convolutions with local response normalisation.

    The 5x5 convolutions have 64 channels and are followed by 3x3 max pooling with stride 2; the two hidden layers have
    384 and 192 units. Images must have at least 2x2 pixels.

    References:
        Krizhevsky, cuda-convnet, 2012; the form of Wang et al., "Dataset Distillation", 2018, arXiv 1811.10959.
    """
    check_request(image_shape, num_classes)
    last_map = [-(-size // 4) for size in image_shape[1:]]
    features = head_inputs("AlexNet for CIFAR", image_shape, 64, *last_map)
    body = nn.Sequential(
        nn.Sequential(_convolution(image_shape[0]), nn.ReLU(), _pooling(), _response_norm()),
        nn.Sequential(_convolution(64), nn.ReLU(), _response_norm(), _pooling()),
        nn.Sequential(nn.Flatten(), nn.Linear(features, 384), nn.ReLU()),
        nn.Sequential(nn.Linear(384, 192), nn.ReLU()),
    )
    return Network(body, nn.Linear(192, num_classes))


def _convolution(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 64, 5, padding=2)


def _pooling() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, padding=1)


def _response_norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1.0)


def vgg11(image_shape: ImageShape, num_classes: int, *, norm: Norm = "instance") -> Network:
    """Return VGG-11 for small images: five stages, each with a final 2x2 max pooling, and one linear layer.

    Images must have at least 28x28 pixels. The first convolution pads sides of 28 to 31 pixels to at least 32,
    because the last map would be empty after five poolings. The network has 512 * H/32 * W/32 features.

    Args:
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K >= 2.
        norm: Name of the normalisation layer, see `ddsdk.networks.norms.norm_layer`.

    References:
        Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556.
    """
    return _vgg("VGG-11", _VGG11, image_shape, num_classes, norm)


def vgg16(image_shape: ImageShape, num_classes: int, *, norm: Norm = "batch") -> Network:
    """Return VGG-16 for small images, with the sizes and arguments of `vgg11`, and BatchNorm by default."""
    return _vgg("VGG-16", _VGG16, image_shape, num_classes, norm)


def _vgg(
    name: str, plan: tuple[tuple[int, ...], ...], image_shape: ImageShape, num_classes: int, norm: Norm
) -> Network:
    check_request(image_shape, num_classes)
    channels, *sides = image_shape
    size = f"{sides[0]}x{sides[1]}"
    require(min(sides) >= 28, "image_shape", f"be at least 28x28 pixels for {name}", size)
    extra = [max(0, (33 - side) // 2) for side in sides]
    last_map = [(side + 2 * pad) >> len(plan) for side, pad in zip(sides, extra, strict=True)]
    stages = []
    for index, widths in enumerate(plan):
        layers: list[nn.Module] = []
        for width in widths:
            padding = (1 + extra[0], 1 + extra[1]) if index == 0 else (1, 1)
            layers += [nn.Conv2d(channels, width, 3, padding=padding), norm_layer(norm, width), nn.ReLU()]
            channels = width
        stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
    features = head_inputs(name, image_shape, channels, *last_map)
    return Network(nn.Sequential(*stages), nn.Linear(features, num_classes))
