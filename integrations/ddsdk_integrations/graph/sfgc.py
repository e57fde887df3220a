"""SFGC: trajectory matching for the condensation of graphs without edges."""

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
    """Structure-free graph condensation: students on nodes without edges match trajectories of experts on the graph.

    Experts are trained in the first run and stored in the user's cache folder, see `ddsdk.students.TrainedRuns`.

    Attributes:
        width: Hidden units of experts and students.
        experts: Number of experts, networks trained on the real graph.
        expert_epochs: Steps of an expert, each on all training nodes (SGD).
        expert_lr: Learning rate of the experts.
        expert_decay: Weight decay of the experts.
        every: Epochs between two snapshots of an expert.
        span: Snapshots between the start of a student and its target.
        last: Number of snapshots, counted from the first, at which a student may start.
        student_steps: Steps of a student on the set.
        student_lr: Initial learning rate of the students; it is learned with the set.
        rate_lr: Learning rate of the students' learning rate (Adam).
        feature_lr: Learning rate of the features (Adam).
        label_lr: Learning rate of the soft labels (Adam), which start hard; 0 leaves them hard.

    Differences from the published algorithm: experts train on features that are propagated before the first layer,
    where GCN also propagates between its layers. The result is the set of the last step or the best on validation
    nodes, where the paper ranks sets by a kernel. Learned labels are those of GEOM.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import SFGC, stochastic_blocks
        >>> graph = stochastic_blocks(400)
        >>> recipe = SFGC(nodes=8, steps=2, experts=1, expert_epochs=10, every=1, span=2, last=5)
        >>> recipe.runs(graph, make_student=recipe.student(graph), rng=ddsdk.generator(0)).training.snapshots
        11
        >>> distilled = ddsdk.distill(recipe, graph)  # doctest: +SKIP

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
        starts = self.expert_epochs // self.every - self.span + 1
        rule = f"be at most {starts}, so that each start has a snapshot {self.span} further"
        require(self.last <= starts, "last", rule, self.last)

    def student(self, graph: GraphData) -> StudentFactory:
        """Return a perceptron on propagated features."""
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
        """Return trajectory matching with a learned learning rate, and soft labels if `label_lr` is positive."""
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
            divergence_hint="feature_lr, rate_lr or student_lr",
        )

    def _optimizer(self, syn: dd.SyntheticSet) -> torch.optim.Optimizer:
        assert syn.rate is not None
        kinds = ((syn.parametrization, self.feature_lr), (syn.labels, self.label_lr), (syn.rate, self.rate_lr))
        return adam(*((module.parameters(), lr) for module, lr in kinds))
