"""The synthetic set: a parametrization with labels, from which batches are drawn as from real data."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, sample_indices
from ddsdk.foundation import derive, require
from ddsdk.synthetic.base import Parametrization
from ddsdk.synthetic.labels import Labels
from ddsdk.synthetic.rate import LearnedRate, LearnedScale


@final
class SyntheticSet(nn.Module):
    """Stored images and labels, with their learned learning rate if any; a `ddsdk.data.Source`.

    Args:
        parametrization: Stored tensors with M slots.
        labels: Label rows of K probabilities or scores, one for each slot.
        classes: Class of each slot, (M,) int64 in 0..K-1, for methods that work class by class.
        num_classes: Number of classes, K >= 1.
        rate: Learned learning rate of networks that train on the set; None for no learned rate.
        scale: Learned factor on scores before a softmax; None for no learned factor.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.synthetic import Pixels, SyntheticSet, class_slots, hard_labels
        >>> classes = class_slots(10, 2)
        >>> syn = SyntheticSet(Pixels(torch.zeros(20, 1, 8, 8)), hard_labels(classes, 10), classes, 10)
        >>> tuple(syn.of_class(3, 2, ddsdk.generator(0)).x.shape)
        (2, 1, 8, 8)
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
        """Device of the stored tensors."""
        return self.classes.device

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.classes)

    def slots_of_class(self, c: int) -> Tensor:
        """Return the slots of class `c`, (ipc,) int64."""
        return torch.nonzero(self.classes == c).flatten()

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        """Return the images and labels of `slots`, (B,) int64, with graph to all stored tensors."""
        images, owners = self.parametrization.decode(slots.to(self.device), rng)
        return Batch(images, self.labels.rows(owners))

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return the images and labels of at most `n` random slots of class `c`."""
        return self.at(sample_indices(self.slots_of_class(c), n, rng), rng)

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Return the images and labels of at most `n` random slots of any class."""
        return self.at(sample_indices(torch.arange(len(self)), n, rng), rng)

    def detached(self, rng: torch.Generator) -> Batch:
        """Return the images and labels of all slots without a graph, for training a student."""
        with torch.no_grad():
            return Batch(*(t.detach() for t in self.at(torch.arange(len(self)), rng)))

    @torch.no_grad()
    def project_(self) -> None:
        """Project the stored tensors to their admissible range."""
        self.parametrization.project_()
        self.labels.project_()
        for learned in (self.rate, self.scale):
            if learned is not None:
                learned.project_()

    def is_finite(self) -> bool:
        """Return whether all stored numbers are finite."""
        floats = (t for t in self.state_dict().values() if t.is_floating_point() and t.numel())
        # One pass without a tensor of comparisons; a NaN is both the smallest and the largest number.
        return all(bool(torch.isfinite(end)) for t in floats for end in t.aminmax())


