"""CAFE, IDM, DataDAM, M3D and NCFM: supplies that remember, rules that end, defaults that fit any data."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.checkpoint import pack, unpack
from ddsdk.networks.norms import uses_batch_statistics
from ddsdk.recipes import RECIPES
from ddsdk.recipes.parts import pixel_set
from ddsdk.students.plateau import spread

FAMILY = ("cafe", "idm", "datadam", "m3d", "ncfm")


@pytest.fixture
def syn(tiny):
    return pixel_set(tiny, 2, "real", dd.generator(0))


def weights(student):
    network = student.network if isinstance(student, dd.Rated) else student
    return torch.cat([t.detach().flatten().double() for t in network.state_dict().values()])


def step(students, real, syn, i):
    return students.next(real, syn, dd.generator("step", i))


def queue(make_student, **options):
    lesson = dd.OnReal(steps=2, batch_size=4, augmentation=dd.Augmentation("crop"))
    settings = {"queue": 4, "push_every": 2, "lr": 0.05} | options
    return dd.QueueStudents(make_student, lesson, dd.accuracy_on(8), **settings)


def plateau(make_student, check=None, **options):
    settings = {"longest": 4, "most_lessons": 3, "window": 3, "lr": 0.05} | options
    return dd.PlateauStudents(
        make_student, dd.OnSynthetic(epochs=1, batch_size=4), check or dd.accuracy_on(8), **settings
    )


def several(make_student):
    return dd.FreshStudents(make_student, period=3)


SUPPLIES = {"queue": queue, "plateau": plateau, "several": several}


# Going on


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name", SUPPLIES)
def test_a_supply_goes_on_bit_for_bit(tiny, syn, name, norm):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm=norm)
    straight = SUPPLIES[name](make)
    found = []
    for i in range(9):
        student = step(straight, tiny, syn, i)
        found.append((weights(student).clone(), getattr(student, "accuracy", None)))
    for stop in range(9):
        first = SUPPLIES[name](make)
        for i in range(stop):
            step(first, tiny, syn, i)
        second, third = SUPPLIES[name](make), SUPPLIES[name](make)
        second.load_state_dict(unpack(*pack(copy.deepcopy(first.state_dict()))))
        # A state that was only loaded is given back as it was.
        third.load_state_dict(unpack(*pack(second.state_dict())))
        for students in (second, third):
            for i in range(stop, 9):
                student = step(students, tiny, syn, i)
                assert torch.equal(weights(student), found[i][0])
                assert getattr(student, "accuracy", None) == found[i][1]


@pytest.mark.parametrize("name", SUPPLIES)
def test_a_state_that_was_taken_stays(tiny, syn, make_student, name):
    """A distillation takes a snapshot, goes on, and may come back to it more than once."""
    students = SUPPLIES[name](make_student)
    start = copy.deepcopy(students.state_dict())
    for i in range(3):
        step(students, tiny, syn, i)
    state = copy.deepcopy(students.state_dict())
    kept = copy.deepcopy(state)
    runs = []
    for _ in range(2):
        students.load_state_dict(state)
        runs.append([weights(step(students, tiny, syn, i)).clone() for i in range(3, 7)])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(pack(state)[1].values(), pack(kept)[1].values(), strict=True):
        assert torch.equal(one, other)
    students.load_state_dict(start)
    again, fresh = step(students, tiny, syn, 0), step(SUPPLIES[name](make_student), tiny, syn, 0)
    assert torch.equal(weights(again), weights(fresh))


# Several steps for one random network


def test_a_random_network_serves_for_its_period_unchanged(tiny, syn, make_student):
    students = several(make_student)
    found = [weights(step(students, tiny, syn, i)).clone() for i in range(7)]
    for i, one in enumerate(found):
        assert torch.equal(one, weights(dd.enrol(make_student, tiny, dd.generator("step", i - i % 3))))
    with pytest.raises(ValueError, match="period must be at least 1, got 0"):
        dd.FreshStudents(make_student, period=0)


# The queue


def test_the_queue_grows_to_its_cap_and_loses_the_oldest(tiny, syn, make_student):
    students = queue(make_student, queue=5, first=3, push_every=2, trained=1)
    firsts = [dd.enrol(make_student, tiny, dd.derive(dd.generator("step", 0), "first", i)) for i in range(3)]
    step(students, tiny, syn, 0)
    vectors = students.state_dict()["vectors"]
    for vector, network in zip(vectors, firsts, strict=True):
        assert torch.equal(vector.double(), weights(network))
    sizes = [3]
    for i in range(1, 9):
        before = list(students.state_dict()["vectors"])
        step(students, tiny, syn, i)
        state = students.state_dict()
        sizes.append(len(state["vectors"]))
        assert len(state["accuracies"]) == sizes[-1]
        if i % 2 == 0:
            assert state["accuracies"][-1] == 0.0
            fresh = dd.enrol(make_student, tiny, dd.derive(dd.generator("step", i), "fresh"))
            assert torch.equal(state["vectors"][-1].double(), weights(fresh))
        # Beside the one that learned, everybody is where it was, or one place nearer to the end.
        moved = int(sizes[-2] == 5 and i % 2 == 0)
        same = sum(a is b for a, b in zip(before[moved:], state["vectors"], strict=False))
        assert same >= len(before) - moved - 1
    assert sizes == [3, 3, 4, 4, 5, 5, 5, 5, 5]
    small = queue(make_student, queue=2, first=3)
    step(small, tiny, syn, 0)
    assert len(small.state_dict()["vectors"]) == 2


def test_two_of_the_queue_learn_at_each_step(tiny, syn, make_student):
    students = queue(make_student, queue=6, first=5, push_every=100, trained=2)
    step(students, tiny, syn, 0)
    ages = torch.zeros(5, dtype=torch.int64)
    for i in range(1, 30):
        before = list(students.state_dict()["vectors"])
        step(students, tiny, syn, i)
        learned = [a is not b for a, b in zip(before, students.state_dict()["vectors"], strict=True)]
        assert sum(learned) == 2
        ages += torch.tensor(learned)
    assert int(ages.sum()) == 58
    assert int(ages.min()) > 0


def test_the_queue_hands_out_what_it_holds(tiny, syn, make_student):
    students, seen = queue(make_student, push_every=100), set()
    for i in range(20):
        student = step(students, tiny, syn, i)
        state = students.state_dict()
        places = [k for k, v in enumerate(state["vectors"]) if torch.equal(v.double(), weights(student))]
        assert len(places) == 1
        assert student.accuracy == state["accuracies"][places[0]]
        assert 0.0 <= student.accuracy <= 1.0
        seen.add(places[0])
    assert seen == {0, 1, 2}


def test_a_queue_teaches(digits, make_digit_student):
    train, _ = digits
    students = dd.QueueStudents(
        make_digit_student, dd.OnReal(steps=10, batch_size=64), dd.accuracy_on(256), first=2, push_every=100
    )
    shown = pixel_set(train, 1, "real", dd.generator(0))
    accuracies = []
    for i in range(8):
        step(students, train, shown, i)
        accuracies.append(max(students.state_dict()["accuracies"]))
    assert accuracies[0] == 0.0
    assert accuracies[-1] > 0.6


def test_batch_statistics_of_a_queue_stay_frozen_and_its_own(tiny, syn):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm="batch")
    students = queue(make)
    for i in range(4):
        student = step(students, tiny, syn, i)
        assert not uses_batch_statistics(student.network)


# The plateau


class Script:
    """Accuracies that are read from a list."""

    def __init__(self, *values):
        self.values, self.calls = list(values), 0

    def __call__(self, student, real, rng):
        self.calls += 1
        return self.values[min(self.calls, len(self.values)) - 1]


def births(students, real, syn, steps):
    """The steps at which a new network came."""
    found = []
    for i in range(steps):
        step(students, real, syn, i)
        if len(students.state_dict()["checks"]) == 1:
            found.append(i)
    return found


def test_spread_looks_at_the_last_few():
    assert spread([0.9, 0.1, 0.2], 2) == pytest.approx(0.1)
    assert spread([0.9, 0.1, 0.2], 10) == pytest.approx(0.8)
    assert spread([0.4], 3) == 0.0


def test_a_network_whose_accuracy_is_flat_is_replaced_after_the_window(tiny, syn, make_student):
    students = plateau(make_student, Script(0.5), window=3, longest=100, most_lessons=1)
    assert births(students, tiny, syn, 8) == [0, 3, 6]


def test_a_network_that_goes_on_learning_serves_until_the_cap(tiny, syn, make_student):
    rising = Script(*(0.05 * i for i in range(100)))
    students = plateau(make_student, rising, window=3, longest=5, most_lessons=1)
    assert births(students, tiny, syn, 11) == [0, 5, 10]


def test_a_network_is_replaced_when_its_accuracy_settles(tiny, syn, make_student):
    script = Script(0.1, 0.3, 0.5, 0.6, 0.61, 0.62, 0.1)
    students = plateau(make_student, script, window=3, longest=100, most_lessons=1)
    # 0.6, 0.61 and 0.62 lie within 0.04: the sixth check is the last one.
    assert births(students, tiny, syn, 8) == [0, 6]


def test_lessons_end_when_the_accuracy_has_moved_or_at_the_cap(tiny, syn, make_student):
    script = Script(0.5, 0.51, 0.52, 0.54)
    students = plateau(make_student, script, window=10, longest=100, most_lessons=7)
    step(students, tiny, syn, 0)
    assert script.calls == 1
    # From 0.5, the fourth number is the first one that differs by more than 0.03.
    step(students, tiny, syn, 1)
    assert script.calls == 4
    assert students.state_dict()["checks"] == [0.5, 0.54]
    # From then on nothing moves: the cap ends the lessons.
    step(students, tiny, syn, 2)
    assert script.calls == 4 + 7


def test_without_lessons_the_network_stays(tiny, syn, make_student):
    students = plateau(make_student, most_lessons=0, longest=5, window=10)
    found = [weights(step(students, tiny, syn, i)).clone() for i in range(5)]
    assert all(torch.equal(found[0], one) for one in found)


def test_checking_does_not_thaw_batch_statistics(tiny, syn):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm="batch")
    students = plateau(make)
    for i in range(3):
        assert not uses_batch_statistics(step(students, tiny, syn, i))


# Recipes


def plan_of(name, real, make_student, **fields):
    recipe = RECIPES[name](**RECIPE_SETTINGS[name] | fields)
    return recipe.plan(real, make_student=make_student, rng=dd.generator("plan"))


def rate(plan):
    return plan.make_optimizer(plan.syn).param_groups[0]["lr"]


def test_rates_are_derived(tiny, make_student):
    assert rate(plan_of("datadam", tiny, make_student, ipc=5)) == 1.0
    assert rate(plan_of("datadam", tiny, make_student, ipc=51, start="noise")) == 10.0
    assert rate(plan_of("m3d", tiny, make_student, ipc=100, start="noise")) == 10.0
    assert rate(plan_of("idm", tiny, make_student, ipc=2)) == 0.2
    assert rate(plan_of("cafe", tiny, make_student, ipc=2)) == 0.1
    # AdamW moves each pixel by its rate: 0.01 of the unit range is 0.04 of a space with std 0.25.
    assert rate(plan_of("ncfm", tiny, make_student, ipc=2)) == pytest.approx(0.04)


@pytest.mark.parametrize(("ipc", "weight"), [(1, 0.5), (10, 0.5), (30, 0.3), (50, 0.1), (200, 0.1)])
def test_the_weight_of_idm_is_interpolated(ipc, weight):
    assert dd.IDM(ipc=ipc).weight(2048) == pytest.approx(weight)
    assert dd.IDM(ipc=ipc).weight(1024) == pytest.approx(weight / 2)
    assert dd.IDM(ipc=ipc, class_weight=2.0).weight(7) == 2.0


def test_idm_looks_at_many_images_of_a_class_with_one_slot(tiny, make_student):
    def match(plan):
        return plan.objective.parts[0][1].objective

    assert match(plan_of("idm", tiny, make_student, ipc=1, real_batch=None)).real_batch == 5000
    assert match(plan_of("idm", tiny, make_student, ipc=2, real_batch=None)).real_batch == 256


def test_idm_asks_only_networks_that_know_something(tiny, make_student):
    plan = plan_of("idm", tiny, make_student, ipc=2)
    network = make_student(dd.generator(0))
    # The tiny network has 96 features.
    for accuracy, terms, weight in ((0.0, 3, 0.0), (0.5, 6, 25.0 * 96 / 2048)):
        student = dd.Rated(network, accuracy)
        assert plan.objective.parts[1][0](student) == weight
        assert len(list(plan.objective(student, tiny, plan.syn, dd.generator(0)))) == terms


def test_cafe_halves_its_rate_at_the_published_fractions():
    real = dd.load("digits")
    make = dd.network_factory("convnet", real.image_shape, 10, width=2, depth=1)
    plan = dd.CAFE(ipc=1, steps=2000).plan(real, make_student=make, rng=dd.generator(0))
    found = [plan.rate_at(i) for i in (0, 1199, 1200, 1599, 1600, 1799, 1800, 1999)]
    assert found == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_cafe_takes_the_augmentation_everywhere_or_nowhere(tiny, make_student):
    for given, wanted in (("", ""), ("flip", "flip"), (None, dd.DSA_STRATEGY)):
        plan = plan_of("cafe", tiny, make_student, ipc=1, augmentation=given)
        assert [part.augmentation.strategy for _, part in plan.objective.parts] == [wanted] * 2
        assert dd.CAFE(ipc=1, augmentation=given).evaluation(tiny).augmentation == wanted
    assert dd.CAFE(ipc=1).evaluation(tiny).epochs == 300


def test_ncfm_draws_new_frequencies_for_each_step_and_the_same_again(tiny, make_student):
    plan = plan_of("ncfm", tiny, make_student, ipc=2)

    def drawn(i):
        return plan.objective_at(i).parts[0][1].byproduct.frequencies

    assert drawn(0).shape == (4 * 4 * 6, 8)
    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_ncfm_judges_by_a_trained_network_of_the_pool(tiny, make_student, tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path))
    recipe = dd.NCFM(ipc=1, **RECIPE_SETTINGS["ncfm"])
    rng = dd.generator("plan")
    runs = recipe.runs(tiny, make_student=make_student, rng=rng)
    assert len(runs) == 2
    plan = recipe.plan(tiny, make_student=make_student, rng=rng)
    assert runs.missing == [1]
    teacher = plan.objective_at(0).parts[1][1].teacher
    assert torch.equal(weights(teacher), weights(runs.network(0)))
    assert runs.training.snapshots == 2


@pytest.mark.parametrize("name", ["idm", "m3d", "ncfm"])
def test_factor_one_is_plain_images(tiny, make_student, name):
    for factor, images in ((1, 6), (2, 24)):
        plan = plan_of(name, tiny, make_student, ipc=2, factor=factor)
        assert len(plan.syn.detached(dd.generator(0)).x) == images


@pytest.mark.parametrize("name", FAMILY)
def test_any_sizes_will_do(name):
    rng = dd.generator("odd")
    labels = torch.arange(2).repeat_interleave(torch.tensor([7, 2]))
    real = dd.RealData(
        torch.rand(9, 1, 9, 13, generator=rng),
        labels,
        class_names=("a", "b"),
        preprocess=dd.Preprocess.unit(1),
    )
    make = dd.network_factory("convnet", real.image_shape, 2, width=3, depth=2)
    recipe = RECIPES[name](ipc=2, **RECIPE_SETTINGS[name])
    found = recipe(real, make_student=make, rng=dd.generator(0))
    assert bool(torch.isfinite(found.images).all())
    assert len(found.images) in (4, 16)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("network", ["mlp", "resnet10"])
def test_other_networks_will_do(tiny, name, network):
    options = {"norm": "batch"} if network == "resnet10" else {"width": 8}
    make = dd.network_factory(network, tiny.image_shape, 3, **options)
    fields = RECIPE_SETTINGS[name] | {"steps": 1}
    run = RECIPES[name](ipc=1, **fields).distillation(tiny, make_student=make, rng=dd.generator(0))
    before = copy.deepcopy(run.plan.syn.state_dict())
    losses = [s.loss for s in run]
    assert all(math.isfinite(loss) for loss in losses)
    assert any(not torch.equal(before[k], v) for k, v in run.plan.syn.state_dict().items())


SCALED = {
    "cafe": {"steps": 8, "augmentation": "", "real_batch": 64, "student_epochs": 1, "start": "real"},
    "datadam": {"steps": 12, "augmentation": "", "real_batch": 64, "image_lr": 0.1},
    "m3d": {"steps": 20, "augmentation": "", "real_batch": 64, "steps_per_student": 20},
}


@pytest.mark.parametrize("name", SCALED)
def test_the_loss_falls_under_one_network(digits, make_digit_student, name):
    train, _ = digits
    recipe = RECIPES[name](ipc=2, **SCALED[name])
    plan = recipe.plan(train, make_student=make_digit_student, rng=dd.generator("plan"))
    one = dd.FreshStudents(make_digit_student, period=1000)
    run = dd.Distillation(dataclasses.replace(plan, students=one), train, rng=dd.generator("run"))
    losses = [s.loss for s in run]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


# Refusals


def test_refusals(tiny, syn, make_student):
    images = tiny.batch(torch.arange(2))
    plain = torch.nn.Flatten()
    with pytest.raises(TypeError, match="body"):
        dd.layer_means(plain, images, graph=False)
    with pytest.raises(TypeError, match="body"):
        dd.AttentionMaps()(plain, images, graph=False)
    with pytest.raises(TypeError, match="embed"):
        dd.all_features(plain, images, graph=False)
    with pytest.raises(ValueError, match="power must be positive and finite, got 0"):
        dd.AttentionMaps(0)
    with pytest.raises(ValueError, match=r"frequencies must have shape \(F, T\), got \(3,\)"):
        dd.CharacteristicFunction(torch.zeros(3))
    with pytest.raises(ValueError, match="weights must be at least one number"):
        dd.LayerSquares(())
    with pytest.raises(ValueError, match="scales must be positive and finite, got 0"):
        dd.GaussianMMD((1.0, 0.0))
    with pytest.raises(ValueError, match="phase must not be negative, got -1"):
        dd.CharacteristicDistance(phase=-1)
    with pytest.raises(ValueError, match="real_batch must be at least 1, got 0"):
        dd.Discrimination(real_batch=0)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        dd.accuracy_on(0)
    for name in ("queue", "first", "push_every", "trained"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            queue(make_student, **{name: 0})
    for name, value in (
        ("longest", 0),
        ("most_lessons", -1),
        ("window", 1),
        ("settled", 0.0),
        ("moved", -1.0),
    ):
        with pytest.raises(ValueError, match=f"^{name} must"):
            plateau(make_student, **{name: value})


BAD = {
    "cafe": {"discrimination": -1.0, "early_weight": float("nan"), "decay": 0.0, "moved": 0.0},
    "idm": {"queue": 0, "push_every": 0, "factor": 0, "class_weight": -1.0, "student_momentum": 1.0},
    "datadam": {"power": 0.0, "output_weight": -1.0, "scale": 0.0},
    "m3d": {"steps_per_student": 0, "factor": 0},
    "ncfm": {"pool": 0, "frequencies": 0, "amplitude_weight": 1.5, "calibration": -1.0, "pool_lr": 0.0},
}


@pytest.mark.parametrize(("name", "field"), [(n, f) for n, fields in BAD.items() for f in fields])
def test_a_bad_field_is_refused_by_its_name(name, field):
    with pytest.raises(ValueError, match=f"^{field} must "):
        RECIPES[name](**{field: BAD[name][field]})
