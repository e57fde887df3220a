"""Avalanche plugins for a distilled memory: soft labels, training on the memory alone, and metrics."""

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
    """Collation of a batch with class ids and soft labels into rows of probabilities; picklable for worker processes.

    Attributes:
        classes: Number of probabilities in a row.
    """

    classes: int

    def __call__(self, batch: Sequence[tuple[Any, ...]]) -> Any:  # noqa: ANN401
        """Return the collated batch of items (x, y, ...), where y is a class id or a row of probabilities."""
        return default_collate([(x, self._row(y), *extra) for x, y, *extra in batch])

    def _row(self, y: Any) -> Tensor:  # noqa: ANN401
        if isinstance(y, Tensor) and y.ndim == 1:
            return y.float()
        return one_hot(torch.as_tensor(int(y)), self.classes).float()


@final
class SoftLabelPlugin(SupervisedPlugin):
    """Plugin that collates the soft labels of the memory with the class ids of the stream in one batch.

    It is used together with the replay plugin and a loss for rows of probabilities, such as
    `torch.nn.CrossEntropyLoss`.

    Args:
        memory: Memory with ``ReplayOptions(soft=K)``; a memory with hard labels raises a ValueError.

    Examples:
        >>> import ddsdk
        >>> from avalanche.training.plugins import ReplayPlugin
        >>> from ddsdk_integrations.continual import DistilledBuffer, ReplayOptions, SoftLabelPlugin
        >>> memory = DistilledBuffer(100, ddsdk.DM(steps=200), replay=ReplayOptions(soft=10))
        >>> plugins = [ReplayPlugin(mem_size=100, storage_policy=memory), SoftLabelPlugin(memory)]
    """

    def __init__(self, memory: DistilledBuffer) -> None:
        super().__init__()
        rule = "have soft labels, from DistilledBuffer(..., replay=ReplayOptions(soft=K))"
        require(memory.replay.soft is not None, "memory", rule, memory.replay)
        self._collate = SoftCollate(memory.replay.soft or 0)

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Set the collation of the adapted data set, which the replay loader uses for the whole batch."""
        adapted = copy.copy(strategy.adapted_dataset)
        adapted.collate_fn = self._collate
        strategy.adapted_dataset = adapted


@final
class TrainOnMemory(SupervisedPlugin):
    """Plugin that trains the learner on distilled images only.

    Before each experience is learned, its images are distilled into the memory, which then replaces the experience as
    training data.

    Args:
        memory: Distilled memory; no replay plugin is needed.
        newest: Whether only the images of the last distillation are used: a sequence of stable data sets (Masarczyk
            and Tautkute, CVPR-W 2020).
        restart: Whether each experience starts from the initial weights, as in GDumb.
        passes: Number of passes over the memory in one epoch, at least 1; the memory is small.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.continual import DistilledBuffer, TrainOnMemory
        >>> memory = DistilledBuffer(100, ddsdk.DM(steps=200))
        >>> plugins = [TrainOnMemory(memory, restart=True, passes=50)]
    """

    def __init__(
        self, memory: DistilledBuffer, *, newest: bool = False, restart: bool = False, passes: int = 1
    ) -> None:
        super().__init__()
        require_count("passes", passes)
        self._memory, self._newest, self._restart, self._passes = memory, newest, restart, passes
        self._initial_model: nn.Module | None = None

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Reset the model to its initial weights, with `restart`."""
        if not self._restart:
            return
        if self._initial_model is None:
            self._initial_model = copy.deepcopy(strategy.model)
        strategy.model.load_state_dict(self._initial_model.state_dict())

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Distil the experience and replace the training data by the memory."""
        self._memory.post_adapt(strategy, strategy.experience)
        memory_images = self._memory.newest() if self._newest else self._memory.buffer
        # The memory is empty until the queue of a stream is distilled for the first time: train on the real piece.
        if len(memory_images):
            strategy.adapted_dataset = memory_images.subset(list(range(len(memory_images))) * self._passes)


@final
class MemoryMetric(PluginMetric[float]):
    """Metric of a memory, reported after each experience.

    Args:
        memory: Memory to be measured.
        name: Name of the metric. Buffer_Bytes is the storage of packed images and labels. Distill_Seconds and
            Distill_Calls are totals of all distillations. Real_Samples_Retained is the number of real images in the
            queue.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.continual import DistilledBuffer, MemoryMetric
        >>> MemoryMetric(DistilledBuffer(100, ddsdk.DM(steps=200)), "Buffer_Bytes").result()
        0.0
    """

    def __init__(self, memory: DistilledBuffer, name: str) -> None:
        super().__init__()
        require(name in _MEASURES, "name", f"be one of {', '.join(_MEASURES)}", name)
        self._memory, self._name = memory, name

    def result(self, **kwargs: Any) -> float:  # noqa: ANN401, ARG002
        """Return the current value."""
        return float(_MEASURES[self._name](self._memory))

    def reset(self, **kwargs: Any) -> None:  # noqa: ANN401
        """Do nothing: the counters belong to the memory."""

    def after_training_exp(self, strategy: Any) -> list[MetricValue]:  # noqa: ANN401
        """Return the value after an experience; Avalanche calls metrics after the memory's update."""
        return [MetricValue(self, self._name, self.result(), strategy.clock.train_iterations)]

    def __str__(self) -> str:
        return self._name


def memory_metrics(memory: DistilledBuffer) -> list[MemoryMetric]:
    """Return all metrics of a memory, for ``EvaluationPlugin(*memory_metrics(memory), ...)``.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.continual import DistilledBuffer, memory_metrics
        >>> [str(metric) for metric in memory_metrics(DistilledBuffer(100, ddsdk.DM(steps=200)))]
        ['Buffer_Bytes', 'Distill_Seconds', 'Distill_Calls', 'Real_Samples_Retained']
    """
    return [MemoryMetric(memory, name) for name in _MEASURES]
