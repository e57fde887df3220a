"""What the baselines share: images class by class, most of them real ones that were chosen in some feature space."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import ddsdk as dd
from ddsdk.errors import require_count, require_rng

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddsdk.students.fresh import MakeStudent

__all__ = ["Baseline", "Selection", "trained_student"]


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """Images that are made without distillation, with their hard labels.

    Attributes:
        name: What the command line and tables call the method.
        ipc: Images per class.
        augmentation: DSA operations that the set is to be trained with, joined by "_"; empty for none.
    """

    name: ClassVar[str]
    ipc: int = 10
    augmentation: str = ""

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc)
        for count, least in (("students", 1), ("student_epochs", 0)):
            if hasattr(self, count):
                require_count(count, getattr(self, count), least)

    @abstractmethod
    def images(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> Tensor:
        """Return `ipc` images of each class, (K*ipc, C, H, W) in the value space, class by class."""

    def evaluation(self, real: dd.RealData) -> dd.Evaluation:  # noqa: ARG002
        """Return the published protocol."""
        return dd.Evaluation.published(self.augmentation)

    @final
    def __call__(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Distilled:
        """Return the images as an artefact.

        Args:
            real: Where they come from.
            make_student: For baselines that look at a network; the others never call it.
            rng: Root of every random number.

        Raises:
            ValueError: If a class has fewer than `ipc` images.
        """
        require_rng(rng)
        began = time.perf_counter()
        dd.check_ipc(real, self.ipc)
        images = self.images(real, make_student=make_student, rng=rng)
        classes = dd.class_slots(real.num_classes, self.ipc)
        syn = dd.SyntheticSet(
            dd.Pixels(images),
            dd.hard_labels(classes, real.num_classes),
            classes,
            real.num_classes,
        ).to(real.device)
        seconds = time.perf_counter() - began
        return dd.assemble(
            self,
            syn,
            real,
            evaluation=self.evaluation(real),
            rng=rng,
            seconds=seconds,
            make_student=make_student,
        )


@dataclass(frozen=True, kw_only=True)
class Selection(Baseline):
    """A coreset: real images that are chosen class by class."""

    @abstractmethod
    def select(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> list[Tensor]:
        """Return, for each class, the positions in `real` of `ipc` distinct images of it."""

    @final
    def images(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> Tensor:
        """Return the selected images."""
        from torch import cat

        return real.batch(cat(self.select(real, make_student=make_student, rng=rng))).x


def trained_student(
    real: dd.RealData, epochs: int, *, make_student: MakeStudent, rng: torch.Generator
) -> nn.Module:
    """Return a student after `epochs` passes over `real` with SGD (lr 0.01, momentum 0.9, batches of 256)."""
    from torch.optim import SGD

    student = dd.enrol(make_student, real, rng)
    optimizer = SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    steps = epochs * -(-len(real) // 256)
    dd.OnReal(steps=steps)(student, optimizer, real, real, dd.derive(rng, "training"))
    return student
