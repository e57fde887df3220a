"""Tasks of node classification: a graph with training, validation and test nodes."""

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
from ddsdk_integrations.graph.propagation import normalised_adjacency, propagated

Setting = Literal["transductive", "inductive"]
"""Use of held-out nodes in condensation: features and edges without labels (transductive), or none (inductive)."""

Metric = Literal["accuracy", "auc"]


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """Node features and edges of a graph.

    Attributes:
        x: Features of the nodes, (N, D) float32.
        edge_index: Source and target of each edge, (2, E) int64; an undirected edge stands in both directions.
    """

    x: Tensor
    edge_index: Tensor

    @cached_property
    def operator(self) -> Tensor:
        """Normalised adjacency, (N, N) sparse CSR, computed once."""
        return normalised_adjacency(self.edge_index, len(self.x))


@final
@dataclass(frozen=True, eq=False)
class NodeSplit:
    """Labelled nodes of one split, with the graph that a network may use for them.

    Attributes:
        graph: Graph of all visible nodes.
        nodes: Positions of the labelled nodes in `graph`, (L,) int64.
        labels: Classes of the labelled nodes, (L,) int64.
        ids: Number of each node of `graph` in the data set, (N,) int64; the leak check compares these numbers.
    """

    graph: Graph
    nodes: Tensor
    labels: Tensor
    ids: Tensor


@final
class GraphData:
    """A task of node classification: a graph with training, validation and test nodes.

    ValueError is raised if a shape or number is wrong, a class has no training node, or a held-out node leaks into
    training; TypeError if `data` is no PyG graph.

    Args:
        data: PyG graph with x (N, D), edge_index, y (N,) int64 and train_mask, val_mask and test_mask.
        setting: ``"transductive"``: all splits share one graph. ``"inductive"``: each split has the sub-graph of its
            own nodes.
        split: Column of masks of shape (N, S), in 0..S - 1; masks of shape (N,) have no columns.
        class_names: Names of the K classes; None for numbers.
        name: Label of the data in reports.
        metric: Score on held-out nodes: ``"accuracy"``, or ``"auc"`` (area under the ROC curve) for two classes.

    Examples:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from ddsdk_integrations.graph import GraphData
        >>> split, ring = torch.arange(6) // 2, torch.stack([torch.arange(6), (torch.arange(6) + 1) % 6])
        >>> masks = {"train_mask": split == 0, "val_mask": split == 1, "test_mask": split == 2}
        >>> GraphData(Data(x=torch.rand(6, 3), edge_index=ring, y=torch.arange(6) % 2, **masks)).class_sizes
        (1, 1)
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
                visible, positions, ids = Graph(data.x[nodes].float(), index), _range(nodes), nodes
            else:
                visible, positions, ids = whole, nodes, _range(data.x)
            parts.append(NodeSplit(visible, positions, data.y[nodes], ids))
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
        """Return an inductive task of three separate graphs.

        Args:
            train: Training graph with x, edge_index, y, and n_id (N,), the number of each node in the data set. A
                `mask` marks the labelled nodes; without it all nodes are labelled. No held-out node may be in it.
            val: Validation graph with the same fields.
            test: Test graph with the same fields; training nodes may be in it as context.
            class_names: Names of the K classes; None for numbers.
            name: Label of the data in reports.
            metric: Score on held-out nodes: ``"accuracy"`` or ``"auc"``.
        """
        task = cls.__new__(cls)
        parts = []
        for part, data in (("train", train), ("val", val), ("test", test)):
            _check(data)
            require(data.get("n_id") is not None, part, "have n_id for the leak check", "a graph without it")
            mask = data.mask if "mask" in data else torch.ones_like(data.y, dtype=torch.bool)
            nodes = torch.nonzero(mask).flatten()
            parts.append(NodeSplit(Graph(data.x.float(), data.edge_index), nodes, data.y[nodes], data.n_id))
        task._set(parts, "inductive", class_names, name, metric)
        return task

    def _set(
        self, parts: Sequence[NodeSplit], setting: Setting, class_names: Sequence[str] | None, name: str, metric: Metric
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
        """Device of the graph's tensors."""
        return self.train.graph.x.device

    @cached_property
    def preprocess(self) -> dd.Preprocess:
        """Map from the unit range to the range of the features, as the artefact stores it."""
        return feature_space(self.train.graph.x)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Facts of the graph for the provenance of a set: name, fingerprint (SHA-256), setting and sizes."""
        digest = hashlib.sha256(self.setting.encode())
        for part in (self.train, self.val, self.test):
            for tensor in (part.graph.x, part.graph.edge_index, part.nodes, part.labels):
                header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
                digest.update(header + tensor.contiguous().cpu().numpy().tobytes())
        return {
            "name": self.name,
            "fingerprint": digest.hexdigest(),
            "setting": self.setting,
            "nodes": len(self.train.graph.x),
            "edges": self.train.graph.edge_index.shape[1],
            "labelled": len(self.train.nodes),
        }

    def propagated(self, hops: int) -> Tensor:
        """Return the features of the training nodes after `hops` propagations over the graph, (L, D)."""
        graph = self.train.graph
        return propagated(graph.operator, graph.x, hops)[self.train.nodes]

    def rows(self, hops: int) -> dd.RealData:
        """Return propagated features of the training nodes as images, (L, 1, 1, D), for methods on images.

        The result is cached. A model whose propagation comes before its first weight, such as SGC, depends on the
        graph only through these rows: so class-wise gradients are exact without neighbour sampling.
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
    """Return the affine map from the unit range to the range of `x`; for features in 0..1 it is the identity."""
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
    require(inside, "edge_index", f"lie in 0..{len(x) - 1}", "a node number outside this range")


def _range(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)


def _mask(data: Data, name: str, split: int) -> Tensor:
    require(name in data, "data", f"have {name}", data)
    mask: Tensor = data[name]
    if mask.ndim == 2:
        require(0 <= split < mask.shape[1], "split", f"lie in 0..{mask.shape[1] - 1}", split)
        mask = mask[:, split]
    valid = mask.dtype == torch.bool and tuple(mask.shape) == (len(data.x),) and bool(mask.any())
    require(
        valid, name, "be a boolean mask over all nodes with at least one true entry", (mask.dtype, tuple(mask.shape))
    )
    require(int(data.y[mask].min()) >= 0, "y", f"be a class number >= 0 where {name} is set", int(data.y[mask].min()))
    return mask


def _refuse_leaks(setting: Setting, train: NodeSplit, held_out: dict[str, NodeSplit]) -> None:
    """Refuse splits that share labelled nodes, and an inductive training graph with held-out nodes in it."""
    training = train.ids if setting == "inductive" else train.ids[train.nodes]
    role = "visible" if setting == "inductive" else "labelled"
    for name, part in held_out.items():
        leaked = torch.isin(part.ids[part.nodes], training)
        require(not bool(leaked.any()), name, f"share no node that is {role} in training", int(leaked.sum()))
    val, test = (held_out[name].ids[held_out[name].nodes] for name in ("val", "test"))
    shared = torch.isin(val, test)
    require(not bool(shared.any()), "val", "share no node with test", int(shared.sum()))
