"""Byproducts of distribution matching beyond the mean embedding: layers, attention, rows, characteristic values.

Each is a `Byproduct`. All but `all_features` are means over the batch, so that pieces of a batch add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ddsdk.data import Batch
from ddsdk.foundation import Checked, PositiveFloat, require
from ddsdk.networks import AvgPool2
from ddsdk.objectives.base import embedding

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)
_POOLINGS = (AvgPool2, nn.MaxPool2d, nn.AvgPool2d)


def layer_means(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the mean map of each stage before its pooling, flattened, and the mean embedding.

    Raises:
        TypeError: If the student has no `body` that is an ``nn.Sequential`` of stages.

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531.
    """
    with torch.set_grad_enabled(graph):
        maps, x = [], batch.x
        for stage in _stages(student):
            layers = list(stage) if isinstance(stage, nn.Sequential) else [stage]
            pooled = isinstance(stage, nn.Sequential) and isinstance(layers[-1], _POOLINGS)
            for layer in layers[:-1] if pooled else layers:
                x = layer(x)
            maps.append(x.mean(0).flatten())
            if pooled:
                x = layers[-1](x)
        return (*maps, x.mean(0).flatten())


@final
@dataclass(frozen=True)
class AttentionMaps(Checked):
    """Mean attention maps of every activation of the body but the last, and the mean logits.

    The attention of an image is sum_c |a_c|^power over the channels of an activation, (H*W,), at length one. Layers
    that put out no maps, such as those of a perceptron, have no attention.

    Attributes:
        power: Exponent; larger ones weigh the strongest places more.

    References:
        Sajedi et al., "DataDAM", ICCV 2023, arXiv:2310.00093.
    """

    power: PositiveFloat = 4.0

    def __call__(self, student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
        """Return the mean maps, (H*W,) each, and the mean logits, (K,)."""
        with torch.set_grad_enabled(graph), _activations(student) as found:
            logits: Tensor = student(batch.x)
        with torch.set_grad_enabled(graph):
            maps = [a for a in found if a.ndim == 4][:-1]
            return (*(self._mean_map(a) for a in maps), logits.mean(0))

    def _mean_map(self, activation: Tensor) -> Tensor:
        attention = _power(activation, self.power).sum(1).flatten(1)
        return normalize(attention, dim=1).mean(0)


def _power(values: Tensor, power: float) -> Tensor:
    """Return |values| to a power; the usual ones by products, which a CPU does some ten times as fast as `pow`."""
    if power == 2.0:
        return values.square()
    return values.square().square() if power == 4.0 else values.abs().pow(power)


def all_features(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the embedding of each image, (B, F): rows, which `stacked` gathers."""
    embed = embedding(student)
    with torch.set_grad_enabled(graph):
        return (embed(batch.x),)


@final
@dataclass(frozen=True, eq=False)
class CharacteristicFunction:
    """The empirical characteristic function E exp(i t.f) of embeddings f at length one, as its two real parts.

    Attributes:
        frequencies: Points t, (F, T), on the device of the data.

    References:
        Wang et al., "NCFM", CVPR 2025, arXiv:2502.20653.
    """

    frequencies: Tensor

    def __post_init__(self) -> None:
        require(self.frequencies.ndim == 2, "frequencies", "have shape (F, T)", tuple(self.frequencies.shape))

    def __call__(self, student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
        """Return the means of cos(t.f) and of sin(t.f), (T,) each."""
        (features,) = all_features(student, batch, graph=graph)
        with torch.set_grad_enabled(graph):
            return characteristic(features, self.frequencies)


def characteristic(features: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return E cos(t.f) and E sin(t.f), (T,) each, of features (B, F) at length one and frequencies (F, T)."""
    angles = normalize(features, dim=1) @ frequencies
    return angles.cos().mean(0), angles.sin().mean(0)


def _stages(student: nn.Module) -> nn.Sequential:
    body = getattr(student, "body", None)
    if not isinstance(body, nn.Sequential):
        raise TypeError(f"student must have a body that is an nn.Sequential, got {type(student).__name__}")
    return body


@contextmanager
def _activations(student: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of the activations of the body, call by call: some networks use one layer twice."""
    found: list[Tensor] = []

    def keep(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        found.append(output)

    layers = [layer for layer in _stages(student).modules() if isinstance(layer, _ACTIVATIONS)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
