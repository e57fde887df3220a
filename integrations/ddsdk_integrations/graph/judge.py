"""Scores of condensed graphs: networks train on them and are tested on the real graph."""

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
from ddsdk.foundation import derive, require, root
from ddsdk.synthetic import read_labels
from ddsdk.training import Score, train
from ddsdk_integrations.graph.data import GraphData, Part
from ddsdk_integrations.graph.kernel import kernel_scores
from ddsdk_integrations.graph.networks import graph_network

GRAPH_PROTOCOL = dd.Evaluation(
    protocol="graph condensation",
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
"""GCond's: 600 steps of Adam on the whole set, the best of them on the validation nodes of the real graph."""


@final
class OnGraph(nn.Module):
    """A graph network bound to the nodes and edges of one graph: a function of the numbers of nodes."""

    whole_batch = True

    def __init__(self, network: nn.Module, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self._graph = x, edge_index, edge_weight

    def forward(self, nodes: Tensor) -> Tensor:
        """Return the logits, (B, K), of nodes (B,) int64; every call passes the whole graph."""
        logits: Tensor = self.network(*self._graph)[nodes]
        return logits


def to_data(distilled: dd.Distilled) -> Data:
    """Return a set of nodes as a PyG graph.

    Returns:
        x (M, D), edge_index and edge_weight (empty without a structure), y (M,) int64, the rows of labels as y_rows
        (M, K), and the content id of the set as `content_id`.

    Raises:
        ValueError: If the images of the set are no rows of features.
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
    """Return a small graph as `trained_on_graph` and `kernel_scores` take it.

    Args:
        x: Features, (M, D).
        rows: Rows of labels, (M, K).
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
    evaluation: dd.Evaluation | None = None,
    *,
    seed: int | torch.Generator = 0,
    name: str = "set",
) -> Score:
    """Train fresh networks on a set and return their scores on the test nodes of the real graph.

    Every 20 epochs a network is measured on the validation nodes; the best weights are tested, once.

    Args:
        distilled: Condensed graph.
        graph: Real graph.
        evaluation: Protocol; None takes that of the set. A protocol of a kernel trains nothing and has one score, whose
            `network` names the kernel: it belongs in a column of its own.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        name: Name in tables.

    Raises:
        ValueError: If the set does not fit the graph.
    """
    own = dd.Evaluation.from_dict(distilled.evaluation) if evaluation is None else evaluation
    rule, began = f"have {graph.num_features} features", time.perf_counter()
    require(distilled.images.shape[-1] == graph.num_features, "distilled", rule, distilled.images.shape[-1])
    many = own.networks if own.learner == "network" else 1
    rng, data = root(seed), to_data(distilled)
    found = [reached(data, graph, graph.test, own, derive(rng, "network", i)) for i in range(many)]
    return Score(
        name=name,
        protocol=own.protocol,
        network=own.network_label,
        accuracies=tuple(found),
        images=len(distilled),
        stored_floats=distilled.manifest.storage.floats,
        seconds=time.perf_counter() - began,
        labels=distilled.manifest.storage.labels,
        loss=own.loss if own.learner == "network" else "ridge",
    )


def reached(data: Data, graph: GraphData, part: Part, evaluation: dd.Evaluation, rng: torch.Generator) -> float:
    """Return the score of one network that trains on a small graph, or of its kernel, on a part of the real graph."""
    if evaluation.learner == "kernel":
        return metric_of(kernel_scores(data, part, evaluation), part.labels, graph.metric)
    return held_out(trained_on_graph(data, graph, evaluation, rng), graph, part)


def trained_on_graph(data: Data, graph: GraphData, evaluation: dd.Evaluation, rng: torch.Generator) -> nn.Module:
    """Return a network that trained on a small graph, see `as_data`, with its best weights on the validation nodes."""
    shown = Batch(torch.arange(len(data.x)), read_labels(data.y_rows, evaluation.labels))
    return _trained((data.x, data.edge_index, data.edge_weight), shown, graph, evaluation, rng)


def whole_graph(graph: GraphData, evaluation: dd.Evaluation, *, seed: int | torch.Generator = 0) -> list[float]:
    """Return the scores on the test nodes of networks that train on the training nodes of the real graph, in 0..1.

    Args:
        graph: Real graph.
        evaluation: Protocol of training, as for condensed graphs.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
    """
    seen, shown = graph.train.graph, Batch(graph.train.nodes, one_hot(graph.train.labels, graph.num_classes).float())
    keys = (derive(root(seed), "network", i) for i in range(evaluation.networks))
    networks = (_trained((seen.x, seen.edge_index), shown, graph, evaluation, key) for key in keys)
    return [held_out(network, graph, graph.test) for network in networks]


def _trained(
    nodes_and_edges: tuple[Tensor, ...], shown: Batch, graph: GraphData, evaluation: dd.Evaluation, rng: torch.Generator
) -> nn.Module:
    options = dict(evaluation.network_options)
    network = graph_network(evaluation.network, graph.num_features, graph.num_classes, derive(rng, "init"), **options)
    epochs = train(OnGraph(network, *nodes_and_edges), shown, evaluation, derive(rng, "train"))
    keep_best_(network, epochs, evaluation.epochs, 20, lambda: held_out(network, graph, graph.val))
    return network


def keep_best_(network: nn.Module, epochs: Iterable[int], last: int, every: int, validate: Callable[[], float]) -> None:
    """Train a network through `epochs`, and leave the weights in it that had the best score.

    Args:
        network: Network that `epochs` trains.
        epochs: Numbers of the finished epochs, from 1 to `last`.
        last: Number of epochs.
        every: Epochs between two scores; the last epoch has one too.
        validate: Score of the network, not negative.
    """
    best, state = -1.0, network.state_dict()
    for done in epochs:
        if done % every and done < last:
            continue
        found = validate()
        if found > best:
            best, state = found, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)


@torch.no_grad()
def held_out(network: nn.Module, graph: GraphData, part: Part) -> float:
    """Return the metric of a network on the labelled nodes of a part of the real graph, in 0..1."""
    network.eval()
    logits = network(part.graph.x, part.graph.edge_index)[part.nodes]
    return metric_of(logits, part.labels, graph.metric)


def metric_of(scores: Tensor, labels: Tensor, metric: str) -> float:
    """Return the accuracy of the largest score, (L, K), or the area under the ROC curve of the second class."""
    if metric == "auc":
        return float(roc_auc_score(labels.cpu().numpy(), (scores[:, 1] - scores[:, 0]).cpu().numpy()))
    return float((scores.argmax(1) == labels).float().mean())
