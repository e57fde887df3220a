"""Condensation for graph classification: DosCond, a random coreset of graphs, and the evaluation."""

from __future__ import annotations

import time
from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch as GraphBatch
from torch_geometric.data import Data

import ddsdk as dd
from ddsdk.data import Batch
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, as_generator, check_numbers, derive, require
from ddsdk.objectives import ClassMatch, squared, weight_gradients
from ddsdk.recipes import hard_label_set
from ddsdk.running import DirectMethod, IterativeMethod, Method
from ddsdk.students import FreshStudents, MakeStudent
from ddsdk.synthetic import Parametrization, Pixels
from ddsdk.training import Score, accuracy, train
from ddsdk_integrations.graph.graph_sets import GraphSet, packed, small_graphs, unpacked
from ddsdk_integrations.graph.judge import restore_best_
from ddsdk_integrations.graph.networks import StudentFactory, graph_student
from ddsdk_integrations.graph.recipe import adam
from ddsdk_integrations.graph.structure import BernoulliEdges

GRAPHS_PROTOCOL = dd.TrainingProtocol(
    name="graph classification",
    network="dense-gcn",
    network_options={"width": 128, "layers": 3},
    networks=10,
    epochs=200,
    batch_size=128,
    lr=1e-3,
    weight_decay=0.0,
    decay_at=(0.5,),
    optimizer="adam",
)
"""Adam on the set of graphs; the epoch with the best validation score is tested."""


@final
class SyntheticGraphs(Parametrization):
    """Synthetic graphs of one size with free features and Bernoulli edges; a slot decodes to a packed graph.

    Args:
        x: Initial features, (M, N, T).
        edges: Bernoulli edges of the M graphs, with logits (M, N, N).

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import BernoulliEdges, SyntheticGraphs
        >>> SyntheticGraphs(torch.rand(4, 6, 3), BernoulliEdges(torch.zeros(4, 6, 6))).stored_floats()
        72
    """

    joint: ClassVar[bool] = True

    def __init__(self, x: Tensor, edges: BernoulliEdges) -> None:
        super().__init__()
        fits = x.ndim == 3 and tuple(edges.logits.shape) == (len(x), x.shape[1], x.shape[1])
        require(fits, "x", "have shape (M, N, T) for edges (M, N, N)", tuple(x.shape))
        self.x = nn.Parameter(x.detach().clone())
        self.edges = edges

    def encode(self, images: Tensor) -> None:
        """Set the features from packed graphs, (M, 1, N, T + N); edges stay."""
        with torch.no_grad():
            self.x.copy_(unpacked(images, self.x.shape[2])[0])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return packed graphs with sampled edges, (B, 1, N, T + N), and the slots themselves."""
        return packed(self.x, self.edges.adjacency(self.x, rng))[slots], slots

    def project_(self) -> None:
        """Do nothing: features and logits have no range."""

    def stored_floats(self) -> int:
        """Return M N T; exported edges are counted separately."""
        return self.x.numel()


@dataclass(frozen=True, kw_only=True)
class GraphsMethod(Method[GraphSet], ABC):
    """Base class of methods whose sets are graphs: features (M, 1, N, T), and edges between the M N rows.

    Attributes:
        ipc: Synthetic graphs of each class.
        nodes: Nodes N of each synthetic graph; each class must have `ipc` real graphs with at most N nodes.
    """

    ipc: PositiveInt = 10
    nodes: PositiveInt = 28

    def __post_init__(self) -> None:
        check_numbers(self)

    @final
    def protocol(self, graphs: GraphSet) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return `GRAPHS_PROTOCOL`."""
        return GRAPHS_PROTOCOL

    @final
    def source(self, graphs: GraphSet) -> dd.RealData:
        """Return the packed training graphs."""
        return graphs.train

    @final
    def described(self, graphs: GraphSet) -> dd.RealData:
        """Return the training graphs, whose facts the provenance records."""
        return graphs.train

    @final
    def stored(self, syn: dd.SyntheticSet, graphs: GraphSet) -> tuple[dd.SyntheticSet, dict[str, Any]]:
        """Return the features as images, and the real edges or the learned edges with a probability above one half."""
        if isinstance(syn.parametrization, Pixels):
            x, adjacency = unpacked(syn.parametrization.images.detach(), graphs.tags)
        else:
            learned = _graphs_of(syn)
            x, adjacency = learned.x.detach(), learned.edges.adjacency(learned.x, None)
        plain = dd.SyntheticSet(Pixels(x[:, None]), syn.labels, syn.classes, syn.num_classes)
        graph, start, end = torch.nonzero(adjacency > 0, as_tuple=True)
        if not len(graph):
            return plain, {}
        index = torch.stack([graph * x.shape[1] + start, graph * x.shape[1] + end])
        return plain, {"edge_index": index, "edge_weight": adjacency[graph, start, end]}


