"""The frames of baselines: images class by class, most of them real ones that were chosen in some feature space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ddsdk import foundation, recipes, students, synthetic, training
from ddsdk.recipes import DirectRecipe

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class Baseline(DirectRecipe, ABC):
    """Images that are made without distillation, with their hard labels.

    Attributes:
        augmentation: DSA operations that the set is to be trained with, joined by "_"; empty for none.
    """

    augmentation: str = ""

    @abstractmethod
    def images(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Tensor:
        """Return `ipc` images of each class, (K*ipc, C, H, W) in the value space, class by class."""

    @final
    def evaluation(self, real: RealData) -> training.Evaluation:  # noqa: ARG002
        """Return the published protocol."""
        return training.Evaluation.published(self.augmentation)

    @final
    def make(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> synthetic.SyntheticSet:
        """Return the images with hard labels.

        Raises:
            ValueError: If a class has fewer than `ipc` images.
        """
        synthetic.check_ipc(real, self.ipc)
        images = self.images(real, make_student=make_student, rng=rng)
        return recipes.hard_set(real, self.ipc, synthetic.Pixels(images))


@dataclass(frozen=True, kw_only=True)
class Selection(Baseline):
    """A coreset: real images that are chosen class by class."""

    @abstractmethod
    def select(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:
        """Return, for each class, the positions in `real` of `ipc` distinct images of it."""

    @final
    def images(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Tensor:
        """Return the selected images."""
        from torch import cat

        return real.batch(cat(self.select(real, make_student=make_student, rng=rng))).x


def trained_student(real: RealData, epochs: int, *, make_student: MakeStudent, rng: Generator) -> nn.Module:
    """Return a student after `epochs` passes over `real` with SGD (lr 0.01, momentum 0.9, batches of 256)."""
    from torch.optim import SGD

    student = students.enrol(make_student, real, rng)
    optimizer = SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(real) // 256)
    students.OnReal(steps=steps).on(student, optimizer, real, foundation.derive(rng, "training"))
    return student
