"""Matching of characteristic functions at frequencies from a sampler, which may be trained as an adversary (NCFM)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive, require_count
from ddsdk.objectives.base import embedding
from ddsdk.objectives.features import CharacteristicFunction, characteristic
from ddsdk.objectives.match import ClassMatch
from ddsdk.objectives.moments import CharacteristicDistance
from ddsdk.synthetic import SyntheticSet, SyntheticView


@final
class FrequencySampler(nn.Module):
    """A sampler of frequencies t = z + g(z), with z standard normal and g a perceptron of three layers, zero at first.

    Args:
        features: Dimension F of a frequency, that of the embeddings.
        hidden: Units of each of the two hidden layers; 0 for no perceptron, so that frequencies are standard normal.
        rng: Root of the initial weights of the perceptron.

    Examples:
        >>> import ddsdk, torch
        >>> sampler = ddsdk.objectives.FrequencySampler(4, 16, rng=ddsdk.generator(0))
        >>> sampler.draw(100, torch.device("cpu"), ddsdk.generator(1)).shape
        torch.Size([4, 100])
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
        """Return frequencies (T, F) for standard normal numbers (T, F)."""
        return noise if self.shift is None else noise + self.shift(noise)

    def draw(self, count: int, device: torch.device, rng: torch.Generator) -> Tensor:
        """Return random frequencies, (F, count), with graph to the weights if gradients are enabled."""
        frequencies: Tensor = self(torch.randn(count, self.features, generator=rng).to(device)).T
        return frequencies


@final
@dataclass(frozen=True, kw_only=True)
class CharacteristicMatch(CheckedDataclass):
    """The distance of real and synthetic characteristic functions, class by class, at frequencies from a sampler.

    Attributes:
        count: Number of frequencies in one step, shared by all classes.
        distance: Distance of two characteristic functions.
        real_batch: Real images of each class in one step.
        augmentation: Siamese augmentation with one draw for each class.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
        arXiv:2502.20653.

    Examples:
        >>> from ddsdk.objectives import CharacteristicDistance, CharacteristicMatch
        >>> CharacteristicMatch(count=128, distance=CharacteristicDistance(), real_batch=64).count
        128
    """

    count: PositiveInt
    distance: CharacteristicDistance
    real_batch: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(
        self, student: tuple[nn.Module, nn.Module], real: Source, syn: SyntheticView, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield one distance for each class that has synthetic images.

        The student is a network with a `FrequencySampler` as its adversary, see `ddsdk.students.StudentWithAdversary`.
        """
        network, sampler = student
        with torch.no_grad():
            frequencies = _sampler(sampler).draw(self.count, real.device, derive(rng, "frequencies"))
        match = ClassMatch(
            byproduct=CharacteristicFunction(frequencies),
            distance=self.distance,
            real_batch=self.real_batch,
            augmentation=self.augmentation,
        )
        yield from match(network, real, syn, derive(rng, "match"))


@final
@dataclass(frozen=True, kw_only=True)
class FrequencyLoss(CheckedDataclass):
    """Loss of a `FrequencySampler` as an adversary: minus the distance of the characteristic functions.

    Attributes:
        count: Number of frequencies in one step.
        distance: Distance of two characteristic functions.
        images: Number of images of each class, real and synthetic each.
        augmentation: Siamese augmentation with one draw for each class.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
        arXiv:2502.20653.

    Examples:
        >>> from ddsdk.objectives import CharacteristicDistance, FrequencyLoss
        >>> update = FrequencyLoss(count=128, distance=CharacteristicDistance())  # update of AdversarialStudents
        >>> update.images
        64
    """

    count: PositiveInt
    distance: CharacteristicDistance
    images: PositiveInt = 64
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(
        self, adversary: nn.Module, student: nn.Module, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> Tensor:
        """Return minus the sum of the distances of all classes, with graph to the weights of the adversary alone."""
        frequencies = _sampler(adversary).draw(self.count, real.device, derive(rng, "frequencies"))
        embed, total = embedding(student), frequencies.new_zeros(())
        for c in range(real.num_classes):
            key = derive(rng, "class", c)
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            batches = (
                real.of_class(c, self.images, derive(key, "real")),
                syn.of_class(c, self.images, derive(key, "synthetic")),
            )
            with torch.no_grad():
                features = [embed(draw(x)) for x, _ in batches if len(x)]
            if len(features) == len(batches):
                first, second = (characteristic(f, frequencies) for f in features)
                total = total - self.distance(first, second)
        return total


def _sampler(adversary: nn.Module) -> FrequencySampler:
    if not isinstance(adversary, FrequencySampler):
        raise TypeError(f"adversary must be a FrequencySampler, got {type(adversary).__name__}")
    return adversary