@final
@dataclass(frozen=True, kw_only=True)
class DosCondGraphs(GraphsMethod, IterativeMethod[GraphSet]):
    """DosCond for graph classification: match gradients of a freshly initialised GCN in every step.

    Attributes:
        steps: Outer steps of the run.
        width: Units of each layer of the GCN.
        layers: Graph convolutions of the GCN.
        real_batch: Real graphs of each class in one step.
        feature_lr: Learning rate of the features (Adam).
        edge_lr: Learning rate of the logits of edges (Adam).
        density: Mean probability of an edge, in 0..1, above which the penalty is positive; None takes the density of
            the initial real graphs.
        penalty: Weight of the density penalty; 0 for none.

    Examples:
        >>> import ddsdk, torch
        >>> from torch_geometric.data import Data
        >>> from ddsdk_integrations.graph import DosCondGraphs, GraphSet, TextGraphs
        >>> edge = torch.tensor([[0, 1], [1, 0]])
        >>> graphs = [Data(x=torch.eye(2), edge_index=edge, y=torch.tensor([i % 2])) for i in range(40)]
        >>> task = GraphSet(TextGraphs(graphs, 2), rng=ddsdk.generator(0))
        >>> ddsdk.distill(DosCondGraphs(ipc=1, nodes=3, steps=2, width=8), task).images.shape
        torch.Size([2, 1, 3, 2])

    References:
        Jin et al., "Condensing Graphs via One-Step Gradient Matching", KDD 2022, arXiv:2206.07746.
    """

    name: ClassVar[str] = "doscond graphs"
    steps: PositiveInt = 300
    width: PositiveInt = 128
    layers: PositiveInt = 3
    real_batch: PositiveInt = 64
    feature_lr: PositiveFloat = 0.01
    edge_lr: PositiveFloat = 0.1
    density: float | None = None
    penalty: NonNegativeFloat = 1.0

    def student(self, graphs: GraphSet) -> StudentFactory:
        """Return a GCN on packed graphs."""
        return graph_student(graphs.tags, graphs.train.num_classes, width=self.width, layers=self.layers)

    def plan(self, graphs: GraphSet, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[nn.Module]:
        """Return gradient matching under fresh students."""
        x, adjacency = unpacked(small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start")), graphs.tags)
        edges = BernoulliEdges.scaled(adjacency)
        # The mean over all entries includes the zero diagonal.
        density = float(adjacency.mean()) * self.nodes / max(1, self.nodes - 1)
        allowed = density if self.density is None else self.density
        return dd.Plan(
            syn=hard_label_set(graphs.train, self.ipc, SyntheticGraphs(x, edges)),
            objective=ClassMatch(byproduct=weight_gradients, distance=squared, real_batch=self.real_batch),
            students=FreshStudents(make_student),
            make_optimizer=self._optimizer,
            steps=self.steps,
            penalty=lambda syn: self.penalty * _graphs_of(syn).edges.excess(allowed),
            rate_at=lambda step: 1.0 if step < 0.4 * self.steps else 0.1,
            divergence_hint="feature_lr or edge_lr",
        )

    def refuse(self, graphs: GraphSet, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse a validation on images."""
        require(validation is None, "validation", "be left out for graphs", validation)

    def admit(self, plan: dd.Plan[Any]) -> None:
        """Refuse a plan whose set cannot be exported as graphs."""
        _graphs_of(plan.syn)

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        graphs = _graphs_of(syn)
        return adam(([graphs.x], self.feature_lr), ([graphs.edges.logits], self.edge_lr))


@final
@dataclass(frozen=True, kw_only=True)
class RandomGraphs(GraphsMethod, DirectMethod[GraphSet]):
    """Baseline: a random coreset of real graphs.

    Examples:
        >>> import ddsdk, torch
        >>> from torch_geometric.data import Data
        >>> from ddsdk_integrations.graph import GraphSet, RandomGraphs, TextGraphs, to_batch
        >>> edge = torch.tensor([[0, 1], [1, 0]])
        >>> graphs = [Data(x=torch.eye(2), edge_index=edge, y=torch.tensor([i % 2])) for i in range(40)]
        >>> task = GraphSet(TextGraphs(graphs, 2), rng=ddsdk.generator(0))
        >>> to_batch(ddsdk.distill(RandomGraphs(ipc=3, nodes=2), task)).num_graphs
        6
    """

    name: ClassVar[str] = "random graphs"

    def make(self, graphs: GraphSet, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:  # noqa: ARG002
        """Return the graphs, sorted by class."""
        images = small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start"))
        return hard_label_set(graphs.train, self.ipc, Pixels(images))


def _graphs_of(syn: dd.SyntheticSet) -> SyntheticGraphs:
    if not isinstance(syn.parametrization, SyntheticGraphs):
        raise TypeError(f"syn must be a set of SyntheticGraphs, got {type(syn.parametrization).__name__}")
    return syn.parametrization


def to_batch(distilled: dd.Distilled) -> GraphBatch:
    """Return a set of graphs as a PyG batch; nodes without features are padding and are left out."""
    m, _, n, _ = distilled.images.shape
    index, weight = _edges_of(distilled)
    graphs = []
    for i in range(m):
        x = distilled.images[i, 0]
        is_node = x.abs().sum(1) > 0
        new_number = is_node.cumsum(0) - 1
        # Row i n + j of the set is node j of graph i.
        inside = index[0] // n == i
        edges = new_number[index[:, inside] % n]
        y = distilled.owner[i : i + 1]
        graphs.append(Data(x=x[is_node], edge_index=edges, edge_weight=weight[inside], y=y))
    return GraphBatch.from_data_list(graphs)


def _edges_of(distilled: dd.Distilled) -> tuple[Tensor, Tensor]:
    if distilled.edge_index is None or distilled.edge_weight is None:
        return torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0)
    return distilled.edge_index, distilled.edge_weight


def _repacked(distilled: dd.Distilled) -> Tensor:
    m, _, n, _ = distilled.images.shape
    index, weight = _edges_of(distilled)
    adjacency = torch.zeros(m, n, n)
    adjacency[index[0] // n, index[0] % n, index[1] % n] = weight
    return packed(distilled.images[:, 0], adjacency)


def evaluate_graphs(
    batch: dd.Distilled | dd.RealData,
    graphs: GraphSet,
    protocol: dd.TrainingProtocol = GRAPHS_PROTOCOL,
    *,
    seed: int | torch.Generator = 0,
    name: str = "set",
) -> Score:
    """Return the test accuracies of fresh GCNs that train on a set of graphs, or on real graphs.

    Every 10 epochs a network is measured on the validation graphs; its best weights are tested once.

    Args:
        batch: Condensed set of graphs, or real data such as ``graphs.train``.
        graphs: Real graphs with their splits.
        protocol: Protocol of the training, whose network is a GCN.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        name: Name of the set in tables.

    Examples:
        >>> import dataclasses, ddsdk, torch
        >>> from torch_geometric.data import Data
        >>> from ddsdk_integrations.graph import GRAPHS_PROTOCOL, GraphSet, TextGraphs, evaluate_graphs
        >>> edge = torch.tensor([[0, 1], [1, 0]])
        >>> graphs = [Data(x=torch.eye(2), edge_index=edge, y=torch.tensor([i % 2])) for i in range(40)]
        >>> task = GraphSet(TextGraphs(graphs, 2), rng=ddsdk.generator(0))
        >>> protocol = dataclasses.replace(GRAPHS_PROTOCOL, networks=1, epochs=2)
        >>> len(evaluate_graphs(task.train, task, protocol).accuracies)
        1
    """
    rng, began = as_generator(seed), time.perf_counter()
    if isinstance(batch, dd.RealData):
        training = batch.batch(torch.arange(len(batch)))
        floats = training.x.numel()
    else:
        training, floats = Batch(_repacked(batch), batch.labels), batch.manifest.storage.floats
    keys = (derive(rng, "network", i) for i in range(protocol.networks))
    accuracies = [_test_accuracy(training, graphs, protocol, key) for key in keys]
    return Score(
        name=name,
        protocol=protocol.name,
        network=protocol.network_label,
        accuracies=tuple(accuracies),
        images=len(training.x),
        stored_floats=floats,
        seconds=time.perf_counter() - began,
        labels="hard",
        loss=protocol.loss,
    )


def _test_accuracy(training: Batch, graphs: GraphSet, protocol: dd.TrainingProtocol, rng: torch.Generator) -> float:
    make = graph_student(graphs.tags, graphs.train.num_classes, **protocol.network_options)
    network = make(derive(rng, "init"))
    val, test = (part.batch(torch.arange(len(part))).x for part in (graphs.val, graphs.test))
    epochs = train(network, training, protocol, derive(rng, "train"))
    restore_best_(network, epochs, protocol.epochs, 10, lambda: accuracy(network, val, graphs.val.labels))
    return accuracy(network, test, graphs.test.labels)
