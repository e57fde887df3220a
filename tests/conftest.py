"""Fixtures that many tests share: tiny data, a tiny network, one thread, and hypothesis without luck."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

import ddsdk as dd

pytest_plugins = ["tiers"]

settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")

# Ray reads it when it is imported, and one process runs many tests.
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="ab" * 32)

SIZES = (9, 6, 5)
SHAPE = (3, 8, 12)


@pytest.fixture(scope="session", autouse=True)
def trained_runs_folder(tmp_path_factory):
    """Networks that tests train are shared between tests, and never kept with those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("trained-runs")
        patch.setenv("DDSDK_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def one_thread():
    """The order of sums depends on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> dd.RealData:
    """Three classes of 9, 6 and 5 images that are not square."""
    rng = dd.generator("tiny")
    labels = torch.arange(3).repeat_interleave(torch.tensor(SIZES))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    images = (torch.rand(len(labels), *SHAPE, generator=rng) + labels[:, None, None, None]) / 3
    return dd.RealData(
        images,
        labels,
        class_names=("ant", "bee", "cat"),
        preprocess=dd.Preprocess.normalise([0.5] * 3, [0.25] * 3),
        name="tiny",
        mirror_safe=True,
    )


@pytest.fixture
def make_student(tiny):
    return dd.network_factory("convnet", tiny.image_shape, tiny.num_classes, width=4, depth=1)


@pytest.fixture(scope="session")
def digits() -> tuple[dd.RealData, dd.RealData]:
    return dd.load_pair("digits")


@pytest.fixture(scope="session")
def make_digit_student(digits):
    train, _ = digits
    return dd.network_factory("convnet", train.image_shape, train.num_classes, width=8, depth=2)
