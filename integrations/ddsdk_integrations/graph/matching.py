"""Matching on graphs, class by class: gradients (GCond, GCond-X, DosCond) and mean embeddings (GCDM)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, derive
from ddsdk.objectives import ClassMatch, filter_cosine, mean_embedding, squared, weight_gradients
from ddsdk.students import AlternatingStudents, FreshStudents, MakeStudent, OnSynthetic
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.networks import StudentFactory, linear_student, perceptron_student
from ddsdk_integrations.graph.recipe import GraphRecipe, adam, allotted
from ddsdk_integrations.graph.structure import BernoulliEdges, PairwiseMLP, SelfExpressive, Structure, nodes_of

_DISTANCES = {"ours": filter_cosine, "mse": squared}


@final
class TakeTurns(torch.optim.Adam):
    """Adam over two groups of parameters that move in turns: the first for some steps, then the second.

    Args:
        first: Parameters of the first group, such as those of edges.
        second: Parameters of the second group, such as features.
        lrs: Learning rates of both groups.
        turns: Steps of each turn.
    """

    def __init__(
        self,
        first: list[torch.nn.Parameter],
        second: list[torch.nn.Parameter],
        *,
        lrs: tuple[float, float],
        turns: tuple[int, int],
    ) -> None:
        super().__init__([{"params": p, "lr": lr} for p, lr in zip((first, second), lrs, strict=True)])
        self._turns = turns
        for group in self.param_groups:
            group.setdefault("taken", 0)

    def step(self, closure: Any = None) -> Any:  # noqa: ANN401
        """Move the group whose turn it is."""
        taken = self.param_groups[0]["taken"]
        waits = int(taken % sum(self._turns) < self._turns[0])
        for parameter in self.param_groups[waits]["params"]:
            parameter.grad = None
        # The count is part of the state, so that a run resumes in the same turn.
        self.param_groups[0]["taken"] = taken + 1
        return super().step(closure)


def class_matching(graph: GraphData, nodes: int, distance: str, real_batch: int) -> ClassMatch:
    """Return GCond's objective: gradients of each class, weighted by its share of the synthetic nodes."""
    counts = torch.bincount(allotted(graph.class_sizes, nodes), minlength=graph.num_classes)
    return ClassMatch(
        byproduct=weight_gradients,
        distance=_DISTANCES[distance],
        real_batch=real_batch,
        weights=tuple((counts / counts.max()).tolist()),
    )


def _alternating(recipe: GCond | GCDM, make_student: MakeStudent) -> AlternatingStudents:
    return AlternatingStudents(
        make_student,
        OnSynthetic(epochs=recipe.inner, batch_size=max(256, recipe.nodes)),
        period=recipe.outer,
        make_optimizer=partial(torch.optim.Adam, lr=recipe.student_lr),
    )


