"""pyautoattack is an extra: without it these tests are not collected."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import ddsdk as dd

collect_ignore: list[str] = []
try:
    import pyautoattack  # noqa: F401
except ImportError:
    collect_ignore = [p.name for p in Path(__file__).parent.glob("test_*.py")]


@pytest.fixture(scope="session")
def protocol():
    return dataclasses.replace(
        dd.TrainingProtocol.published(), network_options={"width": 8, "depth": 2}, epochs=25, batch_size=32, networks=2
    )


@pytest.fixture(scope="session")
def some_digits(digits):
    """Twenty images of each class, as a set."""
    train, _ = digits
    return train.batch(torch.cat([train.index_of_class(c)[:20] for c in range(10)]))


@pytest.fixture(scope="session")
def models(digits, protocol, some_digits):
    from ddsdk_integrations.robustness import RobustnessJudge

    judge = RobustnessJudge(networks=2)
    return judge.networks_of(some_digits, digits[0], protocol, seed=dd.generator("models"))


@pytest.fixture(scope="session")
def shown(digits):
    """Sixty test images in the unit range, with labels."""
    from ddsdk_integrations.robustness import RobustnessJudge

    return RobustnessJudge(images=60).test_images(digits[1])
