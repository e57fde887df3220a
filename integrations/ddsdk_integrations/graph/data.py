"""A graph with a split: the nodes and edges that condensation may see, and those that it may not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import subgraph

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk_integrations.graph.propagation import normalised, propagated

Setting = Literal["transductive", "inductive"]
"""Whether condensation sees the nodes of validation and test, without their labels, or the training nodes alone."""

Metric = Literal["accuracy", "auc"]


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes with features and edges.

    Attributes:
        x: (N, D) float32.
        edge_index: Source and target of each edge, (2, E) int64; an undirected edge is there both ways.
    """

    x: Tensor
    edge_index: Tensor

    @cached_property
    def operator(self) -> Tensor:
        """The normalised adjacency, sparse CSR; made once."""
        return normalised(self.edge_index, len(self.x))


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Nodes of one split, and the graph that may be seen with them.

    Attributes:
        graph: Graph of all nodes that may be seen.
        nodes: Positions of the labelled ones in it, (L,) int64.
        labels: Their classes, (L,) int64.
        ids: Number in the data of each node of `graph`, (N,) int64: the leak check compares them.
    """

    graph: Graph
    nodes: Tensor
    labels: Tensor
    ids: Tensor


@final
class GraphData:
    """A task of node classification.

    Args:
        data: PyG graph with x (N, D), edge_index, y (N,) and train_mask, val_mask and test_mask.
        setting: ``"transductive"``: all parts share one graph. ``"inductive"``: each part is the sub-graph of its own
            nodes.
        split: Column of masks (N, S).
        class_names: K names; None for numbers.
        name: Label of the data in reports.
        metric: Score on held-out nodes: ``"accuracy"``, or ``"auc"`` for two classes.

    Raises:
        TypeError: If `data` is no PyG graph, or a tensor has the wrong dtype.
        ValueError: If a shape or number is wrong, a class has no training node, or the split leaks.
    """

    def __init__(
        self,
        data: Data,
        *,
        setting: Setting = "transductive",
        split: int = 0,
        class_names: Sequence[str] | None = None,
        name: str = "graph",
        metric: Metric = "accuracy",
    ) -> None:
        require(setting in get_args(Setting), "setting", f"be one of {list(get_args(Setting))}", setting)
        _check(data)
        whole, parts = Graph(data.x.float(), data.edge_index), []
        for part in ("train", "val", "test"):
            nodes = torch.nonzero(_mask(data, f"{part}_mask", split)).flatten()
            if setting == "inductive":
                index, _ = subgraph(nodes, data.edge_index, relabel_nodes=True, num_nodes=len(data.x))
                seen, at, ids = Graph(data.x[nodes].float(), index), torch.arange(len(nodes)), nodes
            else:
                seen, at, ids = whole, nodes, torch.arange(len(data.x))
            parts.append(Part(seen, at, data.y[nodes], ids))
        self._set(parts, setting, class_names, name, metric)

    @classmethod
    def of_parts(
        cls,
        train: Data,
        val: Data,
        test: Data,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "graph",
        metric: Metric = "accuracy",
    ) -> GraphData:
        """Return an inductive task of three graphs that were cut before.

        Args:
            train: Training graph with x, edge_index, y, and n_id (N,), the number in the data of each node. A `mask`
                marks the labelled nodes; all are labelled without one. It must not hold a held-out node.
            val: Validation graph with the same fields.
            test: Test graph with the same fields; it may hold training nodes as context.
            class_names: K names; None for numbers.
            name: Label of the data in reports.
            metric: Score on held-out nodes.
        """
        task = cls.__new__(cls)
        parts = []
        for word, data in (("train", train), ("val", val), ("test", test)):
            _check(data)
            require(data.get("n_id") is not None, word, "have n_id, so that leaks are seen", "a graph without")
            mask = data.mask if "mask" in data else torch.ones(len(data.x), dtype=torch.bool)
            nodes = torch.nonzero(mask).flatten()
            parts.append(Part(Graph(data.x.float(), data.edge_index), nodes, data.y[nodes], data.n_id))
        task._set(parts, "inductive", class_names, name, metric)
        return task

    def _set(
        self, parts: Sequence[Part], setting: Setting, class_names: Sequence[str] | None, name: str, metric: Metric
    ) -> None:
        self.train, self.val, self.test = parts
        self.setting, self.name, self.metric = setting, name, metric
        _refuse_leaks(setting, self.train, {"val": self.val, "test": self.test})
        classes = 1 + int(max(part.labels.max() for part in parts))
        self.class_names = tuple(map(str, range(classes) if class_names is None else class_names))
        rule = f"name at least {classes} classes"
        require(len(self.class_names) >= max(2, classes), "class_names", rule, self.class_names)
        require(metric in get_args(Metric), "metric", f"be one of {list(get_args(Metric))}", metric)
        require(metric != "auc" or self.num_classes == 2, "metric", "be for two classes", self.num_classes)
        counts = torch.bincount(self.train.labels, minlength=self.num_classes)
        require(bool((counts > 0).all()), "train_mask", "hold a node of every class", counts.tolist())
        self.class_sizes = tuple(counts.tolist())
        self._rows: dict[int, dd.RealData] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def num_features(self) -> int:
        """Features of a node, D."""
        return self.train.graph.x.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the graph."""
        return self.train.graph.x.device

    @cached_property
    def preprocess(self) -> dd.Preprocess:
        """From the unit range to the space of the features, for the artefact."""
        return feature_space(self.train.graph.x)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Facts of the graph for the provenance of a set: name, fingerprint, setting and sizes."""
        digest = hashlib.sha256(self.setting.encode())
        for part in (self.train, self.val, self.test):
            for t in (part.graph.x, part.graph.edge_index, part.nodes, part.labels):
                digest.update(f"{t.dtype}{tuple(t.shape)}".encode() + t.contiguous().cpu().numpy().tobytes())
        return {
            "name": self.name,
            "fingerprint": digest.hexdigest(),
            "setting": self.setting,
            "nodes": len(self.train.graph.x),
            "edges": self.train.graph.edge_index.shape[1],
            "labelled": len(self.train.nodes),
        }

    def propagated(self, hops: int) -> Tensor:
        """Return the features of the training nodes after `hops` multiplications by the operator, (L, D)."""
        graph = self.train.graph
        return propagated(graph.operator, graph.x, hops)[self.train.nodes]

    def rows(self, hops: int) -> dd.RealData:
        """Return the training nodes as items that methods for images take: their propagated features, (L, 1, 1, D).

        It is kept. For a model that is linear before its first weight, such as SGC, these rows are all that it ever
        sees of the graph: class-wise gradients are exact, and no neighbour is sampled.
        """
        require_count("hops", hops, least=0)
        if hops not in self._rows:
            x = self.propagated(hops)
            space = feature_space(x)
            self._rows[hops] = dd.RealData(
                space.inverse(x[:, None, None]).clamp(0, 1),
                self.train.labels,
                class_names=self.class_names,
                preprocess=space,
                name=self.name,
                pictures=False,
            )
        return self._rows[hops]


def feature_space(x: Tensor) -> dd.Preprocess:
    """Return the map from the unit range to the range of `x`; that of features in 0..1 is the identity."""
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
    if (low, high) == (0.0, 1.0):
        return dd.Preprocess.unit(1)
    return dd.Preprocess.normalise([-low / (high - low)], [1 / (high - low)])


def _check(data: Data) -> None:
    if not isinstance(data, Data):
        raise TypeError(f"data must be a torch_geometric.data.Data, got {type(data).__name__}")
    x, y, index = data.x, data.y, data.edge_index
    for name, tensor in (("x", x), ("y", y), ("edge_index", index)):
        require(isinstance(tensor, Tensor), "data", f"have {name}", data)
    require(x.ndim == 2 and x.numel() > 0, "x", "have shape (N, D)", tuple(x.shape))
    require(x.is_floating_point() and bool(torch.isfinite(x).all()), "x", "hold finite numbers", x.dtype)
    require(tuple(y.shape) == (len(x),) and y.dtype == torch.int64, "y", "be (N,) int64", tuple(y.shape))
    require(index.ndim == 2 and len(index) == 2, "edge_index", "have shape (2, E)", tuple(index.shape))
    inside = not index.numel() or (int(index.min()) >= 0 and int(index.max()) < len(x))
    require(inside, "edge_index", f"lie in 0..{len(x) - 1}", "a number beyond")


def _mask(data: Data, name: str, split: int) -> Tensor:
    require(name in data, "data", f"have {name}", data)
    mask: Tensor = data[name]
    if mask.ndim == 2:
        require(0 <= split < mask.shape[1], "split", f"lie in 0..{mask.shape[1] - 1}", split)
        mask = mask[:, split]
    good = mask.dtype == torch.bool and tuple(mask.shape) == (len(data.x),) and bool(mask.any())
    require(good, name, "be a mask over all nodes that is not empty", (mask.dtype, tuple(mask.shape)))
    require(int(data.y[mask].min()) >= 0, "y", f"be known where {name} is set", int(data.y[mask].min()))
    return mask


def _refuse_leaks(setting: Setting, train: Part, held: dict[str, Part]) -> None:
    """Refuse a split that shares labelled nodes, and an inductive one that shows held-out nodes in training."""
    seen = train.ids if setting == "inductive" else train.ids[train.nodes]
    for name, part in held.items():
        both = torch.isin(part.ids[part.nodes], seen)
        what = "seen" if setting == "inductive" else "labelled"
        require(not bool(both.any()), name, f"share no node that is {what} in training", int(both.sum()))
    shared = torch.isin(held["val"].ids[held["val"].nodes], held["test"].ids[held["test"].nodes])
    require(not bool(shared.any()), "val", "share no node with test", int(shared.sum()))
