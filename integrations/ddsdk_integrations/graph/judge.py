"""Evaluation of condensed graphs: networks train on them and are tested on the real graph."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from typing import final

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch_geometric.data import Data

import ddsdk as dd
from ddsdk.data import Batch
from ddsdk.foundation import as_generator, derive, require
from ddsdk.synthetic import read_labels
from ddsdk.training import Score, train
from ddsdk_integrations.graph.data import GraphData, NodeSplit
from ddsdk_integrations.graph.kernel import kernel_scores
from ddsdk_integrations.graph.networks import graph_network

GRAPH_PROTOCOL = dd.TrainingProtocol(
    name="graph condensation",
    network="gcn",
    network_options={"width": 256},
    networks=10,
    epochs=600,
    batch_size=1 << 20,
    lr=0.01,
    weight_decay=5e-4,
    decay_at=(0.5,),
    optimizer="adam",
    order="stored",
)
"""The protocol of GCond: 600 epochs of Adam on the whole set; the epoch with the best validation score is tested."""


@final
class GraphBoundNetwork(nn.Module):
    """A graph network on one fixed graph, as a function of positions of nodes.

    Args:
        network: Graph network, called with features, edges and edge weights.
        x: Features of all nodes, (N, D).
        edge_index: Source and target of each edge, (2, E) int64.
        edge_weight: Weight of each edge, (E,); None for 1.
    """

    whole_batch = True

    def __init__(self, network: nn.Module, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self._graph = x, edge_index, edge_weight

    def forward(self, nodes: Tensor) -> Tensor:
        """Return the logits, (B, K), of nodes (B,) int64; every call is a forward pass over the whole graph."""
        logits: Tensor = self.network(*self._graph)[nodes]
        return logits


def to_data(distilled: dd.Distilled) -> Data:
    """Convert a set of nodes to a PyG graph.

    Args:
        distilled: Condensed graph, whose images are rows of features, (M, 1, 1, D).

    Returns:
        Graph with x (M, D), edge_index (2, E) and edge_weight (E,), y (M,) int64, soft labels y_rows (M, K), and the
        set's `content_id`. A set without edges gives E = 0.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import CoresetNodes, stochastic_blocks, to_data
        >>> to_data(ddsdk.distill(CoresetNodes(nodes=8), stochastic_blocks(400))).x.shape
        torch.Size([8, 32])
    """
    shape = tuple(distilled.images.shape)
    require(shape[1:3] == (1, 1), "distilled", "hold rows of features, (M, 1, 1, D)", shape)
    x, edges = distilled.images.flatten(1), (distilled.edge_index, distilled.edge_weight)
    data = as_data(x, distilled.labels, distilled.owner, *edges)
    data.content_id = distilled.content_id
    return data


def as_data(
    x: Tensor, rows: Tensor, classes: Tensor, edge_index: Tensor | None = None, edge_weight: Tensor | None = None
) -> Data:
    """Return a condensed graph as PyG data, the input of `trained_on_graph` and `kernel_scores`.

    Args:
        x: Features of the nodes, (M, D).
        rows: Label of each node as a row, (M, K).
        classes: Class of each node, (M,) int64.
        edge_index: Source and target of each edge, (2, E); None for no edges.
        edge_weight: Weight of each edge, (E,); None for no edges.
    """
    index = torch.zeros(2, 0, dtype=torch.int64) if edge_index is None else edge_index
    weight = torch.zeros(0) if edge_weight is None else edge_weight
    return Data(x=x, edge_index=index, edge_weight=weight, y=classes, y_rows=rows)


def evaluate_graph(
    distilled: dd.Distilled,
    graph: GraphData,
    protocol: dd.TrainingProtocol | None = None,
    *,
    seed: int | torch.Generator = 0,
    name: str = "set",
) -> Score:
    """Return the scores, on the test nodes of the real graph, of fresh networks that train on a condensed graph.

    Every 20 epochs a network is measured on the validation nodes; its best weights are tested once. A set that does
    not fit the graph raises ValueError.

    Args:
        distilled: Condensed graph, a set of nodes.
        graph: Real graph with its splits.
        protocol: Protocol of the training; None takes that of the set. With a kernel protocol no network is trained,
            and the one score is that of kernel ridge regression: report it in a column of its own.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        name: Name of the set in tables.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk_integrations.graph import GRAPH_PROTOCOL, CoresetNodes, evaluate_graph, stochastic_blocks
        >>> graph = stochastic_blocks(400)
        >>> coreset = ddsdk.distill(CoresetNodes(nodes=8), graph)
        >>> protocol = dataclasses.replace(GRAPH_PROTOCOL, networks=2, epochs=20)
        >>> len(evaluate_graph(coreset, graph, protocol).accuracies)
        2
    """
    protocol = dd.TrainingProtocol.from_dict(distilled.protocol) if protocol is None else protocol
    rule, began = f"have {graph.num_features} features", time.perf_counter()
    require(distilled.images.shape[-1] == graph.num_features, "distilled", rule, distilled.images.shape[-1])
    # Kernel regression has no random number: one score is enough.
    count = protocol.networks if protocol.learner == "network" else 1
    rng, data = as_generator(seed), to_data(distilled).to(graph.device)
    scores = [network_score(data, graph, graph.test, protocol, derive(rng, "network", i)) for i in range(count)]
    return Score(
        name=name,
        protocol=protocol.name,
        network=protocol.network_label,
        accuracies=tuple(scores),
        images=len(distilled),
        stored_floats=distilled.manifest.storage.floats,
        seconds=time.perf_counter() - began,
        labels=distilled.manifest.storage.labels,
        loss=protocol.loss if protocol.learner == "network" else "ridge",
    )


def network_score(
    data: Data, graph: GraphData, part: NodeSplit, protocol: dd.TrainingProtocol, rng: torch.Generator
) -> float:
    """Return the score, on a split of the real graph, of one network or kernel that is fitted to a condensed graph."""
    if protocol.learner == "kernel":
        return metric_of(kernel_scores(data, part, protocol), part.labels, graph.metric)
    return split_score(trained_on_graph(data, graph, protocol, rng), graph, part)


def trained_on_graph(data: Data, graph: GraphData, protocol: dd.TrainingProtocol, rng: torch.Generator) -> nn.Module:
    """Return a network trained on a condensed graph, see `as_data`, with the weights of its best validation score."""
    nodes = Batch(torch.arange(len(data.x), device=data.x.device), read_labels(data.y_rows, protocol.labels))
    return _trained((data.x, data.edge_index, data.edge_weight), nodes, graph, protocol, rng)


def whole_graph_scores(
    graph: GraphData, protocol: dd.TrainingProtocol, *, seed: int | torch.Generator = 0
) -> list[float]:
    """Return the test scores, in 0..1, of fresh networks that train on the whole real graph.

    Args:
        graph: Real graph with its splits.
        protocol: Protocol of the training, as for condensed graphs.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.

    Examples:
        >>> import dataclasses
        >>> from ddsdk_integrations.graph import GRAPH_PROTOCOL, stochastic_blocks, whole_graph_scores
        >>> len(whole_graph_scores(stochastic_blocks(400), dataclasses.replace(GRAPH_PROTOCOL, networks=2, epochs=20)))
        2
    """
    real = graph.train.graph
    nodes = Batch(graph.train.nodes, one_hot(graph.train.labels, graph.num_classes).float())
    keys = (derive(as_generator(seed), "network", i) for i in range(protocol.networks))
    networks = (_trained((real.x, real.edge_index), nodes, graph, protocol, key) for key in keys)
    return [split_score(network, graph, graph.test) for network in networks]


def _trained(
    nodes_and_edges: tuple[Tensor, ...],
    labelled: Batch,
    graph: GraphData,
    protocol: dd.TrainingProtocol,
    rng: torch.Generator,
) -> nn.Module:
    options = dict(protocol.network_options)
    network = graph_network(protocol.network, graph.num_features, graph.num_classes, derive(rng, "init"), **options)
    network = network.to(graph.device)
    epochs = train(GraphBoundNetwork(network, *nodes_and_edges), labelled, protocol, derive(rng, "train"))
    restore_best_(network, epochs, protocol.epochs, 20, lambda: split_score(network, graph, graph.val))
    return network


def restore_best_(
    network: nn.Module, epochs: Iterable[int], last: int, every: int, validate: Callable[[], float]
) -> None:
    """Train a network to the end, then restore the weights with the best validation score.

    Args:
        network: Network that the iteration over `epochs` trains.
        epochs: Training loop, which yields the number of finished epochs, 1 to `last`.
        last: Number of epochs of the training.
        every: Epochs between two validations; the last epoch is always validated.
        validate: Function that returns the validation score, not negative.
    """
    best, state = -1.0, network.state_dict()
    for done in epochs:
        if done % every and done < last:
            continue
        score = validate()
        if score > best:
            best, state = score, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)


@torch.no_grad()
def split_score(network: nn.Module, graph: GraphData, part: NodeSplit) -> float:
    """Return the score of a network on the labelled nodes of a split of the real graph, in 0..1."""
    network.eval()
    logits = network(part.graph.x, part.graph.edge_index)[part.nodes]
    return metric_of(logits, part.labels, graph.metric)


def metric_of(scores: Tensor, labels: Tensor, metric: str) -> float:
    """Return the accuracy of the arg max of scores (L, K), or the area under the ROC curve of the second class."""
    if metric == "auc":
        return float(roc_auc_score(labels.cpu().numpy(), (scores[:, 1] - scores[:, 0]).cpu().numpy()))
    return float((scores.argmax(1) == labels).float().mean())
