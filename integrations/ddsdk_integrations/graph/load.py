"""Graphs from local files, and generated ones: nothing is ever downloaded."""

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
from ddsdk.foundation import require, require_count, require_rate
from ddsdk_integrations.graph.data import GraphData, Setting

_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_KNOWN = {"cora": "0ce1f9117972bdd087a19062d3decca8abfdfef042468c282c2b977642e057dd"}
"""SHA-256 over the eight raw files of a set, in the order of `_PARTS`."""


def planetoid(name: str, root: str | Path, *, shares: bool = True, setting: Setting = "transductive") -> GraphData:
    """Load a citation graph in Planetoid's raw files, with the public split.

    The files are pickles, which can run any code when they are opened. So only files whose SHA-256 is known here are
    opened; whoever trusts others can read them with PyG and pass the graph to `GraphData`.

    Args:
        name: ``"cora"``.
        root: Folder that holds ``Cora/raw/ind.cora.x`` and so on.
        shares: Whether each row of features is divided by its sum, as GCond and most others do; False leaves 0 and 1
            for the words of a paper, as GC-SNTK has them.
        setting: Setting, see `GraphData`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If the name is unknown, or the files are others than the published ones.
    """
    require(name.lower() in _KNOWN, "name", f"be one of {', '.join(_KNOWN)}", name)
    folder = Path(root) / name.capitalize() / "raw"
    digest = hashlib.sha256()
    for part in _PARTS:
        digest.update((folder / f"ind.{name.lower()}.{part}").read_bytes())
    known = _KNOWN[name.lower()]
    require(digest.hexdigest() == known, "files", f"have the SHA-256 {known}", digest.hexdigest())
    data = read_planetoid_data(str(folder), name.lower())
    if shares:
        data.x = data.x / data.x.sum(1, keepdim=True).clamp_min(1)
    return GraphData(data, setting=setting, name=name.lower() if shares else f"{name.lower()}-words")


