"""Trajectory matching on graphs: SFGC, by the engine's experts and its differentiable training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

import ddsdk as dd
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, derive, require
from ddsdk.objectives import MatchTrajectory
from ddsdk.students import ExpertStudents, MakeStudent, TrainedRuns, Training
from ddsdk.synthetic import LearnedLabels, LearnedRate
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.networks import StudentFactory, perceptron_student
from ddsdk_integrations.graph.recipe import GraphRecipe, adam


@final
@dataclass(frozen=True, kw_only=True)
class SFGC(GraphRecipe):
    """Match the trajectories of experts on the real graph by students that train on nodes without edges.

    Experts are files in the user's cache, made at the first run, see `ddsdk.students.TrainedRuns`.

    Attributes:
        width: Hidden units of experts and students.
        experts: Number of networks that are trained on the real graph.
        expert_epochs: Steps of an expert, all training nodes at once (SGD).
        expert_lr: Learning rate of the experts.
        expert_decay: Weight decay of the experts.
        every: Epochs between two snapshots.
        span: Snapshots between the start of a student and its target.
        last: Number of snapshots from which a student may start, the first ones.
        student_steps: Steps of a student on the set.
        student_lr: Learning rate of students at the start of the run; it is learned with the set.
        rate_lr: Learning rate of that rate.
        feature_lr: Learning rate of the features (Adam).
        label_lr: Learning rate of the labels (Adam), which begin hard and become soft; 0 leaves them hard.

    Differences from the published algorithm: experts see rows that were propagated before the first layer, where
    GCN propagates between its layers, too; the result is the set of the last step, or the best on validation nodes,
    where the paper ranks sets by a kernel. Learned labels are those of GEOM.

    References:
        Zheng et al., "Structure-free Graph Condensation", NeurIPS 2023, arXiv:2306.02664.
        Zhang et al., "Navigating Complexity: Toward Lossless Graph Condensation via Expanding Window Matching", ICML
        2024, arXiv:2402.05011 (soft labels).
    """

    name: ClassVar[str] = "sfgc"
    steps: PositiveInt = 100
    width: PositiveInt = 64
    experts: PositiveInt = 10
    expert_epochs: PositiveInt = 300
    expert_lr: PositiveFloat = 1.0
    expert_decay: float = 5e-4
    every: PositiveInt = 10
    span: PositiveInt = 5
    last: PositiveInt = 15
    student_steps: PositiveInt = 20
    student_lr: PositiveFloat = 2.0
    rate_lr: PositiveFloat = 1e-3
    feature_lr: PositiveFloat = 1e-3
    label_lr: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        end = self.expert_epochs // self.every - self.span + 1
        require(self.last <= end, "last", f"be at most {end}, so that all stretches end", self.last)

    def student(self, graph: GraphData) -> StudentFactory:
        """Return a perceptron on propagated rows."""
        return perceptron_student(graph.num_features, graph.num_classes, self.width)

    def runs(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> TrainedRuns:
        """Return the experts."""
        training = Training(
            epochs=self.expert_epochs,
            lr=self.expert_lr,
            weight_decay=self.expert_decay,
            batch_size=max(1024, len(graph.train.nodes)),
            thin=self.every,
        )
        seed = derive(rng, "runs").initial_seed()
        return TrainedRuns(graph.rows(self.hops), make_student, training, count=self.experts, seed=seed)

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return trajectory matching."""
        rate = LearnedRate(self.student_lr, low=self.student_lr / 100, high=self.student_lr * 100)
        syn = self.synthetic(graph, self.start, rate=rate, rng=rng)
        if self.label_lr:
            labels = LearnedLabels(4.0 * syn.labels.rows(torch.arange(len(syn))))
            syn = dd.SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes, rate)
        experts = self.runs(graph, make_student=make_student, rng=rng)
        return dd.Plan(
            syn=syn,
            objective=MatchTrajectory(steps=self.student_steps),
            students=ExpertStudents(experts, span=self.span, last=self.last),
            make_optimizer=self._optimizer,
            steps=self.steps,
            knobs="feature_lr, rate_lr or student_lr",
        )

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        assert syn.rate is not None
        kinds = ((syn.parametrization, self.feature_lr), (syn.labels, self.label_lr), (syn.rate, self.rate_lr))
        return adam(*((module.parameters(), lr) for module, lr in kinds))
