"""A network that is trained against the set, beside any other supply of students, and a lesson of such a rival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ddsdk.data import Batch, Source
from ddsdk.foundation import Checked, NonNegativeFloat, PositiveInt, derive, require_count
from ddsdk.networks import Network
from ddsdk.students.alternating import MakeOptimizer
from ddsdk.students.fresh import MakeStudent, enrol
from ddsdk.students.supply import Students
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class RivalLesson(Protocol[S_contra]):
    """The loss that a rival descends before a step."""

    def __call__(
        self, rival: nn.Module, student: S_contra, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> Tensor:
        """Return the loss of the rival, which goes against that of the set."""
        ...


class Rivalled(NamedTuple, Generic[S]):
    """A student with the rival of its step; `ddsdk.objectives.Through` leads an objective to one of them.

    Attributes:
        student: Student of the other supply.
        rival: Network that is trained against the set.
    """

    student: S
    rival: nn.Module


@final
class WithRival(Generic[S]):
    """Any supply of students, and one network that takes one step against the set before each step of the set.

    Args:
        students: Other supply.
        make_rival: Factory of the network.
        lesson: Loss of the network; None for a network that does not learn.
        make_optimizer: Factory of the optimizer of the network's parameters.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    def __init__(
        self,
        students: Students[S],
        make_rival: MakeStudent,
        lesson: RivalLesson[S] | None,
        make_optimizer: MakeOptimizer,
    ) -> None:
        self._students, self._make_rival = students, make_rival
        self._lesson, self._make_optimizer = lesson, make_optimizer
        self._rival: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._loaded: dict[str, Any] = {"rival": {}, "optimizer": {}}

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> Rivalled[S]:
        """Return a student of the other supply, and the network after its step."""
        student = self._students.next(real, syn, derive(rng, "student"))
        rival = self._rival or self._enrolled(real, derive(rng, "rival"))
        if self._lesson is not None and self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._lesson(rival, student, real, syn, derive(rng, "lesson"))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return Rivalled(student, rival)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the other supply, the network and its optimizer."""
        # A state that was loaded and not yet used is still what there is.
        own = self._loaded
        if self._rival is not None:
            optimizer = {} if self._optimizer is None else self._optimizer.state_dict()
            own = {"rival": dict(self._rival.state_dict()), "optimizer": optimizer}
        return {"students": self._students.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken; the network is built at the next step."""
        self._students.load_state_dict(state["students"])
        self._rival = None
        self._loaded = {name: state[name] for name in ("rival", "optimizer")}

    def _enrolled(self, real: Source, rng: torch.Generator) -> nn.Module:
        self._rival = rival = enrol(self._make_rival, real, rng)
        if self._loaded["rival"]:
            rival.load_state_dict(self._loaded["rival"])
        if self._lesson is not None:
            self._optimizer = self._make_optimizer(rival.parameters())
            if self._loaded["optimizer"]:
                self._optimizer.load_state_dict(self._loaded["optimizer"])
        return rival


@final
@dataclass(frozen=True, kw_only=True)
class ViewLesson(Checked):
    """Teach a rival that two images of one slot are alike; `ddsdk.objectives.ViewSimilarity` drives them apart.

    Its loss is the cross-entropy, plus `similarity` (1 - the cosine of two images of the same slot), plus `contrast`
    times the supervised contrastive loss.

    Attributes:
        views: Images of each slot; at least 2.
        batch: Slots of one step.
        similarity: Weight of the second term.
        contrast: Weight of the third term.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    views: int
    batch: PositiveInt = 64
    similarity: NonNegativeFloat = 0.1
    contrast: NonNegativeFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("views", self.views, least=2)

    def __call__(
        self,
        rival: nn.Module,
        student: object,  # noqa: ARG002
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> Tensor:
        """Return the loss on two views of some slots."""
        if not isinstance(rival, Network):
            raise TypeError(f"rival must be a Network with embed and head, got {type(rival).__name__}")
        whole = syn.detached(derive(rng, "decode"))
        chosen = torch.randperm(len(whole.x) // self.views, generator=derive(rng, "slots"))[: self.batch]
        pair = torch.randperm(self.views, generator=derive(rng, "views"))[:2]
        where = (chosen[None] * self.views + pair[:, None]).flatten().to(whole.x.device)
        batch = Batch(whole.x[where], whole.y[where])
        features = rival.embed(batch.x)
        first, second = features.chunk(2)
        near = 1 - cosine_similarity(first, second).mean()
        apart = supervised_contrast(features, batch.y.argmax(1))
        return cross_entropy(rival.head(features), batch.y) + self.similarity * near + self.contrast * apart


def supervised_contrast(features: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss, which makes images of a class more alike than others.

    -mean_i mean_{p in P(i)} log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)), with z the normalised features and
    P(i) the other images of the class of i; images that are alone in their class do not count.

    Args:
        features: Features of the images, (B, F).
        classes: Classes of the images, (B,) int64.
        temperature: Temperature t, > 0.

    References:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, eq. 2.
    """
    z = normalize(features)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    shares = logits.log_softmax(1).masked_fill(itself, 0)
    friends = (classes[:, None] == classes[None]) & ~itself
    counts = friends.sum(1)
    each = -(shares * friends).sum(1) / counts.clamp_min(1)
    return each.sum() / (counts > 0).sum().clamp_min(1)
