"""Byproducts of distribution matching beyond the mean embedding: layers, attention, rows, characteristic values.

Each is a function of a student and a batch as `ddsdk.objectives.byproducts.Byproduct` says. All but `all_features` are
means over the batch, so that pieces of a batch add up.
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
from ddsdk.foundation import require, require_rate
from ddsdk.networks import AvgPool2
from ddsdk.objectives.base import embedding

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)
_POOLINGS = (AvgPool2, nn.MaxPool2d, nn.AvgPool2d)


def layer_means(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the mean map of each stage before its pooling, flattened, and the mean embedding.

    Args:
        student: Its `body` is an ``nn.Sequential`` of stages.
        batch: Labels are not looked at.
        graph: Whether to keep the graph to the images.

    Raises:
        TypeError: If the student has no such body.

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531.
    """
    with torch.set_grad_enabled(graph):
        maps, x = [], batch.x
        for stage in _stages(student):
            for layer in _unpooled(stage):
                x = layer(x)
            maps.append(x.mean(0).flatten())
            for layer in _pooling(stage):
                x = layer(x)
        return (*maps, x.mean(0).flatten())


@final
@dataclass(frozen=True)
class AttentionMaps:
    """Mean attention maps of every activation of the body but the last, and the mean logits.

    The attention of an image is sum_c |a_c|^power over the channels of an activation, (H*W,), at length one. Layers
    that put out no maps, such as those of a perceptron, have no attention.

    Attributes:
        power: Exponent > 0; larger ones look at the strongest places only.

    References:
        Sajedi et al., "DataDAM", ICCV 2023, arXiv:2310.00093.
    """

    power: float = 4.0

    def __post_init__(self) -> None:
        require_rate("power", self.power)

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
    """Return the embedding of each image, (B, F): rows, which `stacked` gathers.

    Args:
        student: Has `embed`: (B, C, H, W) -> (B, F).
        batch: Labels are not looked at.
        graph: Whether to keep the graph to the images.

    Raises:
        TypeError: If the student has no `embed` method.
    """
    embed = embedding(student)
    with torch.set_grad_enabled(graph):
        return (embed(batch.x),)


@final
@dataclass(frozen=True, eq=False)
class CharacteristicFunction:
    """The empirical characteristic function E exp(i t.f) of embeddings f at length one, as its two real parts.

    Attributes:
        frequencies: The points t, (F, T), on the device of the data.

    Raises:
        ValueError: If `frequencies` is not a matrix.

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


def _unpooled(stage: nn.Module) -> list[nn.Module]:
    layers = list(stage) if isinstance(stage, nn.Sequential) else [stage]
    return layers[: len(layers) - len(_pooling(stage))]


def _pooling(stage: nn.Module) -> list[nn.Module]:
    last = list(stage)[-1:] if isinstance(stage, nn.Sequential) else []
    return [layer for layer in last if isinstance(layer, _POOLINGS)]


@contextmanager
def _activations(student: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the activations of the body put out, call by call: some networks use one layer twice."""
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
