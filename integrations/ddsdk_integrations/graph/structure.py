"""Condensed graphs as a parametrization: free node features, and a structure that gives the edges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ddsdk.foundation import require, require_count, require_positive
from ddsdk.networks import initialise
from ddsdk.synthetic import Parametrization, SyntheticSet
from ddsdk.training import Ridge, solve
from ddsdk_integrations.graph.propagation import dense_normalised_adjacency, propagated


class Structure(nn.Module, ABC):
    """The edges of a condensed graph as a function of its node features."""

    @abstractmethod
    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """Return the weights of all edges, (M, M), in 0..1, without self-loops, differentiable in features and weights.

        The matrix is exactly symmetric, except for the directed edges of a real graph.

        Args:
            x: Features of the nodes, (M, D).
            rng: Generator for edges that are sampled; None for the edges of an export.
        """

    @torch.no_grad()
    def edges(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Return the exported edges, whose weight is at least `threshold`: index (2, E) and weight (E,), on the CPU.

        Edges of weight 0 are never exported.
        """
        weights = self.adjacency(x, None).cpu()
        index = torch.nonzero(weights >= max(threshold, 1e-12)).T
        return index.contiguous(), weights[index[0], index[1]].float()


def symmetric(scores: Tensor) -> Tensor:
    """Return (S + S^T) / 2 of scores S, (..., M, M)."""
    return (scores + scores.mT) / 2


def mirrored(weights: Tensor) -> Tensor:
    """Return the matrix, (..., M, M), whose two triangles are the upper one of `weights` and whose diagonal is zero.

    The last bit of a sigmoid depends on the position of a number in a vector register. So the sigmoid of symmetric
    logits is exactly symmetric only when one triangle is used twice.
    """
    upper = weights.triu(1)
    return upper + upper.mT


