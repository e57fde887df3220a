"""DataDAM: matching of spatial attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.parts import pixel_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DataDAM(SGDMatching):
    """Attention matching: where random networks look, in all layers but the last, and what they answer.

    min_S 100 sum_c ( sum_l ||mean A_l(S_c) - mean A_l(T_c)||^2 + output_weight ||mean z(S_c) - mean z(T_c)||^2 )
    with the attention A_l = v / ||v||, v = sum over channels of |activation_l|^power, and the output z; networks are
    drawn anew for every step and never trained.

    The kind of normalisation matters: the published figures are those of networks with batch normalisation, also in
    the evaluation, and the authors say that instance normalisation does not reach them. Give a network with
    ``norm="batch"`` to come near them; otherwise compare with methods that were measured on the same network.

    Attributes:
        steps: Image steps; the paper has 8000, its code 20000.
        image_lr: Learning rate of the images (SGD). None takes the paper's: 1, and 10 above ipc 50. With few small
            images 0.1 is steadier: the loss rises and falls under 1.
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
    steps: PositiveInt = 8000
    real_batch: PositiveInt = 256
    power: PositiveFloat = 4.0
    output_weight: NonNegativeFloat = 0.01
    scale: PositiveFloat = 100.0

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return squared matching of attention maps and outputs under fresh networks."""
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=objectives.ClassMatch(
                byproduct=objectives.AttentionMaps(self.power),
                distance=objectives.LayerSquares((self.scale, self.scale * self.output_weight)),
                real_batch=self.real_batch,
                augmentation=self.siamese(real),
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=self.sgd(1.0 if self.ipc <= 50 else 10.0),
            steps=self.steps,
        )
