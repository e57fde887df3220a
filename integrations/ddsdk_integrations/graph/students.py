"""Factories of the networks that sets of nodes and of graphs are matched under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ddsdk.foundation import require_count
from ddsdk.networks import Network, initialise
from ddsdk_integrations.graph.graph_sets import unpacked
from ddsdk_integrations.graph.propagation import dense_normalised


@final
@dataclass(frozen=True)
class StudentFactory:
    """A factory of networks, ``make_student(rng)``, which the provenance of a set records.

    Attributes:
        name: Name of the network.
        options: Arguments of `build`, JSON values.
        build: Function that builds the network.
    """

    name: str
    options: Mapping[str, int]
    build: Callable[..., Network]

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a network whose weights come from `rng` alone."""
        with torch.device("meta"):
            network = self.build(**self.options)
        return initialise(network, rng)


def linear_student(features: int, classes: int) -> StudentFactory:
    """Return the factory of SGC on rows that were propagated before: one linear layer.

    Args:
        features: Features of a row.
        classes: Number of classes.
    """
    return StudentFactory("linear", {"features": features, "classes": classes}, _linear)


def perceptron_student(features: int, classes: int, width: int) -> StudentFactory:
    """Return the factory of a hidden ReLU layer and a head on rows: a GCN of two layers whose propagation came first.

    Args:
        features: Features of a row.
        classes: Number of classes.
        width: Units of the hidden layer.
    """
    options = {"features": features, "classes": classes, "width": width}
    return StudentFactory("perceptron", options, _perceptron)


def graph_student(tags: int, classes: int, *, width: int = 128, layers: int = 3) -> StudentFactory:
    """Return the factory of a GCN over packed graphs with mean pooling and a linear head.

    Args:
        tags: Number of tags T.
        classes: Number of classes K.
        width: Units of each layer.
        layers: Number of convolutions.
    """
    require_count("width", width)
    require_count("layers", layers)
    options = {"tags": tags, "classes": classes, "width": width, "layers": layers}
    return StudentFactory("dense-gcn", options, _dense_gcn)


@final
class DenseConvolutions(nn.Module):
    """Graph convolutions with ReLU on packed graphs, and the mean over the nodes that have features.

    Args:
        tags: Number of tags T.
        width: Units of each layer.
        layers: Number of convolutions.
    """

    def __init__(self, tags: int, width: int, layers: int) -> None:
        super().__init__()
        sizes = [tags] + [width] * layers
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self._tags = tags

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings, (B, width), of packed graphs (B, 1, N, T + N)."""
        x, adjacency = unpacked(images, self._tags)
        there = (x.detach().abs().sum(2, keepdim=True) > 0).to(x)
        operator = dense_normalised(adjacency)
        for layer in self.layers:
            x = relu(operator @ layer(x))
        pooled: Tensor = (x * there).sum(1) / there.sum(1).clamp_min(1)
        return pooled


def _linear(features: int, classes: int) -> Network:
    return Network(nn.Sequential(nn.Flatten()), nn.Linear(features, classes))


def _perceptron(features: int, classes: int, width: int) -> Network:
    body = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.ReLU()))
    return Network(body, nn.Linear(width, classes))


def _dense_gcn(tags: int, classes: int, width: int, layers: int) -> Network:
    return Network(nn.Sequential(DenseConvolutions(tags, width, layers)), nn.Linear(width, classes))
