"""Triggers in pixel space, data that is poisoned with one, and how often a trigger works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import Checked, NonNegativeInt, require, require_count
from ddsdk.training import probabilities


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Trigger(Checked):
    """A patch that is put over a fixed place of an image.

    Attributes:
        patch: Colours in the unit range, (C, h, w) float32.
        top: Row of the upper edge.
        left: Column of the left edge.
    """

    patch: Tensor
    top: NonNegativeInt
    left: NonNegativeInt

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = tuple(self.patch.shape)
        require(len(shape) == 3 and 0 not in shape, "patch", "have shape (C, h, w) and not be empty", shape)
        values = self.patch.detach()
        inside = bool(((values >= 0) & (values <= 1)).all())
        require(inside, "patch", "lie in the unit range [0, 1]", (float(values.min()), float(values.max())))

    @classmethod
    def corner(cls, image_shape: tuple[int, int, int], size: int = 2, rng: torch.Generator | None = None) -> Trigger:
        """Return a square in the lower right corner.

        Args:
            image_shape: Shape of the images, (C, H, W).
            size: Side in pixels.
            rng: Generator of the colours; None makes it white.
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
            images: Images (B, C, H, W) in the unit range, before any normalisation.
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
        data: Data that a victim distils; its images are a copy of their own.
        index: Positions of the stamped images, (P,) int64.
        originals: Stamped images as they were, (P, C, H, W) in the unit range.
        target: Class under which they stand now.
    """

    data: dd.RealData
    index: Tensor
    originals: Tensor
    target: int

    def restamp_(self, trigger: Trigger) -> None:
        """Put `trigger` on the originals instead of what they carry now, in place; whitened data refuses it."""
        stamped = _stored_as(self.data.images.dtype, trigger.stamp(self.originals))
        self.data.replace_images_(self.index, stamped)


def poison(real: dd.RealData, trigger: Trigger, *, target: int, fraction: float, rng: torch.Generator) -> Poisoned:
    """Stamp and relabel some images of classes other than `target`; `real` stays as it is.

    Args:
        real: Clean training data.
        trigger: Trigger, stamped before the data's preprocessing.
        target: Class that the attacker wants to see.
        fraction: Share of *all* images that is stamped, in 0 < value < 1. Published: 0.01.
        rng: Generator of the choice.

    Raises:
        ValueError: If `target` is no class, the fraction comes to no image, or a class is left empty.

    References:
        Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv:2301.01197: NAIVEATTACK.
    """
    _require_class("target", target, real.num_classes)
    require(0 < fraction < 1, "fraction", "lie strictly between 0 and 1", fraction)
    others = torch.nonzero(real.labels.cpu() != target).flatten()
    count = round(fraction * len(real))
    require(1 <= count <= len(others), "fraction", f"come to 1..{len(others)} images", fraction)
    index = others[torch.randperm(len(others), generator=rng)[:count]].sort().values.to(real.device)
    originals, images, labels = real.unit_images(index), real.images.clone(), real.labels.clone()
    images[index] = _stored_as(images.dtype, trigger.stamp(originals))
    labels[index] = target
    return Poisoned(data=real.with_items(images, labels), index=index, originals=originals, target=target)


@final
@dataclass(frozen=True, kw_only=True)
class Success:
    """Shares of the images of other classes that networks take for the target, means over networks.

    Attributes:
        stamped: Share under the trigger.
        plain: Share without it, which networks get wrong anyway.
        images: Number of images of other classes.
    """

    stamped: float
    plain: float
    images: int

    @property
    def net(self) -> float:
        """`stamped` less `plain`, the effect of the trigger itself."""
        return self.stamped - self.plain


def attack_success(networks: Sequence[nn.Module], test: dd.RealData, trigger: Trigger, target: int) -> Success:
    """Return how often a trigger turns images into the target class.

    Images that belong to the target are left out: they would count for success whatever the trigger does, one class
    share of it (10 points with ten classes).

    Args:
        networks: Networks from images (B, C, H, W) in the value space of `test` to logits (B, K), in eval mode.
        test: Held-out images.
        trigger: Trigger, stamped before the preprocessing.
        target: Class id of the target.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    _require_class("target", target, test.num_classes)
    others = torch.nonzero(test.labels.cpu() != target).flatten()
    require(len(others) > 0, "test", f"hold images of other classes than {target}", len(others))
    plain = test.unit_images(others)
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
