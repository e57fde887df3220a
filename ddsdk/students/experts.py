"""Segments of expert trajectories, and soft labels from the experts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch, RealData, Source
from ddsdk.foundation import derive, require, require_count
from ddsdk.students.runs import TrainedRuns
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import FlatNetwork, probabilities

_CHUNK = 256
_FALLBACK = 0.9
"""Probability of the true class in the soft label of an image that no expert classifies correctly."""


class ExpertSegment(NamedTuple):
    """A segment of an expert trajectory.

    Attributes:
        network: Network as a function of weights and images.
        start: Weights at the start of the segment, (P,).
        target: Weights at the end of the segment, (P,).

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.training import FlatNetwork, weight_vector
        >>> network = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> weights = weight_vector(network)
        >>> segment = ddsdk.students.ExpertSegment(FlatNetwork(network), weights, weights + 0.01)
        >>> segment.network(segment.start, torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """

    network: FlatNetwork
    start: Tensor
    target: Tensor


class StartEpochSchedule(NamedTuple):
    """A bound on the start of expert segments that grows linearly, from easy to hard parts of the trajectories.

    Attributes:
        start: Bound at the first step, as a snapshot number.
        steps: Number of steps until the bound has its final value.

    Examples:
        >>> import pathlib, ddsdk
        >>> from ddsdk.students import ExpertStudents, StartEpochSchedule, TrainedRuns, Training
        >>> real, make_student = ddsdk.load("digits"), ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> training, folder = Training(epochs=3, images=8), pathlib.Path("experts")
        >>> experts = TrainedRuns(real, make_student, training, count=1, seed=0, folder=folder)
        >>> ExpertStudents(experts, span=1, last=3, growth=StartEpochSchedule(start=1, steps=100)).bound
        1
    """

    start: int
    steps: int


@final
class ExpertStudents:
    """A supply of random segments of expert trajectories, for trajectory matching.

    Args:
        runs: Trained experts; a missing expert is trained when it is first drawn.
        span: Number of snapshots from the start of a segment to its end.
        first: First snapshot at which a segment may start.
        last: Snapshot before which every segment starts.
        growth: Growth of that bound up to `last`; None for the bound `last` from the first step on.

    Examples:
        >>> import pathlib, ddsdk
        >>> from ddsdk.students import ExpertStudents, TrainedRuns, Training
        >>> real, make_student = ddsdk.load("digits"), ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> training = Training(epochs=2, images=8)
        >>> experts = TrainedRuns(real, make_student, training, count=1, seed=0, folder=pathlib.Path("experts"))
        >>> ExpertStudents(experts, span=1, last=2).next(real, None, ddsdk.generator(1))._fields
        ('network', 'start', 'target')
    """

    def __init__(
        self, runs: TrainedRuns, *, span: int, last: int, first: int = 0, growth: StartEpochSchedule | None = None
    ) -> None:
        require_count("span", span)
        require_count("first", first, least=0)
        end = runs.training.snapshots - span
        require(first < last <= end, "last", f"lie in {first + 1}..{end}, so that all segments end", last)
        if growth is not None:
            lowest, steps = growth
            require(first < lowest <= last, "growth start", f"lie in {first + 1}..{last}", lowest)
            require_count("growth steps", steps)
        self._runs, self._span, self._first, self._last = runs, span, first, last
        self._growth = growth
        self._drawn = 0

    @property
    def bound(self) -> int:
        """Snapshot before which the next segment starts."""
        if self._growth is None:
            return self._last
        lowest, steps = self._growth
        return lowest + (self._last - lowest) * min(self._drawn, steps) // steps

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> ExpertSegment:  # noqa: ARG002
        """Return a random segment; the run and the start are uniform."""
        run = int(torch.randint(len(self._runs), (), generator=derive(rng, "run")))
        start = int(torch.randint(self._first, self.bound, (), generator=derive(rng, "start")))
        self._drawn += 1
        ends = (self._runs.weights(run, snapshot) for snapshot in (start, start + self._span))
        return ExpertSegment(self._runs.flat, *ends)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of segments drawn so far."""
        return {"taken": self._drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self._drawn = state["taken"]


def correctly_classified_images(network: nn.Module, real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Return the positions of random real images that a network classifies correctly, class by class.

    Args:
        network: Trained network from images to logits.
        real: Real data with at least `ipc` images of each class.
        ipc: Images per class. A class with fewer correctly classified images is filled up with random other ones.
        rng: Root of the random choice.

    Returns:
        Positions in `real`, (K ipc,) int64.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> ddsdk.students.correctly_classified_images(network, real, 2, ddsdk.generator(1)).shape
        torch.Size([20])
    """
    positions = []
    for c in range(real.num_classes):
        index = real.index_of_class(c)
        order = index[torch.randperm(len(index), generator=derive(rng, c))]
        positions.append(_correct_first(network, real, order, c, ipc)[:ipc])
    return torch.cat(positions)


def _correct_first(network: nn.Module, real: RealData, order: Tensor, c: int, needed: int) -> Tensor:
    """Return positions of class `c` with correctly classified images first; stops after `needed` such images."""
    correct, wrong = order[:0], order[:0]
    for part in torch.split(order, max(_CHUNK, needed)):
        hit = (probabilities(network, real.batch(part).x).argmax(1) == c).cpu()
        correct, wrong = torch.cat([correct, part[hit]]), torch.cat([wrong, part[~hit]])
        if len(correct) >= needed:
            break
    return torch.cat([correct, wrong])


def expert_logits(runs: TrainedRuns, batch: Batch) -> Tensor:
    """Return the mean logits of the experts that classify an image correctly; their softmax is a soft label.

    The logits of each expert are log-probabilities: they differ from its outputs by a constant for each image, which
    changes no softmax. If no expert is correct, the label is 0.9 on the class of the image and uniform on the others.

    Args:
        runs: Experts, whose last snapshots are used.
        batch: Real images with hard labels.

    Returns:
        Logits of the images, (M, K).

    Examples:
        >>> import pathlib, ddsdk, torch
        >>> from ddsdk.students import TrainedRuns, Training, expert_logits
        >>> real, make_student = ddsdk.load("digits"), ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> training, folder = Training(epochs=1, images=8), pathlib.Path("experts")
        >>> experts = TrainedRuns(real, make_student, training, count=2, seed=0, folder=folder)
        >>> expert_logits(experts, real.batch(torch.arange(5))).shape
        torch.Size([5, 10])
    """
    classes, k = batch.y.argmax(1), batch.y.shape[1]
    total, count = torch.zeros_like(batch.y), torch.zeros_like(batch.y[:, :1])
    for run in range(len(runs)):
        predicted = probabilities(runs.network(run), batch.x)
        correct = (predicted.argmax(1) == classes)[:, None]
        total += predicted.clamp_min(torch.finfo(predicted.dtype).tiny).log() * correct
        count += correct
    fallback = batch.y * math.log(_FALLBACK / (1 - _FALLBACK) * (k - 1))
    return torch.where(count > 0, total / count.clamp_min(1), fallback)
