"""Noised sums of per-sample gradients by Opacus, for private gradient matching and DP-SGD."""

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
from ddsdk.foundation import as_generator, derive, require_count, require_momentum, require_positive
from ddsdk.objectives import filter_cosine, weight_gradients
from ddsdk.students import MakeStudent, Students
from ddsdk.synthetic import SyntheticView
from ddsdk_integrations.privacy.data import PrivateData, require_private
from ddsdk_integrations.privacy.mechanism import Mechanism
from ddsdk_integrations.privacy.refusals import refuse_bad_student, refuse_mixing


def matched_weights(network: nn.Module) -> list[str]:
    """Return the names of the parameters with two or more axes, whose gradients are matched.

    Biases and normalisation parameters are left out before clipping: their gradients are not matched, but would use up
    part of the clip norm and receive noise.
    """
    return [name for name, p in network.named_parameters() if p.ndim > 1]


def sample_gradients(network: nn.Module, batch: dd.Batch, names: Sequence[str]) -> Tensor:
    """Return the gradient of the cross-entropy of each record with respect to some parameters, (B, P).

    Args:
        network: Network without batch statistics; it is not changed.
        batch: Records (B, C, H, W) with label rows (B, K).
        names: Names of parameters, in the order of the columns.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.privacy import sample_gradients
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("mlp", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> names = [name for name, _ in network.named_parameters()]
        >>> sample_gradients(network, real.batch(torch.arange(5)), names).shape
        torch.Size([5, 330])
    """
    # Opacus wraps a copy for one forward and one backward pass: a second forward pass would silently add the gradients
    # of two batches, and a second backward pass fails.
    copied = copy.deepcopy(network).requires_grad_(True)
    for module in copied.modules():
        # Opacus needs full backward hooks, which fail for in-place activations.
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    wrapped = GradSampleModule(copied, loss_reduction="sum")
    loss = cross_entropy(wrapped(batch.x), batch.y, reduction="sum")
    with warnings.catch_warnings():
        # PyTorch warns at every call that the input of the hooked module, the records, needs no gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss.backward()  # type: ignore[no-untyped-call]
    parameters = dict(copied.named_parameters())
    return torch.cat([parameters[name].grad_sample.flatten(1) for name in names], 1).detach()  # type: ignore[attr-defined]


def noised_gradients(
    mechanism: Mechanism,
    network: nn.Module,
    names: Sequence[str],
    expected: Sequence[float],
    *,
    draw: Any = NO_DRAW,  # noqa: ANN401 - a draw of `ddsdk.Augmentation`
    classwise: bool = False,
) -> tuple[tuple[Tensor, ...], ...]:
    """Return noised sums of the gradients of records, divided by the expected sample size: one release.

    The result has one entry for all classes, or one for each class; an entry holds one tensor for each parameter, in
    its shape.

    Args:
        mechanism: Mechanism with at least one release left.
        network: Network without batch statistics at which gradients are taken.
        names: Names of the parameters with respect to which gradients are taken.
        expected: Expected number of records of each class in a sample, from public class sizes, (K,).
        draw: One draw of an augmentation, applied to the records.
        classwise: Whether there is one entry for each class, or one for all classes together.
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
class NoisedGradientStudent:
    """Student of private gradient matching: a network with the noised gradients of private records at its weights.

    Attributes:
        network: Network at whose weights the gradients were taken.
        draw: Draw of the augmentation of the records, which is applied to synthetic images too.
        gradients: Noised sums divided by the expected sample size, one tensor for each matched weight, in its shape.
            One entry for all classes together, or one for each class.
    """

    network: nn.Module
    draw: Any
    gradients: tuple[tuple[Tensor, ...], ...]


@final
class NoisedGradients:
    """Supply of students with noised gradients of private records: one release for each step.

    Args:
        mechanism: Mechanism with one release for each step.
        students: Supply of the networks, such as `ddsdk.students.FreshStudents`; it must not draw records.
        expected: Expected number of records of each class in a sample, from public class sizes, (K,).
        augmentation: Augmentation with one draw for each step, the same for records and synthetic images (DSA).
        classwise: Whether there is one gradient for each class (DC), in one release, because a record has one class.
            Each class then has the same noise as a sum over all records, but fewer records.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, NoisedGradients, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> mechanism = private.mechanism("gradients", releases=2, sample_rate=0.01, noise_multiplier=5)
        >>> networks = ddsdk.students.FreshStudents(student)
        >>> supply = NoisedGradients(mechanism, networks, expected=[1.35] * 10)
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
        self._gradient_options: dict[str, Any] = {"expected": expected, "classwise": classwise}

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> NoisedGradientStudent:
        """Return the next network with the noised gradients at its weights; this is one release."""
        network = self._students.next(real, syn, derive(rng, "student"))
        draw = self._augmentation.siamese(derive(rng, "augmentation"))
        names = matched_weights(network)
        gradients = noised_gradients(self._mechanism, network, names, draw=draw, **self._gradient_options)
        return NoisedGradientStudent(network, draw, gradients)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the supply of networks; releases cannot be repeated and are not stored."""
        return self._students.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`."""
        self._students.load_state_dict(state)


