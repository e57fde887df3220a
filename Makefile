PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest
# A worker keeps a whole module, so that its experts, sets and servers are made once.
BOTH := -n 2 --dist loadscope

.PHONY: help demo test test-slow fast docs mutants derived bench clean
.DEFAULT_GOAL := help

help:  ## Show these targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed  ## Distil scikit-learn's digits and show what came out (a minute)
	$(BIN)/ddsdk demo --out out/digits-dm

test: $(VENV)/.installed-dev  ## Lint, check format and types, and run the fast tier of the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/docstrings.py
	$(PYTEST) $(BOTH) -m 'not slow'

test-slow: $(VENV)/.installed-dev  ## Run the slow tier: processes, kill loops, servers, fuzzing, examples, snippets
	$(PYTEST) $(BOTH) -m slow

fast: $(VENV)/.installed-dev  ## Run the fast tests of one file or folder: make fast FILE=tests/graph
	$(PYTEST) -m 'not slow' $(FILE)

docs: $(VENV)/.installed-dev  ## Build the site of the documentation into out/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir out/site

mutants: $(VENV)/.installed-dev  ## Put wrong lines into a copy, one by one, and show the test that fails (half an hour)
	$(BIN)/python tests/mutants.py

derived: $(VENV)/.installed-dev  ## Write the lines that are derived from recipes, in stubs and docs
	$(BIN)/python tests/derived.py

bench: $(VENV)/.installed-dev  ## Time the recipes on this machine
	$(BIN)/python -m benchmarks.machine --table speed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:  ## Remove the environment and everything that was made
	rm -rf $(VENV) out build dist
