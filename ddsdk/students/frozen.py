"""Students on a frozen pretrained backbone: its features, with a new random linear head for each student."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.data import Preprocess, RealData
from ddsdk.networks import Backbone, Network


@final
class BackboneStudents:
    """A student factory for any recipe: a frozen pretrained backbone with a random linear head.

    Recipes that match embeddings match the backbone's features. Recipes that match gradients or train their students
    have the head as the only parameters. A run with these students stores the protocol of a linear probe on the
    backbone, see `ddsdk.training.probe_protocol`.

    Attributes:
        backbone: Frozen backbone of all students.
        num_classes: Number of classes K of the head.
        name: Name in the provenance: that of the backbone.
        options: Hash of the weights, number of features, and preprocessing of the backbone, for the provenance.

    Args:
        backbone: Frozen backbone, see `ddsdk.networks.load_backbone`.
        real: Real data, whose preprocessing is inverted before the backbone's own, and whose classes the head has.

    Examples:
        >>> import ddsdk
        >>> from torch import nn
        >>> from ddsdk.networks import Backbone
        >>> from ddsdk.students import BackboneStudents
        >>> real = ddsdk.load("digits")
        >>> backbone = Backbone(nn.Conv2d(1, 16, 3), mean=[0.5], std=[0.5], name="convolution")
        >>> recipe = ddsdk.DM(ipc=1, steps=2, real_batch=16)
        >>> distilled = ddsdk.distill(recipe, real, make_student=BackboneStudents(backbone, real))
        >>> distilled.protocol["learner"], distilled.protocol["network"]
        ('probe', 'convolution')
    """

    def __init__(self, backbone: Backbone, real: RealData) -> None:
        self.backbone = backbone
        self.num_classes = real.num_classes
        self.name = backbone.name
        stated = {**backbone.preprocessing, "mean": list(backbone.mean), "std": list(backbone.std)}
        self.options: dict[str, Any] = {"sha256": backbone.sha256, "features": backbone.features, **stated}
        self._body = _FrozenFeatures(backbone, real.preprocess)

    def __call__(self, rng: torch.Generator) -> Network:
        """Return the backbone with a new head: normal weights of variance 1 / F from `rng`, and zero biases."""
        shape = (self.num_classes, self.backbone.features)
        head = nn.Linear(shape[1], shape[0])
        with torch.no_grad():
            head.weight.copy_(torch.randn(shape, generator=rng) / shape[1] ** 0.5)
            head.bias.zero_()
        return Network(self._body, head)


@final
class _FrozenFeatures(nn.Module):
    """The features of images of a value space; a backbone is no module, so its weights are no parameters of this."""

    def __init__(self, backbone: Backbone, preprocess: Preprocess) -> None:
        super().__init__()
        self._backbone, self._preprocess = backbone, preprocess

    def forward(self, x: Tensor) -> Tensor:
        return self._backbone.embed(self._preprocess.inverse(x))
