"""A network that is trained against the set, beside any other supply of students."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ddsdk.data.sources import Batch, Source
from ddsdk.errors import require_count, require_rate
from ddsdk.networks.network import Network
from ddsdk.rng import derive
from ddsdk.students.alternating import WholeSource
from ddsdk.students.fresh import MakeStudent, enrol

__all__ = ["Rivalled", "WithRival", "supervised_contrast"]

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Supply(Protocol[S_co]):
    """A supply of students, see `ddsdk.Students`."""

    def next(self, real: Source, syn: Any, rng: torch.Generator) -> S_co:  # noqa: ANN401
        """Return the student of the next step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what the next student depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


class Rivalled(NamedTuple, Generic[S]):
    """A student with the rival of its step; `ddsdk.Through` leads an objective to one of them.

    Attributes:
        student: From the other supply.
        rival: The network.
    """

    student: S
    rival: nn.Module


@final
class WithRival(Generic[S]):
    """Any supply of students, and one network that learns to see what the images of a slot have in common.

    Before each step the network takes one SGD step on images of the set: its loss is the cross-entropy, plus
    `similarity` (1 - the cosine of two images of the same slot), plus `contrast` times the supervised contrastive loss.
    An objective such as `ddsdk.ViewSimilarity` then drives these images apart in its eyes.

    Args:
        students: The other supply.
        make_student: Builds the network.
        views: Images of each slot; at least 2.
        lr: Learning rate of the network (SGD).
        batch: Slots of one step.
        similarity: Weight of the second term.
        contrast: Weight of the third term.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    def __init__(
        self,
        students: Supply[S],
        make_student: MakeStudent,
        *,
        views: int,
        lr: float = 1e-3,
        batch: int = 64,
        similarity: float = 0.1,
        contrast: float = 0.1,
    ) -> None:
        require_count("views", views, least=2)
        require_count("batch", batch)
        require_rate("lr", lr)
        self._students = students
        self._make_student = make_student
        self._views = views
        self._lr = lr
        self._batch = batch
        self._similarity = similarity
        self._contrast = contrast
        self._rival: nn.Module | None = None
        self._loaded: dict[str, Any] = {}

    def next(self, real: Source, syn: WholeSource, rng: torch.Generator) -> Rivalled[S]:
        """Return a student of the other supply, and the network after its step."""
        student = self._students.next(real, syn, derive(rng, "student"))
        if self._rival is None:
            self._rival = enrol(self._make_student, real, derive(rng, "rival"))
            if self._loaded:
                self._rival.load_state_dict(self._loaded)
        self._learn(self._rival, syn.detached(derive(rng, "decode")), derive(rng, "lesson"))
        return Rivalled(student, self._rival)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the other supply and the network."""
        # A state that was loaded and not yet used is still what there is.
        rival = self._loaded if self._rival is None else self._rival.state_dict()
        return {"students": self._students.state_dict(), "rival": dict(rival)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; the network is rebuilt at the next step."""
        self._students.load_state_dict(state["students"])
        self._rival = None
        self._loaded = state["rival"]

    def _learn(self, rival: nn.Module, whole: Batch, rng: torch.Generator) -> None:
        slots = len(whole.x) // self._views
        chosen = torch.randperm(slots, generator=derive(rng, "slots"))[: self._batch]
        pair = torch.randperm(self._views, generator=derive(rng, "views"))[:2]
        where = (chosen[None] * self._views + pair[:, None]).flatten().to(whole.x.device)
        rival.zero_grad(set_to_none=True)
        self._loss(rival, Batch(whole.x[where], whole.y[where])).backward()  # type: ignore[no-untyped-call]
        torch.optim.SGD(rival.parameters(), lr=self._lr).step()

    def _loss(self, rival: nn.Module, batch: Batch) -> Tensor:
        """Return the loss on the first views of some slots, followed by their second views."""
        if not isinstance(rival, Network):
            raise TypeError(f"rival must be a Network with embed and head, got {type(rival).__name__}")
        features = rival.embed(batch.x)
        first, second = features.chunk(2)
        near = 1 - cosine_similarity(first, second).mean()
        apart = supervised_contrast(features, batch.y.argmax(1))
        return cross_entropy(rival.head(features), batch.y) + self._similarity * near + self._contrast * apart


def supervised_contrast(features: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss: images of a class must be more alike than others.

    -mean_i mean_{p in P(i)} log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)), with z the normalised features and
    P(i) the other images of the class of i; images that are alone in their class do not count.

    Args:
        features: (B, F).
        classes: (B,) int64.
        temperature: t, > 0.

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
