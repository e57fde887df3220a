"""Checks of the input shape and the number of classes of a network."""

from __future__ import annotations

from typing import TypeAlias

from ddsdk.foundation import require

ImageShape: TypeAlias = tuple[int, int, int]


def check_request(image_shape: ImageShape, num_classes: int) -> None:
    """Check that a shape is three positive integers, and that there are at least two classes, else raise ValueError."""
    valid = len(image_shape) == 3 and all(isinstance(n, int) and n > 0 for n in image_shape)
    require(valid, "image_shape", "be (channels, height, width), all positive integers", image_shape)
    require(isinstance(num_classes, int) and num_classes >= 2, "num_classes", "be at least 2", num_classes)


def head_inputs(name: str, image_shape: ImageShape, channels: int, height: int, width: int) -> int:
    """Return the number of features of the last map of a network, channels * height * width.

    Raises:
        ValueError: If the last map would be empty, because the images are too small for the network.
    """
    if min(height, width) < 1:
        size = f"{image_shape[1]}x{image_shape[2]}"
        raise ValueError(f"image_shape must be large enough for {name}, got {size}: its last map would be empty")
    return channels * height * width
