"""FedMK's condensation: train and test from the server's weights, where hard images of the client count more."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.recipes import IterativeRecipe
from ddsdk.training import InnerSGD

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent


def dynamic_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return sum_i phi_i l_i with phi_i = 2 sigmoid(l_i) - 1, a constant, for logits and probabilities, (B, K) each."""
    losses = cross_entropy(outputs, labels, reduction="none")
    return ((2 * losses.detach().sigmoid() - 1) * losses).sum()


@final
@dataclass(frozen=True, kw_only=True)
class MetaKnowledge(IterativeRecipe):
    """Back-propagation through a short training from the server's weights, tested on real images with dynamic weights.

    min_S sum_i phi_i l(w_N(S); x_i), with w_N after N steps on S.

    Attributes:
        steps: Image steps.
        student_steps: Steps of a student, N.
        image_lr: Learning rate of the images (Adam).
        student_lr: Learning rate of a student (SGD).
        real_batch: Real images of one test.
        start: Start of the images that the server sends none for, a key of `ddsdk.synthetic.STARTS`.

    Differences from the published algorithm: the weight of an image is a function of its loss, as in the paper, whose
    formula could not be checked; the server's learnable constraint is left out.

    References:
        Liu et al., "Meta Knowledge Condensation for Federated Learning", ICLR 2023, arXiv:2209.14851.
    """

    name: ClassVar[str] = "fedmk"
    steps: PositiveInt = 100
    student_steps: PositiveInt = 5
    image_lr: PositiveFloat = 0.01
    student_lr: PositiveFloat = 0.02
    real_batch: PositiveInt = 256
    start: str = "real"

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return RaT-BPTT's parts with SGD students, all steps in the window, and the dynamic weights."""
        plan = dd.RaTBPTT(
            ipc=self.ipc,
            steps=self.steps,
            student_steps=self.student_steps,
            window=self.student_steps,
            drawn=False,
            student_batch=self.ipc,
            image_lr=self.image_lr,
            student_lr=self.student_lr,
            real_batch=self.real_batch,
            start=self.start,
            augmentation="",
        ).parts(real, make_student=make_student, rng=rng)
        objective: Any = plan.objective
        changed = dataclasses.replace(objective, loss=dynamic_loss, optimizer=InnerSGD())
        return dataclasses.replace(plan, objective=changed)

    def evaluation(self, real: dd.RealData) -> dd.Evaluation:  # noqa: ARG002
        """Return the usual protocol of the field."""
        return dd.Evaluation.published()
