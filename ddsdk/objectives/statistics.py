"""Statistics matching (SRe2L): cross-entropy under a teacher and the BatchNorm statistics of its training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, derive, require, require_count
from ddsdk.synthetic import SyntheticView


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of each channel of x, (B, C, ...), over batch and locations."""
    dims = [d for d in range(x.ndim) if d != 1]
    # A channel with one value has variance 0 here, where the unbiased estimate is NaN.
    return x.mean(dims), x.var(dims, correction=min(1, x.numel() // x.shape[1] - 1))


@final
class StatisticsTeacher:
    """A trained teacher that returns its logits and the distance of a batch from its BatchNorm statistics.

    Args:
        network: Network with BatchNorm layers with running statistics; it is put into evaluation mode and frozen.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4, norm="batch")(ddsdk.generator(0))
        >>> logits, gaps = ddsdk.objectives.StatisticsTeacher(network)(real.batch(torch.arange(5)).x)
        >>> logits.shape, gaps.shape
        (torch.Size([5, 10]), torch.Size([2]))
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [
            layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        name = type(network).__name__
        require(bool(self._layers), "teacher", "have BatchNorm layers with running statistics", name)
        self.network = network.eval().requires_grad_(False)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits, (B, K), and the gap of each BatchNorm layer, (L,), in the order of `network.modules()`.

        The gap of a layer is ||mean(z) - m||_2 + ||var(z) - v||_2, with z its input for the whole batch, and m and v
        its running mean and variance.
        """
        gaps: dict[int, Tensor] = {}
        hooks = [layer.register_forward_pre_hook(_gap_hook(gaps, i)) for i, layer in enumerate(self._layers)]
        try:
            logits = self.network(x)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, torch.stack([gaps[i] for i in sorted(gaps)])


def _gap_hook(gaps: dict[int, Tensor], i: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def store_gap(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, var = batch_moments(inputs[0])
        gaps[i] = (mean - layer.running_mean).norm() + (var - layer.running_var).norm()

    return store_gap


@dataclass(frozen=True, kw_only=True)
class StatisticsMatch(CheckedDataclass):
    """Cross-entropy of synthetic images under a teacher, plus the gaps between BatchNorm statistics.

    For each batch: CE(f(A(x)), y) + weight (first g_1 + g_2 + ... + g_L), with the gaps g of `StatisticsTeacher` and
    the augmentation A. A batch has one image of each class. Real data are not used.

    Attributes:
        weight: Weight of the statistics, at least 0.
        first: Weight of the gap of the first layer among the gaps, at least 0.
        batch: Largest number of images in one batch, at least 2; more classes are split into batches of equal size.
        augmentation: Augmentation with one draw for each batch, shared by its images.

    Cost: one forward and backward pass over the set; memory for one batch.

    References:
        Yin, Xing and Shen, NeurIPS 2023, arXiv:2306.13092, eq. 6-8.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import StatisticsMatch, StatisticsTeacher
        >>> network = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4, norm="batch")(ddsdk.generator(0))
        >>> teachers = ddsdk.students.FixedTeachers(lambda i: StatisticsTeacher(network))
        >>> swap = lambda plan: dataclasses.replace(plan, objective=StatisticsMatch(), students=teachers)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    weight: NonNegativeFloat = 0.01
    first: NonNegativeFloat = 10.0
    batch: int = 100
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("batch", self.batch, least=2)

    def __call__(
        self,
        student: StatisticsTeacher,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield one loss for each batch."""
        for i, slots in enumerate(self._batches(syn)):
            key = derive(rng, "batch", i)
            x, y = syn.at(slots, derive(key, "synthetic"))
            logits, gaps = student(self.augmentation.siamese(derive(key, "augmentation"))(x))
            yield cross_entropy(logits, y) + self.weight * (self.first * gaps[0] + gaps[1:].sum())

    def _batches(self, syn: SyntheticView) -> Iterator[Tensor]:
        """Yield the slots of each batch: the first image of each class, the second of each, and so on."""
        slots_of = [syn.slots_of_class(c) for c in range(syn.num_classes)]
        for i in range(max(map(len, slots_of))):
            row = torch.stack([slots[i] for slots in slots_of if i < len(slots)])
            yield from torch.tensor_split(row, -(-len(row) // self.batch))
