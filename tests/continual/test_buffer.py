"""The memory: bytes, shares, release of the real data, classes that return, streams, and labels."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics, class_accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer
from streams import SHAPE, dataset, images, naive, network, stream
from torch.utils.data import DataLoader, TensorDataset

import ddsdk as dd
from ddsdk.recipes import DirectRecipe
from ddsdk.synthetic import FixedLabels
from ddsdk_integrations.continual import (
    CompositeMatching,
    DistilledBuffer,
    Distiller,
    Half,
    LowRank,
    ReplayOptions,
    SoftLabelPlugin,
    Streaming,
    sample_bytes,
)
from ddsdk_integrations.continual.plugins import SoftCollate
from ddsdk_integrations.continual.stream import NewSamples, Queue, new_samples, value_space

SAMPLE = sample_bytes(SHAPE)
MLP = {"network": "mlp"}


def quick(**how):
    return Distiller(dd.DM(steps=2, real_batch=8, augmentation=""), **MLP, **how)


def memory(size=12, recipe=None, **how):
    return DistilledBuffer(size, quick() if recipe is None else recipe, **how)


def shown(buffer, *experiences, **how):
    for experience in stream(*experiences, **how).train_stream:
        buffer.post_adapt(None, experience)
    return buffer


def test_a_memory_takes_the_bytes_of_so_many_real_images_and_no_more():
    buffer = memory(12)
    for experience in stream([0, 1], [2, 3], [4, 5]).train_stream:
        buffer.post_adapt(None, experience)
        assert buffer.nbytes <= 12 * SAMPLE
    assert buffer.nbytes == 12 * SAMPLE == sum(part.nbytes for part in buffer.parts)
    assert [(part.key, len(part)) for part in buffer.parts] == [((0, c), 2) for c in range(6)]
    assert len(buffer.buffer) == 12 and buffer.calls == 3 and buffer.seconds > 0


def test_told_how_many_classes_come_nothing_shrinks():
    sizes = []
    buffer = memory(12, classes=6)
    for experience in stream([0, 1], [2, 3]).train_stream:
        buffer.post_adapt(None, experience)
        sizes.append([len(part) for part in buffer.parts])
    assert sizes == [[2, 2], [2, 2, 2, 2]]


CODECS = {
    "half": ({"codec": Half()}, 2 * 64 + 2, 1),
    "low rank": ({"codec": LowRank(1)}, 2 * 16 + 2, 1),
    "tiles": ({"recipe": Distiller(dd.M3D(steps=1, real_batch=8, start="real"), **MLP)}, 64 + 2, 4),
}


@pytest.mark.parametrize(("how", "item", "images_of"), CODECS.values(), ids=CODECS)
def test_what_a_codec_takes_decides_how_many_images_there_are(how, item, images_of):
    buffer = shown(memory(8, classes=2, **how), [0, 1])
    items = 4 * SAMPLE // item
    assert [len(part) for part in buffer.parts] == [items, items]
    assert buffer.nbytes == 2 * items * item <= 8 * SAMPLE
    assert len(buffer.buffer) == 2 * items * images_of


def test_components_and_their_weights_count():
    recipe = Distiller(CompositeMatching(matching=dd.DC(students=1, steps_per_student=1, real_batch=8)), **MLP)
    buffer = shown(memory(8, recipe, classes=2), [0, 1])
    # Of 264 bytes: 3 components of 64, their range, 6 images of 3 weights, and 6 labels; a fourth is too much.
    assert [part.codec.name for part in buffer.parts] == ["components", "components"]
    assert [part.nbytes for part in buffer.parts] == [3 * 64 + 8 + 6 * 3 * 2 + 6 * 2] * 2
    assert [len(part) for part in buffer.parts] == [6, 6]
    assert len(buffer.buffer) == 12
    buffer.resize(None, 6)
    # Fewer weights would not take fewer bytes in proportion: what is left are images, as bytes.
    assert [(part.codec.name, len(part)) for part in buffer.parts] == [("uint8", 3), ("uint8", 3)]


@pytest.mark.parametrize("policy", ["distilled", "reservoir"])
def test_the_real_data_is_released(policy):
    labels = torch.arange(2).repeat_interleave(20)
    pixels = images(labels)
    pairs = TensorDataset(pixels, labels)
    pairs.targets = labels.tolist()
    data = as_classification_dataset(pairs)
    kept = weakref.ref(pixels)
    buffer = memory() if policy == "distilled" else ReservoirSamplingBuffer(12)
    bench = benchmark_from_datasets(train=[data], test=[dataset([0, 1])])
    strategy = naive(network(), [ReplayPlugin(12, storage_policy=buffer)])
    strategy.train(bench.train_stream[0])
    strategy.experience = None
    del data, pairs, pixels, bench
    gc.collect()
    # Avalanche's own buffers are views: the check can fail.
    assert (kept() is None) == (policy == "distilled")
    assert len(buffer.buffer) == 12


@pytest.mark.parametrize("tensors", [True, False])
@pytest.mark.parametrize("task", [None, 3])
def test_items_look_like_those_of_the_stream(tensors, task):
    data = dataset([0, 1], tensors=tensors, task=task)
    buffer = memory()
    bench = benchmark_from_datasets(train=[data], test=[data])
    buffer.post_adapt(None, bench.train_stream[0])
    mine, theirs = buffer.buffer[0], data[0]
    assert [type(element) for element in mine] == [type(element) for element in theirs]
    assert mine[0].shape == theirs[0].shape and mine[0].dtype == theirs[0].dtype
    assert {part.key[0] for part in buffer.parts} == {0 if task is None else task}


def test_values_are_those_of_the_stream():
    data = dataset([0, 1])
    found = new_samples(data, value_space(data))
    assert torch.equal(found.images, (images(torch.tensor([0, 1]).repeat_interleave(20)) * 255).round().byte())
    buffer = DistilledBuffer(40, dd.BASELINES["random"]())
    buffer.post_adapt(None, benchmark_from_datasets(train=[data], test=[data]).train_stream[0])
    stored = torch.stack([item[0] for item in buffer.buffer])
    real = torch.stack([item[0] for item in data])
    nearest = (stored[:, None] - real[None]).abs().amax((2, 3, 4)).amin(1)
    assert float(nearest.max()) <= 0.5 / 255 + 1e-6


def test_values_beyond_the_range_of_the_stream_are_refused():
    buffer = memory(preprocess=dd.Preprocess.normalise((0.5,), (0.5,)))
    bench = stream([0, 1])
    buffer.post_adapt(None, bench.train_stream[0])
    small = memory(preprocess=dd.Preprocess.normalise((0.0,), (4.0,)))
    with pytest.raises(ValueError, match="preprocess must map the stream to the unit range, got"):
        small.post_adapt(None, bench.train_stream[0])
    assert len(small.buffer) == 0 and small.calls == 0


def test_a_class_that_comes_again_shares_its_bytes_among_visits():
    buffer = shown(memory(8), [0, 1], [0, 1])
    assert [(p.key[1], p.visit, len(p)) for p in buffer.parts] == [(0, 1, 2), (1, 1, 2), (0, 2, 2), (1, 2, 2)]
    told = shown(memory(8, visits=4), [0, 1], [0, 1])
    assert [len(p) for p in told.parts] == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="visits must be at least 2, the number so far, got 1"):
        shown(memory(8, visits=1), [0, 1], [0, 1])


def test_a_merging_memory_distils_old_and_new_images_together():
    recipe = Distiller(dd.BASELINES["means"]())
    buffer = memory(2, recipe, merge=True)
    dark, light = dataset([0, 1], seed=0), dataset([0, 1], seed=1)
    bench = benchmark_from_datasets(train=[dark, light], test=[dark, light])
    for experience in bench.train_stream:
        buffer.post_adapt(None, experience)
    assert [(p.key[1], p.visit, len(p)) for p in buffer.parts] == [(0, 2, 1), (1, 2, 1)]
    both = torch.cat([torch.stack([item[0] for item in data])[:20] for data in (dark, light)])
    assert (buffer.parts[0].images()[0] - both.mean(0)).abs().max() < 0.01


def test_a_class_that_comes_alone_is_distilled_beside_noise_or_what_is_remembered():
    buffer = shown(memory(12), [0], [1], [2, 3])
    assert [part.key[1] for part in buffer.parts] == [0, 1, 2, 3]
    assert [len(part) for part in buffer.parts] == [3, 3, 3, 3]


def test_tasks_that_number_their_classes_anew_keep_them_apart():
    sets = [dataset([2 * t, 2 * t + 1], task=t, offset=2 * t, seed=t) for t in range(3)]
    buffer = memory(12)
    for experience in benchmark_from_datasets(train=sets, test=sets).train_stream:
        buffer.post_adapt(None, experience)
    assert [part.key for part in buffer.parts] == [(t, c) for t in range(3) for c in range(2)]
    assert sorted(buffer.buffer_groups) == [0, 1]
    assert buffer.buffer.targets_task_labels.uniques == {0, 1, 2}


def test_resize_drops_and_never_exceeds():
    buffer = shown(memory(12), [0, 1])
    before = [part.images() for part in buffer.parts]
    buffer.resize(None, 6)
    assert buffer.nbytes == 6 * SAMPLE and buffer.max_size == 6
    for old, part in zip(before, buffer.parts, strict=True):
        kept = part.images()
        assert all(any(torch.equal(one, other) for other in old) for one in kept)
        # Herding: of single items none is nearer the mean.
        gaps = (old - old.mean(0)).flatten(1).norm(dim=1)
        assert torch.equal(kept[0], old[int(gaps.argmin())])
    with pytest.raises(ValueError, match="budget must hold an item of 66 bytes"):
        buffer.resize(None, 1)
    assert buffer.nbytes == 6 * SAMPLE and len(buffer.buffer) == 6


def test_a_small_memory_is_repeated_to_fill_its_share_of_a_batch():
    buffer = shown(memory(4, replay=ReplayOptions(fill=10)), [0, 1])
    assert len(buffer.buffer) == 12 and buffer.nbytes == 4 * SAMPLE
    assert torch.equal(buffer.buffer[0][0], buffer.buffer[4][0])
    assert sum(len(group.buffer) for group in buffer.buffer_groups.values()) >= 10


def test_replayed_images_are_augmented_apart_from_the_stream():
    buffer = shown(memory(4, replay=ReplayOptions(augmentation="crop")), [0, 1])
    looks = [buffer.buffer[0][0] for _ in range(8)]
    assert len({look.numpy().tobytes() for look in looks}) > 1
    again = shown(memory(4, replay=ReplayOptions(augmentation="crop")), [0, 1])
    torch.manual_seed(77)
    assert all(torch.equal(look, again.buffer[0][0]) for look in looks)


def test_the_global_seed_changes_nothing():
    torch.manual_seed(1)
    first = shown(memory(), [0, 1], [2, 3])
    torch.manual_seed(2)
    second = shown(memory(), [0, 1], [2, 3])
    for a, b in zip(first.parts, second.parts, strict=True):
        assert torch.equal(a.images(), b.images())


def test_distillation_stops_with_its_seconds_and_keeps_what_it_has():
    long = Distiller(dd.DM(steps=100_000, real_batch=8, augmentation=""), **MLP, seconds=0.2)
    buffer = shown(memory(4, long), [0, 1])
    assert 0.2 <= buffer.seconds < 5
    assert len(buffer.buffer) == 4


@dataclass(frozen=True, kw_only=True)
class Own(DirectRecipe):
    """A recipe of one's own."""

    name: ClassVar[str] = "own"

    def check(self):
        pass

    def protocol(self, real):
        return dd.TrainingProtocol()