@final
@dataclass(frozen=True, kw_only=True)
class MatchNoisedGradients:
    """Objective: distance between noised real gradients and gradients of the synthetic set, in total or by class.

    Attributes:
        distance: Distance between two tuples of tensors, such as `ddsdk.objectives.filter_cosine`.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk_integrations.privacy import PSG, Budget, Ledger, MatchNoisedGradients, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> objective = MatchNoisedGradients(distance=ddsdk.objectives.cosine)
        >>> by_layer = lambda plan: dataclasses.replace(plan, objective=objective)
        >>> recipe = PSG(ipc=1, students=1, steps_per_student=2, noise_multiplier=5)
        >>> distilled = ddsdk.distill(recipe, private, transform=by_layer)

    References:
        Chen, Kerkouche and Fritz, "Private Set Generation with Discriminative Information", NeurIPS 2022.
    """

    distance: Any = filter_cosine

    def __call__(
        self, student: NoisedGradientStudent, real: Source, syn: SyntheticView, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield one distance for all classes together, or one for each class."""
        all_classes = len(student.gradients) != real.num_classes
        for c, gradients in enumerate(student.gradients):
            key = derive(rng, "synthetic", c)
            x, y = syn.whole(key) if all_classes else syn.of_class(c, sys.maxsize, key)
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
    """Return a network that is trained by DP-SGD on private records: one release for each step.

    `BudgetSpentError` is raised if the steps would exceed the budget, and `PrivacyError` if the network has batch
    statistics.

    Args:
        private: Private records with their ledger.
        make_student: Factory of the network, which must have no batch statistics; None takes the field's ConvNet.
        seed: Root of the initial weights: an integer, or a generator, which is not advanced.
        steps: Number of SGD steps, one release each.
        sample_rate: Probability with which a record is in a sample, in 0 < value <= 1.
        clip: Norm to which the gradient of a record, with respect to all parameters, is clipped.
        lr: Learning rate of SGD, positive.
        momentum: Momentum of SGD, in 0 <= value < 1.
        noise_multiplier: Standard deviation of the noise, divided by `clip`. None spends the remaining budget.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData, dp_sgd
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> network = dp_sgd(private, make_student=student, steps=2, noise_multiplier=5)
        >>> private.ledger.releases[0].count
        2

    References:
        Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.
    """
    require_count("steps", steps)
    require_positive("lr", lr)
    require_momentum("momentum", momentum)
    rng = as_generator(seed)
    require_private(private)
    if make_student is None:
        make_student = dd.network_factory("convnet", private.image_shape, private.num_classes)
    refuse_bad_student(make_student)
    network = make_student(derive(rng, "start")).to(private.device)
    names, width = [name for name, _ in network.named_parameters()], sum(p.numel() for p in network.parameters())
    # A network that does not fit the images is found before the payment.
    private.check_rows(lambda batch: sample_gradients(network, batch, names), width)
    terms = {"sample_rate": sample_rate, "clip": clip, "noise_multiplier": noise_multiplier}
    mechanism = private.mechanism("gradients of a classifier", releases=steps, **terms)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    expected = [sample_rate * size for size in private.class_sizes]
    for _ in range(steps):
        (gradients,) = noised_gradients(mechanism, network, names, expected)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    return network.eval()
