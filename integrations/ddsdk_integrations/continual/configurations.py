"""Published ways of continual learning with distilled data, as memories and plugins that are ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from avalanche.training.plugins import ReplayPlugin

import ddsdk as dd
from ddsdk_integrations.continual.buffer import DistilledBuffer
from ddsdk_integrations.continual.composites import Combining, Composing
from ddsdk_integrations.continual.distiller import Distiller
from ddsdk_integrations.continual.plugins import TrainOnMemory
from ddsdk_integrations.continual.stream import Replay, Streaming

# Images from which a network learns in thirty steps.
_FEW_STEPS = dd.RaTBPTT(start="real", augmentation="", real_batch=256, student_steps=30, window=10, image_lr=5e-3)


class Configuration(NamedTuple):
    """A memory, and the plugins with which a strategy uses it."""

    memory: DistilledBuffer
    plugins: list[Any]


def distilled_replay(max_size: int, *, seconds: float | None = 60.0, fill: int = 64, **more: Any) -> Configuration:  # noqa: ANN401
    """Distilled Replay: images that a network learns an experience from in few steps, replayed with the next ones.

    Args:
        max_size: Number of real images whose bytes the memory takes; the paper's is one for each class.
        seconds: Time of each distillation.
        fill: Smallest number of items of the data set, see `Replay`.
        more: Further arguments of `DistilledBuffer`, such as classes and seed.

    Differences from the published algorithm: students are fresh LeNets and not the learner at the start of the
    experience, and the gradient passes through a random window of their 30 steps.

    References:
        Rosasco, Carta et al., "Distilled Replay: Overcoming Forgetting through Synthetic Samples", 2021,
        arXiv:2103.15851.
    """
    distiller = Distiller(_FEW_STEPS, network="lenet", seconds=seconds)
    memory = DistilledBuffer(max_size, distiller, replay=Replay(fill=fill), **more)
    return Configuration(memory, [ReplayPlugin(max_size, storage_policy=memory)])


def composite_memory(max_size: int, *, seconds: float | None = 60.0, passes: int = 50, **more: Any) -> Configuration:  # noqa: ANN401
    """Condensed composite memory: twice as many images as components, and a network that restarts on the memory alone.

    Args:
        max_size: Number of real images whose bytes the memory takes.
        seconds: Time of each distillation.
        passes: Passes over the memory in an epoch.
        more: Further arguments of `DistilledBuffer`, such as classes and seed.

    Differences from the published algorithm: see `Composing`. Weights are counted, so a class has one component
    fewer than real images of the same bytes where it has few; components are bytes.

    References:
        Wiewel and Yang, "Condensed Composite Memory Continual Learning", IJCNN 2021, arXiv:2102.09890.
    """
    memory = DistilledBuffer(max_size, Distiller(Composing(), seconds=seconds), **more)
    return Configuration(memory, [TrainOnMemory(memory, restart=True, passes=passes)])


def online_condensation(
    max_size: int,
    *,
    every: int = 10,
    seconds: float | None = 5.0,
    fill: int = 10,
    **more: Any,  # noqa: ANN401
) -> Configuration:
    """Online sample condensation: weighted means of what came lately and what is remembered, every few batches.

    Args:
        max_size: Number of real images whose bytes the memory takes.
        every: Pieces of the stream between two distillations.
        seconds: Time of each distillation.
        fill: Smallest number of items of the data set, see `Replay`.
        more: Further arguments of `DistilledBuffer`, such as classes and seed.

    Differences from the published algorithm: see `Combining`.

    References:
        Sangermano et al., "Sample Condensation in Online Continual Learning", IJCNN 2022, arXiv:2206.11849.
    """
    distiller = Distiller(Combining(), seconds=seconds)
    return _merging(max_size, distiller, Streaming(every=every), fill, more)


def stable_sets(max_size: int, *, seconds: float | None = 60.0, passes: int = 20, **more: Any) -> Configuration:  # noqa: ANN401
    """Stable data sets: the network trains on the distilled set of each experience alone, one after the other.

    Args:
        max_size: Number of real images whose bytes all sets take together.
        seconds: Time of each distillation.
        passes: Passes over a set in an epoch.
        more: Further arguments of `DistilledBuffer`, such as classes and seed.

    Differences from the published algorithm: the paper meta-learns a generator over the whole sequence, so that later
    sets spare what earlier ones taught; here each set is made by itself. It shows the setting, not the paper's gain.

    References:
        Masarczyk and Tautkute, "Reducing Catastrophic Forgetting With Learning on Synthetic Data", CVPR-W 2020,
        arXiv:2004.14046.
    """
    memory = DistilledBuffer(max_size, Distiller(_FEW_STEPS, seconds=seconds), **more)
    return Configuration(memory, [TrainOnMemory(memory, newest=True, passes=passes)])


def stream_summary(
    max_size: int,
    *,
    every: int = 6,
    room: int = 640,
    seconds: float | None = 5.0,
    relation: float = 1.0,
    fill: int = 10,
    **more: Any,  # noqa: ANN401
) -> Configuration:
    """Summarising stream data: gradient matching beside what is remembered, with the relations to it, from a queue.

    Args:
        max_size: Number of real images whose bytes the memory takes.
        every: Pieces of the stream between two distillations.
        room: Number of real images that may wait.
        seconds: Time of each distillation.
        relation: Weight of `RelationMatch`.
        fill: Smallest number of items of the data set, see `Replay`.
        more: Further arguments of `DistilledBuffer`, such as classes and seed.

    Differences from the published algorithm: see `RelationMatch`; the learner is replayed to by `ReplayPlugin` and not
    by supervised contrastive replay.

    References:
        Gu et al., "Summarizing Stream Data for Memory-Constrained Online Continual Learning", AAAI 2024,
        arXiv:2305.16645.
    """
    recipe = dd.DC(start="real", students=20, steps_per_student=5, student_epochs=5, real_batch=64)
    distiller = Distiller(recipe, seconds=seconds, past=True, relation=relation)
    return _merging(max_size, distiller, Streaming(every=every, room=room), fill, more)


def _merging(
    max_size: int, distiller: Distiller, streaming: Streaming, fill: int, more: Mapping[str, Any]
) -> Configuration:
    replay = Replay(fill=fill)
    memory = DistilledBuffer(max_size, distiller, merge=True, streaming=streaming, replay=replay, **more)
    return Configuration(memory, [ReplayPlugin(max_size, storage_policy=memory)])
