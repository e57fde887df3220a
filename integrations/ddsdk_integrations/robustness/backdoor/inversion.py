"""Trigger inversion (Neural Cleanse): search for the smallest patch that turns every image into a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Preprocess
from ddsdk.foundation import CheckedDataclass, PositiveFloat, PositiveInt, derive, require

_MAD_TO_STD = 1.4826
"""Factor from the median absolute deviation to the standard deviation of a normal distribution."""


def anomaly_indices(values: Tensor) -> Tensor:
    """Return the anomaly index of each value, (K,): its distance above the median in units of 1.4826 MAD.

    NaN values are ignored and get the index 0. If more than half of the values are equal, the median absolute deviation
    is 0 and all indices are 0.

    Args:
        values: One value for each class, (K,); higher values are more suspicious.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.robustness.backdoor import anomaly_indices
        >>> int(anomaly_indices(torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0])).argmax())
        4

    References:
        Wang et al., "Neural Cleanse", S&P 2019: an index of 2 or more is an anomaly (there for sizes *below* the
        median).
    """
    known = values[~values.isnan()].double()
    if len(known) == 0:
        return torch.zeros_like(values)
    centre = known.quantile(0.5)
    deviation = _MAD_TO_STD * (known - centre).abs().quantile(0.5)
    if deviation == 0:
        return torch.zeros_like(values)
    return torch.nan_to_num((values.double() - centre) / deviation, nan=0.0).to(values.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class InversionSettings(CheckedDataclass):
    """Settings of trigger inversion.

    Attributes:
        steps: Number of Adam steps.
        lr: Learning rate of mask and pattern.
        batch: Number of images in a step.
        goal: Share of images of other classes that a mask must turn into the class, in 0 < value <= 1.
        weight: Initial weight of the mask's L1 norm per pixel in the loss. It is multiplied by 1.5 if the goal is
            reached, and divided by 1.5^1.5 if not.
        patience: Number of steps between two updates of the weight.

    Examples:
        >>> from ddsdk_integrations.robustness.backdoor import InversionSettings
        >>> InversionSettings(steps=100).goal
        0.9
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
    """Result of trigger inversion: one trigger for each class.

    Attributes:
        masks: Smallest masks that reached the goal, (K, 1, H, W) in [0, 1]; the initial mask if none did.
        patterns: Colours of the triggers, (K, C, H, W) in the unit range.
        sizes: L1 norm of the masks in pixels, (K,); H * W if no mask reached the goal.
        reached: Largest share of a batch that was turned into the class, (K,).
    """

    masks: Tensor
    patterns: Tensor
    sizes: Tensor
    reached: Tensor

    @property
    def indices(self) -> Tensor:
        """Anomaly index of each class, (K,): distance of its mask size below the median, in units of 1.4826 MAD."""
        return anomaly_indices(-self.sizes)


