"""Networks whose features regression likes: without normalisation, and wide awake at their initialisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from torch import nn

from ddsdk.foundation import require, require_rate
from ddsdk.networks import NetworkFactory, network_factory
from ddsdk.students.fresh import MakeStudent

M = TypeVar("M", bound=nn.Module)


def plain_student(make_student: MakeStudent) -> MakeStudent:
    """Return the same network of the catalogue without normalisation; any other `make_student` as it is.

    Second-order costs aside, an image of its own scale keeps it in the features, which labels are regressed on.
    """
    if isinstance(make_student, NetworkFactory) and make_student.options.get("norm", "none") != "none":
        name, shape, classes = make_student.name, make_student.image_shape, make_student.num_classes
        return network_factory(name, shape, classes, **{**make_student.options, "norm": "none"})
    return make_student


@final
@dataclass(frozen=True)
class HeStudents:
    """A `MakeStudent` whose networks start as `he_normal_` draws them.

    PyTorch's own start has a sixth of that variance: without normalisation, signals fade from layer to layer.

    Attributes:
        make_student: Builds the network.
        bias_std: Standard deviation of the biases.
    """

    make_student: MakeStudent
    bias_std: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.bias_std < math.inf, "bias_std", "be finite and not negative", self.bias_std)

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a new network."""
        return he_normal_(self.make_student(rng), rng, bias_std=self.bias_std)


@final
@dataclass(frozen=True)
class SoftStudents:
    """A `MakeStudent` whose networks have softplus(beta x) / beta in the place of each ReLU.

    It is nearly the same function, and smooth: where gradients of a network are matched to data, ReLU has none.

    Attributes:
        make_student: Builds the network.
        beta: Sharpness of the bend; 60 in RCIG.
    """

    make_student: MakeStudent
    beta: float = 60.0

    def __post_init__(self) -> None:
        require_rate("beta", self.beta)

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
        network: Changed in place; its other layers stay.
        rng: A CPU generator; it advances.
        bias_std: Not negative.

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
