"""Analytic kernel ridge regression distillation: linear regression on all data, folded into a few images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import synthetic, training
from ddsdk.foundation import NonNegativeFloat, PositiveInt
from ddsdk.recipes.base import DirectRecipe
from ddsdk.recipes.parts import hard_set, start_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, RealData, SyntheticSet, Tensor


_AT_ONCE = 2000


@final
@dataclass(frozen=True, kw_only=True)
class KRR(DirectRecipe):
    """Analytic distillation: images whose linear regression is exactly that of the whole data set.

    Ridge regression on all real images (T, y) gives weights W. With one-hot labels Y of the set, its images are
    X = (W Y^+ + Z^+ (I - Y Y^+))^+, the pseudo-inverses of which are nearest those of real images Z: then X^+ Y = W.
    One image for each class is enough; nothing is iterated.

    Attributes:
        ipc: Images per class. More change nothing about the predictions.
        ridge: Amount on the diagonal of the Gram matrix of the real images, in units of the diagonal's mean.
        start: Choice of the images Z: noise, real, k-means, means or herding.

    The student's network is not used. The set is one for linear regression without intercept, which is how it is
    evaluated; it is no set for networks. It takes seconds: a check of a pipeline, and a floor for kernel methods.

    Differences from the published algorithm: the linear kernel on pixels only, where the paper also has feature maps
    that can be inverted, and regression without ridge on the set.

    Cost: n D^2 multiplications for n real images of D pixels; memory for two D x D matrices.

    References:
        Chen, Huang and Weng, "Provable and Efficient Dataset Distillation for Kernel Ridge Regression", NeurIPS 2024.
    """

    name: ClassVar[str] = "krr"
    ipc: PositiveInt = 1
    ridge: NonNegativeFloat = 1e-3
    start: str = "real"

    def evaluation(self, real: RealData) -> Evaluation:  # noqa: ARG002
        """Return linear regression without ridge or intercept."""
        return training.Evaluation(
            protocol="kernel regression",
            network="linear",
            network_options={"rule": "absolute", "ridge": 0.0},
            networks=1,
            learner="kernel",
        )

    def make(
        self,
        real: RealData,
        *,
        make_student: MakeStudent,  # noqa: ARG002
        rng: Generator,
    ) -> SyntheticSet:
        """Return the solution, near real images that `rng` draws.

        Raises:
            ValueError: If a class has fewer than `ipc` images, or there would be more images than pixels.
        """
        near = start_images(real, self.ipc, self.start, rng)
        weights = training.linear_weights(_parts(real), training.Ridge(rule="trace", strength=self.ridge))
        syn = hard_set(real, self.ipc, synthetic.Pixels(near))
        rows = syn.detached(rng).y
        syn.parametrization.encode(training.images_of_weights(weights, rows, near).view_as(near).float())
        return syn


def _parts(real: RealData) -> Iterator[tuple[Tensor, Tensor]]:
    from torch import arange, split

    for index in split(arange(len(real)), _AT_ONCE):
        yield real.batch(index)
