"""Trigger inversion: the smallest change that turns every image into a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Preprocess
from ddsdk.foundation import Checked, PositiveFloat, PositiveInt, derive, require

_CONSISTENT = 1.4826
"""The median absolute deviation times this estimates the standard deviation of normal values."""


def outlier_indices(values: Tensor) -> Tensor:
    """Return the deviations by which each value lies above the median, (K,); a deviation is 1.4826 MAD.

    Values that are not numbers have the index 0 and count for nothing. Where more than half of the values are the same
    there is no deviation to compare with, and all indices are 0.

    Args:
        values: One value for each class, (K,); higher is more suspicious.

    References:
        Wang et al., "Neural Cleanse", S&P 2019, who call 2 and above an anomaly (of sizes *below* the median).
    """
    known = values[~values.isnan()].double()
    if len(known) == 0:
        return torch.zeros_like(values)
    centre = known.quantile(0.5)
    deviation = _CONSISTENT * (known - centre).abs().quantile(0.5)
    if deviation == 0:
        return torch.zeros_like(values)
    return torch.nan_to_num((values.double() - centre) / deviation, nan=0.0).to(values.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class Inversion(Checked):
    """Settings of the inversion of triggers.

    Attributes:
        steps: Adam steps.
        lr: Learning rate of mask and pattern.
        batch: Images of a step.
        goal: Share of images of other classes that a mask has to turn into the class, in 0 < value <= 1.
        weight: Weight of the mask's L1 norm per pixel in the loss, at the start; it grows by half where the goal is
            reached and falls where it is not.
        patience: Steps between two looks at the goal.
    """

    steps: PositiveInt = 300
    lr: PositiveFloat = 0.1
    batch: PositiveInt = 64
    goal: float = 0.9
    weight: PositiveFloat = 1.0
    patience: PositiveInt = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.goal <= 1, "goal", "lie in 0 < value <= 1", self.goal)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class InvertedTriggers:
    """Triggers that inversion found, one for each class.

    Attributes:
        masks: Masks, (K, 1, H, W) in [0, 1].
        patterns: Colours, (K, C, H, W) in the unit range.
        sizes: Smallest L1 norm of a mask that reached the goal, in pixels, (K,); H * W where none did.
        reached: Largest share of a batch that was turned into the class, (K,).
    """

    masks: Tensor
    patterns: Tensor
    sizes: Tensor
    reached: Tensor

    @property
    def indices(self) -> Tensor:
        """Deviations by which each class's mask is smaller than the median one, (K,)."""
        return outlier_indices(-self.sizes)


def invert_triggers(
    networks: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    preprocess: Preprocess,
    *,
    settings: Inversion,
    rng: torch.Generator,
) -> InvertedTriggers:
    """Find for each class a small mask m and a pattern p for which (1 - m) x + m p is taken for the class.

    min over m, p of the mean over networks and images x of other classes of CE(f((1 - m) x + m p), k), plus a weight
    times the mean of m. All classes run side by side; each has a weight of its own.

    Args:
        networks: Networks from the value space to logits (B, K); one trigger has to work for all of them.
        images: Images (N, C, H, W) in the unit range.
        labels: Classes, (N,) int64; images of a class do not count for its own trigger.
        preprocess: Map from the unit range to the networks' value space.
        settings: Settings of the search.
        rng: Generator of start and batches.

    References:
        Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", S&P 2019.

    Cost: steps * networks forward and backward passes over K * batch images.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    found = torch.unique(labels).tolist()
    require(len(found) > 1, "labels", "hold 2 classes or more", found)
    with torch.no_grad():
        classes = networks[0](preprocess(images[:1])).shape[1]
    search = _Search(classes, images, settings, derive(rng, "start"))
    for step in range(settings.steps):
        picked = torch.randperm(len(images), generator=derive(rng, "batch", step))[: settings.batch]
        picked = picked.to(images.device)
        search.step(networks, images[picked], labels[picked], preprocess)
    return search.found


class _Search:
    """Masks and patterns of all classes during the search."""

    def __init__(self, classes: int, images: Tensor, settings: Inversion, rng: torch.Generator) -> None:
        _, c, h, w = images.shape
        self._settings = settings
        self._mask = torch.randn(classes, 1, h, w, generator=rng).to(images.device).requires_grad_()
        self._pattern = torch.randn(classes, c, h, w, generator=rng).to(images.device).requires_grad_()
        # The authors' betas: with the usual ones the masks shrink too late.
        self._optimizer = torch.optim.Adam([self._mask, self._pattern], lr=settings.lr, betas=(0.5, 0.9))
        self._weight = images.new_full((classes,), settings.weight)
        self._recent: list[Tensor] = []
        masks, patterns = self._mask.detach().sigmoid(), self._pattern.detach().sigmoid()
        sizes = images.new_full((classes,), float(h * w))
        self.found = InvertedTriggers(masks=masks, patterns=patterns, sizes=sizes, reached=torch.zeros_like(sizes))

    def step(self, networks: Sequence[nn.Module], x: Tensor, labels: Tensor, preprocess: Preprocess) -> None:
        """Take one step of all classes on a batch."""
        classes, n = len(self._mask), len(x)
        mask, pattern = self._mask.sigmoid(), self._pattern.sigmoid()
        shown = (1 - mask)[:, None] * x + (mask * pattern)[:, None]
        wanted = torch.arange(classes, device=x.device)[:, None].expand(classes, n)
        others = (wanted != labels).float()
        logits = [network(preprocess(shown.flatten(0, 1))) for network in networks]
        losses = [cross_entropy(one, wanted.flatten(), reduction="none").view(classes, n) for one in logits]
        fooled = torch.stack([(o.argmax(1).view(classes, n) == wanted).float() for o in logits]).mean(0)
        count = others.sum(1).clamp(min=1)
        loss = (torch.stack(losses).mean(0) * others).sum(1) / count
        total = loss + self._weight * mask.mean((1, 2, 3))
        self._keep(mask.detach(), pattern.detach(), (fooled * others).sum(1) / count)
        self._optimizer.zero_grad(set_to_none=True)
        self._mask.grad, self._pattern.grad = torch.autograd.grad(total.sum(), [self._mask, self._pattern])
        self._optimizer.step()

    def _keep(self, masks: Tensor, patterns: Tensor, share: Tensor) -> None:
        """Keep the smallest masks that reach the goal, and turn the weights every few steps."""
        old, goal = self.found, self._settings.goal
        sizes = masks.sum((1, 2, 3))
        better = (share >= goal) & (sizes < old.sizes)
        column = better[:, None, None, None]
        self.found = InvertedTriggers(
            masks=torch.where(column, masks, old.masks),
            patterns=torch.where(column, patterns, old.patterns),
            sizes=torch.where(better, sizes, old.sizes),
            reached=torch.maximum(share, old.reached),
        )
        self._recent.append(share)
        if len(self._recent) == self._settings.patience:
            reached = torch.stack(self._recent).mean(0) >= goal
            self._weight = torch.where(reached, self._weight * 1.5, self._weight / 1.5**1.5)
            self._recent = []
