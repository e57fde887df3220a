"""The frame of every recipe that condenses nodes: how many of which class, where they start, what is exported."""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.data import Source, k_means_centres
from ddsdk.foundation import derive, require, require_count, require_rate, require_rng
from ddsdk.networks import Network, initialise
from ddsdk.students import MakeStudent
from ddsdk.synthetic import LearnedRate, hard_labels
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL, reached
from ddsdk_integrations.graph.structure import Structure, SyntheticNodes

__all__ = [
    "GraphRecipe",
    "NetworkRecipe",
    "Start",
    "allotted",
    "check_rates",
    "exported",
    "linear_student",
    "perceptron_student",
    "start_features",
]

Start = Literal["real", "propagated", "means"]
"""Where features start: those of random training nodes of the class, their propagated ones, or means of clusters of
propagated ones."""


def allotted(class_sizes: Sequence[int], nodes: int) -> Tensor:
    """Return the classes of `nodes` synthetic nodes, (nodes,) int64, in order: shares of the real ones, at least one.

    What is left after rounding down goes to the largest remainders, so that no class pays for the others.

    Args:
        class_sizes: Labelled nodes of each class.
        nodes: At least as many as there are classes.
    """
    classes = len(class_sizes)
    require_count("nodes", nodes, least=classes)
    total = sum(class_sizes)
    exact = [nodes * size / total for size in class_sizes]
    counts = [max(1, int(share)) for share in exact]
    # Classes that were raised to one can take more than is there: the largest give it back.
    while sum(counts) > nodes:
        counts[counts.index(max(counts))] -= 1
    while sum(counts) < nodes:
        counts[max(range(classes), key=lambda c: exact[c] - counts[c])] += 1
    return torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))


def start_features(
    graph: GraphData, classes: Tensor, start: Start, hops: int, rng: torch.Generator
) -> Tensor:
    """Return features for nodes of `classes`, (M, D), each from training nodes of its own class.

    Args:
        graph: The real graph.
        classes: (M,) int64 in order.
        start: See `Start`.
        hops: Of the propagation.
        rng: For the choice. A class with fewer nodes than are wanted gives some twice.
    """
    require(start in get_args(Start), "start", f"be one of {list(get_args(Start))}", start)
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


def linear_student(features: int, classes: int) -> MakeStudent:
    """Return what makes SGC on rows that were propagated before: one linear layer."""

    def make(rng: torch.Generator) -> nn.Module:
        return initialise(Network(nn.Sequential(nn.Flatten()), nn.Linear(features, classes)), rng)

    return make


def perceptron_student(features: int, classes: int, width: int) -> MakeStudent:
    """Return what makes a hidden ReLU layer and a head on rows: a GCN of two layers whose propagation came first."""

    def make(rng: torch.Generator) -> nn.Module:
        body = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(features, width), nn.ReLU()))
        return initialise(Network(body, nn.Linear(width, classes)), rng)

    return make


