"""Triggers in pixel space, data poisoned with a trigger, and the success rate of a trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import CheckedDataclass, NonNegativeInt, require, require_count
from ddsdk.training import probabilities


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Trigger(CheckedDataclass):
    """Trigger of a backdoor: a patch at a fixed position of an image.

    Attributes:
        patch: Colours of the patch in the unit range, (C, h, w) float32.
        top: Row of the upper edge, from 0.
        left: Column of the left edge, from 0.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.robustness import Trigger
        >>> trigger = Trigger(patch=torch.ones(1, 2, 2), top=6, left=6)
        >>> int(trigger.stamp(torch.zeros(5, 1, 8, 8)).sum())
        20
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
        """Return a square trigger in the lower right corner.

        Args:
            image_shape: Shape of the images, (C, H, W).
            size: Side of the square in pixels.
            rng: Generator of random colours; None for a white square.
        """
        channels, height, width = image_shape
        require_count("size", size)
        require(size <= min(height, width), "size", f"fit into {height} x {width} pixels", size)
        shape = (channels, size, size)
        patch = torch.ones(shape) if rng is None else torch.rand(shape, generator=rng)
        return cls(patch=patch, top=height - size, left=width - size)

    def stamp(self, images: Tensor) -> Tensor:
        """Return copies of `images` with the patch; gradients flow to the patch.

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
class PoisonedData:
    """Poisoned data: some images carry a trigger and the label of the target class.

    Attributes:
        data: Poisoned data that a victim distils; its images are a separate copy.
        index: Positions of the stamped images in `data`, (P,) int64.
        originals: Stamped images before stamping, (P, C, H, W) in the unit range.
        target: Class that the stamped images are labelled with.
    """

    data: dd.RealData
    index: Tensor
    originals: Tensor
    target: int

    def restamp_(self, trigger: Trigger) -> None:
        """Replace the trigger of the stamped images in place; a ValueError is raised for whitened data."""
        stamped = _stored_as(self.data.images.dtype, trigger.stamp(self.originals))
        self.data.replace_images_(self.index, stamped)


def poison(real: dd.RealData, trigger: Trigger, *, target: int, fraction: float, rng: torch.Generator) -> PoisonedData:
    """Return poisoned data: some images of other classes get the trigger and the label `target`.

    `real` is not changed. A ValueError is raised if `target` is no class, the fraction rounds to no image, or a class
    would lose all its images.

    Args:
        real: Clean training data with any value space.
        trigger: Trigger that is stamped in the unit range, before the data's preprocessing.
        target: Target class of the attack, in 0..K-1.
        fraction: Share of *all* images that is stamped, in 0 < value < 1; published value 0.01.
        rng: Generator of the choice of images.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import Trigger, poison
        >>> real = ddsdk.load("digits")
        >>> trigger = Trigger.corner(real.image_shape, size=2)
        >>> poisoned = poison(real, trigger, target=0, fraction=0.01, rng=ddsdk.generator("poison"))
        >>> len(poisoned.index)
        13

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
    return PoisonedData(data=real.with_items(images, labels), index=index, originals=originals, target=target)


@final
@dataclass(frozen=True, kw_only=True)
class AttackSuccess:
    """Attack success: share of images of other classes that networks classify as the target, means over networks.

    Attributes:
        stamped: Share with the trigger, in [0, 1].
        plain: Share without the trigger, in [0, 1]: ordinary errors of the networks.
        images: Number of images of other classes.
    """

    stamped: float
    plain: float
    images: int

    @property
    def net(self) -> float:
        """Difference of `stamped` and `plain`: the effect of the trigger itself."""
        return self.stamped - self.plain


def attack_success(networks: Sequence[nn.Module], test: dd.RealData, trigger: Trigger, target: int) -> AttackSuccess:
    """Return the share of images of other classes that a trigger turns into the target class.

    Images of the target class are left out: with them, any trigger would have a success of one class share, 10 points
    for ten classes.

    Args:
        networks: Networks from images (B, C, H, W) in the value space of `test` to logits (B, K), in eval mode.
        test: Held-out images of all classes.
        trigger: Trigger that is stamped in the unit range, before the preprocessing.
        target: Target class of the attack, in 0..K-1.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import Trigger, attack_success
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights")).eval()
        >>> attack_success([network], real, Trigger.corner(real.image_shape), target=0).images
        1213
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
    means = [sum(by_network) / len(by_network) for by_network in shares]
    return AttackSuccess(stamped=means[0], plain=means[1], images=len(others))


def _stored_as(dtype: torch.dtype, unit: Tensor) -> Tensor:
    return (unit * 255).round().to(dtype) if dtype == torch.uint8 else unit.to(dtype)


def _require_class(name: str, value: int, classes: int) -> None:
    require_count(name, value, least=0)
    require(value < classes, name, f"lie in 0..{classes - 1}", value)