@dataclass(frozen=True, kw_only=True)
class Blended(Own):
    """Random real images with softened labels."""

    def make(self, real, *, make_student, rng):
        drawn = dd.BASELINES["random"](ipc=self.ipc).make(real, make_student=make_student, rng=rng)
        k = real.num_classes
        rows = 0.8 * torch.nn.functional.one_hot(drawn.classes, k) + 0.2 / k
        return dd.SyntheticSet(drawn.parametrization, FixedLabels(rows), drawn.classes, k)


def soft_memory(**how):
    return memory(12, Distiller(Blended(), **MLP), replay=ReplayOptions(soft=6), **how)


def test_soft_labels_go_end_to_end():
    buffer = soft_memory()
    net = network()
    plugins = [ReplayPlugin(12, storage_policy=buffer), SoftLabelPlugin(buffer)]
    strategy = naive(net, plugins)
    bench = stream([0, 1], [2, 3], tensors=True)
    strategy.train(bench.train_stream[0])
    row = buffer.buffer[0][1]
    assert row.shape == (6,) and float(row.sum()) == pytest.approx(1, abs=2e-3)
    assert sorted(row.tolist()) == pytest.approx([0, 0, 0, 0, 0.1, 0.9], abs=1e-3)
    labels = strategy_batches(strategy, bench.train_stream[1])
    assert all(y.shape[1] == 6 for y in labels)
    soft = torch.cat(labels)
    assert {round(value, 1) for value in soft.flatten().tolist()} == {0.0, 0.1, 0.9, 1.0}
    part = buffer.parts[0]
    assert part.nbytes == sum(t.nbytes for t in part.packed.values()) + 2 * 2 * len(part) + 2
    assert buffer.nbytes <= 12 * SAMPLE