@final
class LeafView:
    """A view of a synthetic set in which decoded images are leaves of the graph.

    An objective differentiates with respect to these leaves only. `pull_back` then decodes again, `chunk` slots at a
    time, and back-propagates the gradient of each chunk through the decoder. The memory of a decoder depends neither on
    the objective nor on the size of the set. A parametrization that is `joint` is decoded once with its graph, and
    `finish` back-propagates the sum of all gradients through it.

    Args:
        syn: Synthetic set to decode.
        chunk: Number of slots that are decoded at once.

    Examples:
        >>> import ddsdk
        >>> rng = ddsdk.generator(0)
        >>> syn = ddsdk.recipes.pixel_set(ddsdk.load("digits"), 1, "noise", rng)
        >>> view = ddsdk.synthetic.LeafView(syn)
        >>> view.whole(rng).x.sum().backward()
        >>> view.pull_back()  # the gradient of each pixel is 1
        >>> syn.parametrization.images.grad.sum().item()
        640.0
    """

    def __init__(self, syn: SyntheticSet, chunk: int = 256) -> None:
        self._syn, self._chunk, self._calls = syn, chunk, 0
        self._images_learned = any(p.requires_grad for p in syn.parametrization.parameters())
        self._leaf_draws: list[tuple[Tensor, Tensor, torch.Generator]] = []
        self._joint: tuple[Tensor, Tensor] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return self._syn.num_classes

    @property
    def device(self) -> torch.device:
        """Device of the synthetic set."""
        return self._syn.device

    @property
    def inputs(self) -> list[Tensor]:
        """Tensors to differentiate with respect to: image leaves drawn so far, learned labels, rates and factor.

        Images of a parametrization without trainable parameters are constants.
        """
        modules = (self._syn.labels, self._syn.rate, self._syn.scale)
        learned = [p for module in modules if module is not None for p in module.parameters()]
        leaves = [leaf for leaf, *_ in self._leaf_draws] + ([] if self._joint is None else [self._joint[0]])
        return [leaf for leaf in leaves if leaf.requires_grad] + learned

    @property
    def rate(self) -> Tensor:
        """Learned learning rate of students, with graph to its parameters; see `LearnedRate`.

        Raises:
            ValueError: If the set has no learned learning rate.
        """
        if self._syn.rate is None:
            raise ValueError("rate must be learned with the set for this objective, got a set without one")
        rate: Tensor = self._syn.rate()
        return rate

    @property
    def scale(self) -> Tensor:
        """Learned factor on scores before a softmax, a scalar with graph to its parameter.

        Raises:
            ValueError: If the set has no learned factor.
        """
        if self._syn.scale is None:
            raise ValueError("scale must be learned with the set for this objective, got a set without one")
        scale: Tensor = self._syn.scale()
        return scale

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random slots of class `c`, with image leaves."""
        return self._leaves(sample_indices(self._syn.slots_of_class(c), n, rng), rng)

    def mixed(self, n: int, rng: torch.Generator) -> Batch:
        """Return at most `n` random slots of any class, with image leaves."""
        return self._leaves(sample_indices(torch.arange(len(self._syn)), n, rng), rng)

    def slots_of_class(self, c: int) -> Tensor:
        """Return the slots of class `c`, (ipc,) int64."""
        return self._syn.slots_of_class(c)

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        """Return the images and labels of `slots`, (B,) int64, with image leaves."""
        return self._leaves(slots, rng)

    def whole(self, rng: torch.Generator) -> Batch:
        """Return the images and labels of all slots, with image leaves."""
        return self._leaves(torch.arange(len(self._syn)), rng)

    def pull_back(self) -> None:
        """Back-propagate the gradients of the leaves to the stored tensors.

        The leaves stay, without gradients, because a later term of the objective may use the same draw.
        """
        for leaf, slots, rng in self._leaf_draws:
            if leaf.grad is not None:
                # A newly derived generator gives a stochastic decoder the same random numbers again.
                self._syn.parametrization.pull_back_(slots, leaf.grad, derive(rng))
                leaf.grad = None

    def finish(self) -> None:
        """Back-propagate the gradients of all terms through a joint parametrization to the stored tensors."""
        if self._joint is None or self._joint[0].grad is None:
            return
        leaf, images = self._joint
        torch.autograd.backward(images, leaf.grad)
        self._joint = None

    def _leaves(self, slots: Tensor, rng: torch.Generator) -> Batch:
        if self._syn.parametrization.joint:
            slots = slots.to(self.device)
            return Batch(self._joint_leaf(rng)[slots], self._syn.labels.rows(slots))
        self._calls += 1
        images, owners = [], []
        for i, part in enumerate(torch.split(slots.to(self.device), self._chunk)):
            key = derive(rng, "decode", self._calls, i)
            with torch.no_grad():
                decoded, owner = self._syn.parametrization.decode(part, derive(key))
            leaf = decoded.detach().requires_grad_(self._images_learned)
            self._leaf_draws.append((leaf, part, key))
            images.append(leaf)
            owners.append(owner)
        return Batch(torch.cat(images), self._syn.labels.rows(torch.cat(owners)))

    def _joint_leaf(self, rng: torch.Generator) -> Tensor:
        """Return the leaf with all images of a joint parametrization."""
        if self._joint is None:
            slots = torch.arange(len(self._syn), device=self.device)
            images, _ = self._syn.parametrization.decode(slots, derive(rng, "decode"))
            self._joint = images.detach().requires_grad_(self._images_learned), images
        return self._joint[0]
