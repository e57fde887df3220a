"""Class-wise matching on graphs: gradient matching (GCond, GCond-X, DosCond) and distribution matching (GCDM)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, derive
from ddsdk.objectives import ClassMatch, filter_cosine, mean_embedding, squared, weight_gradients
from ddsdk.students import AlternatingStudents, FreshStudents, MakeStudent, TrainOnSynthetic
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.networks import StudentFactory, linear_student, perceptron_student
from ddsdk_integrations.graph.recipe import GraphRecipe, adam, node_classes
from ddsdk_integrations.graph.structure import BernoulliEdges, PairwiseMLP, SelfExpressive, Structure, nodes_of

_DISTANCES = {"ours": filter_cosine, "mse": squared}


@final
class AlternatingAdam(torch.optim.Adam):
    """Adam with alternating updates of two parameter groups: `turns[0]` steps of the first, `turns[1]` of the second.

    Args:
        first: Parameters of the first group, such as those of the structure.
        second: Parameters of the second group, such as the features.
        lrs: Learning rates of the two groups.
        turns: Consecutive steps of each group.
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
        """Return the result of one update of the active group; the other group loses its gradient."""
        taken = self.param_groups[0]["taken"]
        inactive = int(taken % sum(self._turns) < self._turns[0])
        for parameter in self.param_groups[inactive]["params"]:
            parameter.grad = None
        # The number of steps is part of the optimizer's state, so that a resumed run continues the same turn.
        self.param_groups[0]["taken"] = taken + 1
        return super().step(closure)


def class_matching(graph: GraphData, nodes: int, distance: str, real_batch: int) -> ClassMatch:
    """Return GCond's objective: class-wise gradient matching, weighted by the class's share of synthetic nodes."""
    counts = torch.bincount(node_classes(graph.class_sizes, nodes), minlength=graph.num_classes)
    return ClassMatch(
        byproduct=weight_gradients,
        distance=_DISTANCES[distance],
        real_batch=real_batch,
        weights=tuple((counts / counts.max()).tolist()),
    )


def _alternating(recipe: GCond | GCDM, make_student: MakeStudent) -> AlternatingStudents:
    return AlternatingStudents(
        make_student,
        TrainOnSynthetic(epochs=recipe.inner, batch_size=max(256, recipe.nodes)),
        period=recipe.outer,
        make_optimizer=partial(torch.optim.Adam, lr=recipe.student_lr),
    )


@final
@dataclass(frozen=True, kw_only=True)
class GCond(GraphRecipe):
    """GCond: match the class-wise gradients of SGC on real and synthetic nodes while SGC trains on the synthetic ones.

    Attributes:
        structure: Edges between synthetic nodes: ``"pairs"`` for GCond's perceptron over pairs of nodes, ``"none"`` for
            GCond-X, ``"self-expressive"`` for the closed form of GCSR.
        outer: Outer steps with one student, which trains between them.
        inner: Epochs of the student on the set between two outer steps.
        real_batch: Real nodes of each class in one step.
        distance: Distance of two gradients: ``"ours"``, one minus the cosine for the weights of each output, or
            ``"mse"``.
        feature_lr: Learning rate of the features (Adam).
        edge_lr: Learning rate of the structure's perceptron (Adam).
        student_lr: Learning rate of the students (Adam).
        edge_turn: Consecutive steps in which the structure is updated, before those of the features.
        feature_turn: Consecutive steps in which the features are updated.
        edge_bias: Mean of the logits of edges at the start.

    Differences from the published algorithm: features of the real graph are propagated once, so class-wise gradients
    are exact without neighbour sampling. Each node starts from training nodes of its own class, with propagated
    features.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import GCond, stochastic_blocks, to_data
        >>> recipe = GCond(nodes=8, steps=2, inner=1, edge_bias=0.0, threshold=0.0)
        >>> to_data(ddsdk.distill(recipe, stochastic_blocks(400))).edge_index.shape
        torch.Size([2, 56])

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
        """Return SGC, a linear model on propagated features."""
        return linear_student(graph.num_features, graph.num_classes)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return gradient matching in alternation with the training of the student."""
        return dd.Plan(
            syn=self.synthetic(graph, self.start, structure=self._structure(graph, rng), rng=rng),
            objective=class_matching(graph, self.nodes, self.distance, self.real_batch),
            students=_alternating(self, make_student),
            make_optimizer=self._optimizer,
            steps=self.steps,
            divergence_hint="feature_lr or edge_lr",
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
        return AlternatingAdam(nodes.edge_parameters, [nodes.x], lrs=rates, turns=turns)


@final
@dataclass(frozen=True, kw_only=True)
class DosCond(GraphRecipe):
    """DosCond: match gradients at the initialisation of a fresh student in every step, with sampled edges.

    Attributes:
        structure: Edges between synthetic nodes: ``"bernoulli"``, sampled with a learned probability each, or
            ``"none"``.
        real_batch: Real nodes of each class in one step.
        distance: Distance of two gradients, ``"ours"`` or ``"mse"``, see `GCond`.
        feature_lr: Learning rate of the features (Adam).
        edge_lr: Learning rate of the logits of edges (Adam).
        density: Mean probability of an edge, in 0..1, above which the penalty is positive.
        penalty: Weight of the density penalty; 0 for none.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import DosCond, stochastic_blocks
        >>> ddsdk.distill(DosCond(nodes=8, steps=2), stochastic_blocks(400)).images.shape
        torch.Size([8, 1, 1, 32])

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
        """Return SGC, a linear model on propagated features."""
        return linear_student(graph.num_features, graph.num_classes)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return gradient matching under fresh students."""
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
            divergence_hint="feature_lr or edge_lr",
        )

    def _penalty(self, syn: dd.SyntheticSet) -> Tensor:
        structure = nodes_of(syn).structure
        assert isinstance(structure, BernoulliEdges)  # the plan has a penalty only with Bernoulli edges
        return self.penalty * structure.excess(self.density)

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        nodes = nodes_of(syn)
        return adam(([nodes.x], self.feature_lr), (nodes.edge_parameters, self.edge_lr))


@final
@dataclass(frozen=True, kw_only=True)
class GCDM(GraphRecipe):
    """GCDM: match class means of the embeddings of receptive fields, under a network that also trains on the set.

    There is no official code, and re-implementations differ. In this one, synthetic nodes have no edges. The receptive
    field of a node is its propagated features, and its embedding is the hidden layer of a perceptron on them. The
    distance of class means is the squared one, and the perceptron trains by cross-entropy on the synthetic nodes.

    Attributes:
        width: Hidden units of the perceptron.
        outer: Outer steps with one network.
        inner: Epochs of the network on the set between two outer steps.
        real_batch: Real nodes of each class in one step.
        feature_lr: Learning rate of the features (Adam).
        student_lr: Learning rate of the networks (Adam).

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import GCDM, stochastic_blocks
        >>> ddsdk.distill(GCDM(nodes=8, steps=2, width=16), stochastic_blocks(400)).images.shape
        torch.Size([8, 1, 1, 32])

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
        """Return a perceptron on propagated features."""
        return perceptron_student(graph.num_features, graph.num_classes, self.width)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return distribution matching in alternation with the training of the network."""
        return dd.Plan(
            syn=self.synthetic(graph, self.start, rng=rng),
            objective=ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=self.real_batch),
            students=_alternating(self, make_student),
            make_optimizer=lambda syn: torch.optim.Adam(syn.parametrization.parameters(), lr=self.feature_lr),
            steps=self.steps,
            divergence_hint="feature_lr",
        )
