"""Repeats of the images of classes that have fewer images than a method needs."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.data.augment import Augmentation
from ddsdk.data.sources import RealData
from ddsdk.foundation import derive, generator, note, require_count

_AUGMENTATION = "crop_scale_rotate"


def repeat_small_classes(real: RealData, least: int) -> RealData:
    """Return data in which each class has at least `least` images, by augmented repeats of the images that it has.

    A repeat is shifted, scaled or rotated, and also mirrored at random if the data are mirror-safe. Data without
    pictures, such as text, are repeated without a change. The repeats follow the real images, so that these keep their
    positions. Data whose classes are all large enough are returned unchanged.

    Args:
        real: Real data with at least one image of each class.
        least: Smallest number of images of a class, at least 1.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> from ddsdk.data import repeat_small_classes
        >>> few = ddsdk.load("digits").subset(torch.arange(40))
        >>> min(few.class_sizes), min(repeat_small_classes(few, 10).class_sizes)
        (1, 10)
    """
    require_count("least", least)
    sources, small = [], []
    for c, size in enumerate(real.class_sizes):
        if size < least:
            sources.append(real.index_of_class(c).repeat(-(-least // size))[size:least])
            small.append(f"{real.class_names[c]!r} ({size})")
    if not sources:
        return real
    index = torch.cat(sources)
    note(f"{len(index)} augmented repeats fill classes with fewer than {least} images: {', '.join(small)}")
    repeats = _augmented(real, index) if real.pictures else real.images[index.to(real.device)]
    labels = real.labels[index.to(real.device)]
    return real.with_items(torch.cat([real.images, repeats]), torch.cat([real.labels, labels]))


def _augmented(real: RealData, index: Tensor) -> Tensor:
    strategy = _AUGMENTATION + ("+flip" if real.mirror_safe else "")
    rng = generator("small classes")
    # Each image has its own draw, so that different images get different operations.
    draws = (Augmentation(strategy).per_image(1, derive(rng, i)) for i in range(len(index)))
    images = real.unit_images(index)
    unit = torch.cat([draw(image[None]) for draw, image in zip(draws, images, strict=True)]).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8) if real.images.dtype == torch.uint8 else unit
