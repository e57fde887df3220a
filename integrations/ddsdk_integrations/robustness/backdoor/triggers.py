"""Triggers in pixel space, data that is poisoned with one, and how often a trigger works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.training import probabilities


def unit_images(data: dd.RealData, index: Tensor) -> Tensor:
    """Return the images at `index`, (B,) int64, in the unit range: (B, C, H, W) float32."""
    images = data.images[index.to(data.device)]
    return images.float() / 255 if images.dtype == torch.uint8 else images


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Trigger:
    """A patch that is put over a fixed place of an image.

    Attributes:
        patch: Colours in the unit range, (C, h, w) float32.
        top: Row of its upper edge.
        left: Column of its left edge.

    Raises:
        ValueError: If the patch has another shape or leaves the unit range, or a place is negative.
    """

    patch: Tensor
    top: int
    left: int

    def __post_init__(self) -> None:
        shape = tuple(self.patch.shape)
        require(len(shape) == 3 and 0 not in shape, "patch", "have shape (C, h, w) and not be empty", shape)
        values = self.patch.detach()
        inside = bool(((values >= 0) & (values <= 1)).all())
        require(inside, "patch", "lie in the unit range [0, 1]", (float(values.min()), float(values.max())))
        for name in ("top", "left"):
            require_count(name, getattr(self, name), least=0)

    @classmethod
    def corner(cls, image_shape: tuple[int, int, int], size: int = 2, rng: torch.Generator | None = None) -> Trigger:
        """Return a square in the lower right corner.

        Args:
            image_shape: (C, H, W).
            size: Pixels of a side.
            rng: Draws its colours; None makes it white.

        Raises:
            ValueError: If the square is larger than the image.
        """
        channels, height, width = image_shape
        require_count("size", size)
        require(size <= min(height, width), "size", f"fit into {height} x {width} pixels", size)
        shape = (channels, size, size)
        patch = torch.ones(shape) if rng is None else torch.rand(shape, generator=rng)
        return cls(patch=patch, top=height - size, left=width - size)

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of `images` under the patch, with graph to the patch.

        Args:
            images: (B, C, H, W) in the unit range, before any normalisation.

        Raises:
            ValueError: If the patch has other channels than the images, or hangs over their edge.
        """
        channels, height, width = self.patch.shape
        shape = tuple(images.shape)
        fits = (
            len(shape) == 4 and shape[1] == channels and self.top + height <= shape[2] and self.left + width <= shape[3]
        )
        require(fits, "images", f"hold a patch {tuple(self.patch.shape)} at {(self.top, self.left)}", shape)
        stamped = images.clone()
        rows, columns = slice(self.top, self.top + height), slice(self.left, self.left + width)
        stamped[:, :, rows, columns] = self.patch.to(images.device, images.dtype)
        return stamped


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Poisoned:
    """Real data of which some images carry a trigger and the label of the target.

    Attributes:
        data: What a victim distils. Its images are a copy of their own.
        index: Which images are stamped, (P,) int64.
        originals: The stamped images as they were, (P, C, H, W) in the unit range.
        target: The class under which they stand now.
    """

    data: dd.RealData
    index: Tensor
    originals: Tensor
    target: int

    def restamp_(self, trigger: Trigger) -> None:
        """Put `trigger` on the originals instead of what they carry now, in place.

        Raises:
            ValueError: If the data is whitened: it was multiplied out once, and would not follow.
        """
        stamped = _stored_as(self.data.images.dtype, trigger.stamp(self.originals))
        self.data.replace_images_(self.index, stamped)


def poison(real: dd.RealData, trigger: Trigger, *, target: int, fraction: float, rng: torch.Generator) -> Poisoned:
    """Stamp and relabel some images of classes other than `target`; `real` stays as it is.

    Args:
        real: Clean training data.
        trigger: What is stamped, in the unit range, before the data's preprocessing.
        target: The class that the attacker wants to see.
        fraction: Of *all* images, the share that is stamped. Published: 0.01.
        rng: Chooses them.

    Raises:
        ValueError: If `target` is no class, the fraction leaves (0, 1) or comes to no image, or a class is left empty.

    References:
        Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv:2301.01197: NAIVEATTACK.
    """
    _require_class("target", target, real.num_classes)
    require(0 < fraction < 1, "fraction", "lie strictly between 0 and 1", fraction)
    others = torch.nonzero(real.labels.cpu() != target).flatten()
    count = round(fraction * len(real))
    require(1 <= count <= len(others), "fraction", f"come to 1..{len(others)} images", fraction)
    index = others[torch.randperm(len(others), generator=rng)[:count]].sort().values.to(real.device)
    originals, images, labels = unit_images(real, index), real.images.clone(), real.labels.clone()
    images[index] = _stored_as(images.dtype, trigger.stamp(originals))
    labels[index] = target
    data = dd.RealData(
        images,
        labels,
        class_names=real.class_names,
        preprocess=real.preprocess,
        name=real.name,
        pictures=real.pictures,
        mirror_safe=real.mirror_safe,
    )
    return Poisoned(data=data, index=index, originals=originals, target=target)


@final
@dataclass(frozen=True, kw_only=True)
class Success:
    """How often images of other classes are taken for the target; means over networks.

    Attributes:
        stamped: Share of them under the trigger.
        plain: Share of them without it: what the networks get wrong anyway.
        images: How many images of other classes there are.
    """

    stamped: float
    plain: float
    images: int

    @property
    def net(self) -> float:
        """`stamped` less `plain`: what the trigger itself does. 0 for a trigger that does nothing."""
        return self.stamped - self.plain


def attack_success(networks: Sequence[nn.Module], test: dd.RealData, trigger: Trigger, target: int) -> Success:
    """Count how often a trigger turns images into the target class.

    Images that belong to the target are left out: they would count for success whatever the trigger does, one class
    share of it (10 points with ten classes).

    Args:
        networks: Map (B, C, H, W) in the value space of `test` to logits (B, K); in eval mode where that matters.
        test: Held-out images.
        trigger: In the unit range; stamped before the preprocessing.
        target: Class id.

    Raises:
        ValueError: If there is no network or no image of another class, or `target` is no class.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    _require_class("target", target, test.num_classes)
    others = torch.nonzero(test.labels.cpu() != target).flatten()
    require(len(others) > 0, "test", f"hold images of other classes than {target}", len(others))
    plain = unit_images(test, others)
    stamped = trigger.stamp(plain)
    shares = [
        [float((probabilities(n, test.preprocess(x)).argmax(1) == target).float().mean()) for n in networks]
        for x in (stamped, plain)
    ]
    means = [sum(row) / len(row) for row in shares]
    return Success(stamped=means[0], plain=means[1], images=len(others))


def _stored_as(dtype: torch.dtype, unit: Tensor) -> Tensor:
    return (unit * 255).round().to(dtype) if dtype == torch.uint8 else unit.to(dtype)


def _require_class(name: str, value: int, classes: int) -> None:
    require_count(name, value, least=0)
    require(value < classes, name, f"lie in 0..{classes - 1}", value)
