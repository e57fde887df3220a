"""The synthetic set: a parametrization with labels, a source of batches like real data."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, choose
from ddsdk.foundation import derive, require
from ddsdk.synthetic.base import Parametrization
from ddsdk.synthetic.labels import Labels
from ddsdk.synthetic.rate import LearnedRate, LearnedScale


@final
class SyntheticSet(nn.Module):
    """Stored images and labels; satisfies `Source`.

    Args:
        parametrization: Parametrization with M slots.
        labels: Rows of K probabilities or scores, one for each slot.
        classes: Class of each slot, (M,) int64, for methods that work class by class.
        num_classes: Number of classes K.
        rate: Learning rate of networks that train on the set, where it is learned with it.
        scale: Factor of scores before a softmax, where it is learned with the set.
    """

    def __init__(
        self,
        parametrization: Parametrization,
        labels: Labels,
        classes: Tensor,
        num_classes: int,
        rate: LearnedRate | None = None,
        scale: LearnedScale | None = None,
    ) -> None:
        super().__init__()
        require(bool(((classes >= 0) & (classes < num_classes)).all()), "classes", "lie in 0..K-1", classes)
        self.parametrization, self.labels = parametrization, labels
        self.rate, self.scale = rate, scale
        self.register_buffer("classes", classes.clone())
        self.classes: Tensor
        self.num_classes = num_classes

    @property
    def device(self) -> torch.device:
        """Device of the set."""
        return self.classes.device

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.classes)

    def slots_of_class(self, c: int) -> Tensor:
        """Return the slots of class `c`, (ipc,) int64."""
        return torch.nonzero(self.classes == c).flatten()

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        """Decode `slots`, (B,) int64, with graph to everything that is stored."""
        images, owners = self.parametrization.decode(slots.to(self.device), rng)
        return Batch(images, self.labels.rows(owners))

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` slots of class `c`."""
        return self.at(choose(self.slots_of_class(c), n, rng), rng)

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` slots of any class."""
        return self.at(choose(torch.arange(len(self)), n, rng), rng)

    def detached(self, rng: torch.Generator) -> Batch:
        """Decode the whole set without a graph, to train a student on it."""
        with torch.no_grad():
            return Batch(*(t.detach() for t in self.at(torch.arange(len(self)), rng)))

    @torch.no_grad()
    def project_(self) -> None:
        """Bring the stored tensors back to their admissible range."""
        self.parametrization.project_()
        self.labels.project_()
        for learned in (self.rate, self.scale):
            if learned is not None:
                learned.project_()

    def is_finite(self) -> bool:
        """Return whether every stored number is finite."""
        return all(bool(torch.isfinite(t).all()) for t in self.state_dict().values() if t.is_floating_point())


@final
class Leaves:
    """A view of a synthetic set that hands out decoded images as leaves of the graph.

    An objective differentiates to these leaves only. `pull_back` then decodes again, `chunk` slots at a time,
    and pushes each chunk's gradient through the decoder: the memory that a decoder takes depends neither on
    the objective nor on the size of the set. A parametrization that is `joint` is decoded once, with its graph, and
    `finish` pushes the gradients of all terms through it.

    Args:
        syn: Synthetic set.
        chunk: Slots that are decoded at once.
    """

    def __init__(self, syn: SyntheticSet, chunk: int = 256) -> None:
        self._syn, self._chunk, self._calls = syn, chunk, 0
        self._moves = any(p.requires_grad for p in syn.parametrization.parameters())
        self._drawn: list[tuple[Tensor, Tensor, torch.Generator]] = []
        self._joint: tuple[Tensor, Tensor] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self._syn.num_classes

    @property
    def device(self) -> torch.device:
        """Device of the set."""
        return self._syn.device

    @property
    def inputs(self) -> list[Tensor]:
        """Tensors by which a term is differentiated: image leaves drawn so far, learned labels and learned rates.

        Images of a parametrization that learns nothing are constants.
        """
        modules = (self._syn.labels, self._syn.rate, self._syn.scale)
        learned = [p for module in modules if module is not None for p in module.parameters()]
        leaves = [leaf for leaf, *_ in self._drawn] + ([] if self._joint is None else [self._joint[0]])
        return [leaf for leaf in leaves if leaf.requires_grad] + learned

    @property
    def rate(self) -> Tensor:
        """Learned learning rate of students, with graph to its parameters; see `LearnedRate`."""
        if self._syn.rate is None:
            raise ValueError("rate must be learned with the set for this objective, got a set without one")
        rate: Tensor = self._syn.rate()
        return rate

    @property
    def scale(self) -> Tensor:
        """Learned factor on scores before a softmax, a scalar with graph to its parameter."""
        if self._syn.scale is None:
            raise ValueError("scale must be learned with the set for this objective, got a set without one")
        scale: Tensor = self._syn.scale()
        return scale

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` slots of class `c` as leaves."""
        return self._leaves(choose(self._syn.slots_of_class(c), n, rng), rng)

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Draw at most `n` slots of any class as leaves."""
        return self._leaves(choose(torch.arange(len(self._syn)), n, rng), rng)

    def slots_of_class(self, c: int) -> Tensor:
        """Return the slots of class `c`, (ipc,) int64."""
        return self._syn.slots_of_class(c)

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        """Decode `slots`, (B,) int64, as leaves."""
        return self._leaves(slots, rng)

    def whole(self, rng: torch.Generator) -> Batch:
        """Decode all slots as leaves."""
        return self._leaves(torch.arange(len(self._syn)), rng)

    def pull_back(self) -> None:
        """Push the gradients of the leaves to the stored tensors.

        The leaves stay, with no gradient: a later term may use the same draw.
        """
        for leaf, slots, rng in self._drawn:
            if leaf.grad is not None:
                # A generator derived again replays a stochastic decoder.
                images, _ = self._syn.parametrization.decode(slots, derive(rng))
                torch.autograd.backward(images, leaf.grad)
                leaf.grad = None

    def finish(self) -> None:
        """Push the gradients of all terms through a joint parametrization to the stored tensors."""
        if self._joint is None or self._joint[0].grad is None:
            return
        leaf, images = self._joint
        torch.autograd.backward(images, leaf.grad)
        self._joint = None

    def _leaves(self, slots: Tensor, rng: torch.Generator) -> Batch:
        if self._syn.parametrization.joint:
            slots = slots.to(self.device)
            return Batch(self._all(rng)[slots], self._syn.labels.rows(slots))
        self._calls += 1
        images, owners = [], []
        for i, part in enumerate(torch.split(slots.to(self.device), self._chunk)):
            key = derive(rng, "decode", self._calls, i)
            with torch.no_grad():
                decoded, owner = self._syn.parametrization.decode(part, derive(key))
            leaf = decoded.detach().requires_grad_(self._moves)
            self._drawn.append((leaf, part, key))
            images.append(leaf)
            owners.append(owner)
        return Batch(torch.cat(images), self._syn.labels.rows(torch.cat(owners)))

    def _all(self, rng: torch.Generator) -> Tensor:
        """Return the leaf that holds every image of a joint parametrization."""
        if self._joint is None:
            slots = torch.arange(len(self._syn), device=self.device)
            images, _ = self._syn.parametrization.decode(slots, derive(rng, "decode"))
            self._joint = images.detach().requires_grad_(self._moves), images
        return self._joint[0]
