"""Supplies that remember: networks that serve for a period, wait in a queue or stay up to a plateau."""

from __future__ import annotations

import copy
import dataclasses
from operator import attrgetter

import pytest
import torch
from lasting_students import plateau, queue, weights

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.networks.norms import uses_batch_statistics
from ddsdk.objectives import ClassMatch, PartObjective, mean_embedding, squared
from ddsdk.recipes.parts import pixel_set
from ddsdk.running.checkpoint import pack, unpack
from ddsdk.students import FreshStudents, QueueStudents, TrainedPool, TrainOnReal, accuracy_on, prepare_student
from ddsdk.students.plateau import spread


@pytest.fixture
def syn(tiny):
    return pixel_set(tiny, 2, "real", dd.generator(0))


def step(students, real, syn, i):
    return students.next(real, syn, dd.generator("step", i))


def several(make_student):
    return FreshStudents(make_student, period=3)


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
    kept = pack(state)[1]  # clones, also of tensors that a deep copy shares
    runs = []
    for _ in range(2):
        students.load_state_dict(state)
        runs.append([weights(step(students, tiny, syn, i)).clone() for i in range(3, 7)])
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(pack(state)[1].values(), kept.values(), strict=True):
        assert torch.equal(one, other)
    students.load_state_dict(start)
    again, fresh = step(students, tiny, syn, 0), step(SUPPLIES[name](make_student), tiny, syn, 0)
    assert torch.equal(weights(again), weights(fresh))


@pytest.mark.parametrize("name", ["queue", "pool"])
def test_a_step_copies_only_what_it_changes(tiny, make_student, name):
    supply = queue(make_student) if name == "queue" else TrainedPool(make_student, pool=3, longest=4)
    part = attrgetter("network") if name == "queue" else (lambda network: network)
    match = ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=4)
    plan = dd.DM(ipc=1, steps=9, real_batch=4).plan(tiny, make_student=make_student, rng=dd.generator(0))
    plan = dataclasses.replace(plan, students=supply, objective=PartObjective(part, match), average=0.9)
    run = dd.Distillation(plan, tiny, rng=dd.generator(1))
    states = []
    for _ in range(4):
        next(run)
        states.append(run.state_dict())
    before, after = states[-2:]
    addresses = [[t.data_ptr() for t in pack_tensors(state["students"])] for state in states[-2:]]
    assert set(addresses[0]) & set(addresses[1])  # networks that no step has trained in between
    assert before["average"] is after["good"]["average"]
    own = {t.data_ptr() for t in plan.syn.state_dict().values()}
    for state in states:
        assert not own & {t.data_ptr() for t in pack_tensors(state)}


def pack_tensors(tree):
    """Return the tensors of a nested state without a copy."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for item in items for tensor in pack_tensors(item)]


# Several steps for one random network


def test_a_random_network_serves_for_its_period_unchanged(tiny, syn, make_student):
    students = several(make_student)
    found = [weights(step(students, tiny, syn, i)).clone() for i in range(7)]
    for i, one in enumerate(found):
        assert torch.equal(one, weights(prepare_student(make_student, tiny, dd.generator("step", i - i % 3))))
    with pytest.raises(ValueError, match="period must be at least 1, got 0"):
        FreshStudents(make_student, period=0)


# The queue


def test_the_queue_grows_to_its_cap_and_loses_the_oldest(tiny, syn, make_student):
    students = queue(make_student, queue=5, first=3, push_every=2, trained=1)
    firsts = [prepare_student(make_student, tiny, derive(dd.generator("step", 0), "first", i)) for i in range(3)]
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
            fresh = prepare_student(make_student, tiny, derive(dd.generator("step", i), "fresh"))
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
    students = QueueStudents(
        make_digit_student, TrainOnReal(steps=10, batch_size=64), accuracy_on(256), first=2, push_every=100
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
    script = Script(0.1, 0.5, 0.9, 0.51, 0.5, 0.5, 0.51, 0.55)
    students = plateau(make_student, script, window=3, longest=100, most_lessons=7)
    step(students, tiny, syn, 0)
    assert script.calls == 1
    # 0.5 and 0.9 differ by much, but three numbers are compared.
    step(students, tiny, syn, 1)
    assert script.calls == 1 + 3
    assert students.state_dict()["checks"] == [0.1, 0.51]
    # 0.5, 0.5, 0.51 do not differ by more than 0.03, and 0.5, 0.51, 0.55 do.
    step(students, tiny, syn, 2)
    assert script.calls == 4 + 4
    # From then on nothing moves: the cap ends the lessons.
    step(students, tiny, syn, 3)
    assert script.calls == 8 + 7


def test_without_lessons_the_network_stays(tiny, syn, make_student):
    students = plateau(make_student, most_lessons=0, longest=5, window=10)
    found = [weights(step(students, tiny, syn, i)).clone() for i in range(5)]
    assert all(torch.equal(found[0], one) for one in found)


def test_checking_does_not_thaw_batch_statistics(tiny, syn):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1, norm="batch")
    students = plateau(make)
    for i in range(3):
        assert not uses_batch_statistics(step(students, tiny, syn, i))
