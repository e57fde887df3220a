"""Loaders of graphs from local files, and a generator of random graphs; nothing is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import one_hot
from torch_geometric.data import Data
from torch_geometric.io import read_planetoid_data
from torch_geometric.utils import to_undirected

import ddsdk as dd
from ddsdk.foundation import require, require_count, require_memory, require_positive
from ddsdk_integrations.graph.data import GraphData, Setting

_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_SHA256 = {"cora": "0ce1f9117972bdd087a19062d3decca8abfdfef042468c282c2b977642e057dd"}
"""SHA-256 over the eight raw files of a data set, in the order of `_PARTS`."""


def planetoid(name: str, root: str | Path, *, shares: bool = True, setting: Setting = "transductive") -> GraphData:
    """Return a citation graph from Planetoid's raw files, with the public split.

    The files are pickles, which can run any code when they are opened. So only the published files, identified by
    their SHA-256, are opened; other files raise ValueError, and a missing one FileNotFoundError. To use other files
    that you trust, read them with PyG and pass the graph to `GraphData`.

    Args:
        name: Name of the data set; only ``"cora"`` is supported.
        root: Folder that holds ``Cora/raw/ind.cora.x`` and so on.
        shares: Whether each row of features is divided by its sum, as in GCond and most papers; False leaves the
            binary word features of GC-SNTK.
        setting: Transductive or inductive setting, see `GraphData`.
    """
    require(name.lower() in _SHA256, "name", f"be one of {', '.join(_SHA256)}", name)
    folder = Path(root) / name.capitalize() / "raw"
    digest = hashlib.sha256()
    for part in _PARTS:
        digest.update((folder / f"ind.{name.lower()}.{part}").read_bytes())
    published = _SHA256[name.lower()]
    require(digest.hexdigest() == published, "files", f"have the SHA-256 {published}", digest.hexdigest())
    data = read_planetoid_data(str(folder), name.lower())
    if shares:
        data.x = data.x / data.x.sum(1, keepdim=True).clamp_min(1)
    return GraphData(data, setting=setting, name=name.lower() if shares else f"{name.lower()}-words")


def tolokers(root: str | Path, *, split: int = 0, setting: Setting = "transductive") -> GraphData:
    """Return Tolokers from its file: 11,758 nodes, 2 classes, scored by the area under the ROC curve.

    Features are standardised with the mean and standard deviation of the training nodes.

    Args:
        root: Folder that holds ``tolokers/raw/tolokers.npz``.
        split: Number of the published split, 0 to 9.
        setting: Transductive or inductive setting, see `GraphData`.

    References:
        Platonov et al., "A critical look at the evaluation of GNNs under heterophily", ICLR 2023, arXiv:2302.11640.
    """
    with np.load(Path(root) / "tolokers" / "raw" / "tolokers.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    masks = {f"{part}_mask": arrays[f"{part}_masks"].T for part in ("train", "val", "test")}
    x, training = arrays["node_features"], masks["train_mask"][:, split]
    x = (x - x[training].mean(0)) / x[training].std(0).clamp_min(1e-6)
    index = to_undirected(arrays["edges"].T.contiguous())
    data = Data(x=x, edge_index=index, y=arrays["node_labels"], **masks)
    return GraphData(data, split=split, setting=setting, name="tolokers", metric="auc")


def stochastic_blocks(
    nodes: int,
    *,
    classes: int = 4,
    features: int = 32,
    degree: float = 10.0,
    homophily: float = 0.8,
    signal: float = 0.5,
    labelled: float = 0.05,
    seed: int = 0,
    setting: Setting = "transductive",
) -> GraphData:
    """Return a random graph from a stochastic block model with Gaussian features.

    Communities are the classes and have equal sizes. Each edge starts at a random node. With probability `homophily`
    it ends at a random node of the same community, otherwise at any node. Features are N(signal m_c, I) with random
    unit vectors m_c. Time and memory are linear in nodes and edges.

    Args:
        nodes: Number of nodes N.
        classes: Number of classes K.
        features: Features of a node, D.
        degree: Mean number of neighbours of a node.
        homophily: Probability that an edge is drawn within its community, in 0..1.
        signal: Length of the class means, in standard deviations of the noise.
        labelled: Expected share of the nodes in training, and in validation, in 0..0.5; other nodes are for the test.
        seed: Seed of edges, features and split.
        setting: Transductive or inductive setting, see `GraphData`.

    Examples:
        >>> from ddsdk_integrations.graph import stochastic_blocks
        >>> graph = stochastic_blocks(400, classes=3)
        >>> (graph.num_classes, graph.num_features)
        (3, 32)
    """
    for name, value in (("nodes", nodes), ("classes", classes), ("features", features)):
        require_count(name, value)
    require_positive("degree", degree)
    require(0 <= homophily <= 1, "homophily", "lie in 0..1", homophily)
    require(0 < labelled < 0.5, "labelled", "lie strictly between 0 and 0.5", labelled)
    rng = dd.generator("stochastic-blocks", nodes, classes, seed)
    # Nodes are sorted by community, so a random member is a random number in an interval.
    y = torch.arange(nodes) * classes // nodes
    edges = round(nodes * degree / 2)
    source = torch.randint(nodes, (edges,), generator=rng)
    first = torch.searchsorted(y, torch.arange(classes + 1))
    low, high = first[y[source]], first[y[source] + 1]
    inside = low + (torch.rand(edges, generator=rng, dtype=torch.float64) * (high - low)).long()
    stays = torch.rand(edges, generator=rng) < homophily
    target = torch.where(stays, inside, torch.randint(nodes, (edges,), generator=rng))
    index = to_undirected(torch.stack([source, target])[:, source != target], num_nodes=nodes)
    means = torch.nn.functional.normalize(torch.randn(classes, features, generator=rng))
    x = torch.randn(nodes, features, generator=rng).add_(means[y], alpha=signal)
    draw = torch.rand(nodes, generator=rng)
    masks = {"train_mask": draw < labelled, "val_mask": (draw >= labelled) & (draw < 2 * labelled)}
    data = Data(x=x, edge_index=index, y=y, test_mask=draw >= 2 * labelled, **masks)
    return GraphData(data, setting=setting, name=f"sbm-{nodes}")


def load_graph(name: str, root: str | Path | None = None, *, setting: Setting = "transductive") -> GraphData:
    """Return the graph of a name, loaded from files or generated.

    Args:
        name: Name of the graph: ``"cora"``, ``"cora-words"`` (binary features), ``"tolokers"``, or ``"sbm-N"`` for a
            stochastic block model with N nodes.
        root: Folder of the files; None for a generated graph.
        setting: Transductive or inductive setting, see `GraphData`.

    Examples:
        >>> from ddsdk_integrations.graph import load_graph
        >>> load_graph("sbm-400").num_classes
        4
    """
    kind, _, nodes = name.partition("-")
    if kind == "sbm" and nodes.isdigit():
        return stochastic_blocks(int(nodes), setting=setting)
    require(name in ("cora", "cora-words", "tolokers"), "data", "be cora, cora-words, tolokers or sbm-N", name)
    require(root is not None, "root", f"name the folder with the files of {name}, which ddsdk does not download", root)
    if name == "tolokers":
        return tolokers(str(root), setting=setting)
    return planetoid("cora", str(root), shares=name == "cora", setting=setting)


class TextGraphs(NamedTuple):
    """Labelled graphs of one file.

    Attributes:
        graphs: PyG graphs with one-hot tags x (n, T), edge_index in both directions, and y (1,) int64.
        num_classes: Number of classes K.
    """

    graphs: list[Data]
    num_classes: int


def read_text_graphs(path: str | Path) -> TextGraphs:
    r"""Return the labelled graphs of a file in DGCNN's text format.

    The first line is the number of graphs. Each graph has a line "n label" and n lines "tag degree neighbour…". Tags
    and labels are renumbered from 0 in ascending order. A line in another format, or a neighbour that is no node of
    its graph, raises ValueError.

    Args:
        path: Path of the text file.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk_integrations.graph import read_text_graphs
        >>> _ = Path("pair.txt").write_text("1\n2 0\n7 1 1\n8 1 0\n")
        >>> read_text_graphs("pair.txt").graphs[0].edge_index.tolist()
        [[0, 1], [1, 0]]
    """
    lines = iter(Path(path).read_text().split("\n"))
    parsed = [_read_graph(lines, str(path)) for _ in range(_numbers(lines, str(path), 1)[0])]
    tags = sorted({tag for _, rows in parsed for tag, *_ in rows})
    labels = sorted({label for label, _ in parsed})
    nodes = sum(len(rows) for _, rows in parsed)
    require_memory(8 * nodes * len(tags), f"one-hot tags of {nodes} nodes, {len(tags)} different ones")
    column = {tag: i for i, tag in enumerate(tags)}
    graphs = []
    for label, rows in parsed:
        x = one_hot(torch.tensor([column[tag] for tag, *_ in rows]), len(tags)).float()
        pairs = torch.tensor([(i, end) for i, (_, *ends) in enumerate(rows) for end in ends], dtype=torch.int64)
        index = to_undirected(pairs.reshape(-1, 2).T, num_nodes=len(rows))
        graphs.append(Data(x=x, edge_index=index, y=torch.tensor([labels.index(label)])))
    return TextGraphs(graphs, len(labels))


def _read_graph(lines: Iterator[str], path: str) -> tuple[int, list[list[int]]]:
    n, label = _numbers(lines, path, 2)
    rows = []
    for _ in range(n):
        tag, degree, *ends = _numbers(lines, path, None)
        valid = len(ends) == degree and all(0 <= end < n for end in ends)
        require(valid, path, f"name {degree} neighbours in 0..{n - 1}", ends)
        rows.append([tag, *ends])
    return label, rows


def _numbers(lines: Iterator[str], path: str, count: int | None) -> list[int]:
    line = next(lines, "")
    words = line.split()
    integers = bool(words) and all(word.lstrip("-").isdigit() for word in words)
    rule = "hold integers in each line" if count is None else f"hold {count} integer(s) in this line"
    require(integers and len(words) == (count or len(words)), path, rule, line)
    return [int(word) for word in words]
