"""RFAD: regression on the features of random networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.regression import LabelRegression, regression_protocol

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class RFAD(LabelRegression):
    """Random feature approximation: ridge regression on features of untrained networks.

    min over S, Y and s of CE(softmax(s k(T, S) (k(S, S) + r I)^-1 Y), y) on a real batch (T, y), with
    k(x, z) = 2 <f(x), f(z)> / F + 0.01 averaged over fresh networks f in every step, and r = ridge tr k(S, S) / n.

    Attributes:
        networks: Fresh networks in one step; the paper has 8.
        real_batch: Real images of one step; the paper has 5120.
        image_lr: Learning rate of the images (Adam); the paper has 1e-3 (AdaBelief).
        scale_lr: Learning rate of the logarithm of the scale s.
        learn_labels: Whether labels are trained with the images; the paper's best sets have fixed ones.

    The networks are the student's without normalisation where the catalogue has that, and start with He's normal
    weights and normal biases. The defaults are for a CPU, best with narrow students (width 16 or 32): some 40 seconds
    give most of what there is at one image per class.

    Differences from the published algorithm: Adam for AdaBelief, and the smaller numbers above. The linear map on the
    images is left out. The paper stops early on held-out training images; the options of validation do that. The paper
    evaluates with networks of width 1024, whose output at the start is subtracted, with rates for each data set; here
    it is FRePo's protocol without augmentation, of which the paper has none either.

    References:
        Loo, Hasani, Amini and Rus, "Efficient Dataset Distillation Using Random Feature Approximation", NeurIPS 2022,
        arXiv:2210.12067.
    """

    name: ClassVar[str] = "rfad"
    networks: PositiveInt = 2
    scale_lr: PositiveFloat = 0.01
    ridge: NonNegativeFloat = 5e-3

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[tuple[Module, ...]]:
        """Return regression on random features."""
        make = students.HeStudents(students.plain_student(make_student))
        return running.Plan(
            syn=self.scored_set(real, rng, scale=synthetic.LearnedScale(10.0)),
            objective=objectives.FitAndTest(
                compare=objectives.ByFeatures(slope=2.0, bias=0.01),
                ridge=self.share,
                real_batch=self.real_batch,
                loss="cross-entropy",
            ),
            students=students.Several([students.FreshStudents(make) for _ in range(self.networks)]),
            make_optimizer=self.adam(self.scale_lr),
            steps=self.steps,
            knobs="image_lr or label_lr",
        )

    def evaluation(self, real: RealData) -> Evaluation:
        """Return FRePo's protocol without augmentation, under which features of random networks never were."""
        return regression_protocol(real, self.ipc * real.num_classes, augmentation="")
