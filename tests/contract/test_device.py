"""Every method computes on the device of its data alone: the stand-in for a GPU refuses what CUDA would refuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from every_method import IPC, ITERATIVE, METHODS, TINY
from fake_device import CUDA, FakeCuda
from torch.nn.functional import avg_pool2d

import ddsdk as dd
from ddsdk.cli.options import check_device
from ddsdk.networks import AvgPool2
from ddsdk.running import read_checkpoint, write_checkpoint
from ddsdk.running.run import Run
from ddsdk.training import EarlyStopping
from ddsdk.training.micro import MICRO_BATCH

FIELDS = ("images", "labels", "owner")
_ON_CPU: dict[str, dd.Distilled] = {}


@pytest.fixture(autouse=True)
def one_kernel(monkeypatch):
    """On a GPU, pooling is torch's own kernel, which rounds in another way than that of the CPU."""
    monkeypatch.setattr(AvgPool2, "forward", lambda self, x: avg_pool2d(x, 2))


@pytest.fixture
def expected(key, tiny, make_student, monkeypatch, tmp_path):
    """The set of the method from a run on the CPU, which is made once, with networks of its own."""
    if key not in _ON_CPU:
        monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "on cpu"))
        _ON_CPU[key] = dd.distill(METHODS[key](ipc=IPC, **TINY[key]), tiny, make_student=make_student, seed=0)
    return _ON_CPU[key]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    # Experts, pools and teachers are trained on the device, and not read from the files of other tests.
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "runs"))
    with FakeCuda() as cuda:
        yield cuda


def same_set(found, expected):
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name in FIELDS)


def run_of(key, real, make_student):
    return Run(METHODS[key](ipc=IPC, **TINY[key]), real, make_student=make_student, seed=0)


@pytest.mark.parametrize("key", TINY)
def test_a_method_computes_on_the_device_what_it_computes_on_the_cpu(key, expected, tiny, make_student, fake, tmp_path):
    run = run_of(key, tiny.to("cuda"), make_student)
    assert list(run.prepare()) or run.runs is None
    if run.iterative:
        syn = run.distillation.plan.syn
        fake.clear()
        assert len(list(run)) == 2
        assert not fake.moves
        assert {tensor.device for tensor in syn.state_dict().values()} == {CUDA}
    found = run.distilled() if run.iterative else run.complete()
    assert same_set(found, expected)
    assert found.provenance["device"] == "stand-in"
    found.save(tmp_path / "set")
    assert same_set(dd.Distilled.load(tmp_path / "set"), expected)


@pytest.mark.parametrize("key", ITERATIVE)
def test_a_checkpoint_goes_on_on_the_device(key, expected, tiny, make_student, fake, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    real = tiny.to("cuda")
    first = run_of(key, real, make_student)
    next(first)
    write_checkpoint(path, {}, first.state_dict())
    second = run_of(key, real, make_student)
    second.load_state_dict(read_checkpoint(path, {}))
    assert same_set(second.complete(), expected)


PROTOCOL = dd.TrainingProtocol(name="short", epochs=2, networks=1, batch_size=4, network_options={"width": 4})
PROTOCOLS = {
    "plain": {},
    "adam": {"optimizer": "adam", "schedule": "cosine", "warm_up": 0.5},
    "augmented": {"augmentation": "color_crop_cutout_flip_scale_rotate", "mix": 0.9},
    "centred": {"loss": "mse", "labels": "centred", "subtract_initial": True},
    "probabilities": {"labels": "probabilities", "label_scale": 2.0},
    "early stopping": {"early_stopping": EarlyStopping(images=6, patience=1)},
}


@pytest.mark.parametrize("changes", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("key", ["datm"])
def test_a_set_is_evaluated_on_the_device(changes, key, expected, tiny, fake):
    protocol = dataclasses.replace(PROTOCOL, **changes)
    baselines = () if changes else ("random", "herding", "k-means", "grand")

    def scores(real):
        found = dd.evaluate(expected, real, protocol, train=real, baselines=baselines)
        return [(score.name, score.accuracies) for score in found]

    assert scores(tiny.to("cuda")) == scores(tiny)


@pytest.mark.parametrize("key", ["dd", "datm", "dm"])
def test_a_run_starts_from_a_set_and_is_validated_on_the_device(key, expected, tiny, make_student, fake):
    def images(real):
        train, held = real.split(0.3, dd.generator(0))
        validation = dd.Validation(held=held, every=1, epochs=1, width=4)
        recipe = dd.DM(ipc=2, steps=2, real_batch=4)
        return dd.distill(recipe, train, make_student=make_student, start=expected, validation=validation).images

    assert torch.equal(images(tiny.to("cuda")), images(tiny))


def test_whitened_data_move_to_the_device(tiny, make_student, fake, tmp_path):
    whitened = tiny.with_preprocess(dd.Preprocess.fit_zca(tiny.images))
    recipe = dd.DM(ipc=1, steps=2, real_batch=4)
    sets = [dd.distill(recipe, real, make_student=make_student) for real in (whitened, whitened.to("cuda"))]
    assert same_set(*sets)
    sets[1].save(tmp_path / "set")
    opened = dd.Distilled.load(tmp_path / "set")
    scores = [dd.evaluate(opened, test, PROTOCOL).accuracies for test in (tiny, tiny.to("cuda"))]
    assert scores[0] == scores[1]


def test_the_command_line_finds_the_device(fake):
    check_device("cuda")
    check_device("cuda:0")


def test_an_average_is_restored_to_the_device_also_where_a_step_is_undone(tiny, make_student, fake, tmp_path):
    """The state before a step and the state to go back to are read from the same file."""
    path, real = tmp_path / "checkpoint.safetensors", tiny.to("cuda")
    first, second = (run_of("ftd", real, make_student) for _ in range(2))
    next(first)
    write_checkpoint(path, {}, first.state_dict())
    second.load_state_dict(read_checkpoint(path, {}))
    loop = second.distillation
    loop._back_off(float("nan"))
    assert {tensor.device for tensor in loop._average.values()} == {CUDA}


@pytest.mark.parametrize("key", ["it-gan", "glad", "dsa", "mtt", "frepo", "sre2l"])
def test_no_random_number_depends_on_the_size_of_a_micro_batch(key, tiny, make_student, monkeypatch, tmp_path):
    """The device decides the size, and all devices get the same numbers."""
    sets = []
    for size in (3, None):
        monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / str(size)))
        monkeypatch.setitem(MICRO_BATCH, "cpu", size)
        sets.append(run_of(key, tiny, make_student).complete().images)
    torch.testing.assert_close(*sets, rtol=0, atol=1e-4)
