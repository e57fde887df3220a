"""`python -m benchmarks.continual`: memories of equal bytes on a stream of class pairs, with replay and alone."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from avalanche.benchmarks import CLScenario, benchmark_from_datasets
from avalanche.benchmarks.utils import AvalancheDataset, as_classification_dataset
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ExemplarsBuffer, ReservoirSamplingBuffer
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Cell, Group, Plot, known_words, mean_of, percent_of, value_of
from ddsdk.artefact import Codec, LowRank
from ddsdk.foundation import require_count
from ddsdk.training import accuracy
from ddsdk_integrations.continual import DistilledBuffer, Distiller, Replay, sample_bytes

_BATCH = 64
_MEMORY_STEPS = 300

LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {"mlp": ("mlp", {"width": 128}), "lenet": ("lenet", {})}
"""Name to network and options of those who learn."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        scenario: "class": pairs of classes, one after the other, with one head. "domain": the same pairs, of which
            each has the classes 0 and 1.
        learners: Networks that learn, separated by commas; they share each memory.
        seconds: Time for the distillation of each experience.
        epochs: Passes over each experience.
        lr: Learning rate of SGD.
        fill: Items that a memory has at least, see `Replay`; Avalanche's own policies have none.
    """

    scenario: Literal["class", "domain"] = "class"
    learners: str = "mlp,lenet"
    seconds: float = 6.0
    epochs: int = 1
    lr: float = 0.05
    fill: int = _BATCH

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        known_words("learners", self.learners, LEARNERS)


@dataclass(frozen=True, kw_only=True)
class Method:
    """What fills a memory.

    Attributes:
        recipe: Recipe of a `DistilledBuffer`; None for no memory, or for `policy`.
        codecs: Codecs of the recipe, each from so many images per class on; bytes where there is none.
        policy: Avalanche policy in its place.
    """

    recipe: dd.Recipe | None = None
    codecs: Mapping[int, Codec] = field(default_factory=dict)
    policy: Callable[[int], ExemplarsBuffer] | None = None

    def codec(self, ipc: int) -> Codec | None:
        """Return the codec for so many images per class."""
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
    "class means of rank 3": Method(recipe=dd.BASELINES["means"](), codecs={1: LowRank(3)}),
    "dm": Method(recipe=_MATCHED),
    "dm from means": Method(recipe=_FROM_MEANS),
    "dm from means of low rank": Method(recipe=_FROM_MEANS, codecs={1: LowRank(2), 5: LowRank(4)}),
    "rat-bptt from means of rank 3": Method(recipe=_UNROLLED, codecs={1: LowRank(3)}),
}
"""Rows of the table. Settings were chosen on held-out training images."""


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


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run the stream once for all learners and one memory; return its bytes and seconds, and what each reached.

    The learners draw from torch's global generator, as Avalanche's loops do; it is set to the seed and put back.
    """
    state = torch.get_rng_state()
    try:
        torch.manual_seed(cell.seed)
        return _measure(cell, setting, train, test)
    finally:
        torch.set_rng_state(state)


def _measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    classes = train.num_classes if setting.scenario == "class" else 2
    stream = _stream(train, test, classes)
    policy = _policy(cell, setting, train, classes)
    names = known_words("learners", setting.learners, LEARNERS)
    runs = {name: _Learner(name, setting, train, classes, policy, cell.seed) for name in names}
    distilling = 0.0
    for experience in stream.train_stream:
        for run in runs.values():
            run.learn(experience, stream.test_stream)
        if policy is not None:
            began = time.monotonic()
            policy.post_adapt(None, experience)
            distilling += time.monotonic() - began
    images, labels = test.batch(torch.arange(len(test))).x, test.labels % classes
    reached = {name: run.reached(policy, images, labels) for name, run in runs.items()}
    return {
        "bytes": _bytes(policy, train),
        "memory seconds": distilling,
        "learners": {name: {**found, "seconds": runs[name].seconds + distilling} for name, found in reached.items()},
    }


def _stream(train: dd.RealData, test: dd.RealData, classes: int) -> CLScenario:
    """Return the pairs of classes in their order, numbered modulo `classes`."""
    pairs = [(a, a + 1) for a in range(0, train.num_classes - 1, 2)]
    parts = {name: [_pair(data, pair, classes) for pair in pairs] for name, data in (("train", train), ("test", test))}
    return benchmark_from_datasets(**parts)


