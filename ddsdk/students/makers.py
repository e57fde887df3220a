"""Makers of students: networks of the catalogue that are changed, and networks made of a few trained ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import nn

from ddsdk.foundation import Checked, NonNegativeFloat, PositiveFloat, derive, generator, require
from ddsdk.networks import NetworkFactory, has_batch_norm, network_factory
from ddsdk.students.fresh import MakeStudent
from ddsdk.students.runs import TrainedRuns

M = TypeVar("M", bound=nn.Module)


def plain_student(make_student: MakeStudent) -> MakeStudent:
    """Return the same network of the catalogue without normalisation; any other `make_student` as it is.

    Without it the scale of an image stays in the features, on which labels are regressed.
    """
    if isinstance(make_student, NetworkFactory) and make_student.options.get("norm", "none") != "none":
        return _with_norm(make_student, "none")
    return make_student


def batch_norm_student(make_student: MakeStudent) -> MakeStudent:
    """Return `make_student` if its networks have BatchNorm, else the same network of the catalogue with it."""
    if has_batch_norm(make_student(generator("template"))):
        return make_student
    if isinstance(make_student, NetworkFactory) and "norm" in make_student.options:
        return _with_norm(make_student, "batch")
    found = make_student.name if isinstance(make_student, NetworkFactory) else repr(make_student)
    raise ValueError(
        f"student must have BatchNorm layers, or be a network of the catalogue with an option norm, got {found}"
    )


def _with_norm(made: NetworkFactory, norm: str) -> NetworkFactory:
    return network_factory(made.name, made.image_shape, made.num_classes, **{**made.options, "norm": norm})


@final
@dataclass(frozen=True)
class HeStudents(Checked):
    """A `MakeStudent` whose networks start as `he_normal_` draws them.

    PyTorch's own start has a sixth of that variance: without normalisation, signals fade from layer to layer.

    Attributes:
        make_student: Factory of the network.
        bias_std: Standard deviation of the biases.
    """

    make_student: MakeStudent
    bias_std: NonNegativeFloat = 0.1

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        return he_normal_(self.make_student(rng), rng, bias_std=self.bias_std)


@final
@dataclass(frozen=True)
class SoftStudents(Checked):
    """A `MakeStudent` whose networks have softplus(beta x) / beta in the place of each ReLU.

    It is nearly the same function, and smooth: where gradients of a network are matched to data, ReLU has none.

    Attributes:
        make_student: Factory of the network.
        beta: Sharpness of the bend; 60 in RCIG.
    """

    make_student: MakeStudent
    beta: PositiveFloat = 60.0

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        network = self.make_student(rng)
        for layer in list(network.modules()):
            for name, part in layer.named_children():
                if isinstance(part, nn.ReLU):
                    setattr(layer, name, nn.Softplus(beta=self.beta))
        return network


@torch.no_grad()
def he_normal_(network: M, rng: torch.Generator, *, bias_std: float = 0.1) -> M:
    """Draw the weights of linear and convolution layers from N(0, 2 / fan-in), biases from N(0, bias_std^2).

    Args:
        network: Network that is changed in place; its other layers stay.
        rng: CPU generator; it advances.
        bias_std: Standard deviation of the biases.

    References:
        He et al., "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            std = math.sqrt(2 / layer.weight[0].numel())
            layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=rng))
            if layer.bias is not None:
                layer.bias.copy_(bias_std * torch.randn(layer.bias.shape, generator=rng))
    return network


@final
@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """A `MakeStudent` of networks on the straight line from the first to the last weights of a run that is drawn.

    theta = (1 - a) theta_first + a theta_last with `a` uniform in [low, high]: every stage of training from a few runs.

    Attributes:
        runs: Trained runs, made at first use.
        low: Smallest share of the last weights.
        high: Largest share of the last weights.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function", CVPR 2025, arXiv:2502.20653.
    """

    runs: TrainedRuns
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        found = (self.low, self.high)
        require(0 <= self.low <= self.high <= 1, "low and high", "lie in 0 <= low <= high <= 1", found)

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        run = _pick(self.runs, rng)
        share = _uniform(self.low, self.high, derive(rng, "share"))
        first, last = self.runs.weights(run, 0), self.runs.weights(run, -1)
        return self.runs.made_of((1 - share) * first + share * last)


@final
@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """A `MakeStudent` of the last weights of a run that is drawn, moved along a random filter-normalised direction.

    The step has a length of `low` to `high` times that of each filter, see `perturb_filters_`. The paper also draws
    its sign; a random direction has one already.

    Attributes:
        runs: Trained runs, made at first use.
        low: Smallest relative length of the step.
        high: Largest relative length of the step.

    References:
        Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv:2212.06152.
    """

    runs: TrainedRuns
    low: float = 0.01
    high: float = 0.09

    def __post_init__(self) -> None:
        require(0 <= self.low <= self.high, "low and high", "satisfy 0 <= low <= high", (self.low, self.high))

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        network = self.runs.network(_pick(self.runs, rng))
        magnitude = _uniform(self.low, self.high, derive(rng, "magnitude"))
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


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))
