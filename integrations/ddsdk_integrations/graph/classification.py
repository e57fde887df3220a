"""Classification of whole graphs: DosCond, random graphs, and their scores."""

from __future__ import annotations

import copy
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
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.objectives import ClassMatch, squared, weight_gradients
from ddsdk.running import DirectMethod, IterativeMethod, Method
from ddsdk.students import FreshStudents, MakeStudent
from ddsdk.synthetic import Parametrization, Pixels, class_slots, hard_labels
from ddsdk.training import Score, accuracy, train
from ddsdk_integrations.graph.graph_sets import GraphSet, packed, small_graphs, unpacked
from ddsdk_integrations.graph.structure import BernoulliEdges
from ddsdk_integrations.graph.students import StudentFactory, graph_student

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

_EVERY = 10


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

    @torch.no_grad()
    def likely(self) -> Tensor:
        """Return the graphs with their likely edges, (M, 1, N, T + N), detached."""
        return packed(self.x.detach(), self.edges.adjacency(self.x, None))

    def project_(self) -> None:
        """Do nothing: features and logits are free."""

    def stored_floats(self) -> int:
        """Return M N T; the edges of an export are counted by themselves."""
        return self.x.numel()


@dataclass(frozen=True, kw_only=True)
class GraphsMethod(Method[GraphSet], ABC):
    """A method whose sets are graphs: features (M, 1, N, T), and edges between the rows of all of them.

    Attributes:
        name: Name in tables.
        ipc: Graphs of each class.
        nodes: Nodes of a graph of the set; the real graphs that it is made of have at most as many.
    """

    ipc: int = 10
    nodes: int = 28

    def __post_init__(self) -> None:
        for name in ("ipc", "nodes"):
            require_count(name, getattr(self, name))

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
        """Return the features as images, and the edges between the rows of all of them."""
        x, adjacency = unpacked(_packed_graphs(syn), graphs.tags)
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
        name: Name in tables.
        ipc: Graphs of each class.
        nodes: Nodes of each synthetic graph; it starts as a real graph that is no larger.
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
    steps: int = 300
    width: int = 128
    layers: int = 3
    real_batch: int = 64
    feature_lr: float = 0.01
    edge_lr: float = 0.1
    density: float | None = None
    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "width", "layers", "real_batch"):
            require_count(name, getattr(self, name))
        for name in ("feature_lr", "edge_lr"):
            require_rate(name, getattr(self, name))
        require(0 <= self.penalty < float("inf"), "penalty", "be finite, not negative", self.penalty)

    def student(self, graphs: GraphSet) -> StudentFactory:
        """Return a GCN over packed graphs."""
        return graph_student(graphs.tags, graphs.train.num_classes, width=self.width, layers=self.layers)

    def plan(self, graphs: GraphSet, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[nn.Module]:
        """Return the parts, ready to run.

        Raises:
            ValueError: If a class has fewer than `ipc` graphs of at most `nodes` nodes.
        """
        x, adjacency = unpacked(small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start")), graphs.tags)
        edges = BernoulliEdges.scaled(adjacency)
        density = float(adjacency.mean()) * self.nodes / max(1, self.nodes - 1)
        allowed = density if self.density is None else self.density
        classes = class_slots(graphs.train.num_classes, self.ipc)
        labels = hard_labels(classes, graphs.train.num_classes)
        return dd.Plan(
            syn=dd.SyntheticSet(SyntheticGraphs(x, edges), labels, classes, graphs.train.num_classes),
            objective=ClassMatch(byproduct=weight_gradients, distance=squared, real_batch=self.real_batch),
            students=FreshStudents(make_student),
            make_optimizer=self._optimizer,
            steps=self.steps,
            penalty=lambda syn: self.penalty * _graphs_of(syn).edges.excess(allowed),
            rate_at=lambda step: 1.0 if step < 0.4 * self.steps else 0.1,
            knobs="feature_lr or edge_lr",
        )

    def refuse(self, graphs: GraphSet, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse a validation on images.

        Raises:
            ValueError: If one is given.
        """
        require(validation is None, "validation", "be left out for graphs", validation)

    def admit(self, plan: dd.Plan[Any]) -> None:
        """Refuse a plan whose set could not be exported.

        Raises:
            TypeError: If the items of the set are no graphs.
        """
        _graphs_of(plan.syn)

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        graphs = _graphs_of(syn)
        groups: list[dict[str, Any]] = [{"params": [graphs.x], "lr": self.feature_lr}]
        return torch.optim.Adam([*groups, {"params": [graphs.edges.logits], "lr": self.edge_lr}])


@final
@dataclass(frozen=True, kw_only=True)
class RandomGraphs(GraphsMethod, DirectMethod[GraphSet]):
    """Real graphs at random, the baseline.

    Attributes:
        name: Name in tables.
        ipc: Graphs of each class.
        nodes: Largest number of nodes of a graph, as for `DosCondGraphs`.
    """

    name: ClassVar[str] = "random graphs"

    def make(
        self,
        graphs: GraphSet,
        *,
        make_student: MakeStudent,  # noqa: ARG002
        rng: torch.Generator,
    ) -> dd.SyntheticSet:
        """Return the graphs, class by class.

        Raises:
            ValueError: If a class has fewer than `ipc` graphs of at most `nodes` nodes.
        """
        images = small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start"))
        classes, k = class_slots(graphs.train.num_classes, self.ipc), graphs.train.num_classes
        return dd.SyntheticSet(Pixels(images), hard_labels(classes, k), classes, k)


def _graphs_of(syn: dd.SyntheticSet) -> SyntheticGraphs:
    if not isinstance(syn.parametrization, SyntheticGraphs):
        raise TypeError(f"syn must be a set of SyntheticGraphs, got {type(syn.parametrization).__name__}")
    return syn.parametrization


def _packed_graphs(syn: dd.SyntheticSet) -> Tensor:
    """Return the packed graphs of an export: real ones as they are, learned ones with their likely edges."""
    stored = syn.parametrization
    return stored.images.detach() if isinstance(stored, Pixels) else _graphs_of(syn).likely()


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
    rng: torch.Generator,
    name: str = "set",
) -> Score:
    """Train fresh GCNs on a set of graphs, or on real ones, and return their accuracy on the test graphs.

    Every 10 epochs a network is measured on the validation graphs; the best weights are tested, once.

    Args:
        batch: Condensed set, or real data such as ``graphs.train``.
        graphs: Real graphs.
        evaluation: Protocol.
        rng: Generator from which network i derives everything.
        name: Name in tables.
    """
    began = time.perf_counter()
    real = batch if isinstance(batch, dd.RealData) else None
    if isinstance(batch, dd.RealData):
        shown = batch.batch(torch.arange(len(batch)))
    else:
        shown = Batch(_repacked(batch), batch.labels)
    found = [_one(shown, graphs, evaluation, derive(rng, "network", i)) for i in range(evaluation.networks)]
    floats = shown.x.numel() if real is not None else batch.manifest.storage.floats  # type: ignore[union-attr]
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


def _one(shown: Batch, graphs: GraphSet, evaluation: dd.Evaluation, rng: torch.Generator) -> float:
    make = graph_student(graphs.tags, graphs.train.num_classes, **evaluation.network_options)
    network = make(derive(rng, "init"))
    best, state = -1.0, network.state_dict()
    val, test = (part.batch(torch.arange(len(part))).x for part in (graphs.val, graphs.test))
    for done in train(network, shown, evaluation, derive(rng, "train")):
        if done % _EVERY and done < evaluation.epochs:
            continue
        reached = accuracy(network, val, graphs.val.labels)
        if reached > best:
            best, state = reached, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)
    return accuracy(network, test, graphs.test.labels)
