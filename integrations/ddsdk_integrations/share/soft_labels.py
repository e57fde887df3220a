"""Soft labels from a teacher, around any recipe or baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt, check_numbers, derive
from ddsdk.running import DirectMethod, Method
from ddsdk.students import MakeStudent
from ddsdk.synthetic import FixedLabels, Parametrization
from ddsdk.training import probabilities, train


@final
@dataclass(frozen=True, kw_only=True)
class SoftLabels(DirectMethod[dd.RealData]):
    """A method whose images then get the labels of a teacher: softmax(teacher(x) / temperature).

    The teacher trains on the same records. Recipes that learn soft labels with the images, such as `ddsdk.SLDD`, need
    none. A certificate of the set is dropped: the teacher read records that it does not count.

    The whole run of `recipe` is one call of `make`, so there are no steps to stop, to start warm or to shorten.

    Attributes:
        recipe: Recipe or baseline of the images.
        epochs: Epochs of the teacher.
        lr: Learning rate of the teacher (SGD with momentum).
        temperature: Divisor of the teacher's logits; above 1 for softer labels.
    """

    name: ClassVar[str] = "soft labels"
    recipe: Method[dd.RealData]
    epochs: PositiveInt = 60
    lr: PositiveFloat = 0.02
    temperature: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def evaluation(self, real: dd.RealData) -> dd.Evaluation:
        """Return the recipe's own."""
        return self.recipe.evaluation(real)

    def source(self, real: dd.RealData) -> dd.RealData:
        """Return the data itself."""
        return real

    def described(self, real: dd.RealData) -> dd.RealData:
        """Return the data itself."""
        return real

    def student(self, real: dd.RealData) -> MakeStudent | None:
        """Return the recipe's own."""
        return self.recipe.student(real)

    def make(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:
        """Distil by the recipe, train the teacher, and label the images."""
        made = dd.distill(self.recipe, real, make_student=make_student, seed=derive(rng, "recipe"))
        teacher = make_student(derive(rng, "teacher")).to(real.device)
        how = dd.Evaluation(protocol="teacher", epochs=self.epochs, lr=self.lr)
        for _ in train(teacher, real.batch(torch.arange(len(real))), how, derive(rng, "lessons")):
            pass
        rows = probabilities(teacher.eval(), made.images.to(real.device), self.temperature).cpu()
        return dd.SyntheticSet(_Made(made), FixedLabels(rows), made.owner, made.num_classes)

    def stored(self, syn: dd.SyntheticSet, real: dd.RealData) -> tuple[dd.SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the set with the learned rates and the provenance of the recipe's artefact."""
        assert isinstance(syn.parametrization, _Made)  # of `make`
        made = syn.parametrization.made
        told = {name: value for name, value in made.provenance.items() if name != "seconds"}
        labels = {"epochs": self.epochs, "lr": self.lr, "temperature": self.temperature}
        return syn, {
            "learned_lr": made.learned_lr,
            "learned_momentum": made.learned_momentum,
            "provenance": {**told, "soft_labels": labels},
        }


@final
class _Made(Parametrization):
    """Images of an artefact, which stay as they are and store what the artefact stores."""

    def __init__(self, made: dd.Distilled) -> None:
        super().__init__()
        self.made = made

    def encode(self, images: Tensor) -> None:  # noqa: ARG002
        raise TypeError("images of an artefact must not be replaced")

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.made.images[slots], slots

    def project_(self) -> None:
        pass

    def stored_floats(self) -> int:
        return self.made.stored_floats
