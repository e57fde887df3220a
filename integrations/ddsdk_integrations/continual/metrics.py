"""What a memory takes, as Avalanche metrics: bytes, seconds and calls of distillation, real images that are kept."""

from __future__ import annotations

from typing import Any, final

from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue

from ddsdk.foundation import require
from ddsdk_integrations.continual.buffer import DistilledBuffer

_MEASURES = {
    "Buffer_Bytes": lambda memory: memory.nbytes,
    "Distill_Seconds": lambda memory: memory.seconds,
    "Distill_Calls": lambda memory: memory.calls,
    "Real_Samples_Retained": lambda memory: memory.waiting,
}


@final
class MemoryMetric(PluginMetric[float]):
    """One figure of a memory after each experience.

    Args:
        memory: What is looked at.
        name: Buffer_Bytes: images and labels, as packed. Distill_Seconds, Distill_Calls: since the start.
            Real_Samples_Retained: images that wait in the queue of a stream.

    Raises:
        ValueError: If there is no such figure.
    """

    def __init__(self, memory: DistilledBuffer, name: str) -> None:
        super().__init__()
        require(name in _MEASURES, "name", f"be one of {', '.join(_MEASURES)}", name)
        self._memory = memory
        self._name = name

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
