"""DataDAM: matching of spatial attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import pixel_set, sgd_on_images

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.data import RealData
    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class DataDAM(DistributionMatching):
    """Attention matching: where random networks look, in all layers but the last, and what they answer.

    min_S 100 sum_c ( sum_l ||mean A_l(S_c) - mean A_l(T_c)||^2 + output_weight ||mean z(S_c) - mean z(T_c)||^2 )
    with the attention A_l = v / ||v||, v = sum over channels of |activation_l|^power, and the output z; networks are
    drawn anew for every step and never trained.

    The kind of normalisation matters: the published figures are those of networks with batch normalisation, also in
    the evaluation, and the authors say that instance normalisation does not reach them. Give a network with
    ``norm="batch"`` to come near them; otherwise compare with methods that were measured on the same network.

    Attributes:
        steps: Image steps. The paper has 8000, its code 20000.
        image_lr: Learning rate of the images (SGD). None takes the paper's: 1, and 10 above ipc 50. With few small
            images 0.1 is steadier: the loss rises and falls under 1.
        image_momentum: Momentum of the images.
        real_batch: Real images of each class in one step.
        power: Exponent of the activations. The paper has 4, its code runs with 1.
        output_weight: Weight of the gap of mean outputs.
        scale: Factor on the whole loss.

    Differences from the published algorithm: batch normalisation uses statistics of 16 real images of each class that
    stay frozen. The evaluation has 1000 epochs, as for DSA and DM, where the code has 1800; images start as random
    real ones and not as the authors' selection.

    References:
        Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching", ICCV 2023, arXiv:2310.00093.
    """

    name: ClassVar[str] = "datadam"
    steps: int = 8000
    image_momentum: float = 0.5
    real_batch: int = 256
    power: float = 4.0
    output_weight: float = 0.01
    scale: float = 100.0

    def check(self) -> None:
        """Check counts and rates."""
        self.check_fields(rates="power scale", momenta="image_momentum", weights="output_weight")

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> running.Plan[nn.Module]:
        """Return squared matching of attention maps and outputs under fresh networks."""
        derived = 1.0 if self.ipc <= 50 else 10.0
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objectives.ClassMatch(
                byproduct=objectives.AttentionMaps(self.power),
                distance=objectives.LayerSquares((self.scale, self.scale * self.output_weight)),
                real_batch=self.real_batch,
                augmentation=self.siamese(real),
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(
                sgd_on_images, lr=derived if self.image_lr is None else self.image_lr, momentum=self.image_momentum
            ),
            steps=self.steps,
        )
