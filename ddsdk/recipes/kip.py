"""KIP: kernel inducing points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from ddsdk import objectives, running, students, synthetic, training
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.recipes.regression import LabelRegression

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Plan, RealData, SyntheticSet, TrainingProtocol


@final
@dataclass(frozen=True, kw_only=True)
class KIP(LabelRegression):
    """Kernel inducing points: images from which the kernel of an infinitely wide network predicts the real labels.

    min over S (and Y) of ||k(T, S) (k(S, S) + r I)^-1 Y - y||^2 / 2 on a real batch (T, y), where k is the neural
    tangent kernel of a fully connected ReLU network and r = ridge tr k(S, S) / n. No network is trained, and only the
    real batch is random.

    Attributes:
        kernel_depth: Hidden layers of the network that defines the kernel.
        real_batch: Real images in one step, equally many per class.
        solve_labels: Whether the labels are finally solved for in closed form over all real images (Label Solve).

    The student network is not used. The set serves kernel machines: its evaluation is kernel ridge regression with the
    same kernel, and networks trained on it are worse than on real images. On a CPU a step takes some tens of
    milliseconds at one image per class; a tenth of the real batch is almost as good.

    Differences from the published algorithm: kernels are those of fully connected networks only. The published figures
    are those of convolutional kernels, which cost the square of the number of pixels for each pair of images. Images
    are compared after preprocessing; the paper also normalises each colour image to unit norm.

    References:
        Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, arXiv:2011.00050;
        Nguyen, Novak, Xiao and Lee, "Dataset Distillation with Infinitely Wide Convolutional Networks", NeurIPS 2021,
        arXiv:2107.13034.

    Examples:
        >>> import ddsdk
        >>> distilled = ddsdk.distill(ddsdk.KIP(ipc=1, steps=2, real_batch=100), ddsdk.load("digits"))
        >>> tuple(distilled.images.shape), distilled.protocol["network"]
        ((10, 1, 8, 8), 'fc-ntk')
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
        """Return ridge regression with the neural tangent kernel."""
        kernel = training.FullyConnectedNTK(depth=self.kernel_depth)

        def solved(syn: SyntheticSet, key: Generator) -> SyntheticSet:
            return synthetic.with_solved_labels(syn, kernel, real, self.share, key)

        return running.Plan(
            syn=self.scored_set(real, rng),
            objective=objectives.FitAndTest(
                compare=objectives.by_kernel, ridge=self.share, real_batch=self.real_batch, balanced=True
            ),
            students=students.FixedTeachers(lambda _: kernel),
            make_optimizer=self.adam(),
            steps=self.steps,
            finish=solved if self.solve_labels else None,
            divergence_hint="image_lr or label_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:  # noqa: ARG002
        """Return kernel ridge regression with the same kernel and ridge, and squared error for networks."""
        return ntk_protocol(self.kernel_depth, self.ridge)


def ntk_protocol(depth: int, ridge: float) -> TrainingProtocol:
    """Return kernel ridge regression with the neural tangent kernel of a fully connected network.

    Args:
        depth: Hidden layers of the network, at least 1.
        ridge: Ridge relative to the mean of the Gram matrix's diagonal.

    Examples:
        >>> import ddsdk
        >>> ddsdk.recipes.ntk_protocol(1, 1e-6).learner
        'kernel'
    """
    return training.TrainingProtocol(
        name="kernel regression",
        network="fc-ntk",
        network_options={"depth": depth, "rule": "trace", "ridge": ridge},
        networks=1,
        learner="kernel",
        loss="mse",
    )
