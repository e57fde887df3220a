"""Ranking of candidates by a proxy, in units of work for processes, machines or a Ray cluster."""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, final

import msgspec
import torch

import ddsdk as dd
from ddsdk.experiments import Executor, InProcess, package_versions
from ddsdk.foundation import Store, Unit, as_generator, canonical_json, require, require_count, strict_json
from ddsdk.students import MakeStudent
from ddsdk_integrations.nas.proxies import Proxy
from ddsdk_integrations.nas.space import Candidate, named_candidates


@final
@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of candidates by a proxy.

    Attributes:
        name: Name of the proxy in tables.
        scores: Scores of each candidate by name, one for each seed; larger is better.
        parameters: Number of parameters of each candidate by name.
        seconds: Seconds for all candidates and seeds, CPU or wall-clock, see `rank`.
        before: Seconds before the first score, such as those of a distillation.
        extra: Other measured values by name, such as ``"test"``, each in the form of `scores`.
        failures: Error messages of candidates without a score, which are in no other field.

    Examples:
        >>> from ddsdk_integrations.nas import Ranking
        >>> Ranking(name="accuracy", scores={"small": (0.7, 0.8), "large": (0.9, 0.8)}).best()
        ['large']
    """

    name: str
    scores: Mapping[str, tuple[float, ...]]
    parameters: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    before: float = 0.0
    extra: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self.scores.values()}
        ok = len(lengths) == 1 and 0 not in lengths
        rule = "hold at least one candidate, and the same number of scores, at least one, for each"
        require(ok, "scores", rule, sorted(lengths))

    @property
    def seeds(self) -> int:
        """Number of scores of each candidate."""
        return len(next(iter(self.scores.values())))

    @property
    def means(self) -> dict[str, float]:
        """Mean score of each candidate over seeds, by name."""
        return {name: statistics.fmean(values) for name, values in self.scores.items()}

    def best(self, count: int = 1) -> list[str]:
        """Return the names of the candidates with the highest mean scores, in the order of `scores` for ties."""
        require_count("count", count)
        means = self.means
        return sorted(means, key=lambda name: -means[name])[:count]

    def seed(self, index: int) -> Ranking:
        """Return the ranking by the scores of one seed, with its share of the seconds."""
        require(0 <= index < self.seeds, "index", f"lie in 0..{self.seeds - 1}", index)
        scores = {candidate: (values[index],) for candidate, values in self.scores.items()}
        return replace(self, scores=scores, seconds=self.seconds / self.seeds, extra={}, failures={})

    def by(self, key: str, name: str | None = None) -> Ranking:
        """Return the ranking by another measured value, such as ``"test"``."""
        require(key in self.extra, "key", f"be one of {list(self.extra)}", key)
        return replace(self, name=name or self.name, scores=self.extra[key], extra={}, failures={})

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ranking:
        """Return the ranking of the values of `to_dict`.

        Raises:
            ValueError: If the values do not form a ranking.
        """
        try:
            return msgspec.convert(dict(values), cls, strict=True)
        except msgspec.ValidationError as error:
            raise ValueError(f"values must be a ranking, got: {error}") from None


def rank(
    candidates: Iterable[Candidate | tuple[str, MakeStudent] | MakeStudent],
    proxy: Proxy,
    *,
    seed: int | torch.Generator = 0,
    seeds: int = 1,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    name: str = "proxy",
    wall_clock: bool = False,
) -> Ranking:
    """Return the scores of all candidates by a proxy, one for each seed.

    A unit of work is one candidate and one seed; its scores depend on neither order nor worker. A candidate that raises
    an error is left out and listed in the failures of the ranking. Candidates with equal or missing names raise
    ValueError.

    Args:
        candidates: Architectures to rank, see `named_candidates`.
        proxy: Proxy that scores a candidate.
        seed: Root of all random numbers, an integer or a generator. The generator of a score derives from it, from the
            candidate's name and from the number of the seed.
        seeds: Number of scores of each candidate.
        store: Folder of finished units, which are not computed again; None for a temporary one. In one folder, a name
            must always mean the same architecture: only changes of layers or initial weights are detected.
        executor: Executor of the units, such as `ddsdk.experiments.Processes` or `RayTasks`; None for `InProcess`.
        name: Name of the proxy in tables.
        wall_clock: Whether seconds are wall-clock seconds, as for a GPU, instead of CPU seconds.

    Raises:
        RuntimeError: If every candidate raised an error.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import ParameterCount, rank
        >>> candidates = [(f"w{width}", ddsdk.network_factory("mlp", (1, 8, 8), 10, width=width)) for width in (4, 8)]
        >>> rank(candidates, ParameterCount()).best()
        ['w8']
    """
    rng = as_generator(seed)
    require_count("seeds", seeds)
    named = named_candidates(candidates)
    with tempfile.TemporaryDirectory() as folder:
        results = Store(folder if store is None else store)
        signatures = {candidate.name: network_signature(candidate.make) for candidate in named}
        shared = {"proxy": dict(proxy.identity), "seed": rng.initial_seed(), "versions": package_versions()}
        units = {
            name: [Unit("candidate", {**shared, "name": name, "network": layers}, (s,)) for s in range(seeds)]
            for name, (layers, _) in signatures.items()
        }
        compute = partial(_score, proxy=proxy, makers={candidate.name: candidate.make for candidate in named})
        failures = {}
        for done in (executor or InProcess()).run(results, [u for row in units.values() for u in row], compute):
            if done.failure is not None:
                failures[str(done.unit.config["name"])] = f"{done.failure.error}: {done.failure.message}"
        measured = {n: [_result(results, unit) for unit in row] for n, row in units.items() if n not in failures}
        timings = [results.timing(unit.id) for row in units.values() for unit in row]
        seconds = [t.seconds if wall_clock else t.cpu_seconds for t in timings if t is not None]
    if not measured:
        raise RuntimeError(f"no candidate could be scored: {next(iter(failures.values()))}")
    keys = {key for row in measured.values() for values in row for key in values}
    columns = {key: {n: tuple(values[key] for values in row) for n, row in measured.items()} for key in sorted(keys)}
    return Ranking(
        name=name,
        scores=columns.pop("score"),
        parameters={n: signatures[n][1] for n in measured},
        seconds=round(sum(seconds), 3),
        before=proxy.seconds,
        extra=columns,
        failures=failures,
    )


def _score(unit: Unit, _: Mapping[str, bytes], *, proxy: Proxy, makers: Mapping[str, MakeStudent]) -> bytes:
    name, threads = str(unit.config["name"]), torch.get_num_threads()
    # Scores of other library versions can differ in their last bits and would be stored under a false identity.
    rule = f"be those of this worker, {package_versions()}"
    require(unit.config["versions"] == package_versions(), "versions", rule, unit.config["versions"])
    key = dd.generator(int(unit.config["seed"]), "candidate", name, int(unit.key[0]))
    # The number of threads changes the order of sums, so it is fixed.
    torch.set_num_threads(1)
    try:
        return canonical_json(dict(proxy(makers[name], key)))
    finally:
        torch.set_num_threads(threads)


def _result(store: Store, unit: Unit) -> dict[str, float]:
    result = store.read(unit.id)
    assert result is not None  # the executor reported no failure
    values: dict[str, float] = strict_json(result)
    return values


def network_signature(make: MakeStudent) -> tuple[str, int]:
    """Return a hash of the layers and initial weights of a network, in hex, and its number of parameters."""
    network = make(dd.generator("signature"))
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest(), sum(p.numel() for p in network.parameters())
