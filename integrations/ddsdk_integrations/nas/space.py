"""Candidates, search spaces, and the space of 720 ConvNets from the condensation papers."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from ddsdk.foundation import derive, require, require_count
from ddsdk.networks import NORMS, NetworkFactory, network_factory
from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True)
class Candidate:
    """A named architecture.

    Attributes:
        name: Name of the architecture, unique in a ranking.
        make: Factory of the network, whose initial weights come from its generator only; it must be picklable for
            executors with processes.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import Candidate
        >>> Candidate("small", ddsdk.network_factory("mlp", (1, 8, 8), 10, width=4)).name
        'small'
    """

    name: str
    make: MakeStudent


def named_candidates(candidates: Iterable[Candidate | tuple[str, MakeStudent] | MakeStudent]) -> tuple[Candidate, ...]:
    """Return candidates with a name each; equal names raise ValueError.

    Args:
        candidates: Candidates, pairs of a name and a factory, or factories. A factory of `ddsdk.network_factory` is
            named by its options, a function by its own name.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import named_candidates
        >>> factory = ddsdk.network_factory("mlp", (1, 8, 8), 10, width=4)
        >>> [candidate.name for candidate in named_candidates([("small", factory)])]
        ['small']
    """
    named = tuple(_named(candidate) for candidate in candidates)
    require(len(named) > 0, "candidates", "hold at least one candidate", len(named))
    names: set[str] = set()
    for candidate in named:
        require(candidate.name not in names, "candidates", "have different names", candidate.name)
        names.add(candidate.name)
    return named


def _named(candidate: Candidate | tuple[str, MakeStudent] | MakeStudent) -> Candidate:
    if isinstance(candidate, Candidate):
        return candidate
    if isinstance(candidate, tuple):
        name, make = candidate
        return Candidate(str(name), make)
    if isinstance(candidate, NetworkFactory):
        options = ", ".join(f"{k} {v}" for k, v in candidate.options.items())
        return Candidate(f"{candidate.name} ({options})", candidate)
    name = getattr(candidate, "__name__", "")
    require(bool(name) and name != "<lambda>", "candidates", "have names: give (name, factory) pairs", candidate)
    return Candidate(name, candidate)


class Space(ABC):
    """A search space: all combinations of the levels of some factors, in a fixed order."""

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Levels of each factor by name, in the order of combinations."""

    @abstractmethod
    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return the candidate with the given level of each factor.

        A missing or unknown factor or level raises ValueError.
        """

    @final
    def __len__(self) -> int:
        """Return the number of combinations."""
        return math.prod(len(levels) for levels in self.choices.values())

    @final
    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations, a level by factor name each; the last factor varies fastest."""
        choices = self.choices
        for levels in itertools.product(*choices.values()):
            yield dict(zip(choices, levels, strict=True))

    @final
    def __iter__(self) -> Iterator[Candidate]:
        """Yield all candidates in the order of `combinations`."""
        for choice in self.combinations():
            yield self.candidate(**choice)

    @final
    def sample(self, count: int, rng: torch.Generator) -> tuple[Candidate, ...]:
        """Return a balanced random sample of different candidates.

        In each factor, the frequencies of any two levels differ by one at most.

        Args:
            count: Number of candidates, at most the size of the space.
            rng: Generator of the sample.
        """
        require_count("count", count)
        require(count <= len(self), "count", f"be at most {len(self)}", count)
        if 2 * count > len(self):
            # The complement of a balanced sample is balanced. In a nearly full space the exchanges below would rarely
            # reach an unused combination.
            left_out = {c.name for c in self.sample(len(self) - count, rng)} if count < len(self) else set()
            return tuple(candidate for candidate in self if candidate.name not in left_out)
        columns = {n: _balanced_column(levels, count, derive(rng, "factor", n)) for n, levels in self.choices.items()}
        rows = [tuple(column[i] for column in columns.values()) for i in range(count)]
        _remove_duplicates_(rows, derive(rng, "twins"))
        return tuple(self.candidate(**dict(zip(columns, row, strict=True))) for row in rows)

    @final
    def check(self, choice: Mapping[str, Any]) -> None:
        """Raise ValueError unless `choice` has exactly one valid level for each factor."""
        require(set(choice) == set(self.choices), "choice", f"name {list(self.choices)}", sorted(choice))
        for name, levels in self.choices.items():
            require(choice[name] in levels, name, f"be one of {list(levels)}", choice[name])


