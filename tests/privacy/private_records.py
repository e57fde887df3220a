"""Small private data for tests, with a budget that noise does not matter under, or a real one."""

from __future__ import annotations

import torch

import ddsdk as dd
from ddsdk_integrations.privacy.budget import Budget, Ledger
from ddsdk_integrations.privacy.data import PrivateData

HUGE = Budget(epsilon=1e30, delta=1e-3)
PUBLIC = dd.Preprocess.normalise([0.5], [0.5])


def records(n=40, seed=0, preprocess=PUBLIC):
    rng = dd.generator("records", seed)
    return dd.RealData(
        torch.rand(n, 1, 8, 8, generator=rng), torch.arange(n) % 3, class_names="abc", preprocess=preprocess
    )


def sealed(real=None, budget=HUGE, path=None, **how):
    real = records() if real is None else real
    usual = {"class_size": 12, "statistics": "constants" if real.preprocess.space != "unit" else ""}
    return PrivateData(real, Ledger(budget, path), **{**usual, **how})


def mechanism(real=None, releases=1, **how):
    usual = {"sample_rate": 0.5, "noise_multiplier": 1e-9, "clip": 1.0}
    return sealed(real).mechanism("flat", releases=releases, **{**usual, **how})


def student(**how):
    return dd.network_factory("convnet", (1, 8, 8), 3, width=4, depth=1, **how)


def flat(batch):
    return batch.x.flatten(1)
