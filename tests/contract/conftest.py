"""Fixtures of the contract: each method and each recipe in turn."""

from __future__ import annotations

import pytest
from every_method import IPC, ITERATIVE, METHODS, TINY

from ddsdk.recipes import RECIPES


@pytest.fixture(params=TINY)
def method(request):
    return METHODS[request.param](ipc=IPC, **TINY[request.param])


@pytest.fixture(params=ITERATIVE)
def recipe(request):
    return RECIPES[request.param](ipc=IPC, **TINY[request.param])
