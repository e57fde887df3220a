"""Distilled replay for continual learning with Avalanche: ``pip install 'ddsdk[continual]'``.

Examples:
    >>> import ddsdk
    >>> from avalanche.training.plugins import ReplayPlugin
    >>> from ddsdk_integrations.continual import DistilledBuffer
    >>> memory = DistilledBuffer(100, ddsdk.DM(steps=200))
    >>> plugin = ReplayPlugin(mem_size=100, storage_policy=memory)
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("avalanche", feature="Distilled replay", package="avalanche-lib", extra="continual")

from ddsdk.artefact import LABEL_BYTES, Codec, Components, Half, LowRank, Tiles, Uint8  # noqa: E402
from ddsdk_integrations.continual.buffer import DistilledBuffer  # noqa: E402
from ddsdk_integrations.continual.composites import CombinationMatching, CompositeMatching  # noqa: E402
from ddsdk_integrations.continual.configurations import (  # noqa: E402
    Configuration,
    composite_memory,
    distilled_replay,
    online_condensation,
    stable_sets,
    stream_summary,
)
from ddsdk_integrations.continual.distiller import Distiller, RelationMatch  # noqa: E402
from ddsdk_integrations.continual.memory import Memory, MemoryPart, sample_bytes  # noqa: E402
from ddsdk_integrations.continual.plugins import MemoryMetric, SoftLabelPlugin, TrainOnMemory, memory_metrics  # noqa: E402
from ddsdk_integrations.continual.resume import resume_run, save_run  # noqa: E402
from ddsdk_integrations.continual.stream import ReplayOptions, Streaming  # noqa: E402

__all__ = [
    "LABEL_BYTES",
    "Codec",
    "CombinationMatching",
    "Components",
    "CompositeMatching",
    "Configuration",
    "DistilledBuffer",
    "Distiller",
    "Half",
    "LowRank",
    "Memory",
    "MemoryMetric",
    "MemoryPart",
    "RelationMatch",
    "ReplayOptions",
    "SoftLabelPlugin",
    "Streaming",
    "Tiles",
    "TrainOnMemory",
    "Uint8",
    "composite_memory",
    "distilled_replay",
    "memory_metrics",
    "online_condensation",
    "resume_run",
    "sample_bytes",
    "save_run",
    "stable_sets",
    "stream_summary",
]
