"""How long each method of a table runs: what a budget buys on this machine, found once and kept."""

from __future__ import annotations

import dataclasses

from ddsdk.data import RealData
from ddsdk.experiments.kinds import Entry, here
from ddsdk.foundation import ArtifactError, Store, Unit, canonical_json, strict_json
from ddsdk.planning import made_of
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run


def fitted_entry(entry: Entry, train: RealData, *, budget: float | None, seed: int, store: Store) -> Entry:
    """Return a method with as many steps as a budget pays for on this machine.

    A trial takes a few steps once, and the store keeps the length, so that a table that is stopped goes on with the
    same sets.

    Args:
        entry: Method of a table; its own length is the most. Networks that it needs should be there: their time counts.
        train: Data that it distils.
        budget: Seconds of a set, networks included; None leaves the method as it is.
        seed: Root of the random numbers of the trial.
        store: Store of the table.

    Raises:
        ArtifactError: ``"length"``, if the store holds something else.
    """
    if budget is None or not isinstance(entry.method, IterativeRecipe):
        return entry

    def fit() -> bytes:
        run = Run(entry.method, train, make_student=entry.factory(train), seed=seed)
        run.fit(budget)
        fitted = run.method
        assert isinstance(fitted, IterativeRecipe)  # of the kind that it was
        return canonical_json(dataclasses.asdict(fitted))

    about = {"budget": budget, "seed": seed, "data": train.fingerprint, "versions": here()}
    result, _ = store.once(Unit("length", {**entry.to_dict(), **about}), fit)
    try:
        return entry._replace(method=made_of(entry.name, strict_json(result)))
    except ValueError as error:
        raise ArtifactError("length", f"the store must hold a length of {entry.name}, got: {error}") from None
