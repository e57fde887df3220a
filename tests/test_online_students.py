"""Students that learn on beside the set, and leave when they learn no more."""

from __future__ import annotations

import copy

import pytest
import torch

import ddsdk as dd
from ddsdk.recipes.parts import pixel_set
from ddsdk.students import OnlineStudents, TrainOnBatch, accuracy_on
from ddsdk.students.plateau import improves
from ddsdk.training import weight_vector


@pytest.mark.parametrize(
    ("found", "window", "expected"),
    [
        ([0.1], 3, True),
        ([0.5, 0.4, 0.3, 0.2], 3, True),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 3, True),
        # The best average is the first one, three averages ago.
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 3, False),
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 3, True),
        # An average that is equalled has not been beaten.
        ([0.5] * 6, 3, False),
        ([0.2, 0.1], 1, False),
        ([0.1, 0.2], 1, True),
    ],
)
def test_when_the_moving_average_has_stopped_to_rise(found, window, expected):
    assert improves(found, window) is expected


@pytest.fixture
def syn(tiny):
    return pixel_set(tiny, 2, "real", dd.generator("syn"))


class Scripted:
    """A check that says what it is told to."""

    def __init__(self, values):
        self.values, self.asked = values, 0

    def __call__(self, student, real, rng):
        self.asked += 1
        return self.values[(self.asked - 1) % len(self.values)]


def served(students, real, syn, steps):
    return [students.next(real, syn, dd.generator("step", i)) for i in range(steps)]


def test_a_network_serves_until_its_accuracy_stops_rising(tiny, syn, make_student):
    check = Scripted([0.1, 0.2, 0.3, 0.2, 0.2, 0.2, 0.2])
    students = OnlineStudents(make_student, TrainOnBatch(batch_size=4), check, window=2, longest=100)
    seen = served(students, tiny, syn, 7)
    # Averages .15 .25 .25 .2: the second one is the best, and two others follow it.
    assert len({id(s) for s in seen[:5]}) == 1
    assert seen[5] is not seen[4] and seen[6] is seen[5]


def test_a_network_serves_no_longer_than_it_may(tiny, syn, make_student):
    students = OnlineStudents(make_student, TrainOnBatch(batch_size=4), Scripted(range(100)), longest=3)
    seen = served(students, tiny, syn, 7)
    assert [seen[i] is seen[i - 1] for i in range(1, 7)] == [True, True, False, True, True, False]


def test_a_lesson_is_one_adam_step_on_items_of_the_set(tiny, syn, make_student):
    students = OnlineStudents(make_student, TrainOnBatch(batch_size=6), accuracy_on(4), lr=0.01)
    student = students.next(tiny, syn, dd.generator(0))
    mine = copy.deepcopy(student)
    students.next(tiny, syn, dd.generator(1))
    x, y = syn.detached(dd.generator("all"))
    adam = torch.optim.Adam(mine.parameters(), lr=0.01)
    torch.nn.functional.cross_entropy(mine(x), y).backward()
    adam.step()
    for p, q in zip(student.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_a_supply_goes_on_bit_for_bit(tiny, syn, make_student):
    def supply():
        return OnlineStudents(make_student, TrainOnBatch(batch_size=4), accuracy_on(4), window=2, longest=4)

    straight = supply()
    states, weights = [], []
    for i in range(8):
        states.append(copy.deepcopy(straight.state_dict()))
        weights.append(weight_vector(straight.next(tiny, syn, dd.generator("step", i))))
    for cut in range(8):
        again = supply()
        again.load_state_dict(states[cut])
        assert str(again.state_dict()) == str(states[cut])
        for i in range(cut, 8):
            found = weight_vector(again.next(tiny, syn, dd.generator("step", i)))
            assert torch.equal(found, weights[i])


@pytest.mark.parametrize(("name", "value"), [("window", 0), ("longest", 0), ("lr", 0.0)])
def test_what_is_refused(make_student, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        OnlineStudents(make_student, TrainOnBatch(), accuracy_on(4), **{name: value})
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TrainOnBatch(batch_size=0)
