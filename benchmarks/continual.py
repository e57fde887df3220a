"""`python -m benchmarks.continual`: replay memories of equal size in bytes on a stream of class pairs."""

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
from benchmarks.kit import Axis, Benchmark, Plot, RunConfig, RunGroup, known_words, mean_of, percent_of, value_of
from ddsdk.artefact import Codec, LowRank
from ddsdk.foundation import require_count
from ddsdk.training import accuracy
from ddsdk_integrations.continual import DistilledBuffer, Distiller, ReplayOptions, sample_bytes

_BATCH = 64
_MEMORY_STEPS = 300

LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {"mlp": ("mlp", {"width": 128}), "lenet": ("lenet", {})}
"""Learning networks by name, each with its network and options."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        scenario: Continual-learning scenario. class: class-incremental, pairs of classes with one head. domain:
            domain-incremental, the same pairs renumbered to the classes 0 and 1.
        learners: Learning networks, separated by commas; all share the same memory.
        seconds: Time budget in seconds for the distillation of each experience.
        epochs: Number of epochs on each experience.
        lr: Learning rate of SGD.
        fill: Minimum number of items in the memory, see `ReplayOptions`. It does not apply to Avalanche's policies.
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
    """Kind of memory.

    Attributes:
        recipe: Recipe of a `DistilledBuffer`; None for no memory or for `policy`.
        codecs: Codecs of the stored images, by the smallest number of images per class; one byte per value without one.
        policy: Avalanche storage policy instead of a recipe, as a function of the number of items; None for none.
    """

    recipe: dd.Recipe | None = None
    codecs: Mapping[int, Codec] = field(default_factory=dict)
    policy: Callable[[int], ExemplarsBuffer] | None = None

    def codec(self, ipc: int) -> Codec | None:
        """Return the codec for a number of images per class; None for one byte per value."""
        return next((self.codecs[smallest] for smallest in sorted(self.codecs, reverse=True) if smallest <= ipc), None)


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
"""Memories of the table. Their settings were chosen on held-out training images."""


class _Shared(ExemplarsBuffer):
    """Read-only view of a memory that several learners share; the loop over the stream updates the memory."""

    def __init__(self, policy: ExemplarsBuffer) -> None:
        super().__init__(policy.max_size)
        self._policy = policy

    @property
    def buffer(self) -> AvalancheDataset[Any]:
        """Items in the memory."""
        return self._policy.buffer

    def resize(self, strategy: Any, new_size: int) -> None:  # noqa: ANN401
        """Resize the memory."""
        self._policy.resize(strategy, new_size)


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the bytes and seconds of a memory and the accuracies of all learners after one pass over the stream.

    Avalanche's loops use torch's global random generator: it is set to the seed and restored afterwards.
    """
    state = torch.get_rng_state()
    try:
        torch.manual_seed(run.seed)
        return _measure(run, config, train, test)
    finally:
        torch.set_rng_state(state)


def _measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    classes = train.num_classes if config.scenario == "class" else 2
    stream = _stream(train, test, classes)
    policy = _policy(run, config, train, classes)
    names = known_words("learners", config.learners, LEARNERS)
    learners = {name: _Learner(name, config, train, classes, policy, run.seed) for name in names}
    memory_seconds = 0.0
    for experience in stream.train_stream:
        for learner in learners.values():
            learner.learn(experience, stream.test_stream)
        if policy is not None:
            began = time.monotonic()
            policy.post_adapt(None, experience)
            memory_seconds += time.monotonic() - began
    images, labels = test.batch(torch.arange(len(test))).x, test.labels % classes
    scores = {name: learner.scores(policy, images, labels) for name, learner in learners.items()}
    return {
        "bytes": _bytes(policy, train),
        "memory seconds": memory_seconds,
        "learners": {
            name: {**values, "seconds": learners[name].seconds + memory_seconds} for name, values in scores.items()
        },
    }


def _stream(train: dd.RealData, test: dd.RealData, classes: int) -> CLScenario:
    """Return the stream of class pairs in increasing order, with class numbers modulo `classes`."""
    pairs = [(a, a + 1) for a in range(0, train.num_classes - 1, 2)]
    splits = {"train": train, "test": test}
    experiences = {name: [_pair(data, pair, classes) for pair in pairs] for name, data in splits.items()}
    return benchmark_from_datasets(**experiences)


def _pair(data: dd.RealData, pair: tuple[int, int], classes: int) -> AvalancheDataset[Any]:
    index = torch.cat([data.index_of_class(c) for c in pair])
    dataset = TensorDataset(data.batch(index).x, data.labels[index] % classes)
    dataset.targets = dataset.tensors[1].tolist()  # type: ignore[attr-defined]
    return as_classification_dataset(dataset)


