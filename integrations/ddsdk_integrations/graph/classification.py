"""Classification of whole graphs: DosCond, random graphs, and their scores."""

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
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, check_numbers, derive, require, root
from ddsdk.objectives import ClassMatch, squared, weight_gradients
from ddsdk.recipes import hard_set
from ddsdk.running import DirectMethod, IterativeMethod, Method
from ddsdk.students import FreshStudents, MakeStudent
from ddsdk.synthetic import Parametrization, Pixels
from ddsdk.training import Score, accuracy, train
from ddsdk_integrations.graph.graph_sets import GraphSet, packed, small_graphs, unpacked
from ddsdk_integrations.graph.judge import keep_best_
from ddsdk_integrations.graph.networks import StudentFactory, graph_student
from ddsdk_integrations.graph.recipe import adam
from ddsdk_integrations.graph.structure import BernoulliEdges

GRAPHS_PROTOCOL = dd.Evaluation(
    protocol="graph classification",
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
"""Adam on the set; the best epoch on the validation graphs is tested."""


@final
class SyntheticGraphs(Parametrization):
    """Graphs of one size with free features and Bernoulli edges; a slot is a graph, and decodes to a packed one.

    Args:
        x: Features at the start, (M, N, T).
        edges: Edges of the M graphs.
    """

    joint: ClassVar[bool] = True

    def __init__(self, x: Tensor, edges: BernoulliEdges) -> None:
        super().__init__()
        fits = x.ndim == 3 and tuple(edges.logits.shape) == (len(x), x.shape[1], x.shape[1])
        require(fits, "x", "have shape (M, N, T) for edges (M, N, N)", tuple(x.shape))
        self.x = nn.Parameter(x.detach().clone())
        self.edges = edges

    def encode(self, images: Tensor) -> None:
        """Set features, (M, 1, N, T + N); edges stay."""
        with torch.no_grad():
            self.x.copy_(unpacked(images, self.x.shape[2])[0])

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return drawn graphs, (B, 1, N, T + N)."""
        return packed(self.x, self.edges.adjacency(self.x, rng))[slots], slots

    def project_(self) -> None:
        """Do nothing: features and logits are free."""

    def stored_floats(self) -> int:
        """Return M N T; the edges of an export are counted by themselves."""
        return self.x.numel()


@dataclass(frozen=True, kw_only=True)
class GraphsMethod(Method[GraphSet], ABC):
    """A method whose sets are graphs: features (M, 1, N, T), and edges between the rows of all of them.

    Attributes:
        ipc: Graphs of each class.
        nodes: Nodes of a graph of the set. Each class needs `ipc` real graphs with at most as many, to start from.
    """

    ipc: PositiveInt = 10
    nodes: PositiveInt = 28

    def __post_init__(self) -> None:
        check_numbers(self)

    @final
    def evaluation(self, graphs: GraphSet) -> dd.Evaluation:  # noqa: ARG002
        """Return Adam on the set."""
        return GRAPHS_PROTOCOL

    @final
    def source(self, graphs: GraphSet) -> dd.RealData:
        """Return the packed training graphs."""
        return graphs.train

    @final
    def described(self, graphs: GraphSet) -> dd.RealData:
        """Return the training graphs."""
        return graphs.train

    @final
    def stored(self, syn: dd.SyntheticSet, graphs: GraphSet) -> tuple[dd.SyntheticSet, dict[str, Any]]:
        """Return the features as images, and edges between the rows of all: real ones, or the likely learned ones."""
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
    """DosCond for whole graphs: gradients of a GCN at its initialisation are matched once in each step.

    Attributes:
        steps: Outer steps.
        width: Units of each layer of the GCN.
        layers: Layers of the GCN.
        real_batch: Real graphs of each class in one step.
        feature_lr: Learning rate of features (Adam).
        edge_lr: Learning rate of the logits of edges.
        density: Mean probability of an edge above which it is punished; None takes that of the real graphs of the
            start.
        penalty: Weight of the punishment.

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
        """Return a GCN over packed graphs."""
        return graph_student(graphs.tags, graphs.train.num_classes, width=self.width, layers=self.layers)

    def plan(self, graphs: GraphSet, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[nn.Module]:
        """Return the parts, ready to run."""
        x, adjacency = unpacked(small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start")), graphs.tags)
        edges = BernoulliEdges.scaled(adjacency)
        density = float(adjacency.mean()) * self.nodes / max(1, self.nodes - 1)
        allowed = density if self.density is None else self.density
        return dd.Plan(
            syn=hard_set(graphs.train, self.ipc, SyntheticGraphs(x, edges)),
            objective=ClassMatch(byproduct=weight_gradients, distance=squared, real_batch=self.real_batch),
            students=FreshStudents(make_student),
            make_optimizer=self._optimizer,
            steps=self.steps,
            penalty=lambda syn: self.penalty * _graphs_of(syn).edges.excess(allowed),
            rate_at=lambda step: 1.0 if step < 0.4 * self.steps else 0.1,
            knobs="feature_lr or edge_lr",
        )

    def refuse(self, graphs: GraphSet, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse a validation on images."""
        require(validation is None, "validation", "be left out for graphs", validation)

    def admit(self, plan: dd.Plan[Any]) -> None:
        """Refuse a plan whose set could not be exported."""
        _graphs_of(plan.syn)

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        graphs = _graphs_of(syn)
        return adam(([graphs.x], self.feature_lr), ([graphs.edges.logits], self.edge_lr))


@final
@dataclass(frozen=True, kw_only=True)
class RandomGraphs(GraphsMethod, DirectMethod[GraphSet]):
    """Real graphs at random, the baseline."""

    name: ClassVar[str] = "random graphs"

    def make(self, graphs: GraphSet, *, make_student: MakeStudent, rng: torch.Generator) -> dd.SyntheticSet:  # noqa: ARG002
        """Return the graphs, class by class."""
        images = small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start"))
        return hard_set(graphs.train, self.ipc, Pixels(images))


def _graphs_of(syn: dd.SyntheticSet) -> SyntheticGraphs:
    if not isinstance(syn.parametrization, SyntheticGraphs):
        raise TypeError(f"syn must be a set of SyntheticGraphs, got {type(syn.parametrization).__name__}")
    return syn.parametrization


def to_batch(distilled: dd.Distilled) -> GraphBatch:
    """Return a set of graphs as a PyG batch; nodes without features are left out, as they are nowhere counted."""
    m, _, n, _ = distilled.images.shape
    index, weight = _edges_of(distilled)
    graphs = []
    for i in range(m):
        x = distilled.images[i, 0]
        there = x.abs().sum(1) > 0
        place = there.cumsum(0) - 1
        mine = index[0] // n == i
        edges = place[index[:, mine] % n]
        graphs.append(Data(x=x[there], edge_index=edges, edge_weight=weight[mine], y=distilled.owner[i : i + 1]))
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
    evaluation: dd.Evaluation = GRAPHS_PROTOCOL,
    *,
    seed: int | torch.Generator = 0,
    name: str = "set",
) -> Score:
    """Train fresh GCNs on a set of graphs, or on real ones, and return their accuracy on the test graphs.

    Every 10 epochs a network is measured on the validation graphs; the best weights are tested, once.

    Args:
        batch: Condensed set, or real data such as ``graphs.train``.
        graphs: Real graphs.
        evaluation: Protocol.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        name: Name in tables.
    """
    rng, began = root(seed), time.perf_counter()
    if isinstance(batch, dd.RealData):
        shown = batch.batch(torch.arange(len(batch)))
        floats = shown.x.numel()
    else:
        shown, floats = Batch(_repacked(batch), batch.labels), batch.manifest.storage.floats
    found = [_reached(shown, graphs, evaluation, derive(rng, "network", i)) for i in range(evaluation.networks)]
    return Score(
        name=name,
        protocol=evaluation.protocol,
        network=evaluation.network_label,
        accuracies=tuple(found),
        images=len(shown.x),
        stored_floats=floats,
        seconds=time.perf_counter() - began,
        labels="hard",
        loss=evaluation.loss,
    )


def _reached(shown: Batch, graphs: GraphSet, evaluation: dd.Evaluation, rng: torch.Generator) -> float:
    make = graph_student(graphs.tags, graphs.train.num_classes, **evaluation.network_options)
    network = make(derive(rng, "init"))
    val, test = (part.batch(torch.arange(len(part))).x for part in (graphs.val, graphs.test))
    epochs = train(network, shown, evaluation, derive(rng, "train"))
    keep_best_(network, epochs, evaluation.epochs, 10, lambda: accuracy(network, val, graphs.val.labels))
    return accuracy(network, test, graphs.test.labels)
