"""Per-sample gradients through Opacus, released as one noised sum: private gradient matching, and DP-SGD."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.data import NO_AUGMENTATION, NO_DRAW, Source
from ddsdk.foundation import derive, require_count, require_momentum, require_rate, root
from ddsdk.objectives import filter_cosine, weight_gradients
from ddsdk.students import MakeStudent, Students
from ddsdk.synthetic import SyntheticView
from ddsdk_integrations.privacy.data import PrivateData, require_private
from ddsdk_integrations.privacy.guard import refuse_bad_student, refuse_mixing
from ddsdk_integrations.privacy.mechanism import Mechanism


def matched_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights with two axes and more, as gradient matching takes them.

    The others are left out before rows are shortened: biases and norms would use up a share of the clip norm, and
    receive noise, for nothing.
    """
    return [name for name, p in network.named_parameters() if p.ndim > 1]


def sample_gradients(network: nn.Module, batch: dd.Batch, names: Sequence[str]) -> Tensor:
    """Return the gradient of the cross-entropy of each record by some parameters, (B, P).

    A copy of the network is wrapped by Opacus for one forward and one backward pass: a second forward before the
    backward would add the records of both index by index, without a word, and a second backward through it fails.

    Args:
        network: Network that treats records one by one. It is not changed.
        batch: Records with label rows.
        names: Names of parameters, in the order of the columns.
    """
    copied = copy.deepcopy(network).requires_grad_(True)
    for module in copied.modules():
        # Hooks of backward passes do not allow changes in place.
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    wrapped = GradSampleModule(copied, loss_reduction="sum")
    loss = cross_entropy(wrapped(batch.x), batch.y, reduction="sum")
    with warnings.catch_warnings():
        # The records themselves need no gradient, of which torch warns at every call.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]
    found = dict(copied.named_parameters())
    return torch.cat([found[name].grad_sample.flatten(1) for name in names], 1).detach()  # type: ignore[attr-defined]


def noised_gradients(
    mechanism: Mechanism,
    network: nn.Module,
    names: Sequence[str],
    expected: Sequence[float],
    *,
    draw: Any = NO_DRAW,  # noqa: ANN401 - a draw of `ddsdk.Augmentation`
    classwise: bool = False,
) -> tuple[tuple[Tensor, ...], ...]:
    """Release sums of the records' gradients over the expected size of a sample, in the shapes of the parameters.

    Args:
        mechanism: Mechanism, of which one release is made.
        network: Network that treats records one by one.
        names: Names of parameters.
        expected: Publicly expected number of records of each class in a sample.
        draw: Augmentation of the records.
        classwise: Whether there is an entry for each class, or one for all together.
    """
    refuse_mixing(network)
    parameters = dict(network.named_parameters())
    shapes = [parameters[name].shape for name in names]
    lengths = [shape.numel() for shape in shapes]

    def rows(batch: dd.Batch) -> Tensor:
        return sample_gradients(network, dd.Batch(draw(batch.x), batch.y), names)

    total = mechanism.noised_sum(rows, sum(lengths), by="class" if classwise else "all")
    sizes = total.new_tensor(expected if classwise else [sum(expected)])
    means = total.view(len(sizes), -1) / sizes[:, None]
    return tuple(
        tuple(piece.view(shape) for piece, shape in zip(torch.split(row, lengths), shapes, strict=True))
        for row in means
    )


@final
@dataclass(frozen=True, eq=False)
class GradientLesson:
    """A network and the noised gradients that private records have at it.

    Attributes:
        network: Network at which they were taken.
        draw: Augmentation of the records, which synthetic images get too.
        gradients: Noised sums over the expected size of a sample, for each matched weight in its shape. One entry for
            all classes together, or one for each class.
    """

    network: nn.Module
    draw: Any
    gradients: tuple[tuple[Tensor, ...], ...]