@final
@dataclass(frozen=True, kw_only=True)
class GCond(GraphRecipe):
    """Match the gradients of SGC on real and synthetic nodes, class by class, while it trains on the synthetic ones.

    Attributes:
        structure: ``"pairs"`` for GCond's perceptron over pairs of nodes; ``"none"`` for GCond-X; ``"self-expressive"``
            for the closed form of GCSR.
        outer: Steps with one student, which trains between them.
        inner: Epochs of the student on the set between two steps.
        real_batch: Real nodes of each class in one step.
        distance: ``"ours"``, one minus the cosine of each output's weights, or ``"mse"``.
        feature_lr: Learning rate of the features (Adam).
        edge_lr: Learning rate of the perceptron.
        student_lr: Learning rate of the students (Adam).
        edge_turn: Steps in a row in which edges move, before those of features.
        feature_turn: Steps in a row in which features move.
        edge_bias: Mean of the logits of edges at the start.

    Differences from the published algorithm: rows of the real graph are propagated once, so that class-wise gradients
    are exact and no neighbours are sampled; every node starts as one of its own class; features start propagated.

    References:
        Jin et al., "Graph Condensation for Graph Neural Networks", ICLR 2022, arXiv:2110.07580.
    """

    name: ClassVar[str] = "gcond"
    steps: PositiveInt = 200
    structure: Literal["none", "pairs", "self-expressive"] = "pairs"
    outer: PositiveInt = 20
    inner: PositiveInt = 15
    real_batch: PositiveInt = 256
    distance: Literal["ours", "mse"] = "ours"
    feature_lr: PositiveFloat = 1e-4
    edge_lr: PositiveFloat = 1e-3
    student_lr: PositiveFloat = 0.01
    edge_turn: PositiveInt = 40
    feature_turn: PositiveInt = 160
    edge_bias: float = -4.0

    def student(self, graph: GraphData) -> StudentFactory:
        """Return SGC on propagated rows."""
        return linear_student(graph.num_features, graph.num_classes)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return gradient matching with students that alternate."""
        return dd.Plan(
            syn=self.synthetic(graph, self.start, structure=self._structure(graph, rng), rng=rng),
            objective=class_matching(graph, self.nodes, self.distance, self.real_batch),
            students=_alternating(self, make_student),
            make_optimizer=self._optimizer,
            steps=self.steps,
            knobs="feature_lr or edge_lr",
        )

    def _structure(self, graph: GraphData, rng: torch.Generator) -> Structure | None:
        if self.structure == "none":
            return None
        if self.structure == "self-expressive":
            return SelfExpressive()
        return PairwiseMLP(graph.num_features, bias=self.edge_bias, rng=derive(rng, "edges"))

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        nodes = nodes_of(syn)
        if not nodes.edge_parameters:
            return torch.optim.Adam([nodes.x], lr=self.feature_lr)
        rates, turns = (self.edge_lr, self.feature_lr), (self.edge_turn, self.feature_turn)
        return TakeTurns(nodes.edge_parameters, [nodes.x], lrs=rates, turns=turns)


@final
@dataclass(frozen=True, kw_only=True)
class DosCond(GraphRecipe):
    """Match gradients once, at the initialisation of a new student in every step, with edges that are drawn.

    Attributes:
        structure: ``"bernoulli"``: each edge has a probability; or ``"none"``.
        real_batch: Real nodes of each class in one step.
        distance: ``"ours"`` or ``"mse"``.
        feature_lr: Learning rate of the features (Adam).
        edge_lr: Learning rate of the logits of edges.
        density: Mean probability of an edge above which it is punished.
        penalty: Weight of the punishment.

    References:
        Jin et al., "Condensing Graphs via One-Step Gradient Matching", KDD 2022, arXiv:2206.07746.
    """

    name: ClassVar[str] = "doscond"
    steps: PositiveInt = 100
    structure: Literal["none", "bernoulli"] = "bernoulli"
    real_batch: PositiveInt = 256
    distance: Literal["ours", "mse"] = "ours"
    feature_lr: PositiveFloat = 1e-4
    edge_lr: PositiveFloat = 0.01
    density: Fraction = 0.02
    penalty: NonNegativeFloat = 1.0

    def student(self, graph: GraphData) -> StudentFactory:
        """Return SGC on propagated rows."""
        return linear_student(graph.num_features, graph.num_classes)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return gradient matching with fresh students."""
        structure = None
        if self.structure == "bernoulli":
            structure = BernoulliEdges.scaled(torch.zeros(self.nodes, self.nodes), logit=3.0)
        return dd.Plan(
            syn=self.synthetic(graph, self.start, structure=structure, rng=rng),
            objective=class_matching(graph, self.nodes, self.distance, self.real_batch),
            students=FreshStudents(make_student),
            make_optimizer=self._optimizer,
            steps=self.steps,
            penalty=None if structure is None else self._penalty,
            knobs="feature_lr or edge_lr",
        )

    def _penalty(self, syn: dd.SyntheticSet) -> Tensor:
        structure = nodes_of(syn).structure
        assert isinstance(structure, BernoulliEdges)  # the plan has a penalty with such edges only
        return self.penalty * structure.excess(self.density)

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        nodes = nodes_of(syn)
        return adam(([nodes.x], self.feature_lr), (nodes.edge_parameters, self.edge_lr))


@final
@dataclass(frozen=True, kw_only=True)
class GCDM(GraphRecipe):
    """Match the class means of the embeddings of receptive fields, under a network that trains on the set meanwhile.

    There is no official code, and re-implementations disagree. The reading here: no edges between synthetic nodes; the
    receptive field of a node is its propagated features; its embedding is the hidden layer of a perceptron on them;
    the distance is the squared one between class means; the perceptron is trained by cross-entropy on the synthetic
    nodes.

    Attributes:
        width: Hidden units.
        outer: Steps with one network.
        inner: Epochs of that network on the set between two steps.
        real_batch: Real nodes of each class in one step.
        feature_lr: Learning rate of the features (Adam).
        student_lr: Learning rate of the networks (Adam).

    References:
        Liu et al., "Graph Condensation via Receptive Field Distribution Matching", arXiv:2206.13697.
    """

    name: ClassVar[str] = "gcdm"
    steps: PositiveInt = 100
    width: PositiveInt = 256
    outer: PositiveInt = 10
    inner: PositiveInt = 5
    real_batch: PositiveInt = 256
    feature_lr: PositiveFloat = 1e-5
    student_lr: PositiveFloat = 0.01

    def student(self, graph: GraphData) -> StudentFactory:
        """Return a perceptron on propagated rows."""
        return perceptron_student(graph.num_features, graph.num_classes, self.width)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return feature matching with students that alternate."""
        return dd.Plan(
            syn=self.synthetic(graph, self.start, rng=rng),
            objective=ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=self.real_batch),
            students=_alternating(self, make_student),
            make_optimizer=lambda syn: torch.optim.Adam(syn.parametrization.parameters(), lr=self.feature_lr),
            steps=self.steps,
            knobs="feature_lr",
        )
