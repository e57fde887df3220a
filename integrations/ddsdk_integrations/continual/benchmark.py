"""Equal bytes, different memories: what replay, and training on the memory alone, reach on a stream of class pairs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ExemplarsBuffer, ReservoirSamplingBuffer
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ddsdk as dd
from ddsdk.artefact import Codec, LowRank
from ddsdk.foundation import require, require_count
from ddsdk_integrations.continual.buffer import DistilledBuffer
from ddsdk_integrations.continual.distiller import Distiller
from ddsdk_integrations.continual.memory import sample_bytes
from ddsdk_integrations.continual.stream import Replay

_BATCH = 64
_MEMORY_STEPS = 300

LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {"mlp": ("mlp", {"width": 128}), "lenet": ("lenet", {})}
"""Name to network and options of those who learn."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What fills a memory.

    Attributes:
        recipe: What a `DistilledBuffer` distils with; None for no memory, or for `policy`.
        codecs: How it packs, from so many images per class on; as bytes where nothing is named.
        policy: An Avalanche policy in its place.
        made: Whether its images are made by optimisation, and neither real nor means of real ones.
    """

    recipe: Any = None
    codecs: Mapping[int, Codec] = field(default_factory=dict)
    policy: Callable[[int], ExemplarsBuffer] | None = None
    made: bool = False

    def codec(self, ipc: int) -> Codec | None:
        """Return how it packs at so many images per class."""
        return next((self.codecs[least] for least in sorted(self.codecs, reverse=True) if least <= ipc), None)


_UNROLLED = dd.RaTBPTT(start="means", augmentation="", real_batch=500, image_lr=2e-3, student_steps=40, window=10)
_MATCHED = dd.DM(steps=100, real_batch=64, image_lr=1.0)
_FROM_MEANS = dataclasses.replace(_MATCHED, start="means")
METHODS: dict[str, Method] = {
    "naive": Method(),
    "reservoir": Method(policy=ReservoirSamplingBuffer),
    "random": Method(recipe=dd.BASELINES["random"]()),
    "herding": Method(recipe=dd.BASELINES["herding"]()),
    "class means": Method(recipe=dd.BASELINES["means"]()),
    "class means, rank 3": Method(recipe=dd.BASELINES["means"](), codecs={1: LowRank(3)}),
    "dm": Method(recipe=_MATCHED, made=True),
    "dm from means": Method(recipe=_FROM_MEANS, made=True),
    "dm from means, low rank": Method(recipe=_FROM_MEANS, codecs={1: LowRank(2), 5: LowRank(4)}, made=True),
    "rat-bptt from means, rank 3": Method(recipe=_UNROLLED, codecs={1: LowRank(3)}, made=True),
}
"""Rows of the table. Settings were chosen on held-out training images."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        scenario: "class": pairs of classes, one after the other, with one head. "domain": the same pairs, of which
            each has the classes 0 and 1.
        epochs: Passes over each experience.
        lr: Of SGD.
        fill: Items that a memory has at least, see `Replay`; Avalanche's own policies have none.
        seconds: For the distillation of each experience.
    """

    scenario: str = "class"
    epochs: int = 1
    lr: float = 0.05
    fill: int = _BATCH
    seconds: float = 6.0

    def __post_init__(self) -> None:
        require(self.scenario in ("class", "domain"), "scenario", "be class or domain", self.scenario)
        require_count("epochs", self.epochs)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a method, real images per class whose bytes it may take, and a seed."""

    method: str
    ipc: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one learner reached.

    Attributes:
        accuracy: Mean over the experiences after the last one, with replay.
        forgetting: Mean over the experiences but the last: the best accuracy that each once had, less the final one.
        backward: Mean over the same of the final accuracy less that right after learning it.
        memory_only: Accuracy of a fresh network that trains on the final memory alone; None without a memory.
    """

    accuracy: float
    forgetting: float
    backward: float
    memory_only: float | None


class _Shared(ExemplarsBuffer):
    """One memory for several learners: it shows what is there and leaves the updates to whoever runs the stream."""

    def __init__(self, policy: ExemplarsBuffer) -> None:
        super().__init__(policy.max_size)
        self._policy = policy

    @property
    def buffer(self) -> AvalancheDataset[Any]:
        """What the policy remembers."""
        return self._policy.buffer

    def resize(self, strategy: Any, new_size: int) -> None:  # noqa: ANN401
        """Resize the policy."""
        self._policy.resize(strategy, new_size)


def measure(
    cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData, learners: Sequence[str]
) -> dict[str, Any]:
    """Run the stream once for all learners and one memory; return outcomes, bytes and seconds as plain values.

    The learners draw from torch's global generator, as Avalanche's loops do; it is set to the seed and put back.
    """
    state = torch.get_rng_state()
    try:
        torch.manual_seed(cell.seed)
        return _measure(cell, setting, train, test, learners)
    finally:
        torch.set_rng_state(state)


def _measure(
    cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData, learners: Sequence[str]
) -> dict[str, Any]:
    stream = scenario(setting.scenario, train, test)
    width = train.num_classes if setting.scenario == "class" else 2
    policy = _policy(cell, setting, train)
    images, labels = test.batch(torch.arange(len(test))).x, test.labels % width
    runs = {name: _Learner(name, setting, train, width, policy, cell.seed) for name in learners}
    distilling = 0.0
    for experience in stream.train_stream:
        for run in runs.values():
            run.learn(experience, stream.test_stream)
        if policy is not None:
            began = time.monotonic()
            policy.post_adapt(None, experience)
            distilling += time.monotonic() - began
    return {
        "cell": asdict(cell),
        "setting": asdict(setting),
        "bytes": _bytes(policy, train),
        "memory seconds": distilling,
        "seconds": {name: run.seconds + distilling for name, run in runs.items()},
        "learners": {name: asdict(run.outcome(policy, images, labels)) for name, run in runs.items()},
    }


def scenario(kind: str, train: dd.RealData, test: dd.RealData) -> CLScenario:
    """Return the stream: pairs of classes, in their order."""
    pairs = [(a, a + 1) for a in range(0, train.num_classes - 1, 2)]
    parts = {
        name: [_pair(data, pair, domain=kind == "domain") for pair in pairs]
        for name, data in (("train", train), ("test", test))
    }
    return benchmark_from_datasets(**parts)


def _pair(data: dd.RealData, pair: tuple[int, int], *, domain: bool) -> AvalancheDataset[Any]:
    index = torch.cat([data.index_of_class(c) for c in pair])
    labels = data.labels[index]
    found = TensorDataset(data.batch(index).x, labels - pair[0] if domain else labels)
    found.targets = found.tensors[1].tolist()  # type: ignore[attr-defined]
    return as_classification_dataset(found)


def _policy(cell: Cell, setting: Setting, train: dd.RealData) -> ExemplarsBuffer | None:
    require(cell.method in METHODS, "method", f"be one of {', '.join(METHODS)}", cell.method)
    method, size = METHODS[cell.method], cell.ipc * train.num_classes
    if method.policy is not None:
        return method.policy(size)
    if method.recipe is None:
        return None
    classes = train.num_classes if setting.scenario == "class" else 2
    return DistilledBuffer(
        size,
        Distiller(method.recipe, seconds=setting.seconds),
        classes=classes,
        visits=train.num_classes // classes,
        codec=method.codec(cell.ipc),
        replay=Replay(fill=setting.fill),
        preprocess=train.preprocess,
        pictures=train.pictures,
        mirror_safe=train.mirror_safe,
        seed=cell.seed,
    )


def _bytes(policy: ExemplarsBuffer | None, train: dd.RealData) -> int:
    if policy is None:
        return 0
    if isinstance(policy, DistilledBuffer):
        return policy.nbytes
    return len(policy.buffer) * sample_bytes(train.image_shape)


class _Learner:
    """A network that learns the stream with replay, and what it was worth after each experience."""

    def __init__(
        self, name: str, setting: Setting, train: dd.RealData, width: int, policy: ExemplarsBuffer | None, seed: int
    ) -> None:
        kind, options = LEARNERS[name]
        self._make: Callable[[torch.Generator], nn.Module] = dd.network_factory(
            kind, train.image_shape, width, **options
        )
        self._seed = seed
        network = self._make(dd.generator("learner", seed))
        shared = None if policy is None else _Shared(policy)
        plugins = [] if shared is None else [ReplayPlugin(shared.max_size, storage_policy=shared)]
        self._strategy = Naive(
            model=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=setting.lr),
            train_mb_size=_BATCH,
            train_epochs=setting.epochs,
            plugins=plugins,
            evaluator=None,
        )
        self.seconds = 0.0
        self._table: list[list[float]] = []

    def learn(self, experience: Any, tests: Sequence[Any]) -> None:  # noqa: ANN401
        """Train on an experience, then test on all."""
        began = time.monotonic()
        self._strategy.train(experience)
        self.seconds += time.monotonic() - began
        self._table.append([_accuracy(self._strategy.model, test.dataset) for test in tests])

    def outcome(self, policy: ExemplarsBuffer | None, images: Tensor, labels: Tensor) -> Outcome:
        """Return the summary of the table, and train a fresh network on the memory alone."""
        table = torch.tensor(self._table)
        final, old = table[-1], range(len(table) - 1)
        best = torch.stack([table[:-1, j].max() - final[j] for j in old])
        back = torch.stack([final[j] - table[j, j] for j in old])
        only = None
        if policy is not None:
            fresh = self._make(dd.generator("alone", self._seed))
            only = _memory_only(fresh, policy.buffer, images, labels)
        return Outcome(
            accuracy=float(final.mean()), forgetting=float(best.mean()), backward=float(back.mean()), memory_only=only
        )


@torch.no_grad()
def _accuracy(network: nn.Module, dataset: AvalancheDataset[Any]) -> float:
    network.eval()
    right = total = 0
    for x, y, *_ in DataLoader(dataset, batch_size=1000):
        right += int((network(x).argmax(1) == y).sum())
        total += len(y)
    network.train()
    return right / total


def _memory_only(network: nn.Module, memory: AvalancheDataset[Any], x: Tensor, y: Tensor) -> float:
    """Train by Adam on the memory alone, and test."""
    items = [memory[i] for i in range(len(memory))]
    images = torch.stack([item[0] for item in items])
    labels = torch.tensor([int(item[1]) for item in items])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    rng = dd.generator("memory only")
    for _ in range(_MEMORY_STEPS):
        batch = torch.randperm(len(images), generator=rng)[:_BATCH]
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network(images[batch]), labels[batch]))
        optimizer.step()
    network.eval()
    with torch.no_grad():
        right = [network(x[i : i + 1000]).argmax(1) == y[i : i + 1000] for i in range(0, len(x), 1000)]
    return float(torch.cat(right).float().mean())
