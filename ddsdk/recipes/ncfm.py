"""NCFM: matching of characteristic functions."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, objectives, running, students, training
from ddsdk.foundation import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import augmentation_for, multiformation_set, unit_rate

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, Rivalled, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class NCFM(DistributionMatching):
    """Neural characteristic function matching: whole distributions of embeddings, compared at random frequencies.

    min_S sum_c scale * mean_t sqrt(amplitude_weight (|p| - |q|)^2 + (1 - amplitude_weight) 2 |p| |q| (1 - cos(angle)))
    + calibration * CE(S_c), where p(t) and q(t) are the characteristic functions E exp(i t.f) of the embeddings f, at
    length one, of S_c and T_c. A student lies between the first and last weights of one of a pool of networks trained
    on the real data; a fully trained one judges the cross-entropy. Frequencies are drawn anew for every step. Canvases
    are cut into factor^2 tiles.

    Attributes:
        image_lr: Learning rate of the images in the unit range (AdamW without weight decay). None takes the paper's
            0.01.
        real_batch: Real images of each class in one step.
        factor: Tiles along each side of a stored image; 1 for plain images.
        frequencies: Points t at which the functions are compared.
        sampler: Hidden units of a network that draws these points and is trained to find where the functions differ;
            0, as in the released configurations, for normal random numbers.
        sampler_lr: Learning rate of that network (Adam).
        scale: Weight of their distance.
        amplitude_weight: Weight of the amplitude, 0..1; the phase has the rest.
        calibration: Weight of the cross-entropy; 0 leaves it out.
        pool: Trained networks.
        pool_epochs: Epochs of each network on the real data.
        pool_lr: Learning rate of these networks (SGD with momentum 0.9).
        pool_images: Real images of each class that these networks see; None for all.

    Differences from the published algorithm: the sampler starts at normal random numbers, its size and rate are
    choices of this library, and it has 64 real images of each class. The learning rate stays constant where the
    paper's halves on a plateau. One network of the pool judges. The paper's own evaluation (2000 epochs, AdamW, CutMix,
    the best epoch on the test data) is disputed and is replaced by the published one of DSA and DM, so figures are not
    comparable with the paper's.

    References:
        Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
        arXiv:2502.20653.
    """

    name: ClassVar[str] = "ncfm"
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

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the pool; no network is trained before it is needed."""
        training = students.Training(
            epochs=self.pool_epochs,
            lr=self.pool_lr,
            momentum=0.9,
            weight_decay=5e-4,
            augmentation=augmentation_for(real, self.augmentation),
            thin=self.pool_epochs,
            images=self.pool_images,
        )
        seed = foundation.derive(rng, "runs").initial_seed()
        return students.TrainedRuns(real, make_student, training, count=self.pool, seed=seed)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Rivalled[Module]]:
        """Return matching of characteristic functions under partly trained networks, with new frequencies each step."""
        from torch import arange
        from torch.optim import Adam, AdamW

        runs = self.runs(real, make_student=make_student, rng=rng)
        augmentation = self.siamese(real)
        teacher = runs.network(0).requires_grad_(False)
        features = training.embeddings(teacher, real.batch(arange(1)).x).shape[1]
        distance = objectives.CharacteristicDistance(amplitude=self.amplitude_weight, phase=1 - self.amplitude_weight)
        match = objectives.CharacteristicMatch(
            count=self.frequencies, distance=distance, real_batch=self.real_batch, augmentation=augmentation
        )
        recognised = objectives.CrossEntropy(augmentation=augmentation, teacher=teacher)
        lesson = objectives.FrequencyLesson(count=self.frequencies, distance=distance, augmentation=augmentation)
        # A step of Adam is as long as its rate: one std of the value space for each unit.
        rate = unit_rate(real, 1.0) ** 0.5 * (0.01 if self.image_lr is None else self.image_lr)
        return running.Plan(
            syn=multiformation_set(real, self.ipc, self.factor, self.start, rng),
            objective=objectives.Total(
                ((self.scale, match), (self.calibration, objectives.Through(attrgetter("student"), recognised)))
            ),
            students=students.WithRival(
                students.FreshStudents(students.Interpolated(runs=runs)),
                lambda key: objectives.FrequencySampler(features, self.sampler, rng=key),
                lesson if self.sampler else None,
                lambda weights: Adam(weights, lr=self.sampler_lr),
            ),
            make_optimizer=lambda syn: AdamW(syn.parameters(), lr=rate, weight_decay=0.0),
            steps=self.steps,
        )
