"""MTT: matching training trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSpan, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class MTT(FromPixels):
    """Matching training trajectories: after N steps on the set a student is where an expert is after M epochs.

    min_S ||w_N(S) - w*_{t+M}||^2 / ||w*_t - w*_{t+M}||^2, with w_0 = w*_t an epoch t of an expert that is drawn at
    random (eq. 2). The learning rate of the N steps is learned with the images.

    Differences from the published algorithm: the same gradient, with memory that does not grow with N: backward
    rebuilds one step at a time. The learned rate cannot fall below 0.0001, where the authors' turns negative and the
    run explodes. Values between and beyond those published for CIFAR-10 are interpolated over the number of images,
    and image_lr over that of pixels. Whitening is an option of the data (`zca`), and the score is that of the last
    step, where the authors report the best of many on the test set.

    References:
        Cazenavette, Wang, Torralba, Efros and Zhu, "Dataset Distillation by Matching Training Trajectories",
        CVPR 2022, arXiv:2203.11932. Values as in FTD's table 7.
    """

    name: ClassVar[str] = "mtt"
    values: ClassVar[Mapping[str, Points]] = MTT_VALUES

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSpan]:
        """Return trajectory matching with the exact gradient."""
        return self.followed(real, make_student, rng)
