"""The memory in the places where Avalanche takes one, and the plugins, metrics and configurations around it."""

from __future__ import annotations

import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.logging import InteractiveLogger
from avalanche.training.plugins import (
    EvaluationPlugin,
    GDumbPlugin,
    LwFPlugin,
    MIRPlugin,
    RARPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.supervised import ER_ACE, Naive
from streams import naive, network, stream

import ddsdk as dd
from ddsdk_integrations.continual import (
    DistilledBuffer,
    Distiller,
    ReplayOptions,
    Streaming,
    TrainOnMemory,
    composite_memory,
    distilled_replay,
    memory_metrics,
    online_condensation,
    stable_sets,
    stream_summary,
)

SIZE = 24
EXPERIENCES = ([0, 1], [2, 3], [4, 5])


def memory(size=SIZE, **how):
    recipe = dd.DM(steps=2, real_batch=8, augmentation="")
    return DistilledBuffer(size, Distiller(recipe, network="mlp", network_options={}), **how)


def swapped(plugin, buffer):
    plugin.storage_policy = buffer
    return plugin


PLACES = {
    "replay": lambda buffer: [ReplayPlugin(SIZE, storage_policy=buffer)],
    "balanced replay": lambda buffer: [ReplayPlugin(SIZE, storage_policy=buffer, task_balanced_dataloader=True)],
    "replay and LwF": lambda buffer: [ReplayPlugin(SIZE, storage_policy=buffer), LwFPlugin(1.0, 2.0)],
    "RAR": lambda buffer: [RARPlugin(batch_size_mem=8, mem_size=SIZE, name_ext_layer="1", storage_policy=buffer)],
    "MIR": lambda buffer: [swapped(MIRPlugin(batch_size_mem=4, mem_size=SIZE), buffer)],
    "GDumb": lambda buffer: [swapped(GDumbPlugin(SIZE), buffer)],
}


@pytest.mark.parametrize("place", PLACES)
def test_the_memory_drops_in(place):
    buffer = memory()
    strategy = naive(network(), PLACES[place](buffer), epochs=6)
    bench = stream(*EXPERIENCES, task=0)
    for experience in bench.train_stream:
        strategy.train(experience)
    assert {part.key[1] for part in buffer.parts} == set(range(6))
    assert buffer.calls == 3
    results = strategy.eval(bench.test_stream)
    assert results is not None
    assert accuracy(strategy.model, bench) > 1 / 6


def test_er_ace_takes_the_memory_in_the_place_of_its_own():
    buffer = memory()
    strategy = naive(network(), cls=ER_ACE, mem_size=SIZE, batch_size_mem=8, epochs=6)
    strategy.storage_policy = buffer
    bench = stream(*EXPERIENCES, task=0)
    for experience in bench.train_stream:
        strategy.train(experience)
    assert buffer.calls == 3 and accuracy(strategy.model, bench) > 1 / 6


@torch.no_grad()
def accuracy(net, bench):
    net.eval()
    right = total = 0
    for experience in bench.test_stream:
        for x, y, *_ in experience.dataset:
            right += int(net(x[None]).argmax() == y)
            total += 1
    return right / total


def test_replay_keeps_what_is_forgotten_without_it():
    bench = stream(*EXPERIENCES)
    found = []
    for buffer in (None, memory(replay=ReplayOptions(fill=16))):
        strategy = naive(network(), [] if buffer is None else PLACES["replay"](buffer), epochs=10)
        for experience in bench.train_stream:
            strategy.train(experience)
        found.append(accuracy(strategy.model, bench))
    assert found[0] < 0.5 < 0.9 < found[1]


def test_a_policy_of_another_size_than_the_plugin_is_refused_by_it():
    with pytest.raises(AssertionError):
        ReplayPlugin(10, storage_policy=memory(12))


def test_metrics_report_what_the_memory_takes_after_each_experience():
    buffer = memory(12)
    logger = Lines()
    evaluator = EvaluationPlugin(
        *memory_metrics(buffer),
        accuracy_metrics(epoch=True, stream=True),
        forgetting_metrics(stream=True),
        loggers=[logger],
    )
    strategy = naive(network(), [ReplayPlugin(12, storage_policy=buffer)], evaluator=evaluator, epochs=1)
    bench = stream(*EXPERIENCES)
    for experience in bench.train_stream:
        strategy.train(experience)
    kept = evaluator.get_all_metrics()
    assert kept["Buffer_Bytes"][1] == [12 * 66] * 3
    assert kept["Distill_Calls"][1] == [1, 2, 3]
    assert kept["Real_Samples_Retained"][1] == [0, 0, 0]
    assert kept["Distill_Seconds"][1][-1] == pytest.approx(buffer.seconds)
    strategy.eval(bench.test_stream)


class Lines(InteractiveLogger):
    """Prints nothing."""

    def __init__(self):
        from io import StringIO

        super().__init__()
        self.file = StringIO()


class Watch(SupervisedPlugin):
    """Notes what is trained on."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def before_training_epoch(self, strategy, *args, **kwargs):
        data = strategy.adapted_dataset
        self.seen.append((len(data), sorted({int(item[1]) for item in data})))


def test_training_on_the_memory_sees_distilled_images_only():
    seen = {}
    for newest in (False, True):
        buffer, watch = memory(12, classes=6), Watch()
        strategy = naive(network(), [TrainOnMemory(buffer, newest=newest, passes=3), watch], epochs=1)
        for experience in stream(*EXPERIENCES).train_stream:
            strategy.train(experience)
        seen[newest] = watch.seen
    assert seen[False] == [(12, [0, 1]), (24, [0, 1, 2, 3]), (36, [0, 1, 2, 3, 4, 5])]
    assert seen[True] == [(12, [0, 1]), (12, [2, 3]), (12, [4, 5])]


def test_a_restart_goes_back_to_the_first_weights():
    buffer, net = memory(12), network()
    first = [p.detach().clone() for p in net.parameters()]
    begun = []

    class AtStart(SupervisedPlugin):
        def before_training_epoch(self, strategy, *args, **kwargs):
            begun.append([p.detach().clone() for p in strategy.model.parameters()])

    strategy = naive(net, [TrainOnMemory(buffer, restart=True), AtStart()], epochs=1)
    for experience in stream(*EXPERIENCES).train_stream:
        strategy.train(experience)
    assert len(begun) == 3
    for weights in begun:
        assert all(torch.equal(a, b) for a, b in zip(weights, first, strict=True))


CONFIGURATIONS = {
    "distilled replay": (distilled_replay, {}),
    "composite memory": (composite_memory, {"passes": 3}),
    "online condensation": (online_condensation, {"every": 2}),
    "stable sets": (stable_sets, {"passes": 3}),
    "stream summary": (stream_summary, {"every": 2, "room": 30}),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_configuration_learns_a_stream_within_its_bytes(name):
    make, how = CONFIGURATIONS[name]
    memory, plugins = make(SIZE, classes=6, seconds=0.2, seed=3, **how)
    strategy = naive(network(side=28), plugins, epochs=2)
    for experience in stream(*EXPERIENCES, side=28).train_stream:
        strategy.train(experience)
    memory.flush()
    assert {part.key[1] for part in memory.parts} == set(range(6))
    assert 0 < memory.nbytes <= SIZE * (28 * 28 + 2)
    assert memory.waiting == 0 and memory.calls >= 2


def test_an_online_stream_of_avalanche_is_distilled_in_intervals():
    from avalanche.benchmarks.scenarios.online import split_online_stream

    bench = stream(*EXPERIENCES)
    online = split_online_stream(bench.train_stream, experience_size=10, access_task_boundaries=True)
    buffer = memory(streaming=Streaming(every=3, room=40), merge=True)
    strategy = naive(network(), [ReplayPlugin(SIZE, storage_policy=buffer)], epochs=1, cls=Naive)
    for experience in online:
        strategy.train(experience)
    # Forty images of each experience are four pieces: one update within each, and what is left at the next boundary.
    assert buffer.calls == 5 and buffer.waiting == 10
    buffer.flush()
    assert {part.key[1] for part in buffer.parts} == set(range(6))
