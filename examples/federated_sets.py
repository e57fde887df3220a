"""Four hospitals exchange distilled digits in place of weights, in one process: no ports, no Ray.

    python examples/federated_sets.py

The same client app and the same strategy run in a real federation: examples/federated_app is the app, and
examples/federated_deployment.py starts its processes with TLS and signed nodes.
"""

import logging

from flwr.serverapp.strategy import FedAvg

import ddsdk as dd
from ddsdk_integrations.federated import (
    CountingGrid,
    FederatedTask,
    InProcessGrid,
    LocalTraining,
    Participant,
    accuracy_of,
    dirichlet,
    fed_dm,
)

HOSPITALS = 4

logging.getLogger("flwr").setLevel(logging.ERROR)
logging.basicConfig(format="%(message)s")
logging.getLogger("ddsdk.federated").setLevel(logging.INFO)

train, test = dd.load_pair("digits")
task = FederatedTask.of(train, network="convnet", width=16, depth=2)
parts = dirichlet(train.labels, HOSPITALS, 0.3, dd.generator("split"), least=20)


def load(context):
    """Return a hospital's own images and labels."""
    mine = parts[context.node_config["partition-id"]]
    return train.images[mine], train.labels[mine]


client = Participant(
    task=task, load=load, distil=dd.DM(ipc=5, steps=20, real_batch=64), training=LocalTraining(lr=0.05, batch_size=32)
)


def run(name, strategy, rounds):
    """Run a strategy over the same clients, and say what it reached for how many bytes."""
    grid = CountingGrid(InProcessGrid(client.app(), HOSPITALS))
    result = strategy.start(grid, task.initial_arrays(), rounds, evaluate_fn=accuracy_of(task, test))
    accuracy = result.evaluate_metrics_serverapp[rounds]["accuracy"]
    print(f"{name}: {100 * accuracy:.1f} % after {rounds} rounds, {grid.traffic.total / 1e6:.2f} MB")


run("averaging of weights", FedAvg(fraction_evaluate=0.0), 6)
strategy = fed_dm(task, radius=1.0, remember=3)
run("exchange of sets", strategy, 3)
strategy.distilled().save("out/federated-digits")
