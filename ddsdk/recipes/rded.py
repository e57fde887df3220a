"""RDED: crops of real images that a teacher finds easy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, synthetic, training
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.base import DirectRecipe
from ddsdk.recipes.parts import augmentation_for, hard_set
from ddsdk.recipes.teacher import Decoupled

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, RealData, Tensor, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class RDED(Decoupled, DirectRecipe):
    """Realistic, diverse, efficient: real crops that a teacher finds easy, tiled, with the teacher's labels.

    Of each class, `images` random real images are cropped `crops` times; crops are ranked by the teacher's
    cross-entropy, the best one of each image before the second-best of any; factor^2 of them share one image. It is a
    selection with knowledge distillation, without any optimisation of pixels, and comparable with other methods under
    its own label protocol only: with hard labels it is close to random images.

    Attributes:
        images: Real images of each class that are cropped.
        crops: Random-resized crops of each of them.
        smallest: Least share of an image's area that a crop keeps.
        factor: Tiles along each side of an image; None takes 1 below 128 pixels (as the paper at 32) and 2 above.
        augmentation: Operations that the set is to be trained with; empty for none. None takes the published ones
            that suit the data.

    Differences from the published algorithm: labels are stored, one row for each image, where the paper's teacher
    labels every augmented batch while a network trains; a live teacher is not offered. Networks train under the
    protocol of DC, DSA and DM on these rows; the paper's has a KL divergence at temperature 20, CutMix and AdamW.
    The teacher is the student's network, trained here at a constant rate. `smallest` and `teacher_epochs` are this
    library's choices. A class with too few images gives several crops of each.

    References:
        Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
        Paradigm", CVPR 2024, arXiv:2312.03526.
    """

    name: ClassVar[str] = "rded"
    images: PositiveInt = 300
    crops: PositiveInt = 5
    smallest: float = 0.5
    factor: PositiveInt | None = None
    augmentation: str | None = None

    def check(self) -> None:
        """Check the share of a crop."""
        require(0 < self.smallest <= 1, "smallest", "lie in 0 < smallest <= 1", self.smallest)

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the run whose last network is the teacher."""
        return self.teacher_runs(real, make_student, rng)

    def evaluation(self, real: RealData) -> Evaluation:
        """Return the protocol of DSA and DM, named after the stored teacher labels."""
        return self.labelled(augmentation_for(real, self.augmentation))

    def make(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> synthetic.SyntheticSet:
        """Return chosen crops, tiled and labelled.

        Raises:
            ValueError: If a class has fewer than `ipc` images, or fewer crops than are needed.
        """
        from torch import cat

        synthetic.check_ipc(real, self.ipc)
        teacher = self.runs(real, make_student=make_student, rng=foundation.derive(rng, "plan")).network(0)
        factor = self.factor or (1 if min(real.image_shape[1:]) < 128 else 2)
        keep = self.ipc * factor**2
        crops = cat([self._easiest(real, c, keep, teacher, foundation.derive(rng, c)) for c in range(real.num_classes)])
        tiled = synthetic.MultiFormation(crops[:: factor**2], factor)
        tiled.encode(crops)
        # The tiles stay together: the whole canvas is one image.
        syn = hard_set(real, self.ipc, synthetic.Pixels(tiled.canvases))
        if self.temperature is None:
            return syn
        key = foundation.derive(rng, "labels")
        return synthetic.relabelled(syn, teacher, key, temperature=self.temperature)

    def _easiest(self, real: RealData, c: int, keep: int, teacher: Module, rng: Generator) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            return -training.probabilities(teacher, x)[:, c].log()

        x = real.of_class(c, max(self.images, self.ipc), foundation.derive(rng, "images")).x
        return data.easiest_crops(
            x, loss, foundation.derive(rng, "crops"), keep=keep, crops=self.crops, smallest=self.smallest
        )
