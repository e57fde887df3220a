"""HaBa: bases and hallucinator networks, trained by trajectory matching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, objectives, running, students, synthetic
from ddsdk.foundation import Momentum, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, require_count
from ddsdk.recipes.parts import cycled_images, hard_label_set
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Optimizer, Plan, RealData, SyntheticSet


@final
@dataclass(frozen=True, kw_only=True)
class HaBa(FromPixels):
    """Hallucinators and bases: each basis is decoded by each of a few hallucinator networks that all classes share.

    MTT's distance plus similarity mean (1 + cos(F(x_mh), F(x_mg))) / 2: two augmented images decoded by hallucinators h
    and g from the same basis m should differ for a network F, which is trained to recognise that they have the same
    basis. ipc counts bases per class. The hallucinators are stored in addition, so compare sets by stored floats, not
    by ipc.

    Attributes:
        ipc: Bases per class, at least 1; multiplied by the channels of an image with `grey_bases`.
        start: Initialisation of the bases: noise, real, k-means, means or herding.
        hallucinators: Number of hallucinators, each of which decodes every basis to one image.
        grey_bases: Whether the bases have a single channel.
        hallucinator_lr: Learning rate of the hallucinators; None for that of the bases, as published. On small images
            with few steps both are too large: try 1, with an image_momentum of 0.5.
        fit_steps: Adam steps that first fit bases and hallucinators to the initial images.
        similarity: Weight of the similarity term.
        rival_lr: Learning rate of the network F (SGD with momentum 0.9).

    Differences from the published algorithm: a student trains on random pairs of a basis and a hallucinator; the paper
    has one hallucinator for all images of a training step. Bases and hallucinators are first fitted to the initial
    images. The contrastive loss of F has the temperature 0.1, in the authors' code 0.07. F trains before each image
    step, in the authors' code after it. Each class has its own pair of hallucinators in the similarity, in the authors'
    code all images of a step have the same. The learned rate has the momentum of the images, in the authors' code 0.9.
    Those of `mtt` apply too, except that the learned rate is at least 0.001, as in the authors' code.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the experts
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.HaBa(ipc=1, steps=1, student_steps=2, experts=1, expert_epochs=2, fit_steps=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # five images for each basis
        (50, 1, 8, 8)
    """

    name: ClassVar[str] = "haba"
    needs = ("second derivatives", "features")
    values: ClassVar[Mapping[str, Points]] = {
        **MTT_VALUES,
        "max_start": {10: 2, 100: 20, 500: 20},
        "image_lr": {10: 100},
    }
    steps: PositiveInt = 15_000
    image_momentum: Momentum = 0.95
    hallucinators: int = 5
    grey_bases: bool = False
    hallucinator_lr: PositiveFloat | None = None
    fit_steps: NonNegativeInt = 100
    similarity: NonNegativeFloat = 0.1
    rival_lr: PositiveFloat = 0.001

    def check(self) -> None:
        """Check that the expert segments fit into a trajectory, and that there are at least two hallucinators."""
        super().check()
        require_count("hallucinators", self.hallucinators, least=2)

    def bases(self, real: RealData, rng: Generator) -> SyntheticSet:
        """Return the initial set: images as bases, hallucinators near the identity, and a learned learning rate."""
        channels = real.image_shape[0]
        per_class = self.ipc * (channels if self.grey_bases else 1)
        images = cycled_images(real, self.ipc, per_class, self.start, rng)
        parametrization = synthetic.Hallucination(
            images.mean(1, keepdim=True) if self.grey_bases else images,
            self.hallucinators,
            channels=channels,
            fit=self.fit_steps,
            rng=foundation.derive(rng, "hallucinators"),
        )
        parametrization.encode(images.repeat_interleave(self.hallucinators, 0))
        return hard_label_set(real, per_class, parametrization, self.learned_rate(real, low=1e-3))

    def parts(
        self, real: RealData, *, make_student: MakeStudent, rng: Generator
    ) -> Plan[students.StudentWithAdversary[ExpertSegment]]:
        """Return the plan of MTT over bases and hallucinators, with the similarity term under an adversary."""
        from torch.optim import SGD

        runs = self.runs(real, make_student=make_student, rng=rng)
        experts = students.ExpertStudents(runs, span=self.expert_span, last=self.start_bound(real))
        mtt = self.matching(real, self.bases(real, rng), experts)
        assert not isinstance(mtt.objective, running.ObjectiveSchedule)
        augmentation = self.siamese(real)
        similarity = objectives.ViewSimilarity(views=self.hallucinators, augmentation=augmentation)
        terms = (
            (1.0, objectives.PartObjective(attrgetter("student"), mtt.objective)),
            (self.similarity, objectives.PartObjective(attrgetter("adversary"), similarity)),
        )
        return running.Plan(
            syn=mtt.syn,
            objective=objectives.WeightedSum(terms),
            students=students.AdversarialStudents(
                experts,
                make_student,
                students.ViewContrastLoss(views=self.hallucinators, augmentation=augmentation),
                lambda weights: SGD(weights, lr=self.rival_lr, momentum=0.9),
            ),
            make_optimizer=partial(self._optimizer, mtt.make_optimizer),
            steps=mtt.steps,
            divergence_hint=mtt.divergence_hint,
        )

    def _optimizer(self, mtt_optimizer: Callable[[SyntheticSet], Optimizer], syn: SyntheticSet) -> Optimizer:
        """Return the optimizer of MTT, with the hallucinators in a separate parameter group."""
        optimizer = mtt_optimizer(syn)
        if self.hallucinator_lr is not None:
            hallucinator_ids = {id(p) for n, p in syn.parametrization.named_parameters() if n != "bases"}
            group = optimizer.param_groups[0]
            hallucinators = [p for p in group["params"] if id(p) in hallucinator_ids]
            group["params"] = [p for p in group["params"] if id(p) not in hallucinator_ids]
            optimizer.add_param_group({**group, "params": hallucinators, "lr": self.hallucinator_lr})
        return optimizer
