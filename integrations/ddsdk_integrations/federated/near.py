"""Students of a client: fresh networks, or networks near the server's, with the outputs of the client's classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import derive, require
from ddsdk.networks import Network
from ddsdk_integrations.federated.task import LocalData


@final
@dataclass(frozen=True, kw_only=True)
class NearStudents:
    """Builds the students of a client, as recipes of ddsdk take them.

    Attributes:
        data: Data of the client: a student has an output for each of its classes, with the weights of that of the
            network.
        around: Weights of the server; None for fresh networks.
        radius: A student lies at most so far from `around`, in the norm of all its weights: in a random direction, at
            a distance that is uniform in 0..radius.
        logits: Whether an embedding is followed by the logits of all K classes, so that what matches embeddings
            matches both, as FedDM does.

    References:
        Xiong et al., "FedDM: Iterative Distribution Matching for Communication-Efficient Federated Learning",
        CVPR 2023, arXiv:2207.09653.
    """

    data: LocalData
    around: Network | None = None
    radius: float = 0.0
    logits: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.radius < float("inf"), "radius", "be finite and not negative", self.radius)

    @property
    def name(self) -> str:
        """Name of the network in `ddsdk.NETWORKS`, for the provenance of a set."""
        return self.data.task.network

    @property
    def options(self) -> Mapping[str, object]:
        """Options of its builder, for the same."""
        return self.data.task.factory.options

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a student; all chance comes from `rng`."""
        if self.around is None:
            network = self.data.task.make(derive(rng, "init"))
        else:
            network = copy.deepcopy(self.around)
            _move(network, self.radius, derive(rng, "near"))
        return self._narrowed(network)

    def _narrowed(self, network: Network) -> Network:
        rows = list(self.data.classes)
        weight, bias = network.head.weight.detach()[rows], network.head.bias.detach()[rows]
        body: nn.Module = network.body
        if self.logits:
            body = _WithLogits(network.body, network.head)
            weight = torch.cat([weight, weight.new_zeros(len(rows), network.head.out_features)], 1)
        with torch.device("meta"):
            head = nn.Linear(weight.shape[1], len(rows))
        head.weight, head.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        return Network(body, head)


@final
class _WithLogits(nn.Module):
    """Features of a body, followed by the logits of a head on them."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        flat = features.flatten(1)
        return torch.cat([flat, self.head(flat)], 1)


@torch.no_grad()
def _move(network: nn.Module, radius: float, rng: torch.Generator) -> None:
    if not radius:
        return
    steps = [torch.randn(p.shape, generator=rng) for p in network.parameters()]
    norm = torch.sqrt(sum((s.square().sum() for s in steps), torch.zeros(())))
    length = radius * torch.rand((), generator=rng)
    for p, step in zip(network.parameters(), steps, strict=True):
        p.add_((step * (length / norm)).to(p.device))
