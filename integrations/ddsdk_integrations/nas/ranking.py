"""Rank candidates by a proxy, as units of work that processes, machines or a Ray cluster share."""

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
from ddsdk.experiments import Executor, InProcess, here
from ddsdk.foundation import Store, Unit, canonical_json, require, require_count, root, strict_json
from ddsdk.students import MakeStudent
from ddsdk_integrations.nas.proxies import Proxy
from ddsdk_integrations.nas.space import Candidate, named


@final
@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of candidates by a proxy.

    Attributes:
        name: Name of the proxy.
        scores: Scores of each candidate, one for each seed; larger is better.
        parameters: Number of parameters of each candidate's network.
        seconds: Seconds of all candidates and seeds, of the CPU or of the clock, see `rank`.
        before: Seconds before the first candidate, such as those of a distillation.
        extra: Other measured values by name, such as ``"test"``, like `scores`.
        failures: Errors of candidates that have no score; they are in no other field.
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
        require(ok, "scores", "hold as many seeds of each of at least one candidate", sorted(lengths))

    @property
    def seeds(self) -> int:
        """Scores of each candidate."""
        return len(next(iter(self.scores.values())))

    @property
    def means(self) -> dict[str, float]:
        """The mean over seeds of each candidate."""
        return {name: statistics.fmean(values) for name, values in self.scores.items()}

    def best(self, count: int = 1) -> list[str]:
        """Return the names of the best by their means; of equal ones those that came first."""
        require_count("count", count)
        means = self.means
        return sorted(means, key=lambda name: -means[name])[:count]

    def seed(self, index: int) -> Ranking:
        """Return the ranking by one seed alone, which cost its share."""
        require(0 <= index < self.seeds, "index", f"lie in 0..{self.seeds - 1}", index)
        scores = {one: (values[index],) for one, values in self.scores.items()}
        return replace(self, scores=scores, seconds=self.seconds / self.seeds, extra={}, failures={})

    def by(self, key: str, name: str | None = None) -> Ranking:
        """Return the ranking by another measured value, such as ``"test"``."""
        require(key in self.extra, "key", f"be one of {list(self.extra)}", key)
        return replace(self, name=name or self.name, scores=self.extra[key], extra={}, failures={})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ranking:
        """Return the ranking that `to_dict` wrote."""
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
    """Score every candidate by a proxy, once for each seed.

    A unit of work is one candidate and one seed. Its numbers depend on neither order nor worker.

    Args:
        candidates: Architectures, see `named`.
        proxy: Proxy that gives the scores.
        seed: Root, an integer or a generator: seed s of a candidate derives from it, from s and from the candidate's
            name.
        seeds: Number of scores of each candidate.
        store: Folder of the units; a unit that is there already is not computed again. In one folder a name stands for
            one factory: a change that shows in neither layers nor initial weights goes unnoticed. None keeps nothing.
        executor: Executor of the units, such as `ddsdk.experiments.Processes` or `RayTasks`; None for `InProcess`.
        name: Name of the proxy in tables.
        wall_clock: Whether the seconds of units are those of the clock, as for a GPU, and not those of the CPU.

    Returns:
        The scores. Candidates with an error are left out and listed.

    Raises:
        ValueError: If candidates have no names of their own.
        RuntimeError: If no candidate could be scored.
    """
    rng = root(seed)
    require_count("seeds", seeds)
    chosen = named(candidates)
    with tempfile.TemporaryDirectory() as folder:
        kept = Store(folder if store is None else store)
        signatures = {one.name: network_signature(one.make) for one in chosen}
        shared = {"proxy": dict(proxy.identity), "seed": rng.initial_seed(), "versions": here()}
        units = {
            name: [Unit("candidate", {**shared, "name": name, "network": layers}, (s,)) for s in range(seeds)]
            for name, (layers, _) in signatures.items()
        }
        compute = partial(_score, proxy=proxy, makers={one.name: one.make for one in chosen})
        failures = {}
        for done in (executor or InProcess()).run(kept, [u for row in units.values() for u in row], compute):
            if done.failure is not None:
                failures[str(done.unit.config["name"])] = f"{done.failure.error}: {done.failure.message}"
        found = {one: [_result(kept, u) for u in row] for one, row in units.items() if one not in failures}
        timings = [kept.timing(unit.id) for row in units.values() for unit in row]
        took = [t.seconds if wall_clock else t.cpu_seconds for t in timings if t is not None]
    if not found:
        raise RuntimeError(f"no candidate could be scored: {next(iter(failures.values()))}")
    keys = {key for rows in found.values() for row in rows for key in row}
    columns = {key: {one: tuple(values[key] for values in rows) for one, rows in found.items()} for key in sorted(keys)}
    return Ranking(
        name=name,
        scores=columns.pop("score"),
        parameters={one: signatures[one][1] for one in found},
        seconds=round(sum(took), 3),
        before=proxy.seconds,
        extra=columns,
        failures=failures,
    )


def _score(unit: Unit, _: Mapping[str, bytes], *, proxy: Proxy, makers: Mapping[str, MakeStudent]) -> bytes:
    name, before = str(unit.config["name"]), torch.get_num_threads()
    require(
        unit.config["versions"] == here(), "versions", f"be those of this worker, {here()}", unit.config["versions"]
    )
    key = dd.generator(int(unit.config["seed"]), "candidate", name, int(unit.key[0]))
    torch.set_num_threads(1)
    try:
        return canonical_json(dict(proxy(makers[name], key)))
    finally:
        torch.set_num_threads(before)


def _result(store: Store, unit: Unit) -> dict[str, float]:
    result = store.read(unit.id)
    assert result is not None  # the executor has said so
    found: dict[str, float] = strict_json(result)
    return found


def network_signature(make: MakeStudent) -> tuple[str, int]:
    """Return a hash of a factory's layers and initial weights, and the number of its parameters."""
    network = make(dd.generator("signature"))
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest(), sum(p.numel() for p in network.parameters())
