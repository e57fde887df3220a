"""Continual learning with Avalanche: digits in five steps of two classes, with replay of distilled images.

Three lines make a replay pipeline one of distilled images; they are marked below. `pip install 'ddsdk[continual]'`.
"""

import warnings

import torch
from torch.utils.data import TensorDataset

import ddsdk as dd

with warnings.catch_warnings():
    # Libraries that Avalanche pulls in announce their own ends.
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.supervised import Naive

    from ddsdk_integrations.continual import DistilledBuffer, Distiller, ReplayOptions  # the first line

MEMORY = 10
warnings.filterwarnings("ignore", module="avalanche")


def pairs(data):
    """Return one Avalanche data set for each pair of classes."""
    sets = []
    for a in range(0, 10, 2):
        index = torch.cat([data.index_of_class(a), data.index_of_class(a + 1)])
        found = TensorDataset(data.batch(index).x, data.labels[index])
        found.targets = data.labels[index].tolist()
        sets.append(as_classification_dataset(found))
    return sets


def learn(stream, memory):
    """Learn the pairs one after the other; return the accuracy on all of them."""
    torch.manual_seed(0)
    network = dd.network_factory("mlp", (1, 8, 8), 10)(dd.generator("learner"))
    plugins = [] if memory is None else [ReplayPlugin(MEMORY, storage_policy=memory)]  # the second line
    strategy = Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        train_mb_size=32,
        train_epochs=5,
        plugins=plugins,
        evaluator=None,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    with torch.no_grad():
        network.eval()
        right = [network(x[None]).argmax() == y for test in stream.test_stream for x, y, *_ in test.dataset]
    return torch.stack(right).float().mean().item()


def main():
    """Compare no replay, real images and distilled images, at equal bytes."""
    train, test = dd.load_pair("digits")
    stream = benchmark_from_datasets(train=pairs(train), test=pairs(test))
    fill = ReplayOptions(fill=32)
    random = DistilledBuffer(MEMORY, dd.BASELINES["random"](), classes=10, replay=fill)
    recipe = dd.DM(steps=40, real_batch=64, start="means", augmentation="")
    students = Distiller(recipe, network_options={"width": 16})
    distilled = DistilledBuffer(MEMORY, students, classes=10, replay=fill)  # the third line
    print(f"no memory:                     {learn(stream, None):.3f}")
    print(f"random images,  {told(stream, random)}")
    print(f"distilled ones, {told(stream, distilled)}")


def told(stream, memory):
    """Return what a memory takes and gives, as text."""
    accuracy = learn(stream, memory)
    return f"{memory.nbytes:4d} bytes:    {accuracy:.3f}"


if __name__ == "__main__":
    main()