@final
class RealEdges(Structure):
    """Edges of a real graph with their order and direction, each of weight 1.

    Args:
        index: Source and target of each edge, (2, E) int64.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.index: Tensor

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return the edges as a matrix A[target, source]; it is symmetric if the real graph is."""
        source, target = self.index
        weight = x.new_ones(len(source))
        return x.new_zeros(len(x), len(x)).index_put((target, source), weight, accumulate=True)

    def edges(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return all edges."""
        return self.index.cpu(), torch.ones(self.index.shape[1])


@final
class PairwiseMLP(Structure):
    """GCond's structure: a perceptron on the features of each pair of nodes gives the logit of their edge.

    The logit is the mean over both orders of the pair. The first layer is factored, W [x_i, x_j] = U x_i + V x_j, so
    it costs M instead of M^2 products of length D. Two hidden layers have batch normalisation over all pairs, with
    statistics of the graph itself in training and export.

    Args:
        features: Features of a node, D.
        width: Units of the hidden layers.
        bias: Mean of the logits at the start: -3 gives few and weak edges, 0 a graph in which all edges have half
            weight.
        rng: Generator of the initial weights.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.graph import PairwiseMLP, SyntheticNodes
        >>> edges = PairwiseMLP(5, width=8, rng=ddsdk.generator(0))
        >>> SyntheticNodes(torch.rand(6, 5), edges).edges(threshold=0.0)[0].shape
        torch.Size([2, 30])

    References:
        Jin et al., ICLR 2022, arXiv:2110.07580, eq. 8.
    """

    def __init__(self, features: int, *, width: int = 128, bias: float = -3.0, rng: torch.Generator) -> None:
        super().__init__()
        require_count("features", features)
        require_count("width", width)
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(features, width, bias=False)
        norm = partial(nn.BatchNorm1d, width, track_running_stats=False)
        self.rest = nn.Sequential(norm(), nn.ReLU(), nn.Linear(width, width), norm(), nn.ReLU())
        self.last = nn.Linear(width, 1)
        initialise(self, rng)
        nn.init.constant_(self.last.bias, bias)

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return sigmoid((f(x_i, x_j) + f(x_j, x_i)) / 2)."""
        m = len(x)
        pairs = (self.first(x)[:, None] + self.second(x)[None]).flatten(0, 1)
        return mirrored(symmetric(self.last(self.rest(pairs)).view(m, m)).sigmoid())


@final
class BernoulliEdges(Structure):
    """DosCond's structure: each edge has its own probability and is sampled anew in every step.

    A sample is relaxed so that it has a gradient: sigmoid((logit + logistic noise) / temperature). An export holds the
    edges with a probability above one half.

    Args:
        logits: Initial logits, (M, M), or (B, M, M) for several graphs; only their symmetric part counts.
        temperature: Temperature of the relaxation, > 0; samples approach 0 and 1 as it falls.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.graph import BernoulliEdges
        >>> edges = BernoulliEdges.scaled(torch.ones(4, 4) - torch.eye(4))
        >>> edges.adjacency(torch.rand(4, 5), ddsdk.generator(0)).shape  # one sample
        torch.Size([4, 4])
        >>> int(edges.adjacency(torch.rand(4, 5), None).sum())  # the export
        12

    References:
        Jin et al., KDD 2022, arXiv:2206.07746.
    """

    def __init__(self, logits: Tensor, *, temperature: float = 0.5) -> None:
        super().__init__()
        square = logits.ndim in (2, 3) and logits.shape[-1] == logits.shape[-2]
        require(square, "logits", "have shape (M, M) or (B, M, M)", tuple(logits.shape))
        require_positive("temperature", temperature)
        self.logits = nn.Parameter(logits.detach().clone())
        self._temperature = temperature

    @classmethod
    def scaled(cls, adjacency: Tensor, *, logit: float = 5.0, temperature: float = 0.5) -> BernoulliEdges:
        """Return edges with initial logits of `logit` where `adjacency` is 1, and of -`logit` where it is 0."""
        return cls((2 * adjacency - 1) * logit, temperature=temperature)

    @property
    def probabilities(self) -> Tensor:
        """Probability of each edge, in the shape of the logits, differentiable."""
        return mirrored(symmetric(self.logits).sigmoid())

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return a relaxed sample; without a generator, the edges of an export as 0 and 1."""
        if rng is None:
            return (self.probabilities > 0.5).float()
        uniform = torch.rand(self.logits.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
        noise = uniform.logit().to(self.logits.device)
        return mirrored(((symmetric(self.logits) + noise) / self._temperature).sigmoid())

    def excess(self, density: float) -> Tensor:
        """Return the excess of the mean probability of an edge over `density`, at least 0: DosCond's penalty."""
        m = self.logits.shape[-1]
        # The mean over all M^2 entries includes the zero diagonal.
        return (self.probabilities.mean() * m / max(1, m - 1) - density).clamp_min(0)


@final
class SelfExpressive(Structure):
    """GCSR's structure: edges are coefficients of the ridge regression of each node on all nodes, in closed form.

    C = (G + r I)^-1 G, with the Gram matrix G of the features at unit length; the weight of an edge is the positive
    part of (C + C^T) / 2. The structure has no parameters.

    Args:
        ridge: Ridge r of the regression; None for 1 in units of the mean of the diagonal of G.

    Differences from the published algorithm: no prior of propagated features and no moving average.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import SelfExpressive
        >>> SelfExpressive().adjacency(torch.rand(6, 5), None).shape
        torch.Size([6, 6])

    References:
        Liu et al., "Graph Data Condensation via Self-expressive Graph Structure Reconstruction", KDD 2024,
        arXiv:2403.07294.
    """

    def __init__(self, ridge: Ridge | None = None) -> None:
        super().__init__()
        self._ridge = Ridge(rule="trace", strength=1.0) if ridge is None else ridge

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return the positive part of the symmetric coefficients."""
        unit = normalize(x, dim=1)
        gram = unit @ unit.T
        return mirrored(symmetric(solve(gram, gram, self._ridge).values).to(x).clamp(0, 1))


@final
class SyntheticNodes(Parametrization):
    """The nodes of a condensed graph: each slot is a node and decodes to its propagated features.

    With a structure A' = g(X'), decoded features are operator(A')^hops X', as `GraphData.rows` gives them for the real
    graph. So objectives and students compare rows of the same kind. Without a structure the operator is the identity.

    Args:
        x: Initial features, (M, D).
        structure: Edges between the nodes; None for no edges.
        hops: Number of propagations, at least 0.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.graph import SelfExpressive, SyntheticNodes
        >>> nodes = SyntheticNodes(torch.rand(6, 5), SelfExpressive(), hops=2)
        >>> nodes.stored_floats()
        30
    """

    joint: ClassVar[bool] = True

    def __init__(self, x: Tensor, structure: Structure | None = None, *, hops: int = 2) -> None:
        super().__init__()
        require(x.ndim == 2 and x.numel() > 0, "x", "have shape (M, D)", tuple(x.shape))
        require_count("hops", hops, least=0)
        self.x = nn.Parameter(torch.empty_like(x, memory_format=torch.contiguous_format))
        self.structure, self._hops = structure, hops
        self.encode(x)

    def encode(self, images: Tensor) -> None:
        """Set the features, (M, D) or (M, 1, 1, D); edges stay."""
        require(bool(torch.isfinite(images).all()), "x", "be finite", "NaN or infinity")
        with torch.no_grad():
            self.x.copy_(images.flatten(1))

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return propagated features of `slots`, (B, 1, 1, D), and the slots themselves."""
        x: Tensor = self.x
        if self.structure is not None:
            x = propagated(dense_normalised_adjacency(self.structure.adjacency(x, rng)), x, self._hops)
        return x[slots][:, None, None], slots

    @property
    def edge_parameters(self) -> list[nn.Parameter]:
        """Parameters of the structure."""
        return [p for p in self.parameters() if p is not self.x]

    def project_(self) -> None:
        """Do nothing: features have no range."""

    def stored_floats(self) -> int:
        """Return M D; exported edges are counted separately."""
        return self.x.numel()

    def edges(self, threshold: float) -> tuple[Tensor, Tensor]:
        """Return the exported edges, see `Structure.edges`."""
        if self.structure is None:
            return torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0)
        return self.structure.edges(self.x, threshold)


def nodes_of(syn: SyntheticSet) -> SyntheticNodes:
    """Return the nodes of a condensed graph.

    Raises:
        TypeError: If the items of the set are no nodes.
    """
    if not isinstance(syn.parametrization, SyntheticNodes):
        raise TypeError(f"syn must be a set of SyntheticNodes, got {type(syn.parametrization).__name__}")
    return syn.parametrization
