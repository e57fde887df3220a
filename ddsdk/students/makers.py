"""Factories of students: catalogue networks with other layers or initial weights, and networks from trained runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import nn

from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, PositiveFloat, derive, generator, require
from ddsdk.networks import NetworkFactory, has_batch_norm, network_factory
from ddsdk.students.fresh import MakeStudent
from ddsdk.students.runs import TrainedRuns

M = TypeVar("M", bound=nn.Module)


def plain_student(make_student: MakeStudent) -> MakeStudent:
    """Return the factory of the same catalogue network without normalisation layers; other factories are unchanged.

    Without normalisation the features depend on the scale of an image, as regression on features needs.

    Examples:
        >>> import ddsdk
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> ddsdk.students.plain_student(make_student).options["norm"]
        'none'
    """
    if isinstance(make_student, NetworkFactory) and make_student.options.get("norm", "none") != "none":
        return _with_norm(make_student, "none")
    return make_student


def batch_norm_student(make_student: MakeStudent) -> MakeStudent:
    """Return `make_student` if its networks have BatchNorm, else the factory of the same catalogue network with it.

    Raises:
        ValueError: If the networks have no BatchNorm, and come from no catalogue network with an option ``norm``.

    Examples:
        >>> import ddsdk
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> ddsdk.students.batch_norm_student(make_student).options["norm"]
        'batch'
    """
    if has_batch_norm(make_student(generator("template"))):
        return make_student
    if isinstance(make_student, NetworkFactory) and "norm" in make_student.options:
        return _with_norm(make_student, "batch")
    name = make_student.name if isinstance(make_student, NetworkFactory) else repr(make_student)
    raise ValueError(
        f"student must have BatchNorm layers, or be a network of the catalogue with an option norm, got {name}"
    )


def _with_norm(factory: NetworkFactory, norm: str) -> NetworkFactory:
    options = {**factory.options, "norm": norm}
    return network_factory(factory.spec, factory.image_shape, factory.num_classes, **options)


@final
@dataclass(frozen=True)
class HeStudents(CheckedDataclass):
    """A factory of networks with He-normal initial weights, see `he_normal_`.

    The default initial weights of PyTorch have a sixth of that variance, so that signals fade from layer to layer in
    networks without normalisation.

    Attributes:
        make_student: Factory of the network.
        bias_std: Standard deviation of the biases.

    Examples:
        >>> import ddsdk
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> type(ddsdk.students.HeStudents(make_student)(ddsdk.generator(0))).__name__
        'Network'
    """

    make_student: MakeStudent
    bias_std: NonNegativeFloat = 0.1

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        return he_normal_(self.make_student(rng), rng, bias_std=self.bias_std)


@final
@dataclass(frozen=True)
class SoftplusStudents(CheckedDataclass):
    """A factory of networks with softplus(beta x) / beta in the place of each ReLU.

    Softplus approximates ReLU and is smooth. Gradients through the gradients of a network need the second derivative,
    which is zero for ReLU.

    Attributes:
        make_student: Factory of the network.
        beta: Sharpness of the softplus, > 0; 60 in RCIG.

    Examples:
        >>> import ddsdk
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> "ReLU" in str(ddsdk.students.SoftplusStudents(make_student)(ddsdk.generator(0)))
        False
    """

    make_student: MakeStudent
    beta: PositiveFloat = 60.0

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        network = self.make_student(rng)
        for parent in list(network.modules()):
            for name, layer in parent.named_children():
                if isinstance(layer, nn.ReLU):
                    setattr(parent, name, nn.Softplus(beta=self.beta))
        return network


@torch.no_grad()
def he_normal_(network: M, rng: torch.Generator, *, bias_std: float = 0.1) -> M:
    """Draw the weights of linear and convolution layers from N(0, 2 / fan-in), and biases from N(0, bias_std^2).

    Args:
        network: Network, changed in place; layers of other kinds stay.
        rng: CPU generator, which is advanced.
        bias_std: Standard deviation of the biases.

    Returns:
        The network itself.

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
class InterpolatedExperts:
    """A factory of networks between the first and the last weights of a random trained run.

    theta = (1 - a) theta_first + a theta_last with `a` uniform in [low, high]: students of all stages of training from
    a few runs.

    Attributes:
        runs: Trained runs; a missing run is trained at its first use.
        low: Smallest weight `a` of the last weights, 0..1.
        high: Largest weight `a` of the last weights, 0..1.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function", CVPR 2025, arXiv:2502.20653.

    Examples:
        >>> import pathlib, ddsdk
        >>> from ddsdk.students import InterpolatedExperts, TrainedRuns, Training
        >>> real, make_student = ddsdk.load("digits"), ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> training = Training(epochs=1, images=8)
        >>> runs = TrainedRuns(real, make_student, training, count=1, seed=0, folder=pathlib.Path("runs"))
        >>> type(InterpolatedExperts(runs=runs)(ddsdk.generator(1))).__name__
        'Network'
    """

    runs: TrainedRuns
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        bounds = (self.low, self.high)
        require(0 <= self.low <= self.high <= 1, "low and high", "lie in 0 <= low <= high <= 1", bounds)

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        run = _random_run(self.runs, rng)
        share = _uniform(self.low, self.high, derive(rng, "share"))
        first, last = self.runs.weights(run, 0), self.runs.weights(run, -1)
        return self.runs.network_from_weights((1 - share) * first + share * last)


