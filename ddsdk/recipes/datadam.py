"""DataDAM: matching of spatial attention maps under random networks."""

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
    """Attention matching: class means of the spatial attention maps of random networks, and of their outputs.

    min_S 100 sum_c ( sum_l ||mean A_l(S_c) - mean A_l(T_c)||^2 + output_weight ||mean z(S_c) - mean z(T_c)||^2 ) with
    attention maps A_l = v / ||v||, v = sum over channels of |activation_l|^power, for all layers l but the last, and
    outputs z. Networks are drawn anew for each step and never trained.

    The published figures are those of networks with batch normalisation, also in the evaluation; according to the
    authors, instance normalisation does not reach them. To reproduce them, use a network with ``norm="batch"``. To
    compare methods, evaluate all of them on the same network.

    Attributes:
        steps: Image steps. The paper has 8000, its code 20000.
        image_lr: Learning rate of the images (SGD). None for the published 1, or 10 above ipc 50. With few small images
            a rate of 0.1 is more stable: at 1 the loss rises and falls.
        real_batch: Real images per class in one image step.
        power: Exponent of the activations. The paper has 4, its code 1.
        output_weight: Weight of the squared distance of mean outputs.
        scale: Factor on the whole loss, 100 in the paper.

    Differences from the published algorithm: batch normalisation uses fixed statistics of 16 real images per class. The
    evaluation has 1000 epochs, as for DSA and DM; the paper's code has 1800. Images start as random real ones; the
    authors start from a selection.

    References:
        Sajedi et al., "DataDAM: Efficient Dataset Distillation with Attention Matching", ICCV 2023, arXiv:2310.00093.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DataDAM(ipc=1, steps=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4, norm="batch")
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "datadam"
    sums_over_classes: ClassVar[bool] = True
    needs = ("activations",)
    steps: PositiveInt = 8000
    real_batch: PositiveInt = 256
    power: PositiveFloat = 4.0
    output_weight: NonNegativeFloat = 0.01
    scale: PositiveFloat = 100.0

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of attention maps and outputs by squared distances, under fresh networks."""
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
