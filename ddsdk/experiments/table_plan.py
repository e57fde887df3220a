"""How long each method of a table runs: what a budget buys on this machine, found once and kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ddsdk.data import RealData
from ddsdk.experiments.kinds import Entry
from ddsdk.foundation import (
    ArtifactError,
    canonical_json,
    readable_json,
    strict_json,
    write_atomic,
)
from ddsdk.planning import made_of
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Method, Run

__all__ = ["Lengths"]


class Lengths:
    """The methods of a table with as many steps as a budget pays for.

    The first look takes a few steps of each and writes down what fits, so that a table that is stopped goes on with the
    same sets.

    Args:
        path: JSON file of what was found.
        budget: Seconds of a set on this machine, networks included; None leaves every method as it is.
    """

    def __init__(self, path: Path, budget: float | None) -> None:
        self._path = path
        self._budget = budget
        self._known = self._read()

    def fit(self, entry: Entry, train: RealData, seed: int) -> Entry:
        """Return a method with the length that it gets.

        Args:
            entry: The method; its own length is the most. Networks that it needs should be there: their time counts.
            train: What it distils.
            seed: Of the trial.
        """
        if self._budget is None or not isinstance(entry.method, IterativeRecipe):
            return entry
        key = canonical_json({**entry.to_dict(), "budget": self._budget}).decode()
        if key not in self._known:
            tried = self._tried(entry, train, seed, self._budget)
            self._known[key] = dataclasses.asdict(tried)  # type: ignore[call-overload]  # methods are dataclasses
            values = [{"asked": strict_json(k.encode()), "taken": v} for k, v in self._known.items()]
            write_atomic(self._path, readable_json({"plans": values}))
        return entry._replace(method=made_of(entry.name, self._known[key]))

    def _tried(self, entry: Entry, train: RealData, seed: int, budget: float) -> Method[RealData]:
        run = Run(entry.method, train, make_student=entry.factory(train), seed=seed)
        run.fit(budget)
        return run.method

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            told = strict_json(self._path.read_bytes())
            return {canonical_json(plan["asked"]).decode(): dict(plan["taken"]) for plan in told["plans"]}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                "plan", f"{str(self._path)!r} must hold a plan; remove it, got: {error}"
            ) from None
