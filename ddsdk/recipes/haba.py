"""HaBa: hallucinators and bases, trained by matching trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, objectives, running, students, synthetic
from ddsdk.foundation import Momentum, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, require_count
from ddsdk.recipes.parts import cycled_images, hard_set
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSpan, Generator, MakeStudent, Optimizer, Plan, RealData, SyntheticSet


@final
@dataclass(frozen=True, kw_only=True)
class HaBa(FromPixels):
    """Hallucinators and bases: every basis of a class under every one of a few shared hallucinators.

    MTT's distance plus similarity mean cos(F(x_mh), F(x_mg)): two hallucinations h and g of the same basis m are driven
    apart for a network F, which is trained to find them alike. ipc counts bases of each class; the
    hallucinators come on top, so compare by stored floats and not by ipc.

    Attributes:
        start: Images that the bases start as: noise, real, k-means, means or herding.
        hallucinators: Networks that each make an image of each basis.
        grey_bases: Whether bases have one channel, and are as many times more as images have channels.
        hallucinator_lr: Learning rate of the hallucinators; None takes that of the bases, as published. On small
            images with few steps both are too large: try 1 and an image_momentum of 0.5.
        fit_steps: Steps of a fit of bases and hallucinators to the images of the start.
        similarity: Weight of the second term.
        rival_lr: Learning rate of the network F (SGD).

    Differences from the published algorithm: the steps of a student draw from all pairs of bases and hallucinators, in
    place of one hallucinator for all images of a step; a short fit at the start; the temperature of the contrastive
    loss of F is 0.1. Those of `mtt` hold too, and the learned rate cannot fall below 0.001, as in the authors' code.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    name: ClassVar[str] = "haba"
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
        """Check the stretches, and that there are two hallucinators or more."""
        super().check()
        require_count("hallucinators", self.hallucinators, least=2)

    def bases(self, real: RealData, rng: Generator) -> SyntheticSet:
        """Return bases that start as images, hallucinators near the identity, and a learned rate."""
        channels = real.image_shape[0]
        each = self.ipc * (channels if self.grey_bases else 1)
        images = cycled_images(real, self.ipc, each, self.start, rng)
        parametrization = synthetic.Hallucination(
            images.mean(1, keepdim=True) if self.grey_bases else images,
            self.hallucinators,
            channels=channels,
            fit=self.fit_steps,
            rng=foundation.derive(rng, "hallucinators"),
        )
        parametrization.encode(images.repeat_interleave(self.hallucinators, 0))
        return hard_set(real, each, parametrization, self.learned_rate(real, low=1e-3))

    def parts(
        self, real: RealData, *, make_student: MakeStudent, rng: Generator
    ) -> Plan[students.Rivalled[ExpertSpan]]:
        """Return MTT's plan over bases and hallucinators, with the similarity under a rival."""
        from torch.optim import SGD

        runs = self.runs(real, make_student=make_student, rng=rng)
        experts = students.ExpertStudents(runs, span=self.expert_span, last=self.start_bound(real))
        mtt = self.matching(real, self.bases(real, rng), experts)
        assert not isinstance(mtt.objective, running.Schedule)
        alike = objectives.ViewSimilarity(views=self.hallucinators)
        parts = (
            (1.0, objectives.Through(attrgetter("student"), mtt.objective)),
            (self.similarity, objectives.Through(attrgetter("rival"), alike)),
        )
        return running.Plan(
            syn=mtt.syn,
            objective=objectives.Total(parts),
            students=students.WithRival(
                experts,
                make_student,
                students.ViewLesson(views=self.hallucinators),
                lambda weights: SGD(weights, lr=self.rival_lr),
            ),
            make_optimizer=partial(self._optimizer, mtt.make_optimizer),
            steps=mtt.steps,
            knobs=mtt.knobs,
        )

    def _optimizer(self, of_mtt: Callable[[SyntheticSet], Optimizer], syn: SyntheticSet) -> Optimizer:
        """Return MTT's optimizer, with the hallucinators in a group of their own."""
        optimizer = of_mtt(syn)
        if self.hallucinator_lr is not None:
            shared = {id(p) for n, p in syn.parametrization.named_parameters() if n != "bases"}
            group = optimizer.param_groups[0]
            moved = [p for p in group["params"] if id(p) in shared]
            group["params"] = [p for p in group["params"] if id(p) not in shared]
            optimizer.add_param_group({**group, "params": moved, "lr": self.hallucinator_lr})
        return optimizer
