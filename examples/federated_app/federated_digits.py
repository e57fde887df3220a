"""A Flower app whose clients send distilled digits in place of weights."""

import logging
import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import ddsdk as dd
from ddsdk_integrations.federated import FederatedTask, Participant, accuracy_of, client_traffic, dirichlet, fed_dm

TRAIN, TEST = dd.load_pair("digits")
TASK = FederatedTask(
    class_names=TRAIN.class_names,
    image_shape=TRAIN.image_shape,
    # Chosen, not fitted: a fit on private images would tell of them.
    preprocess=dd.Preprocess.normalise([0.5], [0.5]),
    network="convnet",
    network_options={"width": 16, "depth": 2},
)


def setting(context: Context, name: str, usual: float) -> float:
    """Return an entry of the run's configuration; a simulation that Python starts has none."""
    return float(context.run_config.get(name, usual))


def load(context: Context):
    """Return the client's own images and labels."""
    clients, mine = int(context.node_config["num-partitions"]), int(context.node_config["partition-id"])
    parts = dirichlet(TRAIN.labels, clients, setting(context, "alpha", 0.5), dd.generator("split"), least=20)
    return TRAIN.images[parts[mine]], TRAIN.labels[parts[mine]]


client_app = Participant(task=TASK, load=load, distil=dd.DM(ipc=5, steps=20, real_batch=64)).app()
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and save what the clients' sets make together."""
    log = logging.getLogger("ddsdk.federated")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    strategy = fed_dm(
        TASK,
        radius=1.0,
        min_available_nodes=int(setting(context, "min-nodes", 1)),
        folder=context.run_config.get("out") or None,
    )
    rounds = int(setting(context, "num-rounds", 2))
    result = strategy.start(grid, TASK.initial_arrays(), rounds, evaluate_fn=accuracy_of(TASK, TEST))
    for number, metrics in result.evaluate_metrics_serverapp.items():
        print(f"round {number}: accuracy {metrics['accuracy']:.3f}")
    theirs = client_traffic(grid)
    print(f"the server counts {strategy.traffic.up} bytes up, {strategy.traffic.down} down")
    print(f"the clients count {theirs.up} bytes up, {theirs.down} down")
