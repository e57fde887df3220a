"""MTT: matching of training trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class MTT(FromPixels):
    """Matching training trajectories: N student steps on the set should lead where M epochs lead an expert.

    min_S ||w_N(S) - w*_{t+M}||^2 / ||w*_t - w*_{t+M}||^2, where the student starts at w_0 = w*_t, the weights of a
    random expert after a random epoch t (eq. 2). The learning rate of the N steps is learned with the images.

    Differences from the published algorithm: the gradient is the same, but its memory does not grow with N, because the
    backward pass rebuilds one step at a time. The learned rate stays between 0.0001 and 1; in the authors' code it has
    no bounds, can become negative, and the run diverges. Between and beyond the published values for CIFAR-10,
    hyperparameters are interpolated over the number of images, and image_lr also over the number of pixels. Whitening
    is an option of the data (`zca`). The score is that of the last step; the authors report the best of many steps on
    the test set.

    References:
        Cazenavette, Wang, Torralba, Efros and Zhu, "Dataset Distillation by Matching Training Trajectories",
        CVPR 2022, arXiv:2203.11932. Values as in FTD's table 7.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the experts
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.MTT(ipc=1, steps=1, student_steps=2, experts=1, expert_epochs=2, expert_images=20)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "mtt"
    needs = ("second derivatives",)
    values: ClassVar[Mapping[str, Points]] = MTT_VALUES

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSegment]:
        """Return trajectory matching with the exact gradient."""
        return self.followed(real, make_student, rng)