def invert_triggers(
    networks: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    preprocess: Preprocess,
    *,
    settings: InversionSettings,
    rng: torch.Generator,
) -> InvertedTriggers:
    """Return for each class a small mask m and a pattern p such that (1 - m) x + m p is classified as the class.

    min over m, p of the mean over networks and images x of other classes of CE(f((1 - m) x + m p), k), plus a weight
    times the mean of m. All classes are optimised in parallel; each class has its own weight.

    Args:
        networks: Networks from the value space to logits (B, K); one trigger must fool all of them.
        images: Images (N, C, H, W) in the unit range, of at least 2 classes.
        labels: Class of each image, (N,) int64; images of a class do not count for its own trigger.
        preprocess: Map from the unit range to the networks' value space.
        settings: Settings of the optimisation.
        rng: Generator of initial masks, patterns and batches.

    Cost: steps * networks forward and backward passes over K * batch images.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness.backdoor import InversionSettings, invert_triggers
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> images, labels, rng = real.unit_images(), real.labels, ddsdk.generator("inversion")
        >>> settings = InversionSettings(steps=2)
        >>> invert_triggers([network], images, labels, real.preprocess, settings=settings, rng=rng).masks.shape
        torch.Size([10, 1, 8, 8])

    References:
        Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks", S&P 2019.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    image_classes = torch.unique(labels).tolist()
    require(len(image_classes) > 1, "labels", "hold 2 classes or more", image_classes)
    with torch.no_grad():
        classes = networks[0](preprocess(images[:1])).shape[1]
    search = _Search(classes, images, settings, derive(rng, "start"))
    for step in range(settings.steps):
        batch = torch.randperm(len(images), generator=derive(rng, "batch", step))[: settings.batch]
        batch = batch.to(images.device)
        search.step(networks, images[batch], labels[batch], preprocess)
    return search.triggers


class _Search:
    """State of the optimisation: masks and patterns of all classes, and the smallest masks so far."""

    def __init__(self, classes: int, images: Tensor, settings: InversionSettings, rng: torch.Generator) -> None:
        _, c, h, w = images.shape
        self._settings = settings
        self._mask = torch.randn(classes, 1, h, w, generator=rng).to(images.device).requires_grad_()
        self._pattern = torch.randn(classes, c, h, w, generator=rng).to(images.device).requires_grad_()
        # The authors' betas: with PyTorch's defaults the masks shrink too late.
        self._optimizer = torch.optim.Adam([self._mask, self._pattern], lr=settings.lr, betas=(0.5, 0.9))
        self._weight = images.new_full((classes,), settings.weight)
        self._recent_shares: list[Tensor] = []
        masks, patterns = self._mask.detach().sigmoid(), self._pattern.detach().sigmoid()
        sizes = images.new_full((classes,), float(h * w))
        self.triggers = InvertedTriggers(masks=masks, patterns=patterns, sizes=sizes, reached=torch.zeros_like(sizes))

    def step(self, networks: Sequence[nn.Module], x: Tensor, labels: Tensor, preprocess: Preprocess) -> None:
        """Take one Adam step for all classes on a batch."""
        classes, n = len(self._mask), len(x)
        mask, pattern = self._mask.sigmoid(), self._pattern.sigmoid()
        stamped = (1 - mask)[:, None] * x + (mask * pattern)[:, None]
        targets = torch.arange(classes, device=x.device)[:, None].expand(classes, n)
        others = (targets != labels).float()
        logits = [network(preprocess(stamped.flatten(0, 1))) for network in networks]
        losses = [cross_entropy(rows, targets.flatten(), reduction="none").view(classes, n) for rows in logits]
        fooled = torch.stack([(rows.argmax(1).view(classes, n) == targets).float() for rows in logits]).mean(0)
        count = others.sum(1).clamp(min=1)
        loss = (torch.stack(losses).mean(0) * others).sum(1) / count
        total = loss + self._weight * mask.mean((1, 2, 3))
        self._keep(mask.detach(), pattern.detach(), (fooled * others).sum(1) / count)
        self._optimizer.zero_grad(set_to_none=True)
        self._mask.grad, self._pattern.grad = torch.autograd.grad(total.sum(), [self._mask, self._pattern])
        self._optimizer.step()

    def _keep(self, masks: Tensor, patterns: Tensor, share: Tensor) -> None:
        """Store the smallest masks that reach the goal, and update the weights every `patience` steps."""
        old, goal = self.triggers, self._settings.goal
        sizes = masks.sum((1, 2, 3))
        better = (share >= goal) & (sizes < old.sizes)
        replaced = better[:, None, None, None]
        self.triggers = InvertedTriggers(
            masks=torch.where(replaced, masks, old.masks),
            patterns=torch.where(replaced, patterns, old.patterns),
            sizes=torch.where(better, sizes, old.sizes),
            reached=torch.maximum(share, old.reached),
        )
        self._recent_shares.append(share)
        if len(self._recent_shares) == self._settings.patience:
            reached = torch.stack(self._recent_shares).mean(0) >= goal
            self._weight = torch.where(reached, self._weight * 1.5, self._weight / 1.5**1.5)
            self._recent_shares = []
