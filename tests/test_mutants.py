"""The list of wrong lines is current: each right text stands in its file once."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_the_right_line_stands_in_its_file(name):
    mutant = MUTANTS[name]
    assert (ROOT / mutant.file).read_text().count(mutant.right) == 1
    assert mutant.right != mutant.wrong
    assert all((ROOT / test.split("::")[0]).exists() for test in mutant.tests.split() if not test.startswith("-"))