def tolokers(root: str | Path, *, split: int = 0, setting: Setting = "transductive") -> GraphData:
    """Load Tolokers, 11,758 nodes, 2 classes, judged by the area under the ROC curve.

    Features are standardised on the nodes of training.

    Args:
        root: Folder that holds ``tolokers/raw/tolokers.npz``.
        split: Number of the split, 0 to 9.
        setting: Setting, see `GraphData`.

    References:
        Platonov et al., "A critical look at the evaluation of GNNs under heterophily", ICLR 2023, arXiv:2302.11640.
    """
    with np.load(Path(root) / "tolokers" / "raw" / "tolokers.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    masks = {f"{part}_mask": arrays[f"{part}_masks"].T for part in ("train", "val", "test")}
    x, seen = arrays["node_features"], masks["train_mask"][:, split]
    x = (x - x[seen].mean(0)) / x[seen].std(0).clamp_min(1e-6)
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
    """Generate a stochastic block model with Gaussian features, in time and memory linear in nodes and edges.

    Every node has one of `classes` communities at random. Each edge begins at a random node and ends, with probability
    `homophily`, at a random node of the same community, otherwise at any node. Features are N(signal m_c, I) with
    random unit vectors m_c.

    Args:
        nodes: Number of nodes N.
        classes: Number of classes K.
        features: Features of a node, D.
        degree: Mean number of neighbours.
        homophily: Probability that an edge stays in its community, besides edges to any node, in 0..1.
        signal: Length of the class means.
        labelled: Share of the nodes in each of training and validation; the rest is for the test.
        seed: Seed of everything.
        setting: Setting, see `GraphData`.
    """
    for name, value in (("nodes", nodes), ("classes", classes), ("features", features)):
        require_count(name, value)
    require_rate("degree", degree)
    require(0 <= homophily <= 1, "homophily", "lie in 0..1", homophily)
    require(0 < labelled < 0.5, "labelled", "lie strictly between 0 and 0.5", labelled)
    rng = dd.generator("stochastic-blocks", nodes, classes, seed)
    # Communities are stretches of nodes, so that a member is drawn by arithmetic.
    y = torch.arange(nodes) * classes // nodes
    edges = round(nodes * degree / 2)
    source = torch.randint(nodes, (edges,), generator=rng)
    first = torch.searchsorted(y, torch.arange(classes + 1))
    low, high = first[y[source]], first[y[source] + 1]
    inside = low + (torch.rand(edges, generator=rng, dtype=torch.float64) * (high - low)).long()
    kin = torch.rand(edges, generator=rng) < homophily
    target = torch.where(kin, inside, torch.randint(nodes, (edges,), generator=rng))
    index = to_undirected(torch.stack([source, target])[:, source != target], num_nodes=nodes)
    means = torch.nn.functional.normalize(torch.randn(classes, features, generator=rng))
    x = torch.randn(nodes, features, generator=rng).add_(means[y], alpha=signal)
    turn = torch.rand(nodes, generator=rng)
    masks = {"train_mask": turn < labelled, "val_mask": (turn >= labelled) & (turn < 2 * labelled)}
    data = Data(x=x, edge_index=index, y=y, test_mask=turn >= 2 * labelled, **masks)
    return GraphData(data, setting=setting, name=f"sbm-{nodes}")


def load_graph(name: str, root: str | Path | None = None, *, setting: Setting = "transductive") -> GraphData:
    """Return the graph called ``"cora"``, ``"cora-words"`` or ``"tolokers"``, or ``"sbm-N"`` for N generated nodes.

    `root` is the folder of the files; None for a generated graph.
    """
    word, _, nodes = name.partition("-")
    if word == "sbm" and nodes.isdigit():
        return stochastic_blocks(int(nodes), setting=setting)
    require(name in ("cora", "cora-words", "tolokers"), "data", "be cora, cora-words, tolokers or sbm-N", name)
    require(root is not None, "root", f"name the folder of {name}: nothing is downloaded", root)
    if name == "tolokers":
        return tolokers(str(root), setting=setting)
    return planetoid("cora", str(root), shares=name == "cora", setting=setting)


class TextGraphs(NamedTuple):
    """Labelled graphs of one file.

    Attributes:
        graphs: PyG graphs with one-hot tags x (n, T), edge_index both ways, and y (1,).
        num_classes: Number of classes K.
    """

    graphs: list[Data]
    num_classes: int


def read_text_graphs(path: str | Path) -> TextGraphs:
    """Read graphs from DGCNN's text form.

    The first line is the number of graphs; each has a line "n label" and n lines "tag degree neighbour…". Tags and
    labels become numbers from 0 in their order.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If a line does not follow the form, or a neighbour is no node of its graph.
    """
    lines = iter(Path(path).read_text().split("\n"))
    found = [_read_graph(lines, str(path)) for _ in range(_numbers(lines, str(path), 1)[0])]
    tags = sorted({tag for _, rows in found for tag, *_ in rows})
    labels = sorted({label for label, _ in found})
    place = {tag: i for i, tag in enumerate(tags)}
    graphs = []
    for label, rows in found:
        x = one_hot(torch.tensor([place[tag] for tag, *_ in rows]), len(tags)).float()
        pairs = torch.tensor([(i, end) for i, (_, *ends) in enumerate(rows) for end in ends], dtype=torch.int64)
        index = to_undirected(pairs.reshape(-1, 2).T, num_nodes=len(rows))
        graphs.append(Data(x=x, edge_index=index, y=torch.tensor([labels.index(label)])))
    return TextGraphs(graphs, len(labels))


def _read_graph(lines: Iterator[str], path: str) -> tuple[int, list[list[int]]]:
    n, label = _numbers(lines, path, 2)
    rows = []
    for _ in range(n):
        tag, degree, *ends = _numbers(lines, path, None)
        good = len(ends) == degree and all(0 <= end < n for end in ends)
        require(good, path, f"name {degree} neighbours in 0..{n - 1}", ends)
        rows.append([tag, *ends])
    return label, rows


def _numbers(lines: Iterator[str], path: str, count: int | None) -> list[int]:
    line = next(lines, "")
    words = line.split()
    good = bool(words) and all(word.lstrip("-").isdigit() for word in words)
    require(good and len(words) == (count or len(words)), path, "hold numbers in each line", line)
    return [int(word) for word in words]
