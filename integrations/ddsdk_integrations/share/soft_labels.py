"""Soft labels of a teacher for the images of any recipe or baseline."""

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
class TeacherLabels(DirectMethod[dd.RealData]):
    """Replace the labels of a recipe's images by soft labels of a teacher, softmax(teacher(x) / temperature).

    The teacher trains on the same real data. Recipes that learn soft labels, such as `ddsdk.SLDD`, need no teacher.
    The set loses a privacy certificate of the recipe, because the certificate does not account for the teacher.

    The whole run of the recipe counts as one step: there is no early stopping, warm start or time budget.

    Attributes:
        recipe: Recipe or baseline of the images.
        epochs: Training epochs of the teacher.
        lr: Learning rate of the teacher (SGD with momentum).
        temperature: Divisor of the teacher's logits, > 0; above 1 for softer labels.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import TeacherLabels
        >>> recipe = TeacherLabels(recipe=ddsdk.BASELINES["random"](ipc=1), epochs=1)
        >>> real = ddsdk.load("digits")
        >>> factory = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> ddsdk.distill(recipe, real, make_student=factory).labels.shape
        torch.Size([10, 10])
    """

    name: ClassVar[str] = "soft labels"
    recipe: Method[dd.RealData]
    epochs: PositiveInt = 60
    lr: PositiveFloat = 0.02
    temperature: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)

    def protocol(self, real: dd.RealData) -> dd.TrainingProtocol:
        """Return the protocol of the recipe."""
        return self.recipe.protocol(real)

    def source(self, real: dd.RealData) -> dd.RealData:
        """Return the real data itself."""
        return real

    def described(self, real: dd.RealData) -> dd.RealData:
        """Return the real data itself, whose facts the provenance records."""
        return real

    def student(self, real: dd.RealData) -> MakeStudent | None:
        """Return the student factory of the recipe."""
        return self.recipe.student(real)

    def make(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:
        """Return the images of the recipe with the labels of a teacher that is trained here."""
        distilled = dd.distill(self.recipe, real, make_student=make_student, seed=derive(rng, "recipe"))
        teacher = make_student(derive(rng, "teacher")).to(real.device)
        protocol = dd.TrainingProtocol(name="teacher", epochs=self.epochs, lr=self.lr)
        for _ in train(teacher, real.batch(torch.arange(len(real))), protocol, derive(rng, "lessons")):
            pass
        rows = probabilities(teacher.eval(), distilled.images.to(real.device), self.temperature).cpu()
        return dd.SyntheticSet(_FixedImages(distilled), FixedLabels(rows), distilled.owner, distilled.num_classes)

    def stored(self, syn: dd.SyntheticSet, real: dd.RealData) -> tuple[dd.SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the set with the learned rates and the provenance of the recipe's artefact."""
        assert isinstance(syn.parametrization, _FixedImages)  # built by `make`
        distilled = syn.parametrization.distilled
        # The seconds of this run include the teacher.
        recorded = {name: value for name, value in distilled.provenance.items() if name != "seconds"}
        labels = {"epochs": self.epochs, "lr": self.lr, "temperature": self.temperature}
        return syn, {
            "learned_lr": distilled.learned_lr,
            "learned_momentum": distilled.learned_momentum,
            "provenance": {**recorded, "soft_labels": labels},
        }


@final
class _FixedImages(Parametrization):
    """Constant images of an artefact, with the storage budget of the artefact."""

    def __init__(self, distilled: dd.Distilled) -> None:
        super().__init__()
        self.distilled = distilled

    def encode(self, images: Tensor) -> None:  # noqa: ARG002
        raise TypeError("images of an artefact must not be replaced")

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return self.distilled.images[slots], slots

    def project_(self) -> None:
        pass

    def stored_floats(self) -> int:
        return self.distilled.stored_floats
