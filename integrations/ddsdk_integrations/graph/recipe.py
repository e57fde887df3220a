"""Base classes of node condensation: sizes of the classes, initial features, and the export."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.data import Source, k_means_centres
from ddsdk.foundation import NonNegativeInt, PositiveInt, check_numbers, derive, require, require_count
from ddsdk.running import IterativeMethod, Method
from ddsdk.students import MakeStudent
from ddsdk.synthetic import LearnedRate, hard_labels
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL, as_data, network_score
from ddsdk_integrations.graph.structure import Structure, SyntheticNodes, nodes_of

FeatureStart = Literal["real", "propagated", "means"]
"""Initial features: raw features of random training nodes of the class, their propagated features, or means of clusters
of propagated features."""


def node_classes(class_sizes: Sequence[int], nodes: int) -> Tensor:
    """Return the classes of `nodes` synthetic nodes, (nodes,) int64, ascending.

    Classes have the shares of the training nodes, and each has at least one node. Largest remainders decide about
    rounding, so no class is rounded down in favour of all others.

    Args:
        class_sizes: Labelled training nodes of each class.
        nodes: Number of synthetic nodes, at least one for each class.
    """
    classes = len(class_sizes)
    require_count("nodes", nodes, least=classes)
    exact = [nodes * size / sum(class_sizes) for size in class_sizes]
    counts = [max(1, int(share)) for share in exact]
    # Classes that were raised to one node can make the sum too large; the largest classes give nodes back.
    while sum(counts) > nodes:
        counts[counts.index(max(counts))] -= 1
    while sum(counts) < nodes:
        counts[max(range(classes), key=lambda c: exact[c] - counts[c])] += 1
    return torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))


def start_features(graph: GraphData, classes: Tensor, start: FeatureStart, hops: int, rng: torch.Generator) -> Tensor:
    """Return initial features of synthetic nodes, (M, D), each from training nodes of its own class.

    A class with fewer training nodes than synthetic ones repeats some of them.

    Args:
        graph: Real graph with its splits.
        classes: Classes of the synthetic nodes, (M,) int64, ascending.
        start: Kind of initial features, see `FeatureStart`.
        hops: Number of propagations, at least 0.
        rng: Generator of the random choice.
    """
    x = graph.propagated(0 if start == "real" else hops)
    features = []
    for c, n in enumerate(torch.bincount(classes, minlength=graph.num_classes).tolist()):
        of_class, key = x[graph.train.labels == c], derive(rng, "start", c)
        if start == "means" and n < len(of_class):
            features.append(k_means_centres(of_class, n, key).to(of_class))
        else:
            order = torch.randperm(len(of_class), generator=key)
            repeats = -(-n // len(of_class))
            features.append(of_class[order.repeat(repeats)[:n]])
    return torch.cat(features)


def features_and_edges(syn: dd.SyntheticSet, threshold: float = 0.0) -> tuple[dd.SyntheticSet, dict[str, Tensor]]:
    """Return the set of features before propagation, and its edges as fields of `ddsdk.Distilled`.

    Edges below `threshold` are left out, and so is a learned learning rate: it belongs to students on propagated rows.
    """
    nodes = nodes_of(syn)
    plain = dd.SyntheticSet(SyntheticNodes(nodes.x.detach()), syn.labels, syn.classes, syn.num_classes)
    index, weight = nodes.edges(threshold)
    return plain, {"edge_index": index, "edge_weight": weight} if len(weight) else {}


def adam(*kinds: tuple[Iterable[Tensor], float]) -> torch.optim.Adam:
    """Return Adam over pairs of parameters and their learning rate; a pair without parameters is left out."""
    groups = [{"params": list(parameters), "lr": lr} for parameters, lr in kinds]
    return torch.optim.Adam([group for group in groups if group["params"]])


@dataclass(frozen=True, kw_only=True)
class NodeMethod(Method[GraphData], ABC):
    """Base class of methods whose sets are nodes, with or without edges.

    Attributes:
        nodes: Number of synthetic nodes, at least one for each class.
        hops: Propagations of the features before the first layer of a student.
    """

    nodes: PositiveInt = 70
    hops: NonNegativeInt = 2

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                value, choices = getattr(self, name), list(get_args(kind))
                require(value in choices, name, f"be one of {choices}", value)

    def protocol(self, graph: GraphData) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return the protocol of GCond."""
        return GRAPH_PROTOCOL

    def source(self, graph: GraphData) -> Source:
        """Return the propagated training nodes."""
        return graph.rows(self.hops)

    @final
    def described(self, graph: GraphData) -> GraphData:
        """Return the graph itself, whose facts the provenance records."""
        return graph

    def stored(self, syn: dd.SyntheticSet, graph: GraphData) -> tuple[dd.SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the features before propagation, and all edges."""
        return features_and_edges(syn)

    @final
    def synthetic(
        self,
        graph: GraphData,
        start: FeatureStart,
        *,
        structure: Structure | None = None,
        rate: LearnedRate | None = None,
        rng: torch.Generator,
    ) -> dd.SyntheticSet:
        """Return the initial nodes with hard labels, in the class shares of the training nodes."""
        classes = node_classes(graph.class_sizes, self.nodes)
        x = start_features(graph, classes, start, self.hops, rng)
        labels = hard_labels(classes, graph.num_classes)
        nodes = SyntheticNodes(x, structure, hops=self.hops)
        return dd.SyntheticSet(nodes, labels, classes, graph.num_classes, rate).to(graph.device)


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(NodeMethod, IterativeMethod[GraphData], ABC):
    """Base class of recipes that condense the nodes of a graph by the loop of `ddsdk.Distillation`.

    Attributes:
        steps: Outer steps of the run.
        start: Initial features, see `FeatureStart`.
        threshold: Least weight of an exported edge, in 0 <= value < 1.
        validate_every: Steps between two validations; the best validated set is the result. A validation trains a GCN
            on the set and measures it on the validation nodes. 0 returns the set of the last step.
    """

    steps: PositiveInt = 500
    start: FeatureStart = "propagated"
    threshold: float = 0.05
    validate_every: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold < 1, "threshold", "lie in 0 <= value < 1", self.threshold)

    @abstractmethod
    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan without validation."""

    @final
    def plan(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of the run; `dataclasses.replace` changes one part of it."""
        plan = self.parts(graph, make_student=make_student, rng=rng)
        if not self.validate_every:
            return plan
        validate = partial(self._validated, graph, derive(rng, "validation"))
        return dataclasses.replace(plan, validate=validate, validate_every=self.validate_every)

    @final
    def refuse(self, graph: GraphData, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse a validation on images."""
        rule = "be left out for graphs, where validate_every has the same effect on the validation nodes"
        require(validation is None, "validation", rule, validation)

    @final
    def admit(self, plan: dd.Plan[Any]) -> None:
        """Refuse a plan whose set cannot be exported as a graph."""
        nodes_of(plan.syn)

    @final
    def stored(self, syn: dd.SyntheticSet, graph: GraphData) -> tuple[dd.SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the features before propagation, and the edges of weight `threshold` or more."""
        return features_and_edges(syn, self.threshold)

    def _validated(self, graph: GraphData, rng: torch.Generator, syn: dd.SyntheticSet) -> float:
        protocol = dataclasses.replace(self.protocol(graph), epochs=200)
        plain, edges = self.stored(syn, graph)
        batch = plain.detached(rng)
        data = as_data(batch.x.flatten(1), batch.y, plain.classes, **edges)
        return network_score(data, graph, graph.val, protocol, rng)
