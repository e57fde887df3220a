"""Recipes around another one, for what an integration does with the run of any recipe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from ddsdk.recipes import IterativeRecipe


@dataclass(frozen=True, kw_only=True)
class Wrapped(IterativeRecipe):
    """Another recipe, whose plan is changed."""

    name: ClassVar[str] = "wrapped"
    inner: IterativeRecipe
    noted: list = field(default_factory=list, repr=False)

    @property
    def factor(self):
        return getattr(self.inner, "factor", 1)

    def check(self):
        pass

    def protocol(self, real):
        return self.inner.protocol(real)

    def changed(self, real, plan):
        raise NotImplementedError

    def parts(self, real, **how):
        inner = dataclasses.replace(self.inner, ipc=self.ipc)
        return self.changed(real, inner.parts(real, **how))


class Poisoned:
    """An objective whose first losses are not numbers."""

    def __init__(self, objective, failures, noted):
        self.objective, self.left, self.noted = objective, failures, noted

    def __call__(self, student, real, syn, rng):
        bad, self.left = self.left > 0, self.left - 1
        if bad:
            self.noted.append("poisoned")
        for term in self.objective(student, real, syn, rng):
            yield term * float("nan") if bad else term


@dataclass(frozen=True, kw_only=True)
class Undone(Wrapped):
    """A recipe whose first steps are undone."""

    failures: int = 1

    def changed(self, real, plan):
        return dataclasses.replace(plan, objective=Poisoned(plan.objective, self.failures, self.noted))


@dataclass(frozen=True, kw_only=True)
class Noting(Wrapped):
    """Notes the facts of the data and the operations with which the plan augments them."""

    def changed(self, real, plan):
        self.noted.append((real.pictures, real.mirror_safe, plan.objective.augmentation.strategy))
        return plan