def _policy(run: RunConfig, config: ExperimentConfig, train: dd.RealData, classes: int) -> ExemplarsBuffer | None:
    method = METHODS[run.method]
    if method.policy is not None:
        return method.policy(run["ipc"] * train.num_classes)
    if method.recipe is None:
        return None
    return DistilledBuffer(
        run["ipc"] * train.num_classes,
        Distiller(method.recipe, seconds=config.seconds),
        classes=classes,
        visits=train.num_classes // classes,
        codec=method.codec(run["ipc"]),
        replay=ReplayOptions(fill=config.fill),
        preprocess=train.preprocess,
        pictures=train.pictures,
        mirror_safe=train.mirror_safe,
        seed=run.seed,
    )


def _bytes(policy: ExemplarsBuffer | None, train: dd.RealData) -> int:
    if policy is None:
        return 0
    if isinstance(policy, DistilledBuffer):
        return policy.nbytes
    return len(policy.buffer) * sample_bytes(train.image_shape)


class _Learner:
    """Network that learns the stream with replay, with its test accuracies after each experience."""

    def __init__(
        self,
        name: str,
        config: ExperimentConfig,
        train: dd.RealData,
        width: int,
        policy: ExemplarsBuffer | None,
        seed: int,
    ) -> None:
        kind, options = LEARNERS[name]
        self._make = dd.network_factory(kind, train.image_shape, width, **options)
        self._seed = seed
        network = self._make(dd.generator("learner", seed))
        shared = None if policy is None else _Shared(policy)
        self._strategy = Naive(
            model=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=config.lr),
            train_mb_size=_BATCH,
            train_epochs=config.epochs,
            plugins=[] if shared is None else [ReplayPlugin(shared.max_size, storage_policy=shared)],
            evaluator=None,
        )
        self.seconds = 0.0
        self._accuracies: list[list[float]] = []

    def learn(self, experience: Any, tests: Sequence[Any]) -> None:  # noqa: ANN401
        """Train on an experience, then test on all experiences."""
        began = time.monotonic()
        self._strategy.train(experience)
        self.seconds += time.monotonic() - began
        self._accuracies.append([_accuracy(self._strategy.model, test.dataset) for test in tests])

    def scores(self, policy: ExemplarsBuffer | None, x: Tensor, y: Tensor) -> dict[str, float | None]:
        """Return the scores after the last experience, with a_ij the accuracy on j after experience i of T.

        Accuracy: mean of a_Tj over all j. Forgetting: mean of max_i<T a_ij - a_Tj over j < T. Backward transfer: mean
        of a_Tj - a_jj over j < T. Memory only: accuracy of a new network trained on the memory, None without one.
        """
        accuracies = torch.tensor(self._accuracies)
        final, earlier = accuracies[-1], range(len(accuracies) - 1)
        forgetting = torch.stack([accuracies[:-1, j].max() - final[j] for j in earlier])
        backward = torch.stack([final[j] - accuracies[j, j] for j in earlier])
        fresh = self._make(dd.generator("alone", self._seed))
        return {
            "accuracy": float(final.mean()),
            "forgetting": float(forgetting.mean()),
            "backward": float(backward.mean()),
            "memory only": None if policy is None else _memory_only(fresh, policy.buffer, x, y),
        }


@torch.no_grad()
def _accuracy(network: nn.Module, dataset: AvalancheDataset[Any]) -> float:
    x, y, *_ = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    return accuracy(network, x, y)


def _memory_only(network: nn.Module, memory: AvalancheDataset[Any], x: Tensor, y: Tensor) -> float:
    """Return the test accuracy of a network after training with Adam on the memory only."""
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


def rows(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return a row for each learner, memory size and method."""
    by_size = sorted(groups, key=lambda group: group.at["ipc"] or 0)
    return [
        group._replace(results=[{**r, **r["learners"][name], "learner": name} for r in group.results])
        for name in groups[0].results[0]["learners"]
        for group in by_size
    ]


def _points(row: RunGroup) -> list[tuple[float | None, float]]:
    return [(row.at["ipc"], 100 * statistics.fmean(result["accuracy"] for result in row.results))]


def _size(word: str) -> int:
    require_count("ipc", int(word))
    return int(word)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.continual",
    text="Learn a stream of class pairs with memories of equal bytes; measure replay and training on the memory only.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    about=lambda run, _: {"method": repr(METHODS[run.method])},
    axes={"ipc": Axis("1,5,10", "Memory sizes in bytes of so many real images per class, separated by commas.", _size)},
    # The method without a memory has no memory size.
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
    line=lambda r: ", ".join(f"{name} {100 * values['accuracy']:.1f} %" for name, values in r["learners"].items()),
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
