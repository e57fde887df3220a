"""FreD: frequency coefficients, trained by trajectory matching."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import students
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.frequency import FrequencyRecipe
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class FreD(FrequencyRecipe, FromPixels):
    """Frequency-domain distillation: each image is k coefficients of its cosine transform, learned with MTT's distance.

    image = IDCT(M * F), where the mask M of a class keeps the k frequencies that vary most between its initial images,
    and F is learned. A class has floor(ipc H W / k) images with as many floats as ipc images. The masks, at most H*W
    bits for each class, are not counted. Compare sets by stored floats, not by ipc.

    Attributes:
        image_lr: Learning rate of the coefficients (SGD). None for the published 1e8 for unnormalised coefficients,
            which is 1e8 / (4HW) for those of `ddsdk.synthetic.Frequencies`, 24 414 for 32 x 32 pixels.

    Differences from the published algorithm: k is a sixteenth of the pixels for each ipc and image size, unless
    `coefficients` is given. Values that the authors' scripts do not name are those of MTT, and so are its differences,
    except that the learned rate is at least 0.001, as in the authors' code. Its momentum is that of the coefficients.

    References:
        Shin, Shin and Moon, "Frequency Domain-based Dataset Distillation", NeurIPS 2023, arXiv:2311.08819.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the experts
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.FreD(ipc=1, coefficients=16, steps=1, student_steps=2, experts=1, expert_epochs=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # 64 / 16 images for each class
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "fred"
    needs = ("second derivatives",)
    values: ClassVar[Mapping[str, Points]] = {
        **MTT_VALUES,
        "student_steps": {10: 50, 100: 40, 500: 30},
        "max_start": {10: 5, 100: 15, 500: 40},
    }
    steps: PositiveInt = 15_000

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSegment]:
        """Return the plan of MTT over coefficients."""
        rate = self.coefficient_rate(real, 1e8) if self.image_lr is None else self.image_lr
        recipe = dataclasses.replace(self, image_lr=rate)
        runs = recipe.runs(real, make_student=make_student, rng=rng)
        experts = students.ExpertStudents(runs, span=recipe.expert_span, last=recipe.start_bound(real))
        syn = recipe.frequency_set(real, recipe.start, rng, recipe.learned_rate(real, low=1e-3))
        return recipe.matching(real, syn, experts)
