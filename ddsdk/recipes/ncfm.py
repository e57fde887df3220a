"""NCFM: matching of characteristic functions of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, objectives, running, students, training
from ddsdk.foundation import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, require
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import multiformation_set, unit_rate

if TYPE_CHECKING:
    from ddsdk.recipes.signature import (
        Generator,
        MakeStudent,
        Module,
        Plan,
        RealData,
        StudentWithAdversary,
        TrainedRuns,
    )


@final
@dataclass(frozen=True, kw_only=True)
class NCFM(DistributionMatching):
    """Neural characteristic function matching: compare the distributions of embeddings at random frequencies.

    min_S sum_c scale * mean_t sqrt(amplitude_weight (|p| - |q|)^2 + (1 - amplitude_weight) 2 |p| |q| (1 - cos(angle)))
    + calibration * CE(S_c), where p(t) and q(t) are the characteristic functions E exp(i t.f) of the normalised
    embeddings f of S_c and T_c. The weights of a student are interpolated between the first and last weights of a
    random network of a pool trained on the real data; one fully trained network of the pool gives the cross-entropy.
    Frequencies t are drawn anew for each step. Canvases are cut into factor^2 tiles.

    Attributes:
        augmentation: DSA operations of matching and evaluation, joined by "_"; empty for none. None for those of the
            authors in the matching, color, crop and cutout, and for DSA in the evaluation.
        image_lr: Learning rate of the images in the unit range (AdamW with weight decay 5e-4); None for the 0.001 of
            the authors' code, whose settings list 0.01 and are multiplied by 0.1.
        real_batch: Real images per class in one image step.
        factor: Tiles along each side of a canvas; 1 for plain images.
        frequencies: Number of frequencies t at which the functions are compared.
        sampler: Hidden units of an adversary network that samples the frequencies and is trained to maximise the
            distance. 0, as in the released configurations, for frequencies from a normal distribution.
        sampler_lr: Learning rate of the sampler (Adam).
        scale: Weight of the distance of characteristic functions.
        amplitude_weight: Weight of the amplitude, 0..1; the phase has the weight 1 - amplitude_weight.
        calibration: Weight of the cross-entropy; 0 for none.
        pool: Number of trained networks in the pool.
        pool_epochs: Training epochs of each network of the pool on the real data.
        pool_lr: Learning rate of these networks (SGD with momentum 0.9).
        pool_images: Real images per class in the training of these networks; None for all.

    Differences from the published algorithm: the sampler starts with normally distributed frequencies, its size and
    learning rate are choices of this library, and it trains on 64 real images per class. The learning rate stays
    constant; the paper's halves on a plateau. One step updates all classes and both terms; the authors' code takes one
    AdamW step for each class and term, 20 for ten classes. A single network of the pool gives the cross-entropy, in the
    authors' code the network of the step. The cross-entropy has an augmentation for each image, in the authors' code
    one for the batch. The tiles of the start are shrunk with antialiasing, in the authors' code by nearest neighbour.
    The weight decay pulls pixels to the mean of the data, in the authors' code to black. The paper's evaluation (2000
    epochs, AdamW, CutMix, the best epoch on the test data) is disputed and is replaced by that of DSA and DM, so
    figures are not comparable with the paper's.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
        arXiv:2502.20653.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the trained networks
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.NCFM(ipc=1, steps=1, real_batch=16, frequencies=8, pool=1, pool_epochs=1)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # four tiles for each canvas
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "ncfm"
    sums_over_classes: ClassVar[bool] = True
    training_fields = ("pool_images", "pool", "pool_epochs")
    needs = ("features",)
    real_batch: PositiveInt = 1024
    factor: PositiveInt = 2
    frequencies: PositiveInt = 4096
    sampler: NonNegativeInt = 0
    sampler_lr: PositiveFloat = 1e-3
    scale: PositiveFloat = 300.0
    amplitude_weight: Fraction = 0.5
    calibration: NonNegativeFloat = 1.0
    pool: PositiveInt = 20
    pool_epochs: PositiveInt = 60
    pool_lr: PositiveFloat = 0.01
    pool_images: PositiveInt | None = None

    def check(self) -> None:
        """Check that the sampler, which trains on all classes, does not meet steps over some of them."""
        rule = "be left out for a trained sampler, whose loss has all classes"
        require(self.sampler == 0 or self.classes_per_step is None, "classes_per_step", rule, self.classes_per_step)

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the training runs of the pool; a network is trained at its first use."""
        training = students.Training(
            epochs=self.pool_epochs,
            lr=self.pool_lr,
            momentum=0.9,
            weight_decay=5e-4,
            batch_size=128,
            augmentation="color+crop" if real.pictures else "",
            mix=0.5 if real.pictures else 0.0,
            decay_at=(2 / 3, 5 / 6),
            thin=self.pool_epochs,
            images=self.pool_images,
        )
        seed = foundation.derive(rng, "runs").initial_seed()
        return students.TrainedRuns(real, make_student, training, count=self.pool, seed=seed)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[StudentWithAdversary[Module]]:
        """Return matching of characteristic functions at random frequencies, under partly trained networks."""
        from torch import arange
        from torch.optim import Adam, AdamW

        runs = self.runs(real, make_student=make_student, rng=rng)
        published = self.augmentation is None and real.pictures
        augmentation = data.Augmentation("color+crop+cutout") if published else self.siamese(real)
        teacher = runs.network(0).requires_grad_(False)
        features = training.embeddings(teacher, real.batch(arange(1)).x).shape[1]
        distance = objectives.CharacteristicDistance(amplitude=self.amplitude_weight, phase=1 - self.amplitude_weight)
        match = objectives.CharacteristicMatch(
            count=self.frequencies, distance=distance, real_batch=self.real_batch, augmentation=augmentation
        )
        classification = objectives.CrossEntropy(augmentation=augmentation, teacher=teacher)
        sampler_loss = objectives.FrequencyLoss(count=self.frequencies, distance=distance, augmentation=augmentation)
        # The length of an Adam step is its rate, so the rate of the unit range is divided by std, not by std^2.
        rate = unit_rate(real, 1.0) ** 0.5 * (1e-3 if self.image_lr is None else self.image_lr)
        return running.Plan(
            syn=multiformation_set(real, self.ipc, self.factor, self.start, rng),
            objective=objectives.WeightedSum(
                (
                    (self.scale, match),
                    (self.calibration, objectives.PartObjective(attrgetter("student"), classification)),
                )
            ),
            students=students.AdversarialStudents(
                students.FreshStudents(students.InterpolatedExperts(runs=runs)),
                lambda key: objectives.FrequencySampler(features, self.sampler, rng=key),
                sampler_loss if self.sampler else None,
                lambda weights: Adam(weights, lr=self.sampler_lr),
            ),
            make_optimizer=lambda syn: AdamW(syn.parameters(), lr=rate, weight_decay=5e-4),
            steps=self.steps,
        )