@final
@dataclass(frozen=True, kw_only=True)
class PerturbedExperts:
    """A factory of networks with the last weights of a random trained run, moved along a random direction.

    Each filter moves by `low` to `high` times its own norm, see `perturb_filters_`. The paper also draws a random sign
    of the step, which has no effect on the distribution of a random direction.

    Attributes:
        runs: Trained runs; a missing run is trained at its first use.
        low: Smallest relative length of the step, at least 0.
        high: Largest relative length of the step, at least `low`.

    References:
        Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv:2212.06152.

    Examples:
        >>> import pathlib, ddsdk
        >>> from ddsdk.students import PerturbedExperts, TrainedRuns, Training
        >>> real, make_student = ddsdk.load("digits"), ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> training = Training(epochs=1, images=8)
        >>> runs = TrainedRuns(real, make_student, training, count=1, seed=0, folder=pathlib.Path("runs"))
        >>> type(PerturbedExperts(runs=runs)(ddsdk.generator(1))).__name__
        'Network'
    """

    runs: TrainedRuns
    low: float = 0.01
    high: float = 0.09

    def __post_init__(self) -> None:
        require(0 <= self.low <= self.high, "low and high", "satisfy 0 <= low <= high", (self.low, self.high))

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        network = self.runs.network(_random_run(self.runs, rng))
        magnitude = _uniform(self.low, self.high, derive(rng, "magnitude"))
        return perturb_filters_(network, magnitude, derive(rng, "direction"))


@torch.no_grad()
def perturb_filters_(network: nn.Module, magnitude: float, rng: torch.Generator) -> nn.Module:
    """Move each filter of a network by `magnitude` times its own norm in a random direction.

    A filter is a row of a weight: (O, I, h, w) and (O, I) have O filters. Biases and the parameters of normalisation
    layers, which are vectors, stay.

    Args:
        network: Network, changed in place.
        magnitude: Relative length of the step, at least 0.
        rng: Root of the random directions.

    Returns:
        The network itself.

    References:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, arXiv:1712.09913, for the
        normalisation.
    """
    for i, weight in enumerate(p for p in network.parameters() if p.ndim > 1):
        direction = torch.randn(weight.shape, generator=derive(rng, i)).to(weight)
        norms = weight.flatten(1).norm(dim=1, keepdim=True)
        step = direction.flatten(1) * (magnitude * norms / direction.flatten(1).norm(dim=1, keepdim=True))
        weight.add_(step.view_as(weight))
    return network


def _random_run(runs: TrainedRuns, rng: torch.Generator) -> int:
    return int(torch.randint(len(runs), (), generator=derive(rng, "run")))


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))
