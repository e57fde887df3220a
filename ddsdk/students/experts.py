"""Stretches of the trajectories of networks that trained on the real data, and soft labels of these networks."""

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
_UNKNOWN = 0.9
"""The probability of the true class where no expert is right."""


class ExpertSpan(NamedTuple):
    """A stretch of an expert's trajectory.

    Attributes:
        network: Architecture, as a function of weights and images.
        start: Weights at its start, (P,).
        target: Weights at its end, (P,).
    """

    network: FlatNetwork
    start: Tensor
    target: Tensor


class Growth(NamedTuple):
    """An upper bound that grows linearly, from easy to hard parts of the trajectories.

    Attributes:
        start: Bound at the first step.
        steps: Steps until the bound has reached its end.
    """

    start: int
    steps: int


@final
class ExpertStudents:
    """A random stretch of a random expert's trajectory for every step.

    Args:
        runs: Experts. One that is missing is made when it is drawn.
        span: Snapshots from the start of a stretch to its end.
        first: First snapshot at which a stretch may start.
        last: Snapshot before which all stretches start.
        growth: Growth of the bound up to `last`; None for `last` from the first step on.
    """

    def __init__(
        self, runs: TrainedRuns, *, span: int, last: int, first: int = 0, growth: Growth | None = None
    ) -> None:
        require_count("span", span)
        require_count("first", first, least=0)
        end = runs.training.snapshots - span
        require(first < last <= end, "last", f"lie in {first + 1}..{end}, so that all stretches end", last)
        if growth is not None:
            lowest, steps = growth
            require(first < lowest <= last, "growth start", f"lie in {first + 1}..{last}", lowest)
            require_count("growth steps", steps)
        self._runs, self._span, self._first, self._last = runs, span, first, last
        self._growth = growth
        self._taken = 0

    @property
    def bound(self) -> int:
        """Snapshot before which the next stretch starts."""
        if self._growth is None:
            return self._last
        lowest, steps = self._growth
        return lowest + (self._last - lowest) * min(self._taken, steps) // steps

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> ExpertSpan:  # noqa: ARG002
        """Return a stretch; run and start are uniform."""
        run = int(torch.randint(len(self._runs), (), generator=derive(rng, "run")))
        start = int(torch.randint(self._first, self.bound, (), generator=derive(rng, "start")))
        self._taken += 1
        ends = (self._runs.weights(run, at) for at in (start, start + self._span))
        return ExpertSpan(self._runs.flat, *ends)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of stretches drawn."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._taken = state["taken"]


def known_images(network: nn.Module, real: RealData, ipc: int, rng: torch.Generator) -> Tensor:
    """Return the positions of random real images that a network classifies right, class by class.

    Args:
        network: Trained network.
        real: Data with at least `ipc` images of each class.
        ipc: Images of each class. Where the network has fewer of them right, the others are random too.
        rng: Root of the choice.

    Returns:
        Positions, (K*ipc,) int64.
    """
    picks = []
    for c in range(real.num_classes):
        index = real.index_of_class(c)
        order = index[torch.randperm(len(index), generator=derive(rng, c))]
        picks.append(_right_first(network, real, order, c, ipc)[:ipc])
    return torch.cat(picks)


def _right_first(network: nn.Module, real: RealData, order: Tensor, c: int, enough: int) -> Tensor:
    """Return `order` with images that the network takes for class `c` first, from as few chunks as give enough."""
    right, wrong = order[:0], order[:0]
    for part in torch.split(order, max(_CHUNK, enough)):
        hit = (probabilities(network, real.batch(part).x).argmax(1) == c).cpu()
        right, wrong = torch.cat([right, part[hit]]), torch.cat([wrong, part[~hit]])
        if len(right) >= enough:
            break
    return torch.cat([right, wrong])


def expert_logits(runs: TrainedRuns, batch: Batch) -> Tensor:
    """Return the mean logits of those experts that are right on an image: their softmax is a soft label.

    Each expert's logits count up to a constant for each image, which changes no softmax. Where no expert is right the
    label is 0.9 on the class of the image and even on the others.

    Args:
        runs: Experts, of which the last snapshots are used.
        batch: Real images with hard labels.

    Returns:
        Logits, (M, K).
    """
    classes, k = batch.y.argmax(1), batch.y.shape[1]
    total, count = torch.zeros_like(batch.y), torch.zeros_like(batch.y[:, :1])
    for run in range(len(runs)):
        shares = probabilities(runs.network(run), batch.x)
        right = (shares.argmax(1) == classes)[:, None]
        total += shares.clamp_min(torch.finfo(shares.dtype).tiny).log() * right
        count += right
    unknown = batch.y * math.log(_UNKNOWN / (1 - _UNKNOWN) * (k - 1))
    return torch.where(count > 0, total / count.clamp_min(1), unknown)