def strategy_batches(strategy, experience):
    from avalanche.training.plugins import SupervisedPlugin

    labels = []

    class Watch(SupervisedPlugin):
        def after_forward(self, strategy, *args, **kwargs):
            labels.append(strategy.mb_y.detach().clone())

    strategy.plugins.append(Watch())
    strategy.train(experience)
    return labels


def test_metrics_and_workers_take_soft_labels():
    buffer = soft_memory()
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        class_accuracy_metrics(epoch=True),
        loss_metrics(epoch=True),
        forgetting_metrics(experience=True, stream=True),
        loggers=[],
    )
    plugins = [ReplayPlugin(12, storage_policy=buffer), SoftLabelPlugin(buffer)]
    strategy = naive(network(), plugins, evaluator=evaluator)
    # Accuracy per class wants task labels.
    bench = stream([0, 1], [2, 3], task=0)
    for experience in bench.train_stream:
        strategy.train(experience)
        found = strategy.eval(bench.test_stream)
    assert 0 <= found["Top1_Acc_Stream/eval_phase/test_stream"] <= 1
    assert "StreamForgetting/eval_phase/test_stream" in found
    loader = DataLoader(buffer.buffer, batch_size=5, num_workers=2, collate_fn=SoftCollate(6))
    rows = torch.cat([y for _, y, _ in loader])
    assert rows.shape == (len(buffer.buffer), 6)
    assert torch.allclose(rows.sum(1), torch.ones(len(rows)), atol=2e-3)


