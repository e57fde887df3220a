"""Classification of whole graphs: a padded graph is a matrix of features beside its adjacency, and so an image."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch_geometric.data import Batch as GraphBatch
from torch_geometric.data import Data
from torch_geometric.utils import to_dense_adj

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.data import Batch, choose
from ddsdk.foundation import derive, require, require_count, require_rate, require_rng
from ddsdk.networks import Network, initialise
from ddsdk.objectives import ClassMatch, squared, weight_gradients
from ddsdk.students import FreshStudents, MakeStudent
from ddsdk.synthetic import Parametrization, Pixels, class_slots, hard_labels
from ddsdk.training import Score, accuracy, train
from ddsdk_integrations.graph.load import TextGraphs
from ddsdk_integrations.graph.propagation import dense_normalised
from ddsdk_integrations.graph.structure import BernoulliEdges

__all__ = [
    "GRAPHS_PROTOCOL",
    "DosCondGraphs",
    "GraphSet",
    "RandomGraphs",
    "SyntheticGraphs",
    "evaluate_graphs",
    "graph_student",
    "packed",
    "to_batch",
    "unpacked",
]

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


def packed(x: Tensor, adjacency: Tensor) -> Tensor:
    """Return graphs as images, (B, 1, N, T + N): features (B, N, T) beside the adjacency (B, N, N)."""
    return torch.cat([x, adjacency], dim=2)[:, None]


def unpacked(images: Tensor, tags: int) -> tuple[Tensor, Tensor]:
    """Return features (B, N, T) and adjacency (B, N, N) of `packed` graphs."""
    rows = images[:, 0]
    return rows[..., :tags], rows[..., tags:]


@final
class GraphSet:
    """Labelled graphs in three parts, each as real data of packed graphs.

    Args:
        found: PyG graphs with one-hot tags x, edge_index both ways and y (1,), and the number of classes.
        rng: Draws validation and test, a tenth of each class each.
        name: What to call the data.

    A graph with fewer nodes than the largest is padded with nodes that have no tag and no edge. Adjacencies are kept as
    bytes: N (T + N) for each graph.
    """

    def __init__(self, found: TextGraphs, *, rng: torch.Generator, name: str = "graphs") -> None:
        graphs, classes = found
        require(len(graphs) > 0, "graphs", "hold a graph", len(graphs))
        self.tags = int(graphs[0].x.shape[1])
        largest = max(len(graph.x) for graph in graphs)
        images = torch.stack([_as_bytes(graph, largest) for graph in graphs])
        whole = dd.RealData(
            images,
            torch.cat([graph.y for graph in graphs]),
            class_names=tuple(map(str, range(classes))),
            preprocess=dd.Preprocess.unit(1),
            name=name,
            pictures=False,
        )
        rest, self.test = whole.split(0.1, derive(rng, "test"))
        self.train, self.val = rest.split(1 / 9, derive(rng, "validation"))


def _as_bytes(graph: Data, nodes: int) -> Tensor:
    size = len(graph.x)
    image = torch.zeros(1, nodes, graph.x.shape[1] + nodes, dtype=torch.uint8)
    image[0, :size, : graph.x.shape[1]] = graph.x.byte() * 255
    # A bond that a file names twice is one.
    dense = to_dense_adj(graph.edge_index, max_num_nodes=size)[0] > 0
    image[0, :size, graph.x.shape[1] : graph.x.shape[1] + size] = dense.byte() * 255
    return image


@final
class DenseConvolutions(nn.Module):
    """Graph convolutions with ReLU on packed graphs, and the mean over the nodes that have features.

    Args:
        tags: T.
        width: Units.
        layers: How many.
    """

    def __init__(self, tags: int, width: int, layers: int) -> None:
        super().__init__()
        sizes = [tags] + [width] * layers
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self._tags = tags

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings, (B, width), of packed graphs (B, 1, N, T + N)."""
        x, adjacency = unpacked(images, self._tags)
        there = (x.detach().abs().sum(2, keepdim=True) > 0).to(x)
        operator = dense_normalised(adjacency)
        for layer in self.layers:
            x = relu(operator @ layer(x))
        pooled: Tensor = (x * there).sum(1) / there.sum(1).clamp_min(1)
        return pooled


def graph_student(tags: int, classes: int, *, width: int = 128, layers: int = 3) -> MakeStudent:
    """Return what makes a GCN over packed graphs with mean pooling and a linear head."""
    require_count("width", width)
    require_count("layers", layers)

    def make(rng: torch.Generator) -> nn.Module:
        body = nn.Sequential(DenseConvolutions(tags, width, layers))
        return initialise(Network(body, nn.Linear(width, classes)), rng)

    return make


