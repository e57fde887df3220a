"""Published methods of continual learning with distilled data, as memories and plugins that are ready to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from avalanche.training.plugins import ReplayPlugin

import ddsdk as dd
from ddsdk_integrations.continual.buffer import DistilledBuffer
from ddsdk_integrations.continual.composites import CombinationMatching, CompositeMatching
from ddsdk_integrations.continual.distiller import Distiller
from ddsdk_integrations.continual.plugins import TrainOnMemory
from ddsdk_integrations.continual.stream import ReplayOptions, Streaming

# Unrolled gradient through a short training: images from which a network learns in thirty steps.
_UNROLLED = dd.RaTBPTT(start="real", augmentation="", real_batch=256, student_steps=30, window=10, image_lr=5e-3)


class Configuration(NamedTuple):
    """A memory with the plugins by which an Avalanche strategy uses it.

    Attributes:
        memory: Memory of distilled images.
        plugins: Plugins for ``plugins=[...]`` of the strategy.
    """

    memory: DistilledBuffer
    plugins: list[Any]


def distilled_replay(max_size: int, *, seconds: float | None = 60.0, fill: int = 64, **more: Any) -> Configuration:  # noqa: ANN401
    """Return Distilled Replay: each experience is distilled for fast learning and replayed with later ones.

    Args:
        max_size: Number of real images whose storage is the budget of the memory; one for each class in the paper.
        seconds: Time budget of each distillation in seconds; None for all steps.
        fill: Smallest length of the replayed data set, see `ReplayOptions`.
        **more: Further arguments of `DistilledBuffer`, such as `classes` and `seed`.

    Differences from the published algorithm: students are fresh LeNets instead of the learner at the start of the
    experience, and the gradient is truncated to a random window of their 30 steps.

    References:
        Rosasco, Carta et al., "Distilled Replay: Overcoming Forgetting through Synthetic Samples", 2021,
        arXiv:2103.15851.

    Examples:
        >>> from ddsdk_integrations.continual import distilled_replay
        >>> memory, plugins = distilled_replay(10, classes=10)
        >>> memory.distiller.network
        'lenet'
    """
    distiller = Distiller(_UNROLLED, network="lenet", seconds=seconds)
    memory = DistilledBuffer(max_size, distiller, replay=ReplayOptions(fill=fill), **more)
    return Configuration(memory, [ReplayPlugin(max_size, storage_policy=memory)])


def composite_memory(max_size: int, *, seconds: float | None = 60.0, passes: int = 50, **more: Any) -> Configuration:  # noqa: ANN401
    """Return condensed composite memory: two images per stored component, and training on the memory alone.

    The network restarts from its initial weights before each experience.

    Args:
        max_size: Number of real images whose storage is the budget of the memory.
        seconds: Time budget of each distillation in seconds; None for all steps.
        passes: Number of passes over the memory in one epoch.
        **more: Further arguments of `DistilledBuffer`, such as `classes` and `seed`.

    Differences from the published algorithm: see `CompositeMatching`. The weights count towards the storage budget, so
    that a class with a small budget has one component less than real images; components are stored as uint8.

    References:
        Wiewel and Yang, "Condensed Composite Memory Continual Learning", IJCNN 2021, arXiv:2102.09890.

    Examples:
        >>> from ddsdk_integrations.continual import composite_memory
        >>> memory, plugins = composite_memory(20, classes=10)
        >>> [type(plugin).__name__ for plugin in plugins]
        ['TrainOnMemory']
    """
    memory = DistilledBuffer(max_size, Distiller(CompositeMatching(), seconds=seconds), **more)
    return Configuration(memory, [TrainOnMemory(memory, restart=True, passes=passes)])


def online_condensation(
    max_size: int,
    *,
    every: int = 10,
    seconds: float | None = 5.0,
    fill: int = 10,
    **more: Any,  # noqa: ANN401
) -> Configuration:
    """Return online sample condensation: every few batches, convex combinations of new and remembered images.

    Args:
        max_size: Number of real images whose storage is the budget of the memory.
        every: Number of pieces of the stream between two distillations.
        seconds: Time budget of each distillation in seconds; None for all steps.
        fill: Smallest length of the replayed data set, see `ReplayOptions`.
        **more: Further arguments of `DistilledBuffer`, such as `classes` and `seed`.

    Differences from the published algorithm: see `CombinationMatching`.

    References:
        Sangermano et al., "Sample Condensation in Online Continual Learning", IJCNN 2022, arXiv:2206.11849.

    Examples:
        >>> from ddsdk_integrations.continual import online_condensation
        >>> memory, plugins = online_condensation(20, every=5, classes=10)
    """
    distiller = Distiller(CombinationMatching(), seconds=seconds)
    return _online(max_size, distiller, Streaming(every=every), fill, more)


def stable_sets(max_size: int, *, seconds: float | None = 60.0, passes: int = 20, **more: Any) -> Configuration:  # noqa: ANN401
    """Return stable data sets: the network is trained on the distilled set of each experience in sequence.

    Args:
        max_size: Number of real images whose storage is the budget of all sets together.
        seconds: Time budget of each distillation in seconds; None for all steps.
        passes: Number of passes over a set in one epoch.
        **more: Further arguments of `DistilledBuffer`, such as `classes` and `seed`.

    Differences from the published algorithm: the paper meta-learns a generator over the whole sequence, so that later
    sets cause little forgetting of earlier ones. Here each set is distilled by itself: the setting is the paper's, its
    gain is not expected.

    References:
        Masarczyk and Tautkute, "Reducing Catastrophic Forgetting With Learning on Synthetic Data", CVPR-W 2020,
        arXiv:2004.14046.

    Examples:
        >>> from ddsdk_integrations.continual import stable_sets
        >>> memory, plugins = stable_sets(50, classes=10)
    """
    memory = DistilledBuffer(max_size, Distiller(_UNROLLED, seconds=seconds), **more)
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
    """Return the summary of stream data: gradient matching plus relations to remembered classes, from a queue.

    Args:
        max_size: Number of real images whose storage is the budget of the memory.
        every: Number of pieces of the stream between two distillations.
        room: Capacity of the queue of real images.
        seconds: Time budget of each distillation in seconds; None for all steps.
        relation: Weight of `RelationMatch` in the objective, at least 0.
        fill: Smallest length of the replayed data set, see `ReplayOptions`.
        **more: Further arguments of `DistilledBuffer`, such as `classes` and `seed`.

    Differences from the published algorithm: see `RelationMatch`. The learner uses Avalanche's `ReplayPlugin` instead
    of supervised contrastive replay.

    References:
        Gu et al., "Summarizing Stream Data for Memory-Constrained Online Continual Learning", AAAI 2024,
        arXiv:2305.16645.

    Examples:
        >>> from ddsdk_integrations.continual import stream_summary
        >>> memory, plugins = stream_summary(100, every=10, classes=10)
        >>> memory.distiller.relation
        1.0
    """
    recipe = dd.DC(start="real", students=20, steps_per_student=5, student_epochs=5, real_batch=64)
    distiller = Distiller(recipe, seconds=seconds, past=True, relation=relation)
    return _online(max_size, distiller, Streaming(every=every, room=room), fill, more)


def _online(
    max_size: int, distiller: Distiller, streaming: Streaming, fill: int, more: Mapping[str, Any]
) -> Configuration:
    replay = ReplayOptions(fill=fill)
    memory = DistilledBuffer(max_size, distiller, merge=True, streaming=streaming, replay=replay, **more)
    return Configuration(memory, [ReplayPlugin(max_size, storage_policy=memory)])
