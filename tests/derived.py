"""Lines that are derived from the list of recipes: `python tests/derived.py` writes them, `make test` compares them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.networks import NEEDS
from ddsdk.recipes import RECIPES
from ddsdk.running import IterativeMethod, ObjectiveSchedule, Plan
from ddsdk.students.alternating import NetworkWithOptimizer

ROOT = Path(__file__).parent.parent
HEADS = ("recipe", "set", "students", "objective", "optimizer of the set")
PARTS = ("ddsdk.students.", "ddsdk.objectives.", "ddsdk.synthetic.", "ddsdk.running.")
FIRST, LAST = "<!-- derived from the recipes: make derived -->", "<!-- end of what is derived -->"


def derived(path: Path) -> str:
    """Return the content that a file should have, with everything else as it is."""
    text = path.read_text()
    if path.suffix == ".pyi":
        home = ".recipes" if path.parent.name == "ddsdk" else ".{module}"
        return with_recipes(text, f"from {home} import {{name}} as {{name}}")
    before, rest = text.split(FIRST)
    _, after = rest.split(LAST)
    table = needs_table() if path.stem == "own-network" else parts_table()
    return f"{before}{FIRST}\n\n{table}\n{LAST}{after}"


PAGES = ("docs/architecture.md", "docs/guides/own-network.md")
FILES = [ROOT / name for name in ("ddsdk/__init__.pyi", "ddsdk/recipes/__init__.pyi", *PAGES)]


def with_recipes(stub: str, line: str) -> str:
    """Return a stub with one line for each recipe, in the order of the linter.

    Args:
        stub: Content of the stub.
        line: Form of a line, with the fields module and name.
    """
    wanted = [line.format(module=kind.__module__.split(".")[-1], name=kind.__name__) for kind in RECIPES.values()]
    recipes_alone = re.compile(line.format(module="(?!base|parts|registry)[a-z0-9_]+", name="([A-Z]\\w*)"))
    rows = [row for row in stub.splitlines() if row.startswith("from ")]
    others = [row for row in rows if not _is_recipe(recipes_alone.fullmatch(row))]
    rest = stub[stub.rindex(rows[-1]) + len(rows[-1]) :]
    return "\n".join(sorted([*others, *wanted], key=_order)) + rest


def _is_recipe(match: re.Match[str] | None) -> bool:
    """Tell whether a line gives a recipe, or one that is no longer there."""
    kind = None if match is None else getattr(dd.recipes, match[1], None)
    return match is not None and (kind is None or (isinstance(kind, type) and "name" in vars(kind)))


def _order(row: str) -> tuple[str, int, str]:
    """Return the place of an import: modules first, then constants, classes and functions of each."""
    _, module, _, name, *_ = row.split()
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return module, kind, name.casefold()


def parts_table() -> str:
    """Return the table "a method is a row of parts" in markdown, from the plans of all recipes on tiny data."""
    rows = [_row(name, kind(ipc=2, **RECIPE_SETTINGS[name])) for name, kind in RECIPES.items()]
    lines = [HEADS, ["---"] * len(HEADS), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def needs_table() -> str:
    """Return the table of what methods need of a network in markdown, one row for each set of needs."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, kind in {**RECIPES, **BASELINES}.items():
        rows.setdefault(kind.needs, []).append(f"`{name}`")
    lines = [("methods", "need beside logits"), ("---", "---")]
    for needs, names in sorted(rows.items(), key=lambda row: (len(row[0]), row[0])):
        lines.append((", ".join(names), "; ".join(NEEDS[need] for need in needs) or "nothing"))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _row(name: str, recipe: Any) -> list[str]:
    if not isinstance(recipe, IterativeMethod):
        return [f"`{name}`", "no steps: the set is computed at once", "–", "–", "–"]
    images = torch.rand(12, 3, 8, 8, generator=dd.generator("images"))
    plain = dd.Preprocess.normalise([0.5] * 3, [0.25] * 3)
    real = dd.RealData(images, torch.arange(12) % 2, class_names=("ant", "bee"), preprocess=plain, name="tiny")
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, width=4, depth=1)
    plan: Plan[Any] = recipe.plan(real, make_student=make, rng=dd.generator(0))
    syn = plan.syn
    stored = [part for part in (syn.parametrization, syn.labels, syn.rate, syn.scale) if part is not None]
    cells = [stored, [plan.students], [plan.objective]]
    texts = [", ".join(map(described, cell)) for cell in cells]
    return [f"`{name}`", *texts, type(plan.make_optimizer(syn)).__name__]


def described(part: Any) -> str:
    """Return the name of a part, with the parts that it is made of in brackets."""
    if isinstance(part, FunctionType):
        return part.__name__
    inner = ", ".join(dict.fromkeys(map(described, _inner(part))))
    return f"{type(part).__name__}({inner})" if inner else type(part).__name__


def _inner(part: Any) -> Iterator[Any]:
    """Give the parts among the attributes of a part, without those that are defaults."""
    if isinstance(part, ObjectiveSchedule):
        yield part.at(0)
        return
    usual = {f.name: f.default for f in dataclasses.fields(part)} if dataclasses.is_dataclass(part) else {}
    for name, value in vars(part).items() if hasattr(part, "__dict__") else ():
        if name not in usual or value is not usual[name]:
            yield from _parts_in(value)


def _parts_in(value: Any) -> Iterator[Any]:
    if isinstance(value, NetworkWithOptimizer):
        yield from _inner(value)
        return
    if isinstance(value, tuple | list):
        for each in value:
            yield from _parts_in(each)
        return
    kind = value.func if isinstance(value, partial) else value if isinstance(value, FunctionType) else type(value)
    if "<locals>" in kind.__qualname__:
        return
    if (
        f"{kind.__module__}.".startswith(PARTS)
        and kind.__name__[0] not in "_<"
        and not isinstance(value, torch.nn.Module)
    ):
        yield value


if __name__ == "__main__":
    for path in FILES:
        path.write_text(derived(path))
