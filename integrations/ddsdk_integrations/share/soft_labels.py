"""Soft labels from a teacher, around any recipe or baseline."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require_count, require_rate
from ddsdk.students import MakeStudent
from ddsdk.training import probabilities, train

__all__ = ["Makes", "SoftLabels"]


class Makes(Protocol):
    """Makes a set of real data: any recipe or baseline."""

    def __call__(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Distilled:
        """Return the set."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class SoftLabels:
    """A recipe whose images then get the labels of a teacher: softmax(teacher(x) / temperature).

    The teacher trains on the same records. Recipes that learn soft labels with the images, such as `ddsdk.SLDD`, need
    none. Whatever certificate the set had is dropped: the teacher read records that nobody counted.

    Attributes:
        name: What tables call the method.
        recipe: Makes the images.
        epochs: Of the teacher.
        lr: Of the teacher (SGD with momentum).
        temperature: Above 1 for softer labels.
    """

    name: ClassVar[str] = "soft labels"
    recipe: Makes
    epochs: int = 60
    lr: float = 0.02
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        for name in ("lr", "temperature"):
            require_rate(name, getattr(self, name))

    def __call__(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Distilled:
        """Distil, train the teacher, and label.

        Args:
            real: The records.
            make_student: Builds the networks of the recipe, and the teacher.
            rng: Root of every random number.
        """
        began = time.perf_counter()
        distilled = self.recipe(real, make_student=make_student, rng=derive(rng, "recipe"))
        teacher = make_student(derive(rng, "teacher")).to(real.device)
        how = dd.Evaluation(protocol="teacher", epochs=self.epochs, lr=self.lr)
        for _ in train(teacher, real.batch(torch.arange(len(real))), how, derive(rng, "lessons")):
            pass
        images = distilled.images.to(real.device)
        rows = probabilities(teacher.eval(), images, self.temperature).cpu()
        told = {"epochs": self.epochs, "lr": self.lr, "temperature": self.temperature}
        return dataclasses.replace(
            distilled,
            labels=rows,
            label_space="probabilities",
            certificate=None,
            provenance={
                **distilled.provenance,
                "soft_labels": told,
                "seconds": round(time.perf_counter() - began, 3),
            },
        )
