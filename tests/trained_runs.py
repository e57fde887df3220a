"""Tiny trained runs for tests, and what to compare."""

from __future__ import annotations

import dataclasses

import torch

from ddsdk.students import TrainedRuns, Training

TRAINING = Training(epochs=2, lr=0.05, momentum=0.9, batch_size=8, augmentation="crop_flip+color", mix=0.5)


def opener(tiny, make_student, home):
    """Return a function that opens the same runs again, with changes."""

    def opened(real=None, make=None, count=2, seed=0, folder=None, **changes):
        return TrainedRuns(
            real or tiny,
            make or make_student,
            dataclasses.replace(TRAINING, **changes),
            count=count,
            seed=seed,
            folder=folder or home,
        )

    return opened


def made(runs):
    """Make what is missing; return the runs."""
    list(runs.make())
    return runs


def files(runs):
    """Return the names of the files that the runs have."""
    return sorted(p.name for p in runs.folder.iterdir())


def rows(runs):
    """Return the weights of every snapshot of every run."""
    return [runs.weights(i, s) for i in range(len(runs)) for s in range(runs.training.snapshots)]


def same(a, b):
    """Tell whether two lists of weights are the same bit for bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