@dataclass(frozen=True, kw_only=True)
class GraphRecipe(ABC):
    """A recipe that condenses the nodes of a graph by the loop of `ddsdk.Distillation`.

    Attributes:
        name: What the command line and tables call the method.
        nodes: Synthetic nodes.
        hops: Multiplications by the normalised adjacency before a student sees a node.
        steps: Outer steps.
        start: Where features start, see `Start`.
        threshold: Edges that weigh less are left out of the export.
        validate_every: Steps after which a GCN is trained on the set and asked about the validation nodes; the best of
            these sets is the result. 0 takes the last one.
    """

    name: ClassVar[str]
    nodes: int = 70
    hops: int = 2
    steps: int = 500
    start: Start = "propagated"
    threshold: float = 0.05
    validate_every: int = 0

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("hops", 0), ("steps", 1), ("validate_every", 0)):
            require_count(name, getattr(self, name), least)
        require(self.start in get_args(Start), "start", f"be one of {list(get_args(Start))}", self.start)
        require(0 <= self.threshold < 1, "threshold", "lie in 0 <= value < 1", self.threshold)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError for a parameter that no graph could make right."""

    @abstractmethod
    def parts(self, graph: GraphData, *, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts of the method."""

    @abstractmethod
    def real(self, graph: GraphData) -> Source:
        """Return what the loop draws from."""

    @abstractmethod
    def evaluation(self) -> dd.Evaluation:
        """Return how to train on the set."""

    @final
    def plan(self, graph: GraphData, *, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts, ready to run; `dataclasses.replace` swaps one."""
        plan = self.parts(graph, rng=rng)
        if not self.validate_every:
            return plan
        validate = partial(self._validated, graph, derive(rng, "validation"))
        return dataclasses.replace(plan, validate=validate, validate_every=self.validate_every)

    @final
    def __call__(self, graph: GraphData, *, rng: torch.Generator) -> dd.Distilled:
        """Run the whole loop and return the set.

        Args:
            graph: What to condense.
            rng: Root of every random number.

        Raises:
            ValueError: If a parameter does not fit the graph.
            DivergedError: If the loss stays non-finite.
        """
        require_rng(rng)
        began = time.perf_counter()
        real = self.real(graph)
        plan = self.plan(graph, rng=derive(rng, "plan"))
        distillation = dd.Distillation(plan, real, rng=derive(rng, "steps"))
        for _ in distillation:
            pass
        return exported(
            self,
            distillation.result,
            graph,
            evaluation=self.evaluation(),
            threshold=self.threshold,
            rng=rng,
            seconds=time.perf_counter() - began,
            run=distillation.record(),
        )

    @final
    def synthetic(
        self,
        graph: GraphData,
        *,
        structure: Structure | None = None,
        rate: LearnedRate | None = None,
        rng: torch.Generator,
    ) -> dd.SyntheticSet:
        """Return nodes at their start with hard labels, in the shares of the training labels."""
        classes = allotted(graph.class_sizes, self.nodes)
        x = start_features(graph, classes, self.start, self.hops, rng)
        labels = hard_labels(classes, graph.num_classes)
        nodes = SyntheticNodes(x, structure, hops=self.hops)
        return dd.SyntheticSet(nodes, labels, classes, graph.num_classes, rate).to(graph.device)

    def _validated(self, graph: GraphData, rng: torch.Generator, syn: dd.SyntheticSet) -> float:
        protocol = dataclasses.replace(self.evaluation(), epochs=200)
        distilled = exported(
            self, syn, graph, evaluation=protocol, threshold=self.threshold, rng=rng, seconds=0.0
        )
        return reached(distilled, graph, graph.val, protocol, rng)


@dataclass(frozen=True, kw_only=True)
class NetworkRecipe(GraphRecipe, ABC):
    """A recipe whose students see propagated training nodes, and whose set is for networks."""

    @final
    def real(self, graph: GraphData) -> Source:
        """Return the propagated training nodes."""
        return graph.rows(self.hops)

    @final
    def evaluation(self) -> dd.Evaluation:
        """Return the protocol of GCond."""
        return GRAPH_PROTOCOL


def exported(
    recipe: object,
    syn: dd.SyntheticSet,
    graph: GraphData,
    *,
    evaluation: dd.Evaluation,
    threshold: float = 0.0,
    rng: torch.Generator,
    seconds: float,
    run: Mapping[str, Any] | None = None,
) -> dd.Distilled:
    """Return a set of synthetic nodes as an artefact: features before propagation, labels, and edges.

    Args:
        recipe: What made it.
        syn: Its parametrization is `SyntheticNodes`.
        graph: What it was made of.
        evaluation: How to train on it.
        threshold: Edges that weigh less are left out.
        rng: The root of the run.
        seconds: That it took.
        run: What became of it.
    """
    nodes = syn.parametrization
    assert isinstance(nodes, SyntheticNodes)
    plain = dd.SyntheticSet(SyntheticNodes(nodes.x.detach()), syn.labels, syn.classes, syn.num_classes)
    distilled = assemble(recipe, plain, graph, evaluation=evaluation, rng=rng, seconds=seconds, run=run)
    index, weight = nodes.edges(threshold)
    if not len(weight):
        return distilled
    return dataclasses.replace(distilled, edge_index=index, edge_weight=weight)


def check_rates(recipe: object, *names: str) -> None:
    """Raise ValueError unless these fields are positive and finite."""
    for name in names:
        require_rate(name, getattr(recipe, name))
