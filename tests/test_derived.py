"""What is derived from the list of recipes is current: stubs, and the table of parts."""

from __future__ import annotations

import pytest
from derived import FILES, ROOT, derived, with_recipes

from ddsdk.recipes import MODULES, RECIPES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_current(path):
    assert path.read_text() == derived(path), "run make derived"


def test_one_list_is_enough_to_add_a_recipe(monkeypatch):
    stub = (ROOT / "ddsdk" / "recipes" / "__init__.pyi").read_text()
    form = "from .{module} import {name} as {name}"
    without = "".join(
        line for line in stub.splitlines(keepends=True) if " DM as " not in line and " IDC as " not in line
    )
    assert with_recipes(without, form) == stub
    kept = {name: kind for name, kind in RECIPES.items() if name != "dm"}
    monkeypatch.setattr("derived.RECIPES", kept)
    assert with_recipes(stub, form) == "".join(line for line in stub.splitlines(keepends=True) if " DM as " not in line)
    assert len(MODULES) == len(RECIPES)
