"""KIP, FRePo, RFAD and analytic distillation: their students, their identities and what comes out of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lasting_students import weights
from stored_sets import equal, stored

import ddsdk as dd
from ddsdk.objectives import ByFeatures, FitAndTest
from ddsdk.recipes.regression import regression_protocol
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.running.run import Run
from ddsdk.students import (
    FreshStudents,
    InitialisedStudents,
    StudentEnsemble,
    TrainedPool,
    plain_student,
    prepare_student,
)
from ddsdk.training import FullyConnectedNTK, KernelMachine, LinearKernel, Ridge, kernel_machine
from ddsdk.training.fit import batch_gradient
from ddsdk.training.losses import half_squared_error
from ddsdk.training.ridge import solve


@pytest.fixture
def syn(tiny):
    return dd.FRePo(ipc=2).scored_set(tiny, dd.generator(0))


def take(students, real, syn, steps):
    return [weights(students.next(real, syn, dd.generator("step", i))).clone() for i in steps]


def run_with(students, real, **options):
    settings = {"compare": ByFeatures(slope=2.0, bias=0.01), "ridge": Ridge(strength=5e-3), "real_batch": 8}
    recipe = dd.RFAD(ipc=2, steps=4)
    plan = dd.Plan(
        syn=recipe.scored_set(real, dd.generator(0)),
        objective=FitAndTest(**settings, **options),
        students=students,
        make_optimizer=recipe.adam(),
        steps=4,
    )
    run = dd.Distillation(plan, real, rng=dd.generator("run"))
    return [step.loss for step in run], stored(plan.syn)


def test_a_pool_that_does_not_train_is_a_supply_of_fresh_networks(tiny, make_student):
    """FRePo and RFAD are one code with a different supply of students."""
    pool = run_with(TrainedPool(make_student, pool=1, longest=0), tiny)
    fresh = run_with(FreshStudents(make_student), tiny)
    assert pool[0] == fresh[0]
    assert equal(pool[1], fresh[1])
    assert run_with(TrainedPool(make_student, pool=1, longest=2), tiny)[0] != fresh[0]


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_students_of_such_a_pool_are_the_same_bit_for_bit(tiny, syn, norm):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm=norm)
    pool = take(TrainedPool(make, pool=1, longest=0), tiny, syn, range(3))
    for one, two in zip(pool, take(FreshStudents(make), tiny, syn, range(3)), strict=True):
        assert torch.equal(one, two)


def test_a_network_of_the_pool_learns_the_set_and_leaves_at_its_age(tiny, syn, make_student):
    # Normalisation leaves biases before it without a gradient, and Adam would blow up what is left of one.
    make_student = plain_student(make_student)
    students = TrainedPool(make_student, pool=1, longest=2, lr=0.01)
    found = take(students, tiny, syn, range(5))
    fresh = [weights(prepare_student(make_student, tiny, dd.generator("step", i))) for i in range(5)]
    assert torch.equal(found[0], fresh[0])
    assert torch.equal(found[2], fresh[2])
    assert torch.equal(found[4], fresh[4])

    network = prepare_student(make_student, tiny, dd.generator("step", 0))
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    batch_gradient(network, syn.detached(dd.generator(0)), half_squared_error)
    adam.step()
    torch.testing.assert_close(found[1], weights(network), rtol=1e-4, atol=1e-5)


def test_ages_are_staggered_and_grow_one_at_a_time(tiny, syn, make_student):
    students = TrainedPool(make_student, pool=4, longest=8, most_steps=3)
    students.next(tiny, syn, dd.generator("step", 0))
    assert students.state_dict()["ages"] == [0, 2, 4, 6]
    picked = set()
    for i in range(1, 30):
        before, at = students.state_dict()["ages"], students.state_dict()["at"]
        picked.add(at)
        students.next(tiny, syn, dd.generator("step", i))
        after = students.state_dict()["ages"]
        assert [a for i, a in enumerate(after) if i != at] == [a for i, a in enumerate(before) if i != at]
        assert after[at] == 0 if after[at] < before[at] else 1 <= after[at] - before[at] <= 3
        assert max(after) < 8
    assert picked == {0, 1, 2, 3}


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_pool_goes_on_where_it_stopped(tiny, syn, norm):
    make_student = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm=norm)
    straight = TrainedPool(make_student, pool=3, longest=4, lr=0.01)
    wanted = take(straight, tiny, syn, range(8))
    first = TrainedPool(make_student, pool=3, longest=4, lr=0.01)
    take(first, tiny, syn, range(4))
    second = TrainedPool(make_student, pool=3, longest=4, lr=0.01)
    second.load_state_dict(unpack(*pack(first.state_dict())))
    for one, two in zip(take(second, tiny, syn, range(4, 8)), wanted[4:], strict=True):
        assert torch.equal(one, two)


def test_a_pool_refuses_what_it_cannot_be(make_student):
    for name, value in (("pool", 0), ("most_steps", 0), ("batch_size", 0), ("longest", -1)):
        with pytest.raises(ValueError, match=f"^{name} must be at least"):
            TrainedPool(make_student, **{name: value})
    with pytest.raises(ValueError, match=r"^lr must be positive and finite"):
        TrainedPool(make_student, lr=0.0)
    with pytest.raises(ValueError, match=r"^supplies must hold at least one, got 0$"):
        StudentEnsemble([])


def test_several_students_are_different_and_remember(tiny, syn, make_student):
    def make():
        return StudentEnsemble([FreshStudents(make_student, period=3), TrainedPool(make_student, pool=2)])

    straight, resumed = make(), make()
    one, two = straight.next(tiny, syn, dd.generator("step", 0))
    assert not torch.equal(weights(one), weights(two))
    resumed.load_state_dict(unpack(*pack(straight.state_dict())))
    pairs = [s.next(tiny, syn, dd.generator("step", 1)) for s in (straight, resumed)]
    for one, two in zip(*pairs, strict=True):
        assert torch.equal(weights(one), weights(two))


def test_a_plain_student_is_the_same_without_normalisation(make_student):
    plain = plain_student(make_student)
    assert plain.options == {**make_student.options, "norm": "none"}
    assert plain_student(plain) is plain
    mlp = dd.network_factory("mlp", (3, 8, 12), 3)
    assert plain_student(mlp) is mlp

    def own(rng):
        return make_student(rng)

    assert plain_student(own) is own


def test_he_weights_keep_the_size_of_a_signal():
    make = dd.network_factory("convnet", (3, 16, 16), 3, width=64, depth=2, norm="none", pooling="none")
    found = InitialisedStudents(make, "he-normal-biased")(dd.generator(0))
    state = torch.get_rng_state()
    again = InitialisedStudents(make, "he-normal-biased")(dd.generator(0))
    assert torch.equal(weights(found), weights(again))
    assert torch.equal(torch.get_rng_state(), state)
    for layer in found.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            wanted = (2 / layer.weight[0].numel()) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(wanted, rel=0.1)
    assert float(found.body[1][0].bias.detach().std()) == pytest.approx(0.1, rel=0.3)
    with pytest.raises(ValueError, match=r"init must be one of .*'he-normal'.*, got 'zeros'"):
        InitialisedStudents(make, "zeros")


def test_random_features_learn_what_regression_needs(digits, make_digit_student):
    train, test = digits
    recipe = dd.RFAD(ipc=1, steps=60, real_batch=100)
    run = Run(recipe, train, make_student=make_digit_student, seed=0).distillation

    def score():
        make = InitialisedStudents(plain_student(make_digit_student), "he-normal-biased")
        x, y = run.plan.syn.detached(dd.generator(0))
        with torch.no_grad():
            gram, cross = ByFeatures(slope=2.0, bias=0.01)(
                make(dd.generator("judge")), x, test.batch(torch.arange(len(test))).x
            )
        return float(((cross @ solve(gram, y, recipe.share).values).argmax(1) == test.labels).float().mean())

    before = score()
    scale = float(run.plan.syn.scale().detach())
    list(run)
    assert score() > before + 0.1
    assert float(run.plan.syn.scale().detach()) != scale


@pytest.mark.parametrize("kind", [dd.RFAD, dd.FRePo, dd.KIP])
@pytest.mark.parametrize("learned", [True, False])
def test_labels_are_centred_scores_that_may_be_learned(tiny, make_student, kind, learned):
    recipe = kind(ipc=2, steps=2, real_batch=4, learn_labels=learned)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    assert found.label_space == "scores"
    rows = torch.eye(3)[found.owner] - 1 / 3
    if kind is dd.FRePo:
        rows = rows * (10 / 3) ** 0.5
    assert torch.equal(found.labels, rows) != learned
    torch.testing.assert_close(found.labels, rows, atol=0.2, rtol=0.0)


def test_solved_labels_are_the_best_there_are(tiny, make_student):
    recipe = dd.KIP(ipc=2, steps=3, real_batch=6, solve_labels=True, ridge=1e-3)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    plain = dataclasses.replace(recipe, solve_labels=False)
    other = dd.distill(plain, tiny, make_student=make_student, seed=dd.generator("run"))
    assert torch.equal(found.images, other.images)
    x, y = tiny.batch(torch.arange(len(tiny)))
    kernel = FullyConnectedNTK()

    def residual(labels):
        return KernelMachine(kernel=kernel, ridge=recipe.share).fitted(found.images, labels)(x) - (y.double() - 1 / 3)

    assert float(residual(found.labels).square().sum()) < float(residual(other.labels).square().sum())
    # Where least squares has its minimum, nothing is left along any direction of the labels.
    for direction in torch.eye(6).split(1):
        along = KernelMachine(kernel=kernel, ridge=recipe.share).fitted(found.images, direction.T)(x)
        assert float((along * residual(found.labels)).sum(0).abs().max()) < 1e-4


@pytest.mark.parametrize("ipc", [1, 3])
def test_the_regression_of_an_analytic_set_is_that_of_all_data(tiny, make_student, ipc):
    recipe = dd.KRR(ipc=ipc, ridge=1e-3)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    x, y = tiny.batch(torch.arange(len(tiny)))
    new = torch.randn(10, *tiny.image_shape, generator=dd.generator("new"))
    exact = KernelMachine(kernel=LinearKernel(), ridge=Ridge(strength=1e-3)).fitted(x, y)(new)
    how = recipe.protocol(tiny)
    machine = kernel_machine(how.network, **how.network_options)
    torch.testing.assert_close(machine.fitted(found.images, found.labels)(new), exact, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"^ridge must be finite and not negative"):
        dd.KRR(ridge=-1.0)


def test_an_analytic_set_is_judged_as_a_kernel_machine(digits, make_digit_student):
    train, test = digits
    found = dd.distill(dd.KRR(ipc=1), train, make_student=make_digit_student, seed=0)
    how = dd.TrainingProtocol.from_dict(found.protocol)
    score = dd.evaluate((found.images, found.labels), test, how, seed=1)
    assert score.mean > 0.85


def test_a_network_in_the_place_of_a_kernel_fits_the_labels_of_the_set(tiny):
    """Cross-entropy of centred rows has no minimum."""
    how = dd.KIP(ipc=1).protocol(tiny).changed(network="convnet", options={"width": 4})
    assert (how.learner, how.loss) == ("network", "mse")


def test_mirror_images_join_where_the_paper_has_them(tiny, make_student):
    def mirrors(recipe, mirror_safe=True):
        tiny.mirror_safe = mirror_safe
        plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
        return plan.objective.mirrored

    assert mirrors(dd.FRePo(ipc=1))
    assert not mirrors(dd.FRePo(ipc=1), mirror_safe=False)
    assert mirrors(dd.FRePo(ipc=1, mirror=True), mirror_safe=False)
    assert not mirrors(dd.FRePo(ipc=1, mirror=False))
    assert not mirrors(dd.FRePo(ipc=200, start="noise"))


def test_the_protocol_follows_the_number_of_images(tiny):
    for images, steps in ((3, 1000), (10, 1000), (99, 1000), (100, 2000), (200, 20_000), (500, 5000), (5000, 40_000)):
        how = regression_protocol(images, augmentation="")
        assert how.epochs * how.steps_in_epoch(images) == pytest.approx(steps, rel=0.02)
        assert (how.loss, how.optimizer, how.schedule) == ("mse", "adam", "cosine")
        assert how.network_options == {"width": 128, "norm": "none", "doubling": True, "init": "lecun-normal"}
        assert how.warm_up * steps == pytest.approx(500)
    assert dd.KIP(kernel_depth=2).protocol(tiny).network_label == "fc-ntk kernel (depth 2, rule trace, ridge 1e-06)"


def test_frepo_takes_the_cross_entropy_where_it_is_asked_to(tiny, make_student):
    recipe = dd.FRePo(ipc=2, steps=3, real_batch=8, loss="cross-entropy", augmentation="", scale_lr=0.1)
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
    assert (plan.objective.loss, recipe.protocol(tiny).augmentation) == ("cross-entropy", "")
    before = float(plan.syn.scale().detach())
    assert before == pytest.approx(10.0)
    for step in dd.Distillation(plan, tiny, rng=dd.generator("run")):
        assert step.loss > -1
    assert float(plan.syn.scale().detach()) != before
    assert dd.FRePo(ipc=2).plan(tiny, make_student=make_student, rng=dd.generator(0)).syn.scale is None
    with pytest.raises(ValueError, match=r"loss must be one of \['mse', 'cross-entropy'\], got 'l1'"):
        dd.FRePo(loss="l1")
