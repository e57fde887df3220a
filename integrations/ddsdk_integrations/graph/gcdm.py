"""Distribution matching on graphs: GCDM, by the engine's class-wise matching of mean embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

import torch

import ddsdk as dd
from ddsdk.foundation import require_count
from ddsdk.objectives import ClassMatch, mean_embedding, squared
from ddsdk.students import AlternatingStudents, MakeStudent, OnSynthetic
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.recipe import GraphRecipe, check_rates
from ddsdk_integrations.graph.students import StudentFactory, perceptron_student


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
    steps: int = 100
    width: int = 256
    outer: int = 10
    inner: int = 5
    real_batch: int = 256
    feature_lr: float = 1e-5
    student_lr: float = 0.01

    def check(self) -> None:
        """Check counts and rates."""
        for name in ("width", "outer", "inner", "real_batch"):
            require_count(name, getattr(self, name))
        check_rates(self, "feature_lr", "student_lr")

    def student(self, graph: GraphData) -> StudentFactory:
        """Return a perceptron on propagated rows."""
        return perceptron_student(graph.num_features, graph.num_classes, self.width)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return feature matching with students that alternate."""
        students = AlternatingStudents(
            make_student,
            OnSynthetic(epochs=self.inner, batch_size=max(256, self.nodes)),
            period=self.outer,
            make_optimizer=partial(torch.optim.Adam, lr=self.student_lr),
        )
        return dd.Plan(
            syn=self.synthetic(graph, self.start, rng=rng),
            objective=ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=self.real_batch),
            students=students,
            make_optimizer=lambda syn: torch.optim.Adam(syn.parametrization.parameters(), lr=self.feature_lr),
            steps=self.steps,
            knobs="feature_lr",
        )
