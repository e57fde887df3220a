"""Train and test: a student that trains on the synthetic set must do well on real data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import Checked, PositiveFloat, PositiveInt, derive, require
from ddsdk.objectives.base import joined, of_each_class, require_network
from ddsdk.synthetic import SyntheticView
from ddsdk.training import (
    Adversary,
    FlatNetwork,
    InnerOptimizer,
    InnerSGD,
    Loss,
    StepLoss,
    Unroll,
    constant_memory,
    micro_batch,
    pieces,
    soft_cross_entropy,
    weight_vector,
)

Order = Literal["shuffled", "stored", "stratified"]
"""Rule by which a set is cut into the batches of a student's steps."""

_SGD = InnerSGD()


@final
@dataclass(frozen=True, kw_only=True)
class SetTraining(Checked):
    """The training of a student on a synthetic set: the images and the loss of each of its steps.

    Attributes:
        batch_size: Images of one step, of each class where the order is stratified; None takes all.
        order: ``"shuffled"``: a permutation of the set is cut into batches, the last one being what is left; then comes
            the next permutation. ``"stored"``: every pass goes through the set as it lies. ``"stratified"``: each step
            draws as many images of each class, without replacement.
        augmentation: Augmentation, drawn for each step, with numbers of its own for each image.
        loss: Loss, summed over a batch; a step descends its mean.
    """

    batch_size: PositiveInt | None = None
    order: Order = "shuffled"
    augmentation: Augmentation = NO_AUGMENTATION
    loss: Loss = soft_cross_entropy

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.order in get_args(Order), "order", f"be one of {list(get_args(Order))}", self.order)

    def on(
        self, network: Callable[[Tensor, Tensor], Tensor], syn: SyntheticView, rng: torch.Generator
    ) -> tuple[StepLoss, Batch]:
        """Return the loss of step k, and the images and labels that it depends on.

        All random numbers come from `rng` and k, so that a step can be taken again.

        Args:
            network: Function from weights, (P,), and images, (B, C, H, W), to outputs, (B, K).
            syn: Synthetic set.
            rng: Root of decoders, order and augmentation.
        """
        batch, sizes = self._taken(syn, derive(rng, "decode"))

        def loss(k: int, weights: Tensor, inputs: Sequence[Tensor]) -> Tensor:
            images, labels = inputs
            part = self.part(k, sizes, rng).to(images.device)
            draw = self.augmentation.per_image(len(part), derive(rng, "augmentation", k))
            return self.loss(network(weights, draw(images[part])), labels[part]) / len(part)

        return loss, batch

    def part(self, k: int, sizes: Sequence[int], rng: torch.Generator) -> Tensor:
        """Return the positions of the images of step k >= 0, (B,) int64.

        Args:
            k: Number of the step.
            sizes: Images of each class, which lie one after another, where the order is stratified; of all otherwise.
            rng: Root of the order.
        """
        if self.order == "stratified":
            parts, first = [], 0
            for c, size in enumerate(sizes):
                drawn = torch.randperm(size, generator=derive(rng, "order", k, c))[: self.batch_size]
                parts.append(first + drawn)
                first += size
            return torch.cat(parts)
        images = sum(sizes)
        size = images if self.batch_size is None else min(self.batch_size, images)
        epoch, i = divmod(k, -(-images // size))
        stored = self.order == "stored"
        order = torch.arange(images) if stored else torch.randperm(images, generator=derive(rng, "order", epoch))
        return order[i * size : (i + 1) * size]

    def _taken(self, syn: SyntheticView, rng: torch.Generator) -> tuple[Batch, Sequence[int]]:
        """Return the whole set with graph, and the sizes that `part` takes."""
        if self.order == "stratified":
            drawn = [syn.of_class(c, sys.maxsize, derive(rng, c)) for c in range(syn.num_classes)]
            return joined(drawn), [len(x) for x, _ in drawn]
        batch = syn.whole(rng)
        return batch, [len(batch.x)]


@final
@dataclass(frozen=True, kw_only=True)
class TrainAndTest(Checked):
    """The loss on real images of a student after it has trained on the synthetic set: back-propagation through time.

    L(w_N; T) with w_{k+1} = step(w_k, grad l(w_k; S_k), rate_k) from the weights w_0 of the student. It is
    differentiable with respect to images, labels and rates of the set, through the last `window` of the N steps; those
    before it are the burn-in, which has no gradient.

    Attributes:
        steps: Steps of the student, N.
        window: Last steps, which have a gradient; None for all.
        drawn: Whether the number of steps is drawn anew each time, uniform in window..steps: the window then lies
            anywhere in the training. A learned rate for each step keeps those of the first ones.
        training: Training of the student on the set.
        optimizer: Optimizer of the student.
        lr: Learning rate of the student; None takes that of the set.
        unroll: Gradient through the training. `full_graph` is faster for a short window.
        real_batch: Real images of one test, of each class if `per_class`.
        per_class: Whether every class has as many of them.
        augmentation: Augmentation of these real images, with numbers of its own for each.
        loss: Loss of the test, summed over a batch; its mean counts.
        every_step: Whether the student is tested after each step of the window, each time on other real images; the
            mean over the steps counts.
        adversary: Attack on the real images, before their augmentation, under the trained student: robust data set
            learning.

    Cost: with `constant_memory`, two gradients of the student's loss and one second derivative for each step of the
    window; memory for the graph of one step, one micro-batch of real images and N weight vectors.

    References:
        Wang et al., "Dataset Distillation", 2018, arXiv:1811.10959.
        Such et al., "Generative Teaching Networks", ICML 2020, arXiv:1912.07768 (a test after every step).
        Feng et al., "Embarrassingly Simple Dataset Distillation", ICLR 2024, arXiv:2311.07025 (the random window).
    """

    steps: PositiveInt
    window: PositiveInt | None = None
    drawn: bool = False
    training: SetTraining = SetTraining()
    optimizer: InnerOptimizer = _SGD
    lr: PositiveFloat | None = None
    unroll: Unroll = constant_memory
    real_batch: PositiveInt = 256
    per_class: bool = False
    augmentation: Augmentation = NO_AUGMENTATION
    loss: Loss = soft_cross_entropy
    every_step: bool = False
    adversary: Adversary | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.window is None or self.window <= self.steps
        require(fits, "window", f"be at most {self.steps} steps", self.window)

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the one loss."""
        require_network(student)
        network, start = FlatNetwork(student), weight_vector(student)
        window, steps = self.window or self.steps, self.steps
        if self.drawn:
            steps = int(torch.randint(window, self.steps + 1, (), generator=derive(rng, "end")))
        loss, inputs = self.training.on(network, syn, rng)
        rate = self._rate(syn, start)
        path = self.unroll(
            loss,
            start,
            inputs,
            rate[:steps] if rate.ndim else rate,
            steps=window,
            optimizer=self.optimizer,
            burn_in=steps - window,
        )
        tested = path if self.every_step else path[-1:]
        size = micro_batch(student, start.device, sys.maxsize)
        losses = [self._test(network, w, real, size, derive(rng, "test", i)) for i, w in enumerate(tested)]
        yield torch.stack(losses).mean()

    def _rate(self, syn: SyntheticView, start: Tensor) -> Tensor:
        if self.lr is not None:
            return start.new_tensor(self.lr)
        found = syn.rate
        fits = not found.ndim or len(found) == self.steps
        require(fits, "rate", f"hold one number for each of {self.steps} steps", tuple(found.shape))
        return found

    def _test(self, network: FlatNetwork, weights: Tensor, real: Source, size: int, rng: torch.Generator) -> Tensor:
        """Return the mean loss on real images, with graph to `weights`; one micro-batch has a graph at a time."""
        key = derive(rng, "real")
        x, y = of_each_class(real, self.real_batch, key) if self.per_class else real.mixed(self.real_batch, key)
        draw = self.augmentation.per_image(len(x), derive(rng, "augmentation"))
        fixed = weights.detach().requires_grad_()
        value, gradient = fixed.new_zeros(()), torch.zeros_like(fixed)
        for part in pieces(len(x), size):
            images = self._attacked(network, fixed, x[part], y[part], derive(rng, "adversary", part.start))
            seen = draw.rows(part.start, part.stop)(images)
            with torch.enable_grad():
                share = self.loss(network(fixed, seen), y[part]) / len(x)
            gradient += torch.autograd.grad(share, fixed)[0]
            value += share.detach()
        # As large as the loss and as steep: the difference is exactly zero.
        return value + ((weights - fixed.detach()) * gradient).sum()

    def _attacked(self, network: FlatNetwork, weights: Tensor, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        if self.adversary is None:
            return x
        weights = weights.detach()
        return self.adversary(lambda z: self.loss(network(weights, z), y), x, rng)
