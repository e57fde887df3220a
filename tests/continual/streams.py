"""Small streams in Avalanche's forms, and learners of them."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.utils.data import TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
    from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
    from avalanche.training.supervised import Naive

SIDE = 8
SHAPE = (1, SIDE, SIDE)


def images(labels, seed=0, side=SIDE):
    """Return noisy pictures of a bar whose row is the class, black and white included."""
    labels = torch.as_tensor(labels)
    x = 0.4 * torch.rand(len(labels), 1, side, side, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(len(labels)), 0, labels % SIDE] = 1.0
    x[:, 0, 0, 0] = 0.0
    return x


def dataset(classes, per_class=20, *, task=None, tensors=True, seed=0, offset=0, side=SIDE):
    """Return a data set of Avalanche, with class ids `classes` minus `offset`."""
    labels = torch.tensor(classes).repeat_interleave(per_class)
    x, y = images(labels, seed, side), labels - offset
    pairs = TensorDataset(x, y) if tensors else IntLabels(x, y.tolist())
    pairs.targets = y.tolist()
    if task is None:
        return as_classification_dataset(pairs)
    attributes = [DataAttribute(pairs.targets, "targets"), TaskLabels([task] * len(y))]
    return TaskAwareSupervisedClassificationDataset([pairs], data_attributes=attributes)


class IntLabels(torch.utils.data.Dataset):
    """Pairs whose labels are plain integers, as torchvision's."""

    def __init__(self, x, y):
        self.x, self.targets = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.targets[i]


def stream(*experiences, **how):
    """Return a benchmark with an experience for each list of classes."""
    sets = [dataset(classes, seed=i, **how) for i, classes in enumerate(experiences)]
    return benchmark_from_datasets(train=sets, test=sets)


def network(classes=6, seed=0, side=SIDE):
    """Return a linear learner."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))
    with torch.no_grad():
        net[1].weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
        net[1].bias.zero_()
    return net


def naive(net, plugins=(), *, evaluator=None, epochs=2, cls=Naive, **how):
    """Return a strategy."""
    return cls(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=list(plugins),
        evaluator=evaluator,
        **how,
    )
