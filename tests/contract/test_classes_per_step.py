"""Steps over groups of classes: every recipe whose loss is a sum over classes has them, the others refuse them."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from every_method import ITERATIVE, TINY

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import ClassGroup, CrossEntropy, class_groups
from ddsdk.recipes import RECIPES
from ddsdk.synthetic import LeafView

SUMS = [name for name in ITERATIVE if RECIPES[name].sums_over_classes]


def gradient(plan, objective, real):
    """Return the gradient of all stored tensors at the first step, and the real classes that were drawn."""
    plan.syn.zero_grad(set_to_none=True)
    leaves, drawn = LeafView(plan.syn), Drawn(real)
    student = plan.students.next(real, plan.syn, dd.generator("students"))
    for term in objective(student, drawn, leaves, dd.generator("objective")):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    leaves.finish()
    rows = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in plan.syn.parameters()]
    return torch.cat(rows), drawn.classes


class Drawn:
    """Real data that record the classes of which images are drawn."""

    def __init__(self, real):
        self.real, self.classes = real, set()

    def __getattr__(self, name):
        return getattr(self.real, name)

    def of_class(self, c, n, rng):
        self.classes.add(c)
        return self.real.of_class(c, n, rng)


def test_these_recipes_have_groups_of_classes():
    assert SUMS == ["datadam", "dc", "dm", "dsa", "fred-dm", "glad", "idm", "kfs", "m3d", "ncfm"]


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("per_step", [1, 2])
def test_the_gradients_of_a_pass_add_up_to_that_of_all_classes(name, per_step, tiny, make_student):
    options = {**TINY[name], "ipc": 2}
    options["augmentation"] = ""  # some decoders number their draws, so that random ones differ between groups

    def plan(**more):
        return RECIPES[name](**options, **more).plan(tiny, make_student=make_student, rng=dd.generator("plan"))

    whole = plan()
    expected, classes = gradient(whole, whole.objective_at(0), tiny)
    assert classes == {0, 1, 2}
    groups = -(-3 // per_step)
    for start in (0, groups):
        total, seen = torch.zeros_like(expected), []
        for step in range(start, start + groups):
            part = plan(classes_per_step=per_step)
            found, drawn = gradient(part, part.objective_at(step), tiny)
            total += found
            seen += sorted(drawn)
        assert sorted(seen) == [0, 1, 2]  # each class once in a pass, and no real images of the others
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", sorted(set(ITERATIVE) - set(SUMS)))
def test_other_recipes_refuse_groups_of_classes(name):
    message = f"^classes_per_step must be left out for {name}, whose loss is no sum over classes, got 2$"
    with pytest.raises(ValueError, match=message):
        RECIPES[name](**TINY[name], classes_per_step=2)


def test_a_trained_sampler_refuses_groups_of_classes():
    with pytest.raises(ValueError, match="classes_per_step must be left out for a trained sampler"):
        dd.NCFM(sampler=8, classes_per_step=2)


def test_an_objective_that_mixes_classes_refuses_groups(tiny):
    syn = dd.recipes.pixel_set(tiny, 1, "noise", dd.generator(0))
    for call in ("mixed", "whole"):

        class Mixing:
            def __call__(self, student, real, syn, rng, call=call):
                yield getattr(syn, call)(*([1, rng] if call == "mixed" else [rng])).x.sum()

        with pytest.raises(ValueError, match=f"objective must be a sum over classes .* got a call of {call}"):
            list(ClassGroup(Mixing(), frozenset({0}))(None, tiny, LeafView(syn), dd.generator(0)))


def test_each_pass_is_another_random_partition():
    at = class_groups(lambda step: CrossEntropy(), 11, 3, dd.generator(0))
    passes = [[at(step).classes for step in range(4 * i, 4 * i + 4)] for i in range(30)]
    for groups in passes:
        assert sorted(map(len, groups)) == [2, 3, 3, 3]
        assert sorted(itertools.chain(*groups)) == list(range(11))
    assert len({tuple(groups) for groups in passes}) == 30
    together = sum(any({0, 1} <= group for group in groups) for groups in passes)
    assert 0 < together < 15  # classes are not always in one group: 2 of 10 other classes on average
    full = CrossEntropy()
    assert class_groups(lambda step: full, 3, 3, dd.generator(0))(5) is full


def test_a_run_over_groups_resumes_bit_for_bit(tiny, make_student):
    recipe = dd.DM(ipc=1, steps=5, real_batch=4, classes_per_step=2)
    plans = [recipe.plan(tiny, make_student=make_student, rng=dd.generator(1)) for _ in range(2)]
    first, second = (dd.Distillation(plan, tiny, rng=dd.generator(2)) for plan in plans)
    losses = [step.loss for step in first]
    next(second)
    third = dd.Distillation(dataclasses.replace(plans[1]), tiny, rng=derive(dd.generator(2)))
    third.load_state_dict(second.state_dict())
    assert [step.loss for step in second] == losses[1:]
    assert len(set(losses)) == 5
