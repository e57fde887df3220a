"""RDED: crops of real images that a teacher classifies with low loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, synthetic, training
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.base import DirectRecipe
from ddsdk.recipes.parts import augmentation_for, hard_label_set
from ddsdk.recipes.teacher import Decoupled

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, RealData, Tensor, TrainedRuns, TrainingProtocol


@final
@dataclass(frozen=True, kw_only=True)
class RDED(Decoupled, DirectRecipe):
    """Realistic, diverse, efficient: tiled crops of real images with a low teacher loss, and the teacher's soft labels.

    For each class, `images` random real images are cropped `crops` times each. Crops are ranked by the teacher's
    cross-entropy, such that the best crop of each image precedes the second-best of any. factor^2 crops share one
    image. The method selects real crops and distils knowledge; it optimises no pixels. It is comparable with other
    methods under its label protocol only: with hard labels the set is close to random images.

    Attributes:
        images: Real images per class that are cropped.
        crops: Random-resized crops of each of these images.
        smallest: Smallest share of an image's area in a crop, in 0 < smallest <= 1.
        factor: Tiles along each side of an image. None for 1 below 128 pixels per side (as in the paper at 32), and 2
            above.
        augmentation: DSA operations of the evaluation, joined by "_"; empty for none. None for the published operations
            that suit the data.

    Differences from the published algorithm: one label row is stored for each image; the paper's teacher labels each
    augmented batch during training, which is not offered. Networks train on these rows under the protocol of DC, DSA
    and DM; the paper has a KL divergence at temperature 20, CutMix and AdamW. The teacher is the student network,
    trained here at a constant rate. `smallest` and `teacher_epochs` are choices of this library. A class with too few
    images gives several crops of each image.

    References:
        Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
        Paradigm", CVPR 2024, arXiv:2312.03526.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the teacher
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> distilled = ddsdk.distill(ddsdk.RDED(ipc=1, images=20, teacher_epochs=1), real, make_student=make_student)
        >>> tuple(distilled.images.shape), tuple(distilled.labels.shape)
        ((10, 1, 8, 8), (10, 10))
    """

    name: ClassVar[str] = "rded"
    images: PositiveInt = 300
    crops: PositiveInt = 5
    smallest: float = 0.5
    factor: PositiveInt | None = None
    augmentation: str | None = None

    def check(self) -> None:
        """Check the smallest area of a crop."""
        require(0 < self.smallest <= 1, "smallest", "lie in 0 < smallest <= 1", self.smallest)

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the training run whose last snapshot is the teacher."""
        return self.teacher_runs(real, make_student, rng)

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the evaluation protocol of DC, DSA and DM, named after the stored teacher labels."""
        return self.labelled(augmentation_for(real, self.augmentation))

    def make(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> synthetic.SyntheticSet:
        """Return the selected crops, tiled and labelled by the teacher.

        A class with fewer than `ipc` images, or with too few crops, is a ValueError.
        """
        from torch import cat

        synthetic.check_ipc(real, self.ipc)
        teacher = self.runs(real, make_student=make_student, rng=foundation.derive(rng, "plan")).network(0)
        factor = self.factor or (1 if min(real.image_shape[1:]) < 128 else 2)
        # Class by class: the crops of all classes take factor^2 times the memory of the set.
        canvases = cat([self._canvases(real, c, factor, teacher, rng) for c in range(real.num_classes)])
        # Unlike IDC, the tiles are not cut apart for training: the canvas is one image.
        syn = hard_label_set(real, self.ipc, synthetic.Pixels(canvases))
        if self.temperature is None:
            return syn
        key = foundation.derive(rng, "labels")
        return synthetic.with_teacher_labels(syn, teacher, key, temperature=self.temperature)

    def _canvases(self, real: RealData, c: int, factor: int, teacher: Module, rng: Generator) -> Tensor:
        """Return the images of class `c`, (ipc, C, H, W), each with factor^2 of its easiest crops as tiles."""
        crops = self._easiest(real, c, self.ipc * factor**2, teacher, foundation.derive(rng, c))
        tiled = synthetic.MultiFormation(crops[:: factor**2], factor)
        tiled.encode(crops)
        return tiled.canvases.detach()

    def _easiest(self, real: RealData, c: int, keep: int, teacher: Module, rng: Generator) -> Tensor:
        def loss(x: Tensor) -> Tensor:
            return -training.probabilities(teacher, x)[:, c].log()

        wanted = max(self.images, self.ipc)
        index = data.sample_indices(real.index_of_class(c), wanted, foundation.derive(rng, "images"))
        return data.easiest_crops(
            data.ImageRows(real, index),
            loss,
            foundation.derive(rng, "crops"),
            keep=keep,
            crops=self.crops,
            smallest=self.smallest,
        )