def test_soft_labels_need_a_memory_that_has_them():
    with pytest.raises(ValueError, match=r"memory must have soft labels, from DistilledBuffer"):
        SoftLabelPlugin(memory())
    with pytest.raises(ValueError, match="soft must exceed the largest class id, 1, got 1"):
        shown(soft_memory(), [0, 1]).parts[0].rows(1)


def test_a_class_beyond_the_soft_labels_is_refused_before_any_work():
    buffer = memory(12, Distiller(Blended(), **MLP), replay=ReplayOptions(soft=2))
    with pytest.raises(ValueError, match="soft must exceed the largest class id, 3, got 2"):
        shown(buffer, [2, 3])
    assert buffer.calls == 0 and len(buffer.buffer) == 0


@dataclass(frozen=True, kw_only=True)
class Failing(Own):
    """A recipe that fails."""

    def make(self, real, *, make_student, rng):
        raise RuntimeError("no")


def test_what_waits_is_not_lost_where_its_distillation_fails():
    buffer = memory(8, Distiller(Failing(), **MLP), streaming=Streaming(every=2))
    buffer.post_adapt(None, Piece(dataset([0, 1], per_class=4)))
    with pytest.raises(RuntimeError, match="no"):
        buffer.post_adapt(None, Piece(dataset([0, 1], per_class=4)))
    assert buffer.waiting == 16 and len(buffer.buffer) == 0


