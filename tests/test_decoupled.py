"""Decoupled methods: fixed teachers, recovered images, chosen crops, and labels that say whose they are."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.foundation import derive
from ddsdk.networks.norms import has_batch_norm, uses_batch_statistics
from ddsdk.objectives import StatisticsMatch, StatisticsTeacher
from ddsdk.recipes.parts import pixel_set
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.running.run import Run
from ddsdk.students import FixedTeachers, TrainedRuns, Training, batch_norm_student
from ddsdk.synthetic import Pixels, hard_labels, with_teacher_labels
from ddsdk.synthetic.set import LeafView

TEACHER = {"teacher_epochs": 2, "teacher_images": 20}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))


def data(shape=(1, 7, 10), classes=2, each=6):
    images = torch.rand(classes * each, *shape, generator=dd.generator("data"))
    labels = torch.arange(classes).repeat_interleave(each)
    preprocess = dd.Preprocess.normalise([0.4] * shape[0], [0.3] * shape[0])
    names = [f"class {c}" for c in range(classes)]
    return dd.RealData(images, labels, class_names=names, preprocess=preprocess, name="blobs")


def batch_norm(real, **options):
    settings = {"width": 4, "depth": 1, "norm": "batch"} | options
    return dd.network_factory("convnet", real.image_shape, real.num_classes, **settings)


def test_fixed_teachers_are_made_once_and_drawn_by_the_step(tiny):
    made = []
    supply = FixedTeachers(lambda i: made.append(i) or f"teacher {i}", count=3)
    assert made == []
    steps = [supply.next(tiny, tiny, dd.generator("step", i)) for i in range(40)]
    assert sorted(made) == [0, 1, 2]
    assert set(steps) == {"teacher 0", "teacher 1", "teacher 2"}
    assert supply.state_dict() == {}
    supply.load_state_dict({})
    other = FixedTeachers(lambda i: f"teacher {i}", count=3)
    assert [other.next(tiny, tiny, dd.generator("step", i)) for i in range(40)] == steps
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        FixedTeachers(str, count=0)


def test_a_student_with_batch_norm_stays_and_one_without_gets_it(tiny, make_student):
    own = batch_norm(tiny)
    assert batch_norm_student(own) is own
    derived = batch_norm_student(make_student)
    assert derived.options == {**make_student.options, "norm": "batch"}
    assert has_batch_norm(derived(dd.generator(0)))


def test_a_student_that_cannot_have_it_is_refused(tiny):
    mlp = dd.network_factory("mlp", tiny.image_shape, 3)
    recipe = dd.SRe2L(ipc=1, steps=1, **TEACHER)
    for make in (mlp, lambda rng: mlp(rng)):
        with pytest.raises(ValueError, match="student must have BatchNorm layers, or be a network of the cata"):
            recipe.plan(tiny, make_student=make, rng=dd.generator(0))
    with pytest.raises(ValueError, match="teacher must have BatchNorm layers with running statistics, got 'Net"):
        StatisticsTeacher(mlp(dd.generator(0)))


def test_a_trained_network_has_the_statistics_of_its_own_weights(tiny, tmp_path):
    """Not those of the first weights, which a template was calibrated with."""
    make = batch_norm(tiny)
    training = Training(epochs=6, lr=0.3, batch_size=8)
    runs = TrainedRuns(tiny, make, training, count=1, seed=0, folder=tmp_path)
    network = runs.network(0)
    assert not uses_batch_statistics(network)
    conv, norm = network.body[0][0], network.body[0][1]
    # All images of each class take part here, as there are so few.
    z = conv(tiny.batch(torch.arange(len(tiny))).x)
    torch.testing.assert_close(norm.running_mean, z.mean((0, 2, 3)).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, z.var((0, 2, 3)).detach(), rtol=1e-4, atol=1e-5)
    first = runs.network(0, 0).body[0][1]
    assert not torch.allclose(first.running_mean, norm.running_mean, rtol=1e-2)


def test_a_batch_has_one_image_of_each_class(tiny):
    syn = pixel_set(tiny, 3, "real", dd.generator(0))
    for source in (syn, LeafView(syn)):
        match = StatisticsMatch()
        assert [b.tolist() for b in match._batches(source)] == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
        # No batch of a single image, which has poor statistics.
        cut = dataclasses.replace(match, batch=2)
        assert [len(b) for b in cut._batches(source)] == [2, 1] * 3
    uneven = dd.SyntheticSet(syn.parametrization, syn.labels, torch.tensor([0] * 5 + [1] * 3 + [2]), 3)
    batches = [b.tolist() for b in StatisticsMatch()._batches(uneven)]
    assert batches == [[0, 5, 8], [1, 6], [2, 7], [3], [4]]
    many = dd.SyntheticSet(
        Pixels(torch.zeros(101, 3, 2, 2)), hard_labels(torch.arange(101), 101), torch.arange(101), 101
    )
    assert [len(b) for b in StatisticsMatch(batch=100)._batches(many)] == [51, 50]


@pytest.fixture
def plan(tiny, make_student):
    recipe = dd.DM(ipc=1, steps=4, real_batch=4, augmentation="", image_lr=0.1)
    return recipe.plan(tiny, make_student=make_student, rng=dd.generator("plan"))


def run_of(plan, real, **parts):
    return dd.Distillation(dataclasses.replace(plan, **parts), real, rng=dd.generator("run"))


def test_a_run_with_factors_goes_on_bit_for_bit(tiny, make_student):
    def start():
        recipe = dd.SRe2L(ipc=2, steps=5, image_lr=0.1, **TEACHER)
        return Run(recipe, tiny, make_student=make_student, seed=dd.generator("run")).distillation

    straight = start()
    losses = [step.loss for step in straight]
    first = start()
    for _ in range(2):
        next(first)
    second = start()
    second.load_state_dict(unpack(*pack(first.state_dict())))
    assert [step.loss for step in second] == losses[2:]
    for a, b in zip(straight.result.state_dict().values(), second.result.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_result_is_finished_and_the_set_of_the_run_is_not(tiny, make_student, plan):
    teacher = make_student(dd.generator("teacher"))
    run = run_of(plan, tiny, average=0.5, finish=lambda syn, rng: with_teacher_labels(syn, teacher, rng))
    list(run)
    slots = torch.arange(3)
    assert torch.equal(run.plan.syn.labels.rows(slots), torch.eye(3))
    averaged = run_of(plan, tiny, average=0.5)
    averaged.load_state_dict(run.state_dict())
    x = averaged.result.detached(dd.generator(0)).x
    torch.testing.assert_close(run.result.labels.rows(slots), teacher(x).softmax(1).detach())


@pytest.mark.parametrize("real", [data(), data((3, 9, 8), classes=5, each=4)], ids=["grey", "colour"])
@pytest.mark.parametrize("make", [batch_norm, lambda real: batch_norm(real, norm="instance")])
def test_sre2l_lowers_its_loss_and_stores_its_teachers_rows(real, make):
    student = make(real)
    recipe = dd.SRe2L(ipc=2, steps=30, image_lr=0.1, weight=0.1, **TEACHER)
    run = Run(recipe, real, make_student=student, seed=dd.generator("run")).distillation
    losses = [step.loss for step in run]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    found = dd.distill(recipe, real, make_student=student, seed=dd.generator("run"))
    runs = recipe.runs(real, make_student=student, rng=derive(dd.generator("run"), "plan"))
    assert runs.missing == []
    torch.testing.assert_close(found.labels, runs.network(0)(found.images).softmax(1).detach())
    assert found.owner.tolist() == [c for c in range(real.num_classes) for _ in range(2)]
    assert found.provenance["runs"]["count"] == 1
    assert found.protocol["protocol"] == "published, stored teacher labels"
    unit = found.preprocess.inverse(found.images)
    assert float(unit.min()) > -1e-5
    assert float(unit.max()) < 1 + 1e-5
    assert found.manifest.storage.labels == "soft"


def test_statistics_come_closer_when_they_are_asked_for(digits):
    train, _ = digits
    make = dd.network_factory("convnet", train.image_shape, 10, width=8, depth=2, norm="batch")
    gaps = {}
    for weight in (0.0, 0.1):
        recipe = dd.SRe2L(ipc=1, steps=40, weight=weight, augmentation="", **TEACHER)
        found = dd.distill(recipe, train, make_student=make, seed=dd.generator("run"))
        runs = recipe.runs(train, make_student=make, rng=derive(dd.generator("run"), "plan"))
        gaps[weight] = float(StatisticsTeacher(runs.network(0))(found.images)[1].sum())
    assert gaps[0.1] < 0.6 * gaps[0.0]


@pytest.mark.parametrize("recipe", [dd.SRe2L(ipc=1, steps=1, **TEACHER), dd.RDED(ipc=1, images=4, **TEACHER)])
def test_hard_labels_stay_possible_and_keep_the_protocols_name(recipe, tiny, make_student):
    hard = dataclasses.replace(recipe, temperature=None)
    found = dd.distill(hard, tiny, make_student=make_student, seed=0)
    assert torch.equal(found.labels, torch.eye(3))
    assert found.protocol["protocol"] == "published"
    soft = dd.distill(recipe, tiny, make_student=make_student, seed=0)
    softer = dd.distill(dataclasses.replace(recipe, temperature=8.0), tiny, make_student=make_student, seed=0)
    assert torch.equal(soft.images, found.images)
    assert torch.equal(soft.images, softer.images)
    torch.testing.assert_close(softer.labels, soft.labels.log().div(8).softmax(1))


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("real", [data(), data((3, 9, 8), classes=5, each=4)], ids=["grey", "colour"])
def test_rded_stores_tiled_crops_with_its_teachers_rows(real, factor):
    make = batch_norm(real, norm="instance")
    recipe = dd.RDED(ipc=2, images=3, crops=4, factor=factor, **TEACHER)
    found = dd.distill(recipe, real, make_student=make, seed=dd.generator("run"))
    assert found.images.shape == (2 * real.num_classes, *real.image_shape)
    teacher = recipe.runs(real, make_student=make, rng=derive(dd.generator("run"), "plan")).network(0)
    torch.testing.assert_close(found.labels, teacher(found.images).softmax(1).detach())
    assert found.protocol["protocol"] == "published, stored teacher labels"
    # Crops are averages of real pixels: never brighter or darker than the class.
    for c in range(real.num_classes):
        x = real.batch(real.index_of_class(c)).x
        mine = found.images[found.owner == c]
        assert float(x.min()) - 1e-4 <= float(mine.min())
        assert float(mine.max()) <= float(x.max()) + 1e-4


def test_rded_takes_the_crops_that_its_teacher_finds_easy(digits, make_digit_student):
    train, _ = digits
    recipe = dd.RDED(ipc=2, images=30, teacher_epochs=10, teacher_lr=0.05)
    found = dd.distill(recipe, train, make_student=make_digit_student, seed=dd.generator("run"))
    key = derive(dd.generator("run"), "plan")
    teacher = recipe.runs(train, make_student=make_digit_student, rng=key).network(0)

    def loss(x, classes):
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(teacher(x), classes))

    index = torch.cat([train.index_of_class(c)[:2] for c in range(10)])
    assert loss(found.images, found.owner) < 0.5 * loss(train.batch(index).x, train.labels[index])


def test_the_factor_follows_the_size_of_the_images():
    small, large = data(), data((1, 128, 130), each=4)
    for real, tiles in ((small, 1), (large, 2)):
        make = dd.network_factory("mlp", real.image_shape, 2)
        settings = {"ipc": 1, "images": 2, "crops": 2, "teacher_epochs": 1, "temperature": None}
        derived = dd.distill(dd.RDED(**settings), real, make_student=make, seed=0)
        given = dd.distill(dd.RDED(**settings, factor=tiles), real, make_student=make, seed=0)
        assert torch.equal(derived.images, given.images)


def test_few_images_give_several_crops_of_each_and_too_few_are_refused(tiny, make_student):
    many = dd.RDED(ipc=5, crops=4, factor=2, **TEACHER)
    found = dd.distill(many, tiny, make_student=make_student, seed=0)
    assert len(found.images) == 15
    few = dataclasses.replace(many, crops=3)
    with pytest.raises(ValueError, match=r"keep must lie in 1..18, the crops of 6 images, got 20"):
        dd.distill(few, tiny, make_student=make_student, seed=0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (dd.SRe2L, {"batch": 1}, "batch must be at least 2, got 1"),
        (dd.SRe2L, {"weight": -1.0}, "weight must be finite and not negative, got -1.0"),
        (dd.SRe2L, {"weight": math.nan}, "weight must be finite and not negative, got nan"),
        (dd.SRe2L, {"temperature": 0.0}, "temperature must be positive and finite, got 0.0"),
        (dd.SRe2L, {"teacher_epochs": 0}, "teacher_epochs must be at least 1, got 0"),
        (dd.RDED, {"smallest": 0.0}, "smallest must lie in 0 < smallest <= 1, got 0.0"),
        (dd.RDED, {"factor": 0}, "factor must be at least 1, got 0"),
        (dd.RDED, {"teacher_images": 0}, "teacher_images must be at least 1, got 0"),
        (StatisticsMatch, {"first": math.inf}, "first must be finite and not negative, got inf"),
    ],
)
def test_refusals(kind, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind(**options)


@pytest.mark.parametrize("recipe", [["sre2l", "--steps", "2"], ["rded", "--images", "5"]])
def test_the_command_line_keeps_soft_labels(tmp_path, recipe, capsys):
    args = ["distill", "--data", "digits", "--threads", "1", "--width", "4", "--depth", "1", "--ipc", "1"]
    teacher = ["--teacher-epochs", "1", "--teacher-images", "8"]
    assert main([*args, "--recipe", *recipe, *teacher, "--out", str(tmp_path / "set")]) == 0
    found = dd.Distilled.load(tmp_path / "set")
    assert found.provenance["recipe"] == recipe[0]
    assert found.manifest.storage.labels == "soft"
    assert found.owner.tolist() == list(range(10))
