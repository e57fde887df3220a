"""Docstrings: documented arguments begin with nouns, and examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
from docstrings import PACKAGES, ROOT, Entry, documented, entries, faults

import ddsdk
import ddsdk_integrations
from ddsdk.foundation import MissingExtraError


def test_every_documented_argument_has_a_text_of_its_own():
    found = [
        (e, fault)
        for folder in PACKAGES
        for f in (ROOT / folder).rglob("*.py")
        for e in documented(f)
        for fault in faults(e)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("How many images there are in a class.", "begins with 'How'"),
        ("See above for the meaning.", "begins with 'See'"),
        ("Number of images.", "fewer than 4 words"),
        ("Number of images of each class.", None),
    ],
)
def test_a_text_that_breaks_a_rule_is_found(text, rule):
    doc = f"Return nothing.\n\nArgs:\n    images: {text}\n    rest: Other images of the class.\n"
    assert [name for name, _ in entries(doc)] == ["images", "rest"]
    found = list(faults(Entry(ROOT, 1, "images", text)))
    assert [rule in fault for fault in found] == ([True] if rule else [])


def modules():
    """Return the names of all modules of the packages."""
    names = []
    for package in (ddsdk, ddsdk_integrations):
        names += [
            m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".") if "__main__" not in m.name
        ]
    return ["ddsdk", *names]


@pytest.mark.slow
def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        try:
            module = importlib.import_module(name)
        except MissingExtraError:
            continue
        for test in finder.find(module, name):
            if test.examples:
                (tmp_path / test.name).mkdir()
                monkeypatch.chdir(tmp_path / test.name)
                runner.run(test, out=lambda text: None, clear_globs=True)
    assert runner.failures == 0, runner.summarize(verbose=False)
    assert runner.tries > 100


def test_every_recipe_and_part_has_an_example():
    """Recipes, objectives, supplies of students and parametrizations: what a user builds first."""
    rooms = ("recipes", "baselines", "objectives", "students", "synthetic")
    missing = []
    for room in rooms:
        module = importlib.import_module(f"ddsdk.{room}")
        for name in dir(module):
            kind = getattr(module, name)
            concrete = (
                inspect.isclass(kind) and kind.__module__.startswith(f"ddsdk.{room}") and not inspect.isabstract(kind)
            )
            if concrete and not getattr(kind, "_is_protocol", False) and ">>>" not in (kind.__doc__ or ""):
                missing.append(f"{room}.{name}")
    assert missing == []
