"""Import of condensed graphs that GCond and SFGC have saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import ddsdk as dd
from ddsdk.foundation import ArtifactError, note, require
from ddsdk.importing import file_records, read_trees
from ddsdk_integrations.graph.data import GraphData, feature_space
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL


def import_condensed(path: str | os.PathLike[str], graph: GraphData, *, threshold: float = 0.01) -> dd.Distilled:
    """Return a condensed graph of GCond or SFGC as an artefact.

    The file ``feat_….pt`` has features (M, D). GCond saves ``adj_….pt`` beside it, weights (M, M) without self-loops,
    and no labels. They are rebuilt by the rule of its code: classes by ascending number of training nodes, ties by
    their first training node; each class has as many nodes as its share, rounded down, and the last one the rest. SFGC
    saves ``label_….pt`` and no edges.

    Args:
        path: File of the features, or a folder with exactly one.
        graph: Real graph, with the features as the authors prepare them: rows of sum 1 for Cora and Citeseer.
        threshold: Weight below which an edge is left out; the authors have 0.01.

    Raises:
        ArtifactError: If a file cannot be read or does not fit the graph.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import import_condensed, stochastic_blocks
        >>> graph = stochastic_blocks(400)
        >>> torch.save(torch.rand(8, 32), "feat_blocks_0.5_15.pt")
        >>> torch.save(torch.full((8, 8), 0.5).fill_diagonal_(0), "adj_blocks_0.5_15.pt")
        >>> import_condensed("feat_blocks_0.5_15.pt", graph).edge_weight.shape
        torch.Size([56])
    """
    require(threshold >= 0, "threshold", "be at least 0", threshold)
    features_file = _features_file(Path(path))
    suffix = features_file.name.removeprefix("feat")
    beside = {name: features_file.with_name(f"{name}{suffix}") for name in ("adj", "label")}
    found = {name: file for name, file in beside.items() if file.is_file()}
    if not found:
        raise ArtifactError("layout", f"adj{suffix} or label{suffix} must be beside {features_file.name}")
    features, *others = read_trees([features_file, *found.values()])
    tensors = dict(zip(found, others, strict=True))
    size = graph.train.graph.x.shape[1]
    if not isinstance(features, Tensor) or features.ndim != 2 or features.shape[1] != size:
        raise ArtifactError("shape", f"features must be (M, {size}), got {getattr(features, 'shape', type(features))}")
    count = len(features)
    labels = tensors["label"].long() if "label" in tensors else rebuilt_labels(graph, count)
    if labels.shape != (count,) or int(labels.min()) < 0 or int(labels.max()) >= len(graph.class_names):
        raise ArtifactError("labels", f"labels must be {count} classes below {len(graph.class_names)}")
    edges: tuple[Tensor | None, Tensor | None] = (None, None)
    if "adj" in tensors:
        index, weight = _edges(tensors["adj"], count, threshold)
        # A graph whose edges all lie below the threshold is one of unconnected nodes.
        edges = (index, weight) if len(weight) else edges
    if "label" not in tensors:
        note("the file has no labels: they are rebuilt from the training nodes by the rule of GCond's code")
    return dd.Distilled(
        features.float().view(count, 1, 1, size),
        one_hot(labels, len(graph.class_names)).float(),
        class_names=graph.class_names,
        preprocess=feature_space(graph.train.graph.x),
        protocol=GRAPH_PROTOCOL.to_dict(),
        classes=labels,
        provenance={
            "recipe": "gcond" if "adj" in tensors else "sfgc",
            "imported": {
                "layout": "gcond" if "adj" in tensors else "sfgc",
                "files": file_records([features_file, *found.values()]),
                "labels": "stored" if "label" in tensors else "rebuilt",
                "threshold": threshold,
                "licence": "unknown",
            },
            "data": graph.description,
        },
        edge_index=edges[0],
        edge_weight=edges[1],
    )


def rebuilt_labels(graph: GraphData, nodes: int) -> Tensor:
    """Return the classes of condensed nodes by the rule of GCond's code, (M,) int64.

    Args:
        graph: Real graph, whose training nodes decide the order and the numbers of the classes.
        nodes: Number of condensed nodes M, at least one for each class.

    Examples:
        >>> from ddsdk_integrations.graph import rebuilt_labels, stochastic_blocks
        >>> rebuilt_labels(stochastic_blocks(400), 8).bincount().sum().item()
        8
    """
    labels = graph.train.labels.tolist()
    sizes = [labels.count(c) for c in range(len(graph.class_names))]
    require(nodes >= len(sizes), "nodes", f"be at least {len(sizes)}, one for each class", nodes)
    order = sorted(range(len(sizes)), key=lambda c: (sizes[c], labels.index(c)))
    counts = _counts([sizes[c] for c in order], nodes)
    return torch.tensor(order).repeat_interleave(torch.tensor(counts))


def _counts(sizes: Sequence[int], nodes: int) -> list[int]:
    share = nodes / sum(sizes)
    first = [max(int(size * share), 1) for size in sizes[:-1]]
    return [*first, nodes - sum(first)]


def _features_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("feat_*.pt")) if path.is_dir() else []
    if len(files) != 1:
        raise ArtifactError("layout", f"path must be a file feat_….pt or a folder with exactly one, got {str(path)!r}")
    return files[0]


def _edges(adjacency: object, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    if not isinstance(adjacency, Tensor) or adjacency.shape != (count, count):
        shape = getattr(adjacency, "shape", type(adjacency))
        raise ArtifactError("shape", f"adjacency must be ({count}, {count}), got {shape}")
    index = torch.nonzero(adjacency >= max(threshold, torch.finfo(torch.float32).tiny)).T.contiguous()
    return index, adjacency[index[0], index[1]].float()