@final
class SyntheticGraphs(Parametrization):
    """Graphs of one size with free features and Bernoulli edges; a slot is a graph, and decodes to a packed one.

    Args:
        x: Features at the start, (M, N, T).
        edges: M adjacencies.
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


@final
@dataclass(frozen=True, kw_only=True)
class DosCondGraphs:
    """DosCond for whole graphs: gradients of a GCN at its initialisation are matched once in each step.

    Attributes:
        name: What tables call the method.
        ipc: Graphs of each class.
        nodes: Of each synthetic graph; they start as real graphs that are no larger.
        steps: Outer steps.
        width: Of the GCN.
        layers: Of the GCN.
        real_batch: Real graphs of each class in one step.
        feature_lr: Learning rate of features (Adam).
        edge_lr: Of the logits of edges.
        density: Mean probability of an edge above which it is punished; None takes that of the real graphs of the
            start.
        penalty: Weight of that punishment.

    References:
        Jin et al., "Condensing Graphs via One-Step Gradient Matching", KDD 2022, arXiv:2206.07746.
    """

    name: ClassVar[str] = "doscond graphs"
    ipc: int = 10
    nodes: int = 28
    steps: int = 300
    width: int = 128
    layers: int = 3
    real_batch: int = 64
    feature_lr: float = 0.01
    edge_lr: float = 0.1
    density: float | None = None
    penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in ("ipc", "nodes", "steps", "width", "layers", "real_batch"):
            require_count(name, getattr(self, name))
        for name in ("feature_lr", "edge_lr"):
            require_rate(name, getattr(self, name))
        require(0 <= self.penalty < float("inf"), "penalty", "be finite, not negative", self.penalty)

    def plan(self, graphs: GraphSet, *, rng: torch.Generator) -> dd.Plan[nn.Module]:
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
            students=FreshStudents(
                graph_student(graphs.tags, graphs.train.num_classes, width=self.width, layers=self.layers)
            ),
            make_optimizer=self._optimizer,
            steps=self.steps,
            penalty=lambda syn: self.penalty * _edges(syn).excess(allowed),
            rate_at=lambda step: 1.0 if step < 0.4 * self.steps else 0.1,
            knobs="feature_lr or edge_lr",
        )

    def __call__(self, graphs: GraphSet, *, rng: torch.Generator) -> dd.Distilled:
        """Run the loop and return the set: features (M, 1, N, T) and edges between their rows."""
        require_rng(rng)
        began = time.perf_counter()
        plan = self.plan(graphs, rng=derive(rng, "plan"))
        distillation = dd.Distillation(plan, graphs.train, rng=derive(rng, "steps"))
        for _ in distillation:
            pass
        graph = distillation.result.parametrization
        assert isinstance(graph, SyntheticGraphs)
        with torch.no_grad():
            images = packed(graph.x, graph.edges.adjacency(graph.x, None))
        seconds, run = time.perf_counter() - began, distillation.record()
        return as_distilled(self, images, plan.syn.classes, graphs, rng=rng, seconds=seconds, run=run)

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        graph = syn.parametrization
        assert isinstance(graph, SyntheticGraphs)
        groups: list[dict[str, Any]] = [{"params": [graph.x], "lr": self.feature_lr}]
        return torch.optim.Adam([*groups, {"params": [graph.edges.logits], "lr": self.edge_lr}])


@final
@dataclass(frozen=True, kw_only=True)
class RandomGraphs:
    """Real graphs at random, the baseline.

    Attributes:
        name: What tables call it.
        ipc: Graphs of each class.
        nodes: They have at most so many nodes, as those of `DosCondGraphs`.
    """

    name: ClassVar[str] = "random graphs"
    ipc: int = 10
    nodes: int = 28

    def __call__(self, graphs: GraphSet, *, rng: torch.Generator) -> dd.Distilled:
        """Draw the graphs."""
        began = time.perf_counter()
        images = small_graphs(graphs, self.ipc, self.nodes, derive(rng, "start"))
        classes = class_slots(graphs.train.num_classes, self.ipc)
        return as_distilled(self, images, classes, graphs, rng=rng, seconds=time.perf_counter() - began)


def _edges(syn: dd.SyntheticSet) -> BernoulliEdges:
    assert isinstance(syn.parametrization, SyntheticGraphs)
    return syn.parametrization.edges


def small_graphs(graphs: GraphSet, ipc: int, nodes: int, rng: torch.Generator) -> Tensor:
    """Return random real graphs of each class with at most `nodes` nodes, packed to that size, class by class."""
    tags, found = graphs.tags, []
    for c in range(graphs.train.num_classes):
        index = graphs.train.index_of_class(c)
        x, adjacency = unpacked(graphs.train.batch(index).x, tags)
        small = torch.nonzero(x.flatten(1).sum(1) <= nodes).flatten()
        require(len(small) >= ipc, "ipc", f"not exceed the {len(small)} graphs of class {c} so small", ipc)
        picks = choose(small, ipc, derive(rng, c))
        found.append(packed(*_resized(x[picks], adjacency[picks], nodes)))
    return torch.cat(found)


def _resized(x: Tensor, adjacency: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return graphs with `nodes` places, the real nodes first; none of them is lost."""
    more = max(0, nodes - x.shape[1])
    pad = nn.functional.pad
    return pad(x, (0, 0, 0, more))[:, :nodes], pad(adjacency, (0, more, 0, more))[:, :nodes, :nodes]


def as_distilled(
    recipe: object,
    images: Tensor,
    classes: Tensor,
    graphs: GraphSet,
    *,
    rng: torch.Generator,
    seconds: float,
    run: Mapping[str, Any] | None = None,
) -> dd.Distilled:
    """Return packed graphs as an artefact: features as images, and edges between the rows of all of them."""
    x, adjacency = unpacked(images, graphs.tags)
    k = graphs.train.num_classes
    syn = dd.SyntheticSet(Pixels(x[:, None]), hard_labels(classes, k), classes, k)
    distilled = assemble(
        recipe, syn, graphs.train, evaluation=GRAPHS_PROTOCOL, rng=rng, seconds=seconds, run=run
    )
    graph, start, end = torch.nonzero(adjacency > 0, as_tuple=True)
    if not len(graph):
        return distilled
    index = torch.stack([graph * x.shape[1] + start, graph * x.shape[1] + end])
    return dataclasses.replace(distilled, edge_index=index, edge_weight=adjacency[graph, start, end])


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
        graphs.append(
            Data(x=x[there], edge_index=edges, edge_weight=weight[mine], y=distilled.owner[i : i + 1])
        )
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

    Every 10 epochs a network is asked about the validation graphs; the best weights are tested, once.

    Args:
        batch: A condensed set, or real data such as ``graphs.train``.
        graphs: The real ones.
        evaluation: The protocol.
        rng: Network i derives everything from it.
        name: For tables.
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
