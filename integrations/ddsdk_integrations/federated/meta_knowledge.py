"""FedMK's condensation: unrolled gradient from the server's weights, with larger loss weights for hard images."""

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
    """Return the cross-entropy summed over a batch, with larger weights for images of larger loss.

    sum_i phi_i l_i with phi_i = 2 sigmoid(l_i) - 1, through which no gradient passes.

    Args:
        outputs: Logits of the network, (B, K).
        labels: Label rows, (B, K) probabilities.
    """
    losses = cross_entropy(outputs, labels, reduction="none")
    return ((2 * losses.detach().sigmoid() - 1) * losses).sum()


@final
@dataclass(frozen=True, kw_only=True)
class MetaKnowledge(IterativeRecipe):
    """Unrolled gradient through a short training from the server's weights, with dynamic weights of the real images.

    min_S sum_i phi_i l(w_N(S); x_i), with w_N the weights after N steps on S, and phi_i the weight of `dynamic_loss`.

    Attributes:
        steps: Number of optimization steps of the images.
        student_steps: Number of steps N of a student on the set.
        image_lr: Learning rate of the images (Adam).
        student_lr: Learning rate of a student (SGD).
        real_batch: Number of real images in the loss of one step.
        start: Initial images of classes for which the server sends none, a key of `ddsdk.synthetic.STARTS`.

    Differences from the published algorithm: the weight of an image is a function of its loss, as in the paper, whose
    formula could not be checked; the server's learnable constraint is left out.

    References:
        Liu et al., "Meta Knowledge Condensation for Federated Learning", ICLR 2023, arXiv:2209.14851.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import MetaKnowledge
        >>> real = ddsdk.load("digits")
        >>> students = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> recipe = MetaKnowledge(ipc=1, steps=1, student_steps=1, real_batch=16)
        >>> len(ddsdk.distill(recipe, real, make_student=students, seed=0))
        10
    """

    name: ClassVar[str] = "fedmk"
    steps: PositiveInt = 100
    student_steps: PositiveInt = 5
    image_lr: PositiveFloat = 0.01
    student_lr: PositiveFloat = 0.02
    real_batch: PositiveInt = 256
    start: str = "real"

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of RaT-BPTT with SGD students, a window of all steps, and the dynamic loss."""
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
        dynamic = dataclasses.replace(objective, loss=dynamic_loss, optimizer=InnerSGD())
        return dataclasses.replace(plan, objective=dynamic)

    def protocol(self, real: dd.RealData) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return the published protocol of the field."""
        return dd.TrainingProtocol.published()
