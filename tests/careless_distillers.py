"""Distillers for audits: one hands out real images, one knows nothing."""

from __future__ import annotations

import torch

import ddsdk as dd
from ddsdk.data import sample_indices
from ddsdk.foundation import derive

QUICK = dd.TrainingProtocol(name="quick", network="mlp", network_options={"width": 64}, epochs=60, lr=0.1)


def digits():
    real = dd.load("digits")
    pick = torch.cat([real.index_of_class(c)[:60] for c in range(10)])
    rest = torch.cat([real.index_of_class(c)[60:100] for c in range(10)])
    return real.subset(pick), real.subset(rest)


def copying(real, rng):
    """Claims epsilon 1, and hands out real images: a broken distiller."""
    pick = torch.cat([sample_indices(real.index_of_class(c), 40, derive(rng, c)) for c in range(real.num_classes)])
    batch = real.batch(pick)
    return dd.Distilled(
        batch.x, batch.y, class_names=real.class_names, preprocess=real.preprocess, protocol=QUICK.to_dict()
    )


def noise_only(real, rng):
    x = torch.randn(20, *real.image_shape, generator=rng)
    y = torch.eye(10).repeat(2, 1)
    return dd.Distilled(x, y, class_names=real.class_names, preprocess=real.preprocess, protocol=QUICK.to_dict())
