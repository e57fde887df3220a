"""Avalanche plugins beside the memory: soft labels beside hard ones, training on the memory alone, and metrics."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import default_collate

from ddsdk.foundation import require, require_count
from ddsdk_integrations.continual.buffer import DistilledBuffer

_MEASURES = {
    "Buffer_Bytes": lambda memory: memory.nbytes,
    "Distill_Seconds": lambda memory: memory.seconds,
    "Distill_Calls": lambda memory: memory.calls,
    "Real_Samples_Retained": lambda memory: memory.waiting,
}


@final
@dataclass(frozen=True)
class SoftCollate:
    """Collation of a batch in which every label is a row of `classes` probabilities; picklable for workers."""

    classes: int

    def __call__(self, batch: Sequence[tuple[Any, ...]]) -> Any:  # noqa: ANN401
        """Collate items (x, y, ...) of which y is a class id or a row."""
        return default_collate([(x, self._row(y), *rest) for x, y, *rest in batch])

    def _row(self, y: Any) -> Tensor:  # noqa: ANN401
        if isinstance(y, Tensor) and y.ndim == 1:
            return y.float()
        return one_hot(torch.as_tensor(int(y)), self.classes).float()


@final
class SoftLabels(SupervisedPlugin):
    """Brings soft labels of the memory into one batch with the class ids of the stream.

    Add it beside the replay plugin, and train with `torch.nn.CrossEntropyLoss`, which takes rows of probabilities.

    Args:
        memory: Memory with ``Replay(soft=K)``; one with hard labels is refused.
    """

    def __init__(self, memory: DistilledBuffer) -> None:
        super().__init__()
        require(memory.replay.soft is not None, "memory", "have soft labels: Replay(soft=K)", memory.replay)
        self._collate = SoftCollate(memory.replay.soft or 0)

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Set the collation of the adapted data set, which the replay loader uses for the whole batch."""
        adapted = copy.copy(strategy.adapted_dataset)
        adapted.collate_fn = self._collate
        strategy.adapted_dataset = adapted


@final
class TrainOnMemory(SupervisedPlugin):
    """Trains on distilled images only: the memory is updated before an experience is learnt, and takes its place.

    Args:
        memory: Memory that distils.
        newest: Whether training sees the images of the last experience alone: a sequence of stable data sets
            (Masarczyk and Tautkute, CVPR-W 2020).
        restart: Whether each experience starts from the first weights: training on the memory alone, as GDumb.
        passes: Number of times that the images, which are few, are repeated in an epoch.
    """

    def __init__(
        self, memory: DistilledBuffer, *, newest: bool = False, restart: bool = False, passes: int = 1
    ) -> None:
        super().__init__()
        require_count("passes", passes)
        self._memory, self._newest, self._restart, self._passes = memory, newest, restart, passes
        self._first: nn.Module | None = None

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Go back to the first weights, if each experience starts from them."""
        if not self._restart:
            return
        if self._first is None:
            self._first = copy.deepcopy(strategy.model)
        strategy.model.load_state_dict(self._first.state_dict())

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Distil the experience, and train on the memory in its place."""
        self._memory.post_adapt(strategy, strategy.experience)
        seen = self._memory.newest() if self._newest else self._memory.buffer
        # While a stream's first images wait in the queue there is nothing yet: it is learnt itself.
        if len(seen):
            strategy.adapted_dataset = seen.subset(list(range(len(seen))) * self._passes)


@final
class MemoryMetric(PluginMetric[float]):
    """One figure of a memory after each experience.

    Args:
        memory: Memory that is measured.
        name: Buffer_Bytes: images and labels, as packed. Distill_Seconds, Distill_Calls: since the start.
            Real_Samples_Retained: images that wait in the queue of a stream.
    """

    def __init__(self, memory: DistilledBuffer, name: str) -> None:
        super().__init__()
        require(name in _MEASURES, "name", f"be one of {', '.join(_MEASURES)}", name)
        self._memory, self._name = memory, name

    def result(self, **kwargs: Any) -> float:  # noqa: ANN401, ARG002
        """Return the figure now."""
        return float(_MEASURES[self._name](self._memory))

    def reset(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Do nothing: the memory counts."""

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:  # noqa: ANN401
        """Report, after the memory's own update."""
        return [MetricValue(self, self._name, self.result(), strategy.clock.train_iterations)]

    def __str__(self) -> str:
        return self._name


def memory_metrics(memory: DistilledBuffer) -> list[MemoryMetric]:
    """Return all figures of a memory, for ``EvaluationPlugin(*memory_metrics(memory), ...)``."""
    return [MemoryMetric(memory, name) for name in _MEASURES]
