"""DD, SLDD, RTP and RaT-BPTT: what each plan holds, and that a set is judged as it was made."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.recipes.unrolled import flip_or_rotate, unroll_for
from ddsdk.running.run import Run
from ddsdk.synthetic import STARTS
from ddsdk.synthetic.set import LeafView
from ddsdk.training import InnerAdam, InnerSGD, constant_memory, full_graph
from ddsdk.training.by_protocol import train
from ddsdk.training.flat import FlatNetwork, weight_vector

ORDERED = {"dd": dd.DD, "sldd": dd.SLDD}


def plan_of(recipe, real, make_student):
    return recipe.plan(real, make_student=make_student, rng=dd.generator("plan"))


@pytest.mark.parametrize("kind", ORDERED.values(), ids=ORDERED)
@pytest.mark.parametrize("options", [{}, {"ipc": 1}, {"images": 7}, {"images": 2}])
def test_a_judge_takes_the_very_steps_of_a_student(kind, options, tiny, make_student):
    """The artefact carries batches, order and rates: training on it ends at the weights of the unrolled student."""
    if "images" in options and kind is dd.DD:
        return
    given = {"ipc": 3, "steps": 3, "passes": 2, "real_batch": 4, "image_lr": 0.2, "student_lr": 0.1}
    recipe = kind(**{**given, **options})
    run = Run(recipe, tiny, make_student=make_student, seed=dd.generator("run")).distillation
    list(run)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    objective, syn = run.plan.objective, run.result
    network = make_student(dd.generator("network")).requires_grad_(False)
    loss, inputs = objective.training.on(FlatNetwork(network), LeafView(syn), dd.generator("any"))
    *_, end = objective.unroll(
        loss, weight_vector(network), inputs, syn.rate(), steps=objective.steps, optimizer=objective.optimizer
    )
    network.requires_grad_(True)
    protocol, per_step = recipe.protocol(tiny).with_learned(found.learned_lr, found.learned_momentum)
    assert len(per_step.rates) == objective.steps
    assert all(rate != pytest.approx(0.1) for rate in per_step.rates)
    list(train(network, dd.Batch(found.images, found.labels), protocol, dd.generator("judge"), per_step))
    torch.testing.assert_close(weight_vector(network), end.detach(), rtol=1e-4, atol=1e-6)


def test_a_batch_of_dd_has_one_image_of_each_class(tiny, make_student):
    plan = plan_of(dd.DD(ipc=3, start="real", passes=2), tiny, make_student)
    assert plan.syn.classes.tolist() == [0, 1, 2] * 3
    assert plan.objective.steps == 6
    for image, c in zip(plan.syn.parametrization.images, plan.syn.classes, strict=True):
        members = tiny.batch(tiny.index_of_class(int(c))).x
        assert bool((members == image).flatten(1).all(1).any())
    assert [plan.rate_at(step) for step in (0, 1999, 2000, 19_999)] == [1, 1, 0.5, 0.5**9]


@pytest.mark.parametrize("images", [1, 2, 7])
def test_soft_labels_need_no_image_of_each_class(images, tiny, make_student):
    recipe = dd.SLDD(images=images, steps=3, passes=2, real_batch=4)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    assert len(found) == images
    assert found.label_space == "scores"
    start = plan_of(recipe, tiny, make_student).syn.labels.values
    assert torch.equal(start, torch.eye(3)[torch.arange(images) % 3])
    assert not torch.equal(found.labels, start)
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        dd.SLDD(images=0)


def test_learned_labels_stay_non_negative(tiny, make_student):
    recipe = dd.RaTBPTT(ipc=1, steps=3, student_steps=3, window=2, real_batch=4, image_lr=0.5, learned_labels=True)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    assert found.label_space == "scores"
    assert float(found.labels.min()) == 0
    assert not torch.allclose(found.labels.sum(1), torch.ones(3))


def test_rat_draws_its_window_and_clips_by_what_is_usual(tiny, make_student):
    plan = plan_of(dd.RaTBPTT(ipc=1), tiny, make_student)
    objective = plan.objective
    assert (objective.steps, objective.window, objective.drawn, plan.clip_ratio) == (200, 60, True, 2.0)
    assert objective.optimizer == InnerAdam()
    assert objective.unroll is constant_memory
    short = plan_of(dd.RaTBPTT(ipc=1, student_steps=15, window=5), tiny, make_student).objective
    assert short.unroll is full_graph is unroll_for(30)
    with pytest.raises(ValueError, match="window must be at most 4 student_steps, got 5"):
        dd.RaTBPTT(window=5, student_steps=4)
    with pytest.raises(ValueError, match=r"clip_ratio must be at least 1 and finite, got 0\.5"):
        dd.RaTBPTT(clip_ratio=0.5)


def test_rat_is_judged_by_a_thousand_steps_of_its_own_adam(tiny):
    for ipc, batch in ((1, 3), (10, 30), (50, 30)):
        protocol = dd.RaTBPTT(ipc=ipc).protocol(tiny)
        assert (protocol.optimizer, protocol.batch_size) == ("adam", batch)
        assert 1000 <= protocol.epochs * protocol.steps_in_epoch(3 * ipc) < 1005


def test_rtp_fills_its_budget(tiny, make_student):
    recipe = dd.RTP(ipc=2, bases=5, factor=2, steps=2, student_steps=2, real_batch=4)
    each = (2 * 3 * 288 - 5 * 72) // (3 * 5)
    assert recipe.images(tiny) == each
    found = dd.distill(recipe, tiny, make_student=make_student, seed=dd.generator("run"))
    assert found.ipc == each
    assert found.stored_floats == 5 * 72 + 3 * each * 5 <= 2 * 3 * 288
    assert found.stored_ipc == 2
    assert dataclasses.replace(recipe, most=4).images(tiny) == 4
    plan = plan_of(recipe, tiny, make_student)
    assert (plan.clip_norm, plan.objective.per_class) == (2.0, True)
    assert plan.objective.optimizer == InnerSGD(momentum=0.9)
    with pytest.raises(ValueError, match="bases must leave an address"):
        dd.RTP(ipc=1, bases=60).plan(tiny, make_student=make_student, rng=dd.generator(0))


def test_rtp_takes_a_drawn_window_and_adam_where_it_is_asked_to(tiny, make_student):
    whole = plan_of(dd.RTP(ipc=2, bases=3), tiny, make_student)
    assert (whole.objective.window, whole.objective.drawn, whole.objective.unroll) == (None, False, constant_memory)
    assert isinstance(whole.make_optimizer(whole.syn), torch.optim.SGD)
    recipe = dd.RTP(ipc=2, bases=3, window=10, optimizer="adam", image_lr=0.02)
    plan = plan_of(recipe, tiny, make_student)
    assert (plan.objective.steps, plan.objective.window, plan.objective.drawn) == (150, 10, True)
    assert plan.objective.unroll is full_graph
    adam = plan.make_optimizer(plan.syn)
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["lr"] == 0.02
    with pytest.raises(ValueError, match=r"window must be at most 5 student_steps, got 6"):
        dd.RTP(student_steps=5, window=6)
    with pytest.raises(ValueError, match=r"optimizer must be one of \['sgd', 'adam'\], got 'lion'"):
        dd.RTP(optimizer="lion")


def test_rtp_starts_from_images_where_it_is_asked_to(tiny, make_student):
    recipe = dd.RTP(ipc=2, bases=3, factor=1, most=1, start="real")
    rng = dd.generator("plan")
    decoded = plan_of(recipe, tiny, make_student).syn.detached(dd.generator("d")).x
    real = STARTS["real"](tiny, 1, derive(rng, "start"))
    assert decoded.shape == real.shape
    members = tiny.batch(torch.arange(len(tiny))).x
    gaps = [float((members - image).flatten(1).norm(dim=1).min()) for image in decoded]
    assert max(gaps) < 1e-3


def test_operations_suit_the_data(tiny):
    for mirror_safe, pictures, found in ((True, True, "flip_rotate"), (False, True, "rotate"), (True, False, "")):
        tiny.mirror_safe, tiny.pictures = mirror_safe, pictures
        assert flip_or_rotate(tiny, None) == found
    assert flip_or_rotate(tiny, "crop") == "crop"
