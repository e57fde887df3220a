"""Supplies that keep tiny students from step to step, and what to compare."""

from __future__ import annotations

import torch

import ddsdk as dd
from ddsdk.students import PlateauStudents, QueueStudents, ScoredStudent, TrainOnReal, TrainOnSynthetic, accuracy_on


def weights(student):
    """Return everything that a student stores as one vector."""
    network = student.network if isinstance(student, ScoredStudent) else student
    return torch.cat([t.detach().flatten().double() for t in network.state_dict().values()])


def queue(make_student, **options):
    """Return a queue of at most four that learn from real images."""
    update = TrainOnReal(steps=2, batch_size=4, augmentation=dd.Augmentation("crop"))
    settings = {"queue": 4, "push_every": 2, "lr": 0.05} | options
    return QueueStudents(make_student, update, accuracy_on(8), **settings)


def plateau(make_student, check=None, **options):
    """Return a supply whose networks learn from the synthetic set until their accuracy is flat."""
    settings = {"longest": 4, "most_lessons": 3, "window": 3, "lr": 0.05} | options
    return PlateauStudents(make_student, TrainOnSynthetic(epochs=1, batch_size=4), check or accuracy_on(8), **settings)