class Piece:
    """A piece of a stream that knows no more than its data."""

    def __init__(self, data, first=False):
        self.dataset, self.is_first_subexp = data, first


def test_a_stream_is_distilled_every_few_pieces_and_at_boundaries():
    buffer = memory(8, streaming=Streaming(every=3, room=30), merge=True)
    calls = []
    for i in range(7):
        buffer.post_adapt(None, Piece(dataset([0, 1], per_class=4, seed=i)))
        calls.append((buffer.calls, buffer.waiting))
    assert calls == [(0, 8), (0, 16), (1, 0), (1, 8), (1, 16), (2, 0), (2, 8)]
    buffer.post_adapt(None, Piece(dataset([2, 3], per_class=4), first=True))
    assert (buffer.calls, buffer.waiting) == (3, 8)
    buffer.flush()
    assert (buffer.calls, buffer.waiting) == (4, 0)
    assert sorted(part.key[1] for part in buffer.parts) == [0, 1, 2, 3]


def test_the_queue_keeps_each_image_with_equal_chance():
    kept = torch.zeros(40)
    for seed in range(400):
        queue = Queue(10, seed)
        for piece in range(4):
            x = torch.arange(10 * piece, 10 * piece + 10, dtype=torch.uint8).view(-1, 1, 1, 1)
            queue.add(NewSamples(x, tuple((0, int(i)) for i in x.flatten())))
        assert len(queue) == 10
        waiting = queue.empty()
        assert waiting.images.flatten().tolist() == [c for _, c in waiting.keys]
        kept[waiting.images.flatten().long()] += 1
    # 100 of 400 each, with a standard deviation below 9.
    assert float((kept - 100).abs().max()) < 40
    assert float((kept.view(4, 10).mean(1) - 100).abs().max()) < 10


BAD = {
    "size": ({"size": 0}, "max_size must be at least 1, got 0"),
    "bytes": ({"budget_bytes": 0}, "budget_bytes must be at least 1, got 0"),
    "classes": ({"classes": 0}, "classes must be at least 1, got 0"),
}


@pytest.mark.parametrize(("how", "message"), BAD.values(), ids=BAD)
def test_bad_sizes_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        memory(**how)


def test_bad_parts_are_refused():
    with pytest.raises(TypeError, match=r"recipe must be a ddsdk\.Recipe, such as"):
        DistilledBuffer(10, "dm")
    with pytest.raises(ValueError, match="network must be one of"):
        Distiller(dd.DM(), network="resnet9")
    with pytest.raises(ValueError, match="seconds must be positive"):
        Distiller(dd.DM(), seconds=0)
    with pytest.raises(ValueError, match="relation must be 0 unless past=True"):
        Distiller(dd.DM(), relation=1.0)
    with pytest.raises(ValueError, match="fill must be at least 1, got 0"):
        ReplayOptions(fill=0)
    with pytest.raises(ValueError, match="augmentation must name operations"):
        ReplayOptions(augmentation="zooming")
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        Streaming(every=0)


def test_too_few_bytes_for_the_classes_leave_the_memory_as_it_was():
    buffer = memory(3)
    bench = stream([0, 1], [2, 3])
    buffer.post_adapt(None, bench.train_stream[0])
    before = buffer.nbytes
    with pytest.raises(ValueError, match="budget must hold an item of 66 bytes, got 49"):
        buffer.post_adapt(None, bench.train_stream[1])
    assert buffer.nbytes == before and len(buffer.buffer) == 2