def _pair(data: dd.RealData, pair: tuple[int, int], classes: int) -> AvalancheDataset[Any]:
    index = torch.cat([data.index_of_class(c) for c in pair])
    found = TensorDataset(data.batch(index).x, data.labels[index] % classes)
    found.targets = found.tensors[1].tolist()  # type: ignore[attr-defined]
    return as_classification_dataset(found)


def _policy(cell: Cell, setting: Setting, train: dd.RealData, classes: int) -> ExemplarsBuffer | None:
    method = METHODS[cell.method]
    if method.policy is not None:
        return method.policy(cell["ipc"] * train.num_classes)
    if method.recipe is None:
        return None
    return DistilledBuffer(
        cell["ipc"] * train.num_classes,
        Distiller(method.recipe, seconds=setting.seconds),
        classes=classes,
        visits=train.num_classes // classes,
        codec=method.codec(cell["ipc"]),
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
    """A network that learns the stream with replay, and its accuracy after each experience."""

    def __init__(
        self, name: str, setting: Setting, train: dd.RealData, width: int, policy: ExemplarsBuffer | None, seed: int
    ) -> None:
        kind, options = LEARNERS[name]
        self._make = dd.network_factory(kind, train.image_shape, width, **options)
        self._seed = seed
        network = self._make(dd.generator("learner", seed))
        shared = None if policy is None else _Shared(policy)
        self._strategy = Naive(
            model=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=setting.lr),
            train_mb_size=_BATCH,
            train_epochs=setting.epochs,
            plugins=[] if shared is None else [ReplayPlugin(shared.max_size, storage_policy=shared)],
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

    def reached(self, policy: ExemplarsBuffer | None, x: Tensor, y: Tensor) -> dict[str, float | None]:
        """Return accuracy, forgetting, backward transfer, and the accuracy of training on the memory alone.

        Accuracy is the mean over the experiences after the last one. The next two are means over the experiences but
        the last: the best accuracy that each once had less the final one, and the final one less that right after
        learning it. The last trains a fresh network; it is None without a memory.
        """
        table = torch.tensor(self._table)
        final, old = table[-1], range(len(table) - 1)
        best = torch.stack([table[:-1, j].max() - final[j] for j in old])
        back = torch.stack([final[j] - table[j, j] for j in old])
        fresh = self._make(dd.generator("alone", self._seed))
        return {
            "accuracy": float(final.mean()),
            "forgetting": float(best.mean()),
            "backward": float(back.mean()),
            "memory only": None if policy is None else _memory_only(fresh, policy.buffer, x, y),
        }


@torch.no_grad()
def _accuracy(network: nn.Module, dataset: AvalancheDataset[Any]) -> float:
    x, y, *_ = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    return accuracy(network, x, y)


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
    return accuracy(network, x, y)


def rows(groups: Sequence[Group]) -> list[Group]:
    """Return a row for each learner, size and method."""
    by_size = sorted(groups, key=lambda group: group.at["ipc"] or 0)
    return [
        group._replace(results=[{**r, **r["learners"][name], "learner": name} for r in group.results])
        for name in groups[0].results[0]["learners"]
        for group in by_size
    ]


def _points(row: Group) -> list[tuple[float | None, float]]:
    return [(row.at["ipc"], 100 * statistics.fmean(result["accuracy"] for result in row.results))]


def _size(word: str) -> int:
    require_count("ipc", int(word))
    return int(word)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.continual",
    text="Learn a stream of class pairs with memories of equal bytes; measure replay and training on the memory alone.",
    setting=Setting,
    methods=METHODS,
    measure=measure,
    about=lambda cell, _: {"method": repr(METHODS[cell.method])},
    axes={"ipc": Axis("1,5,10", "Real images per class whose bytes a memory may take, by commas.", _size)},
    # Without a memory there is nothing that a number of images would change.
    values=lambda method, _, values: [None] if method == "naive" else values,
    rows=rows,
    columns=[
        value_of("learner", "learner"),
        percent_of("accuracy, %", "accuracy"),
        percent_of("forgetting, %", "forgetting"),
        percent_of("backward transfer, %", "backward"),
        percent_of("on the memory alone, %", "memory only"),
        value_of("bytes", "bytes"),
        mean_of("memory, s", "memory seconds", digits=0),
        mean_of("total, s", "seconds", digits=0),
    ],
    line=lambda r: ", ".join(f"{name} {100 * found['accuracy']:.1f} %" for name, found in r["learners"].items()),
    plot=Plot(
        lambda row: f"replay-{row.results[0]['learner']}.png",
        _points,
        "bytes, in real images per class",
        "accuracy, %",
        log_x=True,
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
