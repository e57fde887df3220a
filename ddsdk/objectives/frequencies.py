"""Characteristic functions at frequencies that a network draws: at random, or where they differ most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import Checked, PositiveInt, derive, require_count
from ddsdk.objectives.base import embedding
from ddsdk.objectives.features import CharacteristicFunction, characteristic
from ddsdk.objectives.match import ClassMatch
from ddsdk.objectives.moments import CharacteristicDistance
from ddsdk.synthetic import SyntheticSet, SyntheticView


@final
class FrequencySampler(nn.Module):
    """Draw frequencies t = z + g(z) of normal numbers z, with g a perceptron of three layers that starts at zero.

    Args:
        features: Length F of a frequency.
        hidden: Units of the two inner layers; 0 for no perceptron: plain normal frequencies.
        rng: Root of the initial weights.
    """

    def __init__(self, features: int, hidden: int, *, rng: torch.Generator) -> None:
        super().__init__()
        require_count("features", features)
        require_count("hidden", hidden, least=0)
        self.features = features
        self.shift: nn.Sequential | None = None
        if hidden:
            layers = [nn.Linear(features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, features)]
            for layer in layers[:2]:
                nn.init.kaiming_normal_(layer.weight, generator=rng)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(layers[2].weight)
            nn.init.zeros_(layers[2].bias)
            self.shift = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def forward(self, noise: Tensor) -> Tensor:
        """Return frequencies (T, F) for normal numbers (T, F)."""
        return noise if self.shift is None else noise + self.shift(noise)

    def draw(self, count: int, device: torch.device, rng: torch.Generator) -> Tensor:
        """Return frequencies (F, count), with graph to the weights where gradients are on."""
        frequencies: Tensor = self(torch.randn(count, self.features, generator=rng).to(device)).T
        return frequencies


@final
@dataclass(frozen=True, kw_only=True)
class CharacteristicMatch(Checked):
    """For each class, the distance of characteristic functions at frequencies that the rival of the step draws.

    Attributes:
        count: Frequencies of one step, the same for all classes.
        distance: Distance of two characteristic functions.
        real_batch: Real images of each class.
        augmentation: Augmentation with one siamese draw for each class.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
        arXiv:2502.20653.
    """

    count: PositiveInt
    distance: CharacteristicDistance
    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(
        self, student: tuple[nn.Module, nn.Module], real: Source, syn: SyntheticView, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield one distance for each class that has synthetic images.

        The student is a network with a `FrequencySampler` as its rival, see `ddsdk.students.Rivalled`.
        """
        network, sampler = student
        with torch.no_grad():
            drawn = _sampler(sampler).draw(self.count, real.device, derive(rng, "frequencies"))
        match = ClassMatch(
            byproduct=CharacteristicFunction(drawn),
            distance=self.distance,
            real_batch=self.real_batch,
            augmentation=self.augmentation,
        )
        yield from match(network, real, syn, derive(rng, "match"))


@final
@dataclass(frozen=True, kw_only=True)
class FrequencyLesson(Checked):
    """Teach a `FrequencySampler` where real and synthetic features differ most: it climbs their distance.

    Attributes:
        count: Frequencies of one step.
        distance: Distance of two characteristic functions.
        images: Images of each class and of each side.
        augmentation: Augmentation with one siamese draw for each class.
    """

    count: PositiveInt
    distance: CharacteristicDistance
    images: PositiveInt = 64
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(
        self, rival: nn.Module, student: nn.Module, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> Tensor:
        """Return minus the sum of the distances of all classes, with graph to the rival alone."""
        drawn = _sampler(rival).draw(self.count, real.device, derive(rng, "frequencies"))
        embed, total = embedding(student), drawn.new_zeros(())
        for c in range(real.num_classes):
            key = derive(rng, "class", c)
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            sides = (
                real.of_class(c, self.images, derive(key, "real")),
                syn.of_class(c, self.images, derive(key, "synthetic")),
            )
            with torch.no_grad():
                features = [embed(draw(x)) for x, _ in sides if len(x)]
            if len(features) == len(sides):
                first, second = (characteristic(f, drawn) for f in features)
                total = total - self.distance(first, second)
        return total


def _sampler(rival: nn.Module) -> FrequencySampler:
    if not isinstance(rival, FrequencySampler):
        raise TypeError(f"rival must be a FrequencySampler, got {type(rival).__name__}")
    return rival
