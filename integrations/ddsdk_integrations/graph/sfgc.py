"""Trajectory matching on graphs: SFGC, by the engine's experts and its differentiable training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count
from ddsdk.objectives import MatchTrajectory
from ddsdk.students import ExpertStudents, MakeStudent, TrainedRuns, Training
from ddsdk.synthetic import LearnedLabels, LearnedRate
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.recipe import GraphRecipe, check_rates
from ddsdk_integrations.graph.students import StudentFactory, perceptron_student


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
    steps: int = 100
    width: int = 64
    experts: int = 10
    expert_epochs: int = 300
    expert_lr: float = 1.0
    expert_decay: float = 5e-4
    every: int = 10
    span: int = 5
    last: int = 15
    student_steps: int = 20
    student_lr: float = 2.0
    rate_lr: float = 1e-3
    feature_lr: float = 1e-3
    label_lr: float = 0.0

    def check(self) -> None:
        """Check counts, rates and that stretches fit into the trajectories."""
        for name in ("width", "experts", "expert_epochs", "every", "span", "last", "student_steps"):
            require_count(name, getattr(self, name))
        check_rates(self, "expert_lr", "student_lr", "rate_lr", "feature_lr")
        require(0 <= self.label_lr < float("inf"), "label_lr", "be finite, not negative", self.label_lr)
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
            logits = 4.0 * syn.labels.rows(torch.arange(len(syn)))
            labels = LearnedLabels(logits)
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
        groups = [{"params": list(module.parameters()), "lr": lr} for module, lr in kinds]
        return torch.optim.Adam([group for group in groups if group["params"]])
