"""The loss on real data of a student that trains on the synthetic set: back-propagation through time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import CheckedDataclass, PositiveFloat, PositiveInt, derive, require
from ddsdk.objectives.base import joined, of_each_class, require_network
from ddsdk.synthetic import SyntheticView
from ddsdk.training import (
    FlatNetwork,
    InnerOptimizer,
    InnerSGD,
    InputAttack,
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
"""Order in which a student trains on the images of a set."""

_SGD = InnerSGD()


@final
@dataclass(frozen=True, kw_only=True)
class SetTraining(CheckedDataclass):
    """The training of a student on a synthetic set: the images and the loss of each step.

    Attributes:
        batch_size: Images in one step, or of each class in one step if the order is stratified; None for all.
        order: Order of the images. ``"shuffled"``: each epoch splits a new permutation of the set into batches, of
            which the last may be smaller. ``"stored"``: each epoch takes the images in the order of the set.
            ``"stratified"``: each step draws equally many images of each class, without replacement.
        augmentation: Augmentation with different random numbers for each step and image.
        loss: Loss, summed over a batch; a step minimises its mean.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.objectives import SetTraining
        >>> training = SetTraining(batch_size=4, order="stored")
        >>> [training.part(k, [10], ddsdk.generator(0)).tolist() for k in range(3)]
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
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
        """Return the loss as a function of step k, and the images and labels on which it depends.

        All random numbers are derived from `rng` and k, so that the backward pass can compute a step again.

        Args:
            network: Function from weights, (P,), and images, (B, C, H, W), to outputs, (B, K).
            syn: Synthetic set of the present step.
            rng: Root of the random numbers of decoders, order and augmentation.
        """
        batch, sizes = self._decoded(syn, derive(rng, "decode"))

        def loss(k: int, weights: Tensor, inputs: Sequence[Tensor]) -> Tensor:
            images, labels = inputs
            positions = self.part(k, sizes, rng).to(images.device)
            draw = self.augmentation.per_image(len(positions), derive(rng, "augmentation", k))
            return self.loss(network(weights, draw(images[positions])), labels[positions]) / len(positions)

        return loss, batch

    def part(self, k: int, sizes: Sequence[int], rng: torch.Generator) -> Tensor:
        """Return the positions of the images of step k, (B,) int64.

        Args:
            k: Number of the step, at least 0.
            sizes: Numbers of images: of each class, class by class, if the order is stratified; else one number, of
                all images.
            rng: Root of the order of the images.
        """
        if self.order == "stratified":
            parts, first = [], 0
            for c, size in enumerate(sizes):
                positions = torch.randperm(size, generator=derive(rng, "order", k, c))[: self.batch_size]
                parts.append(first + positions)
                first += size
            return torch.cat(parts)
        images = sum(sizes)
        size = images if self.batch_size is None else min(self.batch_size, images)
        epoch, i = divmod(k, -(-images // size))
        stored = self.order == "stored"
        order = torch.arange(images) if stored else torch.randperm(images, generator=derive(rng, "order", epoch))
        return order[i * size : (i + 1) * size]

    def _decoded(self, syn: SyntheticView, rng: torch.Generator) -> tuple[Batch, Sequence[int]]:
        """Return the whole set with graph, and the sizes for `part`."""
        if self.order == "stratified":
            batches = [syn.of_class(c, sys.maxsize, derive(rng, c)) for c in range(syn.num_classes)]
            return joined(batches), [len(x) for x, _ in batches]
        batch = syn.whole(rng)
        return batch, [len(batch.x)]


@final
@dataclass(frozen=True, kw_only=True)
class TrainAndTest(CheckedDataclass):
    """The loss on real images of a student after its training on the synthetic set, through the unrolled training.

    L(w_N; T) with w_{k+1} = step(w_k, grad l(w_k; S_k), rate_k) from the weights w_0 of the student. It has gradients
    to images, labels and learning rates of the set, through the last `window` of the N steps; the steps before are the
    burn-in, without gradient.

    Attributes:
        steps: Number N of training steps of the student.
        window: Number of last steps with a gradient; None for all steps.
        drawn: True for a random number of training steps, uniform in window..steps, so that the window lies anywhere in
            the training. Learning rates for each step are then those of the first steps.
        training: Training of the student on the set: batches, order, augmentation and loss.
        optimizer: Differentiable optimizer of the student.
        lr: Learning rate of the student; None for that of the set.
        unroll: Method of the unrolled gradient. `full_graph` is faster for a short window.
        real_batch: Real images in one test, or of each class in one test if `per_class`.
        per_class: True for equally many real images of each class.
        augmentation: Augmentation of the real images, with different random numbers for each image.
        loss: Loss of the test, summed over a batch; its mean is the objective.
        every_step: True for a test after each step of the window, on different real images; the objective is the mean
            over the tests.
        adversary: Attack on the real images before their augmentation, under the trained student, for robust dataset
            distillation; None for clean images.

    Cost: with `constant_memory`, one gradient of the student's loss and one second derivative for each step of the
    window, and one more gradient for each step whose graph was not kept; memory for 1 GiB of kept graphs, the graph of
    one step, one micro-batch of real images and N weight vectors.

    References:
        Wang et al., "Dataset Distillation", 2018, arXiv:1811.10959.
        Such et al., "Generative Teaching Networks", ICML 2020, arXiv:1912.07768 (a test after every step).
        Feng et al., "Embarrassingly Simple Dataset Distillation", ICLR 2024, arXiv:2311.07025 (the random window).

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import TrainAndTest
        >>> objective = TrainAndTest(steps=3, window=2, lr=0.01, real_batch=50)
        >>> swap = lambda plan: dataclasses.replace(plan, objective=objective)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
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
    adversary: InputAttack | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.window is None or self.window <= self.steps
        require(fits, "window", f"be at most {self.steps} steps", self.window)

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the loss as one term."""
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
        rate = syn.rate
        fits = not rate.ndim or len(rate) == self.steps
        require(fits, "rate", f"hold one number for each of {self.steps} steps", tuple(rate.shape))
        return rate

    def _test(self, network: FlatNetwork, weights: Tensor, real: Source, size: int, rng: torch.Generator) -> Tensor:
        """Return the mean loss on real images with graph to `weights`, computed one micro-batch at a time."""
        key = derive(rng, "real")
        x, y = of_each_class(real, self.real_batch, key) if self.per_class else real.mixed(self.real_batch, key)
        draw = self.augmentation.per_image(len(x), derive(rng, "augmentation"))
        leaf = weights.detach().requires_grad_()
        value, gradient = leaf.new_zeros(()), torch.zeros_like(leaf)
        for part in pieces(len(x), size):
            images = self._attacked(network, leaf, x[part], y[part], derive(rng, "adversary", part.start))
            augmented = draw.rows(part.start, part.stop)(images)
            with torch.enable_grad():
                part_loss = self.loss(network(leaf, augmented), y[part]) / len(x)
            gradient += torch.autograd.grad(part_loss, leaf)[0]
            value += part_loss.detach()
        # The difference of the weights is exactly zero: the term leaves the value and has the gradient of the loss.
        return value + ((weights - leaf.detach()) * gradient).sum()

    def _attacked(self, network: FlatNetwork, weights: Tensor, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        if self.adversary is None:
            return x
        weights = weights.detach()
        return self.adversary(lambda z: self.loss(network(weights, z), y), x, rng)
