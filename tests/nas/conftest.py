"""Small pictures that a ConvNet of four poolings can see."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

import ddsdk as dd


@pytest.fixture(scope="session")
def pictures(digits) -> tuple[dd.RealData, dd.RealData]:
    """Digits with repeated pixels: (1, 16, 16), 30 and 10 images of each class."""
    train, _ = digits
    large = dd.RealData(
        adaptive_avg_pool2d(train.images, 16),
        train.labels,
        class_names=train.class_names,
        preprocess=train.preprocess,
        name="digits",
    )
    index = [large.index_of_class(c) for c in range(10)]
    return large.subset(torch.cat([i[:30] for i in index])), large.subset(torch.cat([i[30:40] for i in index]))


@pytest.fixture
def training() -> dd.TrainingProtocol:
    return dd.TrainingProtocol(name="test", networks=1, epochs=2, batch_size=50, lr=0.05, schedule="cosine")


@pytest.fixture
def candidates():
    return [
        dd.network_factory("convnet", (1, 16, 16), 10, depth=2, width=4, norm=norm, pooling=pooling)
        for norm in ("instance", "batch")
        for pooling in ("avg", "none")
    ]
