"""Byproducts of distribution matching: layer means, attention maps, image features, characteristic functions.

Each is a `Byproduct`. All but `all_features` are means over the batch, so that micro-batches add up.
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
from ddsdk.foundation import CheckedDataclass, PositiveFloat, require
from ddsdk.networks import AvgPool2
from ddsdk.objectives.base import embedding

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)
_POOLINGS = (AvgPool2, nn.MaxPool2d, nn.AvgPool2d)


def layer_means(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the mean feature map of each stage before its pooling, flattened, and the mean embedding.

    A student without a `body` that is an ``nn.Sequential`` of stages raises TypeError.

    Args:
        student: Network with a `body` that is an ``nn.Sequential`` of stages.
        batch: Images of the batch; their labels are not used.
        graph: True for a result with graph to the images.

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> [len(t) for t in ddsdk.objectives.layer_means(student, real.batch(torch.arange(5)), graph=False)]
        [256, 64, 16]
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
class AttentionMaps(CheckedDataclass):
    """Mean attention maps of every activation layer but the last, and the mean logits.

    The attention of an image is sum_c |a_c|^power over the channels c of an activation a, (H*W,), normalised to length
    one. Activations without spatial maps, such as those of a perceptron, are left out.

    Attributes:
        power: Exponent of the activations, > 0; a larger one gives the strongest locations more weight.

    References:
        Sajedi et al., "DataDAM", ICCV 2023, arXiv:2310.00093.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> [len(t) for t in ddsdk.objectives.AttentionMaps()(student, real.batch(torch.arange(5)), graph=False)]
        [64, 10]
    """

    power: PositiveFloat = 4.0

    def __call__(self, student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
        """Return the mean maps, (H*W,) each, and the mean logits, (K,).

        Raises:
            TypeError: If the student has no activation layers.
        """
        with torch.set_grad_enabled(graph), _activations(student) as activations:
            logits: Tensor = student(batch.x)
        if not activations:
            raise TypeError(f"student must have activation layers such as nn.ReLU, got {type(student).__name__}")
        with torch.set_grad_enabled(graph):
            maps = [a for a in activations if a.ndim == 4][:-1]
            return (*(self._mean_map(a) for a in maps), logits.mean(0))

    def _mean_map(self, activation: Tensor) -> Tensor:
        attention = _power(activation, self.power).sum(1).flatten(1)
        return normalize(attention, dim=1).mean(0)


def _power(values: Tensor, power: float) -> Tensor:
    """Return |values|^power; exponents 2 and 4 by products, which are about ten times as fast as `pow` on a CPU."""
    if power == 2.0:
        return values.square()
    return values.square().square() if power == 4.0 else values.abs().pow(power)


def all_features(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the embedding of each image, (B, F): a byproduct with rows, for `stacked`."""
    embed = embedding(student)
    with torch.set_grad_enabled(graph):
        return (embed(batch.x),)


@final
@dataclass(frozen=True, eq=False)
class CharacteristicFunction:
    """The empirical characteristic function E exp(i t.f) of embeddings f of length one, as real and imaginary part.

    Attributes:
        frequencies: Frequencies t, (F, T), on the device of the data.

    References:
        Wang et al., "NCFM", CVPR 2025, arXiv:2502.20653.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> function = ddsdk.objectives.CharacteristicFunction(torch.eye(16))
        >>> [t.shape for t in function(student, real.batch(torch.arange(5)), graph=False)]
        [torch.Size([16]), torch.Size([16])]
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
    """Return E cos(t.f) and E sin(t.f), (T,) each, of features f, (B, F), scaled to length one, at t, (F, T)."""
    angles = normalize(features, dim=1) @ frequencies
    return angles.cos().mean(0), angles.sin().mean(0)


def _stages(student: nn.Module) -> nn.Sequential:
    body = getattr(student, "body", None)
    if not isinstance(body, nn.Sequential):
        raise TypeError(f"student must have a body that is an nn.Sequential, got {type(student).__name__}")
    return body


@contextmanager
def _activations(student: nn.Module) -> Iterator[list[Tensor]]:
    # Outputs are collected call by call, because some networks use one activation layer several times.
    outputs: list[Tensor] = []

    def append_output(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        outputs.append(output)

    layers = [layer for layer in student.modules() if isinstance(layer, _ACTIVATIONS)]
    handles = [layer.register_forward_hook(append_output) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
