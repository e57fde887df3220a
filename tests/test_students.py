"""Supplies of students: who is new, who has learned, and who goes on where it stopped."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from lasting_students import weights
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.data.augment import cutmix
from ddsdk.foundation import derive
from ddsdk.networks.norms import has_batch_norm, uses_batch_statistics
from ddsdk.recipes.parts import pixel_set
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.students import AlternatingStudents, FreshStudents, TrainOnReal, TrainOnSynthetic, prepare_student
from ddsdk.training.fit import accuracy

LESSONS = {
    "synthetic": TrainOnSynthetic(epochs=2, batch_size=4, augmentation=dd.Augmentation("crop_flip")),
    "real": TrainOnReal(steps=3, batch_size=8, augmentation=dd.Augmentation("color")),
}


def alternating(make_student, update="real", **options):
    settings = {"period": 3, "lr": 0.05, "momentum": 0.9} | options
    return AlternatingStudents(make_student, LESSONS[update], **settings)


def take(students, real, syn, steps):
    return [weights(students.next(real, syn, dd.generator("step", i))).clone() for i in steps]


@pytest.fixture
def syn(tiny):
    return pixel_set(tiny, 2, "real", dd.generator(0))


def make_batch_norm(real):
    return dd.network_factory("convnet", real.image_shape, real.num_classes, width=4, depth=1, norm="batch")


def test_fresh_students_are_new_at_every_step_and_constant(tiny, syn, make_student):
    students = FreshStudents(make_student)
    torch.manual_seed(0)
    a, b = take(students, tiny, syn, (0, 1))
    torch.manual_seed(1)
    assert not torch.equal(a, b)
    assert torch.equal(take(FreshStudents(make_student), tiny, syn, (1,))[0], b)
    student = students.next(tiny, syn, dd.generator(0))
    assert not any(p.requires_grad for p in student.parameters())
    assert students.state_dict() == {}
    students.load_state_dict({})


@pytest.mark.parametrize("update", LESSONS)
def test_a_network_serves_its_period_and_learns_between_steps(tiny, syn, make_student, update):
    found = take(alternating(make_student, update), tiny, syn, range(7))
    for one, two in pairwise(found):
        assert not torch.equal(one, two)
    for i in (0, 3, 6):
        fresh = weights(prepare_student(make_student, tiny, dd.generator("step", i)))
        assert torch.equal(found[i], fresh)
    moved = (found[1] - found[0]).norm()
    assert float((found[3] - found[2]).norm()) > float(moved)


def test_period_one_is_a_supply_of_fresh_networks(tiny, syn, make_student):
    fresh = take(FreshStudents(make_student), tiny, syn, range(3))
    for a, b in zip(take(alternating(make_student, period=1), tiny, syn, range(3)), fresh, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("update", LESSONS)
def test_a_lesson_teaches(digits, make_digit_student, update):
    train, test = digits
    updates = {"synthetic": TrainOnSynthetic(epochs=30, batch_size=32), "real": TrainOnReal(steps=40, batch_size=64)}
    students = AlternatingStudents(make_digit_student, updates[update], period=2, lr=0.05, momentum=0.9)
    shown = pixel_set(train, 10, "real", dd.generator(0))
    x, y = test.batch(torch.arange(len(test)))
    found = []
    for i in range(2):
        student = students.next(train, shown, dd.generator("step", i))
        with torch.no_grad():
            found.append((float(cross_entropy(student(x), y)), accuracy(student, x, test.labels)))
    (loss_before, _), (loss_after, after) = found
    assert loss_after < 0.6 * loss_before
    assert after > 0.5


def test_a_lesson_on_the_set_leaves_the_set_without_gradients(tiny, syn, make_student):
    before = syn.parametrization.images.detach().clone()
    take(alternating(make_student, "synthetic"), tiny, syn, range(3))
    assert syn.parametrization.images.grad is None
    assert torch.equal(syn.parametrization.images, before)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("update", LESSONS)
@pytest.mark.parametrize("stop", range(1, 6))
def test_a_supply_goes_on_bit_for_bit(tiny, syn, update, norm, stop):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm=norm)
    straight = take(alternating(make, update), tiny, syn, range(6))
    first = alternating(make, update)
    take(first, tiny, syn, range(stop))
    state = unpack(*pack(copy.deepcopy(first.state_dict())))
    second = alternating(make, update)
    second.load_state_dict(state)
    # A state that was only loaded, and not used yet, is given back as it was.
    third = alternating(make, update)
    third.load_state_dict(unpack(*pack(second.state_dict())))
    for students in (second, third):
        for i, found in zip(range(stop, 6), take(students, tiny, syn, range(stop, 6)), strict=True):
            assert torch.equal(found, straight[i])


def test_a_supply_can_go_back_to_its_start(tiny, syn, make_student):
    students = alternating(make_student)
    start = copy.deepcopy(students.state_dict())
    straight = take(students, tiny, syn, range(4))
    students.load_state_dict(start)
    for a, b in zip(take(students, tiny, syn, range(4)), straight, strict=True):
        assert torch.equal(a, b)


def test_batch_norm_is_measured_on_real_images_and_then_frozen(tiny, syn):
    make = make_batch_norm(tiny)
    student = prepare_student(make, tiny, dd.generator("step", 0))
    assert has_batch_norm(student)
    assert not uses_batch_statistics(student)
    rng = dd.generator("step", 0)
    real = [tiny.of_class(c, 16, derive(rng, "batch-norm", c)).x for c in range(3)]
    conv, norm = student.body[0][0], student.body[0][1]
    out = conv(torch.cat(real))
    torch.testing.assert_close(norm.running_mean, out.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, out.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    for update in LESSONS:
        students = alternating(make, update)
        statistics = []
        for i in range(2):
            served = students.next(tiny, syn, dd.generator("step", i))
            statistics.append(served.body[0][1].running_mean.clone())
        assert torch.equal(*statistics)


@pytest.mark.parametrize(("every", "updates"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (3, [3]), (6, []), (9, [])])
def test_lessons_come_every_few_steps_of_a_network(tiny, syn, make_student, every, updates):
    found = take(alternating(make_student, period=6, every=every), tiny, syn, range(12))
    changed = [i for i in range(1, 12) if not torch.equal(found[i], found[i - 1])]
    assert changed == [*updates, 6, *(6 + i for i in updates)]


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_supply_with_rare_lessons_goes_on_bit_for_bit(tiny, syn, make_student, stop):
    options = {"period": 5, "every": 2}
    straight = take(alternating(make_student, **options), tiny, syn, range(8))
    first = alternating(make_student, **options)
    take(first, tiny, syn, range(stop))
    second = alternating(make_student, **options)
    second.load_state_dict(unpack(*pack(first.state_dict())))
    for i, found in zip(range(stop, 8), take(second, tiny, syn, range(stop, 8)), strict=True):
        assert torch.equal(found, straight[i])


@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_lesson_on_real_images_mixes_them(tiny, syn, make_student, mix):
    """Each step of a lesson is that of a loop over the same draws."""
    augmentation = dd.Augmentation("flip+crop")
    update = TrainOnReal(steps=6, batch_size=8, augmentation=augmentation, mix=mix)
    student, slow = (make_student(dd.generator(0)) for _ in range(2))
    rng = dd.generator("lesson")
    update(student, torch.optim.SGD(student.parameters(), lr=0.1), tiny, syn, rng)
    sgd, mixed = torch.optim.SGD(slow.parameters(), lr=0.1), 0
    for i in range(6):
        x, y = tiny.mixed(8, derive(rng, "real", i))
        x = augmentation.per_image(8, derive(rng, "augmentation", i))(x)
        x, soft = cutmix(x, y, mix, derive(rng, "mix", i))
        mixed += soft is not y
        sgd.zero_grad()
        cross_entropy(slow(x), soft).backward()
        sgd.step()
    torch.testing.assert_close(weights(student), weights(slow), rtol=0, atol=1e-6)
    assert (mixed == 0, mixed == 6) == (mix == 0.0, mix == 1.0)


def test_refusals(make_student):
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        alternating(make_student, every=0)
    for mix in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"mix must lie in 0\.\.1, got {mix}"):
            TrainOnReal(steps=1, mix=mix)
    with pytest.raises(ValueError, match="period must be at least 1, got 0"):
        alternating(make_student, period=0)
