"""RFAD: ridge regression on the features of random networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.regression import LabelRegression, regression_protocol

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainingProtocol


@final
@dataclass(frozen=True, kw_only=True)
class RFAD(LabelRegression):
    """Random feature approximation: ridge regression on the features of untrained networks.

    min over S, Y and s of CE(softmax(s k(T, S) (k(S, S) + r I)^-1 Y), y) on a real batch (T, y), where k(x, z) = 2
    <f(x), f(z)> / F + 0.01 is averaged over fresh networks f with F features in each step, and r = ridge tr k(S, S) /
    n.

    Attributes:
        networks: Fresh networks in one step; the paper has 8.
        real_batch: Real images in one step; the paper has 5120.
        image_lr: Learning rate of the images (Adam); the paper has 1e-3 (AdaBelief).
        scale_lr: Learning rate of the logarithm of the scale s.
        learn_labels: Whether the labels are learned with the images; the paper's best sets have fixed ones.

    Networks of the catalogue have no normalisation, and start with He's normal weights and normally distributed biases.
    The defaults are for a CPU, best with narrow students (width 16 or 32): about 40 seconds reach most of the possible
    accuracy at one image per class.

    Differences from the published algorithm: Adam replaces AdaBelief, and numbers are smaller, as above. The paper's
    linear map on the images is left out. The paper stops early on held-out training images; the options of validation
    can do that. The paper evaluates with networks of width 1024, whose initial output is subtracted, and with rates for
    each data set; here the evaluation is that of FRePo without augmentation, which the paper does not use either.

    References:
        Loo, Hasani, Amini and Rus, "Efficient Dataset Distillation Using Random Feature Approximation", NeurIPS 2022,
        arXiv:2210.12067.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.RFAD(ipc=1, steps=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> ddsdk.distill(recipe, real, make_student=make_student).label_space
        'scores'
    """

    name: ClassVar[str] = "rfad"
    needs = ("features",)
    networks: PositiveInt = 2
    scale_lr: PositiveFloat = 0.01
    ridge: NonNegativeFloat = 5e-3

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[tuple[Module, ...]]:
        """Return ridge regression on the features of random networks."""
        make_he_student = students.HeStudents(students.plain_student(make_student))
        return running.Plan(
            syn=self.scored_set(real, rng, scale=synthetic.LearnedScale(10.0)),
            objective=objectives.FitAndTest(
                compare=objectives.ByFeatures(slope=2.0, bias=0.01),
                ridge=self.share,
                real_batch=self.real_batch,
                loss="cross-entropy",
            ),
            students=students.StudentEnsemble([students.FreshStudents(make_he_student) for _ in range(self.networks)]),
            make_optimizer=self.adam(self.scale_lr),
            steps=self.steps,
            divergence_hint="image_lr or label_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the evaluation protocol of FRePo without augmentation, because distillation has none."""
        return regression_protocol(real, self.ipc * real.num_classes, augmentation="")