@final
class NoisedGradients:
    """Students of any supply, each with noised gradients of private records: one release for every step.

    Args:
        mechanism: Mechanism with a release for each step.
        students: Supply of the networks, such as `ddsdk.students.FreshStudents`; it sees no record.
        expected: Publicly expected number of records of each class in a sample.
        augmentation: Augmentation with one draw for each step, of records and synthetic images alike (DSA).
        classwise: Whether there is one gradient for each class (DC), in one release: a record has one class. Each has
            the noise of the whole, and a part of the records.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        students: Students[nn.Module],
        *,
        expected: Sequence[float],
        augmentation: dd.Augmentation = NO_AUGMENTATION,
        classwise: bool = False,
    ) -> None:
        self._mechanism, self._students, self._augmentation = mechanism, students, augmentation
        self._how: dict[str, Any] = {"expected": expected, "classwise": classwise}

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> GradientLesson:
        """Return the next network, with a release at it."""
        network = self._students.next(real, syn, derive(rng, "student"))
        draw = self._augmentation.siamese(derive(rng, "augmentation"))
        found = noised_gradients(self._mechanism, network, matched_weights(network), draw=draw, **self._how)
        return GradientLesson(network, draw, found)

    def state_dict(self) -> dict[str, Any]:
        """Return what the supply needs; releases that were made are not made again."""
        return self._students.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._students.load_state_dict(state)


@final
@dataclass(frozen=True, kw_only=True)
class MatchNoisedGradients:
    """The distance between noised gradients and those of the synthetic set: of all of it, or class by class.

    Attributes:
        distance: Distance between tuples of tensors, such as `ddsdk.objectives.filter_cosine`.

    References:
        Chen, Kerkouche and Fritz, "Private Set Generation with Discriminative Information", NeurIPS 2022.
    """

    distance: Any = filter_cosine

    def __call__(
        self, student: GradientLesson, real: Source, syn: SyntheticView, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield one distance for all classes, or one for each."""
        together = len(student.gradients) != real.num_classes
        for c, gradients in enumerate(student.gradients):
            key = derive(rng, "synthetic", c)
            x, y = syn.whole(key) if together else syn.of_class(c, sys.maxsize, key)
            if len(x) > 0:
                batch = dd.Batch(student.draw(x), y)
                yield self.distance(weight_gradients(student.network, batch, graph=True), gradients)


def dp_sgd(
    private: PrivateData,
    *,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    steps: int = 300,
    sample_rate: float = 0.02,
    clip: float = 0.1,
    lr: float = 4.0,
    momentum: float = 0.9,
    noise_multiplier: float | None = None,
) -> nn.Module:
    """Train one network on noised gradients of private records, and return it.

    Args:
        private: Private records; one release is spent for each step.
        make_student: Factory of the network, which must treat records one by one; None takes the field's ConvNet.
        seed: Root of the initial weights: an integer, or a generator, which is not advanced.
        steps: Steps of SGD.
        sample_rate: Probability with which a record is in a sample.
        clip: Norm of the gradient of a record, over all parameters.
        lr: Learning rate.
        momentum: Momentum of SGD.
        noise_multiplier: Standard deviation of the noise, over `clip`. None spends all that is left.

    Raises:
        BudgetSpentError: If the steps do not fit what is left.
        PrivacyError: If the network mixes records.

    References:
        Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.
    """
    require_count("steps", steps)
    require_rate("lr", lr)
    require_momentum("momentum", momentum)
    rng = root(seed)
    require_private(private)
    if make_student is None:
        make_student = dd.network_factory("convnet", private.image_shape, private.num_classes)
    refuse_bad_student(make_student)
    terms = {"sample_rate": sample_rate, "clip": clip, "noise_multiplier": noise_multiplier}
    mechanism = private.mechanism("gradients of a classifier", releases=steps, **terms)
    network = make_student(derive(rng, "start")).to(private.device)
    names = [name for name, _ in network.named_parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    expected = [sample_rate * size for size in private.class_sizes]
    for _ in range(steps):
        (found,) = noised_gradients(mechanism, network, names, expected)
        for parameter, gradient in zip(network.parameters(), found, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return network.eval()
