"""Federated learning by synthetic sets with Flower: ``pip install 'ddsdk[federated]'``.

>>> from ddsdk_integrations.federated import Participant, Task, fed_dm
>>> task = Task.of(public, network="convnet", width=32)
>>> client_app = Participant(task=task, load=load, distil=ddsdk.DM(steps=100)).app()
>>> strategy = fed_dm(task)  # strategy.start(grid, task.initial_arrays(), num_rounds=5)
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("flwr", feature="Federated learning by synthetic sets", package="flwr", extra="federated")

from ddsdk_integrations.federated.checks import CHECKS, Contract, Limits, Refusal, inspect_replies  # noqa: E402
from ddsdk_integrations.federated.client import Alone, Participant  # noqa: E402
from ddsdk_integrations.federated.dynafed import DynaFed, Trajectory  # noqa: E402
from ddsdk_integrations.federated.inprocess import InProcessGrid  # noqa: E402
from ddsdk_integrations.federated.knowledge import MetaKnowledge  # noqa: E402
from ddsdk_integrations.federated.learners import AverageUpdates, Learner, MergedSteps, TrainOnPool  # noqa: E402
from ddsdk_integrations.federated.local import LocalTraining, accuracy_of  # noqa: E402
from ddsdk_integrations.federated.partition import dirichlet, quantity_skew, shards  # noqa: E402
from ddsdk_integrations.federated.payload import Contribution, Packing  # noqa: E402
from ddsdk_integrations.federated.pool import Pool, Weighing  # noqa: E402
from ddsdk_integrations.federated.screen import Screen  # noqa: E402
from ddsdk_integrations.federated.store import RoundReport  # noqa: E402
from ddsdk_integrations.federated.strategies import dosfl, fed_dm, fed_mk, fed_synth, one_shot  # noqa: E402
from ddsdk_integrations.federated.strategy import Ask, SetStrategy  # noqa: E402
from ddsdk_integrations.federated.task import LocalData, Task  # noqa: E402
from ddsdk_integrations.federated.traffic import CountingGrid, Traffic, client_traffic, content_bytes, count_traffic  # noqa: E402
from ddsdk_integrations.federated.updates import Encoding  # noqa: E402

__all__ = [
    "CHECKS",
    "Alone",
    "Ask",
    "AverageUpdates",
    "Contract",
    "Contribution",
    "CountingGrid",
    "DynaFed",
    "Encoding",
    "InProcessGrid",
    "Learner",
    "Limits",
    "LocalData",
    "LocalTraining",
    "MergedSteps",
    "MetaKnowledge",
    "Packing",
    "Participant",
    "Pool",
    "Refusal",
    "RoundReport",
    "Screen",
    "SetStrategy",
    "Task",
    "Traffic",
    "TrainOnPool",
    "Trajectory",
    "Weighing",
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
