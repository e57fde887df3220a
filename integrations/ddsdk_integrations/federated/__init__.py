"""Federated learning with synthetic sets in Flower: ``pip install 'ddsdk[federated]'``.

Examples:
    >>> import ddsdk
    >>> from ddsdk_integrations.federated import FederatedTask, Participant, fed_dm
    >>> real = ddsdk.load("digits")
    >>> task = FederatedTask.of(real, network="convnet", width=32)
    >>> load = lambda context: (real.images, real.labels)  # the images and class ids of one client
    >>> client_app = Participant(task=task, load=load, distil=ddsdk.DM(steps=100)).app()
    >>> strategy = fed_dm(task)  # strategy.start(grid, task.initial_arrays(), num_rounds=5)
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("flwr", feature="Federated learning by synthetic sets", package="flwr", extra="federated")

from ddsdk_integrations.federated.checks import CHECKS, Refusal, ReplyLimits, ReplySpec, inspect_replies  # noqa: E402
from ddsdk_integrations.federated.client import CustomDistillation, Participant  # noqa: E402
from ddsdk_integrations.federated.client_checks import RequestLimits  # noqa: E402
from ddsdk_integrations.federated.cross_client import CrossClientFilter  # noqa: E402
from ddsdk_integrations.federated.dynafed import DynaFed, ServerTrajectory  # noqa: E402
from ddsdk_integrations.federated.inprocess import InProcessGrid  # noqa: E402
from ddsdk_integrations.federated.learners import AverageUpdates, MergedSteps, ServerLearner, TrainOnPool  # noqa: E402
from ddsdk_integrations.federated.local import LocalTraining, accuracy_of  # noqa: E402
from ddsdk_integrations.federated.meta_knowledge import MetaKnowledge  # noqa: E402
from ddsdk_integrations.federated.partition import dirichlet, quantity_skew, shards  # noqa: E402
from ddsdk_integrations.federated.payload import Contribution, Packing  # noqa: E402
from ddsdk_integrations.federated.pool import Pool, PoolWeights  # noqa: E402
from ddsdk_integrations.federated.store import RoundReport  # noqa: E402
from ddsdk_integrations.federated.strategies import dosfl, fed_dm, fed_mk, fed_synth, one_shot  # noqa: E402
from ddsdk_integrations.federated.strategy import ClientRequest, SetStrategy  # noqa: E402
from ddsdk_integrations.federated.task import FederatedTask, LocalData  # noqa: E402
from ddsdk_integrations.federated.traffic import (  # noqa: E402
    CountingGrid,
    Quorum,
    Traffic,
    client_traffic,
    content_bytes,
    count_traffic,
)
from ddsdk_integrations.federated.updates import UpdateEncoding  # noqa: E402

__all__ = [
    "CHECKS",
    "AverageUpdates",
    "ClientRequest",
    "Contribution",
    "CountingGrid",
    "CrossClientFilter",
    "CustomDistillation",
    "DynaFed",
    "FederatedTask",
    "InProcessGrid",
    "LocalData",
    "LocalTraining",
    "MergedSteps",
    "MetaKnowledge",
    "Packing",
    "Participant",
    "Pool",
    "PoolWeights",
    "Quorum",
    "Refusal",
    "ReplyLimits",
    "ReplySpec",
    "RequestLimits",
    "RoundReport",
    "ServerLearner",
    "ServerTrajectory",
    "SetStrategy",
    "Traffic",
    "TrainOnPool",
    "UpdateEncoding",
    "accuracy_of",
    "client_traffic",
    "content_bytes",
    "count_traffic",
    "dirichlet",
    "dosfl",
    "fed_dm",
    "fed_mk",
    "fed_synth",
    "inspect_replies",
    "one_shot",
    "quantity_skew",
    "shards",
]
