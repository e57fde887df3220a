"""Base classes of the baselines, most of which select real images of each class."""

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
    """Base of methods that compute images with hard labels without distillation.

    Attributes:
        augmentation: Names of the DSA operations for training on the set, joined by "_"; empty means none.
    """

    augmentation: str = ""

    @abstractmethod
    def images(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Tensor:
        """Return `ipc` images of each class, (K*ipc, C, H, W) in the value space, sorted by class."""

    @final
    def protocol(self, real: RealData) -> training.TrainingProtocol:  # noqa: ARG002
        """Return the training protocol of the literature, with the augmentation of the baseline."""
        return training.TrainingProtocol.published(self.augmentation)

    @final
    def make(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> synthetic.SyntheticSet:
        """Return the images with hard labels. ValueError is raised if a class has fewer than `ipc` images."""
        synthetic.check_ipc(real, self.ipc)
        images = self.images(real, make_student=make_student, rng=rng)
        return recipes.hard_label_set(real, self.ipc, synthetic.Pixels(images))


@dataclass(frozen=True, kw_only=True)
class Selection(Baseline):
    """Base of coreset methods, which select real images of each class."""

    @abstractmethod
    def select(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> list[Tensor]:
        """Return the positions in `real` of `ipc` distinct images of each class, one tensor (ipc,) for each class."""

    @final
    def images(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Tensor:
        """Return the selected images, (K*ipc, C, H, W) in the value space, sorted by class."""
        from torch import cat

        return real.batch(cat(self.select(real, make_student=make_student, rng=rng))).x


def trained_student(real: RealData, epochs: int, *, make_student: MakeStudent, rng: Generator) -> nn.Module:
    """Return a student network after `epochs` epochs of SGD on real data (lr 0.01, momentum 0.9, batches of 256)."""
    from torch.optim import SGD

    student = students.prepare_student(make_student, real, rng)
    optimizer = SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(real) // 256)  # the number of batches is rounded up
    students.TrainOnReal(steps=steps).on(student, optimizer, real, foundation.derive(rng, "training"))
    return student