def _balanced_column(levels: tuple[Any, ...], count: int, rng: torch.Generator) -> list[Any]:
    """Return `count` levels in random order, each equally often or once more; the more frequent ones are random."""
    first = torch.randperm(len(levels), generator=rng).tolist()
    order = torch.randperm(count, generator=rng).tolist()
    return [levels[first[i % len(levels)]] for i in order]


def _remove_duplicates_(rows: list[tuple[Any, ...]], rng: torch.Generator) -> None:
    """Exchange single factors between a repeated row and a random one until all rows differ; frequencies stay."""
    factors, earlier = len(rows[0]), set[tuple[Any, ...]]()
    repeated = [i for i, row in enumerate(rows) if row in earlier or earlier.add(row)]  # type: ignore[func-returns-value]
    while repeated:
        i = repeated.pop()
        if rows.count(rows[i]) == 1:
            continue
        j = int(torch.randint(len(rows), (), generator=rng))
        f = int(torch.randint(factors, (), generator=rng))
        row, other = list(rows[i]), list(rows[j])
        row[f], other[f] = other[f], row[f]
        exchanged = tuple(row), tuple(other)
        if not any(candidate in rows for candidate in exchanged):
            rows[i], rows[j] = exchanged
        repeated.append(i)


@final
@dataclass(frozen=True)
class RandomArchitecture:
    """A student factory that draws a random architecture each time, for sets that suit many architectures.

    Attributes:
        factories: Factories of the architectures, at least one.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import RandomArchitecture
        >>> real = ddsdk.load("digits")
        >>> factories = [ddsdk.network_factory("mlp", real.image_shape, 10, width=width) for width in (4, 8)]
        >>> recipe = ddsdk.DM(ipc=1, steps=2, real_batch=16)
        >>> len(ddsdk.distill(recipe, real, make_student=RandomArchitecture(tuple(factories))))
        10
    """

    factories: tuple[Callable[[torch.Generator], nn.Module], ...]

    def __post_init__(self) -> None:
        require(len(self.factories) >= 1, "factories", "hold at least one factory", len(self.factories))

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a network of a random architecture; architecture and weights come from `rng`."""
        index = int(torch.randint(len(self.factories), (), generator=derive(rng, "which")))
        return self.factories[index](derive(rng, "weights"))


@final
@dataclass(frozen=True, kw_only=True)
class ConvNetSpace(Space):
    """The search space of DC: 720 ConvNets, all combinations of depth, width, activation, norm and pooling.

    Each block is a 3x3 convolution, the norm, the activation and the pooling; one linear layer follows, as in
    `ddsdk.NETWORKS["convnet"]`. At width 4, group norm with its four groups equals instance norm.

    Attributes:
        image_shape: Shape of the images, (C, H, W), with sides of 16 pixels or more: depth 4 has four poolings.
        num_classes: Number of classes K.
        widths: Possible channels of the convolutions; 32, 64, 128 and 256 in the paper.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import ConvNetSpace
        >>> space = ConvNetSpace(image_shape=(3, 32, 32), num_classes=10)
        >>> len(space), len(space.sample(5, ddsdk.generator(0)))
        (720, 5)

    References:
        Zhao et al., ICLR 2021, arXiv:2006.05929, section 4.3 and appendix.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    widths: tuple[int, ...] = (32, 64, 128, 256)

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Levels of depth, width, activation, norm and pooling."""
        return {
            "depth": (1, 2, 3, 4),
            "width": tuple(self.widths),
            "activation": ("sigmoid", "relu", "leaky-relu"),
            "norm": tuple(sorted(NORMS)),
            "pooling": ("none", "max", "avg"),
        }

    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return a ConvNet with a name such as ``"d3-w128-relu-instance-avg"``."""
        self.check(choice)
        name = f"d{choice['depth']}-w{choice['width']}-{choice['activation']}-{choice['norm']}-{choice['pooling']}"
        return Candidate(name, network_factory("convnet", self.image_shape, self.num_classes, **choice))
