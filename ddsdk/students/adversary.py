"""An adversary: a network that is trained against the synthetic set, in addition to any other supply of students."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, PositiveInt, derive, require_count
from ddsdk.networks import features_and_logits
from ddsdk.students.alternating import MakeOptimizer
from ddsdk.students.fresh import MakeStudent, prepare_student
from ddsdk.students.supply import Students
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class AdversaryLoss(Protocol[S_contra]):
    """A loss that the adversary minimises before each distillation step."""

    def __call__(
        self, adversary: nn.Module, student: S_contra, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> Tensor:
        """Return the loss of the adversary, opposed to that of the synthetic set; a scalar with graph to its weights.

        Args:
            adversary: Network that is trained against the set.
            student: Student of the step, of the other supply.
            real: Real data of the distillation.
            syn: Synthetic set before the step.
            rng: Root of the random numbers of this loss.
        """
        ...


class StudentWithAdversary(NamedTuple, Generic[S]):
    """A student and the adversary of the same step; `ddsdk.objectives.PartObjective` selects one for an objective.

    Attributes:
        student: Student of the other supply.
        adversary: Network that is trained against the set.

    Examples:
        >>> from operator import attrgetter
        >>> from ddsdk.objectives import PartObjective, ViewSimilarity
        >>> objective = PartObjective(attrgetter("adversary"), ViewSimilarity(views=2))  # for AdversarialStudents
    """

    student: S
    adversary: nn.Module


@final
class AdversarialStudents(Generic[S]):
    """A supply that adds an adversary, which takes one optimizer step before each distillation step.

    Args:
        students: Supply of the students beside the adversary.
        make_adversary: Factory of the adversary network.
        update: Loss of the adversary; None for an adversary that is not trained.
        make_optimizer: Factory of the optimizer of the adversary's parameters.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.students import AdversarialStudents, FreshStudents
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = AdversarialStudents(FreshStudents(make_student), make_student, None, torch.optim.Adam)
        >>> supply.next(ddsdk.load("digits"), None, ddsdk.generator(0))._fields
        ('student', 'adversary')
    """

    def __init__(
        self,
        students: Students[S],
        make_adversary: MakeStudent,
        update: AdversaryLoss[S] | None,
        make_optimizer: MakeOptimizer,
    ) -> None:
        self._students, self._make_adversary = students, make_adversary
        self._update, self._make_optimizer = update, make_optimizer
        self._adversary: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        # Keys of states and of random generators keep their first names: checkpoints and results stay valid.
        self._loaded: dict[str, Any] = {"rival": {}, "optimizer": {}}

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> StudentWithAdversary[S]:
        """Return a student of the other supply, and the adversary after its optimizer step."""
        student = self._students.next(real, syn, derive(rng, "student"))
        adversary = self._adversary or self._prepared(real, derive(rng, "rival"))
        if self._update is not None and self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._update(adversary, student, real, syn, derive(rng, "lesson"))
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        return StudentWithAdversary(student, adversary)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the other supply, the adversary and its optimizer."""
        # Before the first step after load_state_dict there is no network, and the loaded state is still current.
        adversary_state = self._loaded
        if self._adversary is not None:
            optimizer = {} if self._optimizer is None else self._optimizer.state_dict()
            adversary_state = {"rival": dict(self._adversary.state_dict()), "optimizer": optimizer}
        return {"students": self._students.state_dict(), **adversary_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`; the adversary is built at the next step."""
        self._students.load_state_dict(state["students"])
        self._adversary = None
        self._loaded = {name: state[name] for name in ("rival", "optimizer")}

    def _prepared(self, real: Source, rng: torch.Generator) -> nn.Module:
        self._adversary = adversary = prepare_student(self._make_adversary, real, rng)
        if self._loaded["rival"]:
            adversary.load_state_dict(self._loaded["rival"])
        if self._update is not None:
            self._optimizer = self._make_optimizer(adversary.parameters())
            if self._loaded["optimizer"]:
                self._optimizer.load_state_dict(self._loaded["optimizer"])
        return adversary


@final
@dataclass(frozen=True, kw_only=True)
class ViewContrastLoss(CheckedDataclass):
    """Adversary loss of HaBa: classification, and similar features for two images of the same slot.

    The loss is cross-entropy + similarity (1 - cosine of the features of two images of one slot) / 2 + contrast
    (supervised contrastive loss). `ddsdk.objectives.ViewSimilarity` trains the synthetic set in the opposite direction.

    Attributes:
        views: Number of images of each slot, at least 2.
        batch: Largest number of slots in one step.
        similarity: Weight of the cosine term.
        contrast: Weight of the supervised contrastive loss.
        augmentation: Augmentation of the images, with different random numbers for each image.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.

    Examples:
        >>> from ddsdk.students import ViewContrastLoss
        >>> ViewContrastLoss(views=5).contrast
        0.1
    """

    views: int
    batch: PositiveInt = 64
    similarity: NonNegativeFloat = 0.1
    contrast: NonNegativeFloat = 0.1
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("views", self.views, least=2)

    def __call__(
        self,
        adversary: nn.Module,
        student: object,  # noqa: ARG002
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> Tensor:
        """Return the loss on two images of each of some slots."""
        decoded = syn.detached(derive(rng, "decode"))
        slots = torch.randperm(len(decoded.x) // self.views, generator=derive(rng, "slots"))[: self.batch]
        pair = torch.randperm(self.views, generator=derive(rng, "views"))[:2]
        positions = (slots[None] * self.views + pair[:, None]).flatten().to(decoded.x.device)
        draw = self.augmentation.per_image(len(positions), derive(rng, "augmentation"))
        batch = Batch(draw(decoded.x[positions]), decoded.y[positions])
        features, logits = features_and_logits(adversary, batch.x)
        first, second = features.chunk(2)
        distance = (1 - cosine_similarity(first, second).mean()) / 2
        contrastive = supervised_contrast(features, batch.y.argmax(1))
        loss = cross_entropy(logits, batch.y)
        return loss + self.similarity * distance + self.contrast * contrastive


def supervised_contrast(features: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss, which is low if images of one class have similar features.

    -mean_i mean_{p in P(i)} log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)), with z the normalised features and
    P(i) the other images of the class of i. Images that are the only ones of their class do not count.

    Args:
        features: Features of the images, (B, F).
        classes: Classes of the images, (B,) int64.
        temperature: Temperature t of the softmax, > 0.

    References:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, eq. 2.
    """
    z = normalize(features)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    log_probabilities = logits.log_softmax(1).masked_fill(itself, 0)
    positives = (classes[:, None] == classes[None]) & ~itself
    counts = positives.sum(1)
    losses = -(log_probabilities * positives).sum(1) / counts.clamp_min(1)
    return losses.sum() / (counts > 0).sum().clamp_min(1)
