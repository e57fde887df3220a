"""KIP: kernel inducing points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from ddsdk import objectives, running, students, synthetic, training
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.recipes.regression import LabelRegression

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Plan, RealData, SyntheticSet


@final
@dataclass(frozen=True, kw_only=True)
class KIP(LabelRegression):
    """Kernel inducing points: images from which an infinitely wide network, as a kernel, predicts real ones.

    min over S (and Y) of ||k(T, S) (k(S, S) + r I)^-1 Y - y||^2 / 2 on a real batch (T, y), where k is the neural
    tangent kernel of a fully connected ReLU network and r = ridge tr k(S, S) / n. There is no network, no training and
    no chance but that of the batch.

    Attributes:
        kernel_depth: Hidden layers of the network that the kernel belongs to.
        real_batch: Real images of one step, as many of each class.
        solve_labels: Whether the labels are solved for in closed form over all real images at the end (Label Solve).

    The student's network is not used. The set is one for kernel machines: its evaluation is kernel ridge regression
    with the same kernel, and networks that train on it do worse than on real images. On a CPU a step takes some tens of
    milliseconds at one image per class; a tenth of the real batch does nearly as well.

    Differences from the published algorithm: kernels of fully connected networks only; those of convolutional ones,
    which the published figures are of, cost the square of the number of pixels for each pair of images. Images are
    compared in the value space of the data, where the paper also brings each colour image to unit norm.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050;
        Nguyen, Novak, Xiao and Lee, "Dataset Distillation with Infinitely Wide Convolutional Networks", NeurIPS 2021,
        arXiv:2107.13034.
    """

    name: ClassVar[str] = "kip"
    steps: PositiveInt = 300
    kernel_depth: PositiveInt = 1
    real_batch: PositiveInt = 5000
    image_lr: PositiveFloat = 0.04
    label_lr: PositiveFloat = 0.04
    learn_labels: bool = False
    solve_labels: bool = False

    def parts(
        self,
        real: RealData,
        *,
        make_student: MakeStudent,  # noqa: ARG002
        rng: Generator,
    ) -> Plan[Any]:
        """Return regression with the kernel."""
        kernel = training.FullyConnectedNTK(depth=self.kernel_depth)

        def solved(syn: SyntheticSet, key: Generator) -> SyntheticSet:
            return synthetic.label_solved(syn, kernel, real, self.share, key)

        return running.Plan(
            syn=self.scored_set(real, rng),
            objective=objectives.FitAndTest(
                compare=objectives.by_kernel, ridge=self.share, real_batch=self.real_batch, balanced=True
            ),
            students=students.FixedTeachers(lambda _: kernel),
            make_optimizer=self.adam(),
            steps=self.steps,
            finish=solved if self.solve_labels else None,
            knobs="image_lr or label_lr",
        )

    def evaluation(self, real: RealData) -> Evaluation:  # noqa: ARG002
        """Return kernel ridge regression with the same kernel and ridge; networks in its place fit the labels too."""
        return ntk_protocol(self.kernel_depth, self.ridge)


def ntk_protocol(depth: int, ridge: float) -> Evaluation:
    """Return regression with the kernel of a fully connected network of so many hidden layers."""
    return training.Evaluation(
        protocol="kernel regression",
        network="fc-ntk",
        network_options={"depth": depth, "rule": "trace", "ridge": ridge},
        networks=1,
        learner="kernel",
        loss="mse",
    )
