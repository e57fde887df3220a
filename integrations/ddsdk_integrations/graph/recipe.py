"""The frame of every method that condenses nodes: shares of the classes, starts of the features, and the export."""

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
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL, as_data, reached
from ddsdk_integrations.graph.structure import Structure, SyntheticNodes, nodes_of

Start = Literal["real", "propagated", "means"]
"""Start of the features: those of random training nodes of the class, their propagated ones, or means of clusters of
propagated ones."""


def allotted(class_sizes: Sequence[int], nodes: int) -> Tensor:
    """Return the classes of `nodes` synthetic nodes, (nodes,) int64, in order: shares of the real ones, at least one.

    The largest remainders get the nodes that are left after rounding down, so that no class pays for the others.

    Args:
        class_sizes: Labelled nodes of each class.
        nodes: Number of synthetic nodes, at least one for each class.
    """
    classes = len(class_sizes)
    require_count("nodes", nodes, least=classes)
    exact = [nodes * size / sum(class_sizes) for size in class_sizes]
    counts = [max(1, int(share)) for share in exact]
    # Classes that were raised to one can take more than is there: the largest give it back.
    while sum(counts) > nodes:
        counts[counts.index(max(counts))] -= 1
    while sum(counts) < nodes:
        counts[max(range(classes), key=lambda c: exact[c] - counts[c])] += 1
    return torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))


def start_features(graph: GraphData, classes: Tensor, start: Start, hops: int, rng: torch.Generator) -> Tensor:
    """Return features for nodes of `classes`, (M, D), each from training nodes of its own class.

    Args:
        graph: Real graph.
        classes: Classes of the nodes, (M,) int64 in order.
        start: Kind of start.
        hops: Number of propagations.
        rng: Generator of the choice. A class with fewer nodes than are wanted gives some twice.
    """
    x = graph.propagated(0 if start == "real" else hops)
    found = []
    for c, n in enumerate(torch.bincount(classes, minlength=graph.num_classes).tolist()):
        mine, key = x[graph.train.labels == c], derive(rng, "start", c)
        if start == "means" and n < len(mine):
            found.append(k_means_centres(mine, n, key).to(mine))
        else:
            order = torch.randperm(len(mine), generator=key)
            found.append(mine[order.repeat(-(-n // len(mine)))[:n]])
    return torch.cat(found)


def features_and_edges(syn: dd.SyntheticSet, threshold: float = 0.0) -> tuple[dd.SyntheticSet, dict[str, Tensor]]:
    """Return the set of features before propagation, and edges that weigh enough as fields of `ddsdk.Distilled`.

    A learned rate, which belongs to the students of the set, is left out.
    """
    nodes = nodes_of(syn)
    plain = dd.SyntheticSet(SyntheticNodes(nodes.x.detach()), syn.labels, syn.classes, syn.num_classes)
    index, weight = nodes.edges(threshold)
    return plain, {"edge_index": index, "edge_weight": weight} if len(weight) else {}


def adam(*kinds: tuple[Iterable[Tensor], float]) -> torch.optim.Adam:
    """Return Adam over kinds of parameters, each with its learning rate; a kind without parameters is left out."""
    groups = [{"params": list(parameters), "lr": lr} for parameters, lr in kinds]
    return torch.optim.Adam([group for group in groups if group["params"]])


@dataclass(frozen=True, kw_only=True)
class NodeMethod(Method[GraphData], ABC):
    """A method whose sets are nodes, with edges or without.

    Attributes:
        nodes: Synthetic nodes.
        hops: Multiplications by the normalised adjacency before a student sees a node.
    """

    nodes: PositiveInt = 70
    hops: NonNegativeInt = 2

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                value, known = getattr(self, name), list(get_args(kind))
                require(value in known, name, f"be one of {known}", value)

    def evaluation(self, graph: GraphData) -> dd.Evaluation:  # noqa: ARG002
        """Return the protocol of GCond."""
        return GRAPH_PROTOCOL

    def source(self, graph: GraphData) -> Source:
        """Return the propagated training nodes."""
        return graph.rows(self.hops)

    @final
    def described(self, graph: GraphData) -> GraphData:
        """Return the graph itself."""
        return graph

    def stored(self, syn: dd.SyntheticSet, graph: GraphData) -> tuple[dd.SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the features before propagation, and the edges."""
        return features_and_edges(syn)

    @final
    def synthetic(
        self,
        graph: GraphData,
        start: Start,
        *,
        structure: Structure | None = None,
        rate: LearnedRate | None = None,
        rng: torch.Generator,
    ) -> dd.SyntheticSet:
        """Return nodes at their start with hard labels, in the shares of the training labels."""
        classes = allotted(graph.class_sizes, self.nodes)
        x = start_features(graph, classes, start, self.hops, rng)
        labels = hard_labels(classes, graph.num_classes)
        nodes = SyntheticNodes(x, structure, hops=self.hops)
        return dd.SyntheticSet(nodes, labels, classes, graph.num_classes, rate).to(graph.device)


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(NodeMethod, IterativeMethod[GraphData], ABC):
    """A recipe that condenses the nodes of a graph by the loop of `ddsdk.Distillation`.

    Attributes:
        steps: Outer steps.
        start: Start of the features, see `Start`.
        threshold: Least weight of an edge that is exported.
        validate_every: Steps between two validations, each of which trains a GCN on the set and measures it on the
            validation nodes; the best of these sets is the result. 0 takes the set of the last step.
    """

    steps: PositiveInt = 500
    start: Start = "propagated"
    threshold: float = 0.05
    validate_every: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.threshold < 1, "threshold", "lie in 0 <= value < 1", self.threshold)

    @abstractmethod
    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts of the method."""

    @final
    def plan(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts, ready to run; `dataclasses.replace` swaps one."""
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
        """Refuse a plan whose set could not be exported."""
        nodes_of(plan.syn)

    @final
    def stored(self, syn: dd.SyntheticSet, graph: GraphData) -> tuple[dd.SyntheticSet, dict[str, Any]]:  # noqa: ARG002
        """Return the features before propagation, and the edges that weigh at least `threshold`."""
        return features_and_edges(syn, self.threshold)

    def _validated(self, graph: GraphData, rng: torch.Generator, syn: dd.SyntheticSet) -> float:
        protocol = dataclasses.replace(self.evaluation(graph), epochs=200)
        plain, edges = self.stored(syn, graph)
        batch = plain.detached(rng)
        data = as_data(batch.x.flatten(1), batch.y, plain.classes, **edges)
        return reached(data, graph, graph.val, protocol, rng)
