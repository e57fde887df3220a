"""Integrations ask for their extra, and the core knows none of their libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIBRARIES = {
    "continual": ("avalanche", "avalanche-lib", "Distilled replay"),
    "federated": ("flwr", "flwr", "Federated learning by synthetic sets"),
    "privacy": ("opacus", "opacus", "Private release"),
    "robustness": ("pyautoattack", "pyautoattack", "The robustness judge"),
    "nas": ("optuna", "optuna", "A search by Optuna"),
    "graph": ("torch_geometric", "torch_geometric", "Graph condensation"),
}
# Where only a part of an integration needs its library, what asks for it.
ASKS = {"nas": "; ddsdk_integrations.nas.ProxyObjective"}

KNOWN = {module for module, *_ in LIBRARIES.values()}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_named_with_its_extra(name):
    module, package, feature = LIBRARIES[name]
    done = python(f"import sys; sys.modules[{module!r}] = None; import ddsdk_integrations.{name}{ASKS.get(name, '')}")
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line == (
        f"ddsdk.foundation.errors.MissingExtraError: {feature} needs the package {package!r}: "
        f"pip install 'ddsdk[{name}]'"
    )


def test_ranking_works_without_the_library_of_the_bridge():
    done = python("import sys; sys.modules['optuna'] = None; from ddsdk_integrations.nas import judge_ranking, rank")
    assert done.returncode == 0, done.stderr


def test_the_core_pulls_in_no_library_of_an_integration():
    done = python(
        "import sys, ddsdk, ddsdk_integrations; ddsdk.DM; from ddsdk.cli import main; main(['recipes'])\n"
        f"assert not {{m.split('.')[0] for m in sys.modules}} & {KNOWN!r}"
    )
    assert done.returncode == 0, done.stderr


def test_an_error_inside_a_library_is_not_taken_for_its_absence():
    from ddsdk_integrations._require import require_library

    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        require_library("streams_that_need", feature="It", package="p", extra="e")


@pytest.fixture(autouse=True)
def library_that_needs_another(tmp_path, monkeypatch):
    (tmp_path / "streams_that_need.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
