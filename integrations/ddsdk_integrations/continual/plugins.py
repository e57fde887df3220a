"""Avalanche plugins beside the memory: soft labels in a batch with hard ones, and training on the memory alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import default_collate

from ddsdk.foundation import require, require_count
from ddsdk_integrations.continual.buffer import DistilledBuffer


@final
@dataclass(frozen=True)
class SoftCollate:
    """Makes a batch of which every label is a row of probabilities; a loader's worker can be sent one.

    Attributes:
        classes: Length of a row.
    """

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
    """Lets soft labels of the memory into one batch with the class ids of the stream.

    Add it beside the replay plugin, and train with `torch.nn.CrossEntropyLoss`, which takes rows of probabilities.

    Args:
        memory: With ``Replay(soft=K)``.

    Raises:
        ValueError: If the memory has hard labels.
    """

    def __init__(self, memory: DistilledBuffer) -> None:
        super().__init__()
        require(memory.replay.soft is not None, "memory", "have soft labels: Replay(soft=K)", memory.replay)
        self._collate = SoftCollate(memory.replay.soft or 0)

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Give the adapted data set the collation of rows: the replay loader takes it for the whole batch."""
        adapted = copy.copy(strategy.adapted_dataset)
        adapted.collate_fn = self._collate
        strategy.adapted_dataset = adapted


@final
class TrainOnMemory(SupervisedPlugin):
    """Trains on distilled images only: the memory is updated before an experience is learnt, and takes its place.

    Args:
        memory: What distils.
        newest: Train on what the last experience left, and not on all that is remembered: a sequence of stable
            data sets (Masarczyk and Tautkute, CVPR-W 2020).
        restart: Start from the weights of the first experience each time: training on the memory alone, as GDumb.
        passes: Times that the images are repeated in an epoch, as they are few.
    """

    def __init__(
        self, memory: DistilledBuffer, *, newest: bool = False, restart: bool = False, passes: int = 1
    ) -> None:
        super().__init__()
        require_count("passes", passes)
        self._memory = memory
        self._newest = newest
        self._restart = restart
        self._passes = passes
        self._first: nn.Module | None = None

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Go back to the first weights, where that was asked for."""
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
