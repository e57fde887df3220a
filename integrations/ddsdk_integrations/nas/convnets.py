"""The 720 ConvNets of the condensation papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.networks import NORMS
from ddsdk_integrations.nas.space import Candidate, Space


@final
@dataclass(frozen=True, kw_only=True)
class ConvNetSpace(Space):
    """ConvNets of depth {1, 2, 3, 4} x width x activation x norm x pooling: 720 of them.

    Each block is a 3x3 convolution, the norm, the activation and the pooling; then one linear layer, as in
    `ddsdk.NETWORKS["convnet"]`. With width 4, four groups are one for each channel: "group" is then "instance".

    Attributes:
        image_shape: (C, H, W); 16 pixels or more, for the deepest have four poolings.
        num_classes: K.
        widths: Channels. The paper's are 32, 64, 128 and 256.

    References:
        Zhao et al., ICLR 2021, arXiv 2006.05929, section 4.3 and appendix.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    widths: tuple[int, ...] = (32, 64, 128, 256)

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Depth, width, activation, norm and pooling."""
        return {
            "depth": (1, 2, 3, 4),
            "width": tuple(self.widths),
            "activation": ("sigmoid", "relu", "leaky-relu"),
            "norm": tuple(sorted(NORMS)),
            "pooling": ("none", "max", "avg"),
        }

    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return a ConvNet, named such as ``"d3-w128-relu-instance-avg"``.

        Args:
            **choice: A level of each of `choices`.

        Raises:
            ValueError: If a factor is missing or unknown, or has no such level, or the images are too small.
        """
        self.check(choice)
        name = f"d{choice['depth']}-w{choice['width']}-{choice['activation']}-{choice['norm']}-{choice['pooling']}"
        return Candidate(name, dd.network_factory("convnet", self.image_shape, self.num_classes, **choice))
