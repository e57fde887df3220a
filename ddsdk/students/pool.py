"""Students that are made of a few trained networks: between two of their snapshots, or a step away from one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from ddsdk.foundation import derive, require
from ddsdk.students.runs import TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """Make students on the straight line from the first to the last weights of a run that is drawn.

    theta = (1 - a) theta_first + a theta_last with `a` uniform in [low, high]: every stage of training from a few
    runs. It is a `MakeStudent`, so any supply that makes students takes it.

    Attributes:
        runs: Who is drawn from; made at first use.
        low: The share of the last weights is at least this.
        high: And at most this.

    Raises:
        ValueError: Unless 0 <= low <= high <= 1.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function", CVPR 2025, arXiv:2502.20653.
    """

    runs: TrainedRuns
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.low <= self.high <= 1, "low and high", "lie in 0 <= low <= high <= 1", self.range)

    @property
    def range(self) -> tuple[float, float]:
        """The two bounds."""
        return self.low, self.high

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        run = _pick(self.runs, rng)
        share = _uniform(self.range, derive(rng, "share"))
        first, last = self.runs.weights(run, 0), self.runs.weights(run, -1)
        return self.runs.made_of((1 - share) * first + share * last)


@final
@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """Make students from the last weights of a run that is drawn, moved along a random filter-normalised direction.

    The step has a length of `low` to `high` times that of each filter, see `perturb_filters_`. The paper also draws
    its sign; a random direction has one already. It is a `MakeStudent`, so any supply that makes students takes it.

    Attributes:
        runs: Who is drawn from; made at first use.
        low: Smallest relative length of the step.
        high: Largest one.

    Raises:
        ValueError: Unless 0 <= low <= high.

    References:
        Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv:2212.06152.
    """

    runs: TrainedRuns
    low: float = 0.01
    high: float = 0.09

    def __post_init__(self) -> None:
        require(0 <= self.low <= self.high, "low and high", "satisfy 0 <= low <= high", self.range)

    @property
    def range(self) -> tuple[float, float]:
        """The two bounds."""
        return self.low, self.high

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        network = self.runs.network(_pick(self.runs, rng))
        magnitude = _uniform(self.range, derive(rng, "magnitude"))
        return perturb_filters_(network, magnitude, derive(rng, "direction"))


@torch.no_grad()
def perturb_filters_(network: nn.Module, magnitude: float, rng: torch.Generator) -> nn.Module:
    """Move each filter of `network` by `magnitude` times its own length in a random direction; return the network.

    A filter is a row of a weight: (O, I, h, w) and (O, I) have O of them. Biases and the parameters of norms, which
    are vectors, stay.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, arXiv:1712.09913, for the
        normalisation.
    """
    for i, weight in enumerate(p for p in network.parameters() if p.ndim > 1):
        drawn = torch.randn(weight.shape, generator=derive(rng, i)).to(weight)
        rows = weight.flatten(1).norm(dim=1, keepdim=True)
        step = drawn.flatten(1) * (magnitude * rows / drawn.flatten(1).norm(dim=1, keepdim=True))
        weight.add_(step.view_as(weight))
    return network


def _pick(runs: TrainedRuns, rng: torch.Generator) -> int:
    return int(torch.randint(len(runs), (), generator=derive(rng, "run")))


def _uniform(bounds: tuple[float, float], rng: torch.Generator) -> float:
    low, high = bounds
    return low + (high - low) * float(torch.rand((), generator=rng))
