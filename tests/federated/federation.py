"""Parts of small federations for the tests."""

from __future__ import annotations

import dataclasses
import logging
import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import torch
from flwr.app import ArrayRecord

import ddsdk as dd
from ddsdk_integrations.federated import FederatedTask, InProcessGrid, LocalTraining, Participant, dirichlet, fed_dm

# Fixtures of a module run before the one that sets this for each test.
torch.set_num_threads(1)
logging.getLogger("flwr").setLevel(logging.ERROR)

CLIENTS = 4
TRAIN, TEST = dd.load_pair("digits")
TASK = FederatedTask.of(TRAIN, network="convnet", width=4, depth=2)
PARTS = dirichlet(TRAIN.labels, CLIENTS + 1, 5.0, dd.generator("parts"), least=30)
RECIPE = dd.DM(ipc=2, steps=2, real_batch=16)
QUICK = dd.TrainingProtocol(name="test", epochs=2, lr=0.05, batch_size=32)


def load(context):
    mine = PARTS[context.node_config["partition-id"]]
    return TRAIN.images[mine], TRAIN.labels[mine]


def participant(**how):
    return Participant(
        **{"task": TASK, "load": load, "distil": RECIPE, "training": LocalTraining(lr=0.05, batch_size=32), **how}
    )


def strategy(make=fed_dm, **how):
    usual = {"protocol": QUICK} if make is fed_dm else {}
    return make(TASK, **{**usual, "secret": 0, **how})


def run(made, app=None, *, rounds=1, clients=CLIENTS, **grid):
    """Run a strategy; return the final weights as one vector."""
    apps = participant().app() if app is None else app
    where = InProcessGrid(apps, clients, **grid)
    return vector(made.start(where, TASK.initial_arrays(), rounds, timeout=600).arrays)


def told(made):
    """Return the reports without what a server that goes on adds: other seconds, and bytes to ask who is there."""
    return [dataclasses.replace(report, seconds=0, up=0, down=0) for report in made.reports]


def vector(arrays: ArrayRecord):
    return torch.cat([t.flatten() for t in arrays.to_torch_state_dict().values()])
