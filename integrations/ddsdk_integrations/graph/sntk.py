"""GC-SNTK: graph condensation by kernel ridge regression with a structure-based neural tangent kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.objectives import FitAndTest
from ddsdk.recipes import adam_by_kind
from ddsdk.students import FixedTeachers, MakeStudent
from ddsdk.synthetic import FixedLabels, FreeLabels, centred_labels
from ddsdk.training import Ridge
from ddsdk_integrations.graph.data import GraphData
from ddsdk_integrations.graph.kernel import LabelledNodes, structure_gram_matrices, structure_kernel
from ddsdk_integrations.graph.recipe import GraphRecipe


@final
@dataclass(frozen=True, kw_only=True)
class GCSNTK(GraphRecipe):
    """GC-SNTK: learn features and labels from which kernel ridge regression predicts the labels of real nodes.

    No network is trained. The set is meant for the same kernel; networks that train on it reach less.

    Attributes:
        blocks: Blocks of the kernel, 1 or 2, see `StructureKernel`.
        layers: ReLU layers of each block.
        ridge: Ridge of the regression, added to the diagonal of the Gram matrix, in units of its mean.
        real_batch: Real nodes of one step.
        feature_lr: Learning rate of the features (Adam).
        label_lr: Learning rate of the labels (Adam); 0 leaves them one-hot and centred.

    Differences from the published algorithm: no edges between synthetic nodes (its better variant on Cora).

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.graph import GCSNTK, stochastic_blocks
        >>> distilled = ddsdk.distill(GCSNTK(nodes=8, steps=2, real_batch=50), stochastic_blocks(400))
        >>> distilled.protocol["network"]
        'structure-ntk'

    References:
        Wang et al., "Fast Graph Condensation with Structure-based Neural Tangent Kernel", WWW 2024, arXiv:2310.11046.
    """

    name: ClassVar[str] = "gc-sntk"
    steps: PositiveInt = 200
    blocks: Literal[1, 2] = 2
    layers: PositiveInt = 2
    ridge: PositiveFloat = 1.0
    real_batch: PositiveInt = 1024
    feature_lr: PositiveFloat = 0.01
    label_lr: NonNegativeFloat = 0.0

    def source(self, graph: GraphData) -> Source:
        """Return the training nodes as positions in the graph."""
        return LabelledNodes(graph.train, graph.num_classes)

    def protocol(self, graph: GraphData) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return kernel ridge regression with the same kernel."""
        options = {"blocks": self.blocks, "layers": self.layers, "rule": "trace", "ridge": self.ridge}
        return dd.TrainingProtocol(
            name="kernel regression",
            network="structure-ntk",
            network_options=options,
            networks=1,
            learner="kernel",
            loss="mse",
        )

    def parts(self, graph: GraphData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:  # noqa: ARG002
        """Return kernel ridge regression on real batches."""
        syn = self.synthetic(graph, self.start, rng=rng)
        rows = centred_labels(syn.classes, graph.num_classes)
        labels = FreeLabels(rows) if self.label_lr else FixedLabels(rows, space="scores")
        kernel = structure_kernel(graph.train.graph, blocks=self.blocks, layers=self.layers)
        ridge = Ridge(rule="trace", strength=self.ridge)
        return dd.Plan(
            syn=dd.SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes),
            objective=FitAndTest(compare=structure_gram_matrices, ridge=ridge, real_batch=self.real_batch),
            students=FixedTeachers(lambda _: kernel),
            make_optimizer=partial(adam_by_kind, image_lr=self.feature_lr, label_lr=self.label_lr, scale_lr=0.0),
            steps=self.steps,
            divergence_hint="feature_lr or label_lr",
        )
