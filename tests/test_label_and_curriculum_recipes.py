"""LD and GTN as a user meets them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ddsdk as dd
from ddsdk.running.run import Run

SMALL = {"steps": 60, "label_lr": 0.1, "inner_lr": 0.2, "real_batch": 64, "check_batch": 32}


@pytest.fixture(scope="module")
def grown(digits, make_digit_student):
    return dd.distill(dd.LD(ipc=1, **SMALL), digits[0], make_student=make_digit_student, seed=dd.generator("ld"))


def test_labels_are_learned_from_nothing(grown, digits):
    """They start uniform; most end with the class of their image ahead, which nothing but real data told."""
    assert int((grown.labels.argmax(1) == torch.arange(10)).sum()) >= 7
    assert grown.label_space == "probabilities"
    assert grown.labels.min() >= 0
    torch.testing.assert_close(grown.labels.sum(1), torch.ones(10))
    # Images are real ones, to the bit.
    train = digits[0].batch(torch.arange(len(digits[0]))).x
    for image in grown.images:
        assert bool((train == image).flatten(1).all(1).any())


@pytest.mark.parametrize("ridge", [None, 1.0])
def test_only_labels_move(tiny, make_student, ridge):
    recipe = dd.LD(ipc=2, steps=3, real_batch=4, check_batch=4, ridge=ridge, start="real")
    run = Run(recipe, tiny, make_student=make_student, seed=0).distillation
    images = run.plan.syn.parametrization.images.clone()
    rows = run.plan.syn.labels.values.detach().clone()
    assert torch.equal(rows, torch.full((6, 3), 1 / 3))
    assert len(list(run)) == 3
    assert torch.equal(run.plan.syn.parametrization.images, images)
    assert bool((run.plan.syn.labels.values != rows).any(1).all())


def test_labels_of_another_data_set(digits, make_digit_student):
    """The images are unlabelled as far as LD knows: their classes here are found again."""
    train, _ = digits
    hidden = dd.RealData(
        train.images,
        torch.arange(len(train)) % 2,
        class_names=("even", "odd"),
        preprocess=dd.Preprocess.unit(1),
        name="hidden",
    )
    recipe = dd.LD(ipc=2, **{**SMALL, "steps": 100, "inner_lr": 1.0}, student_batch=20)
    found = recipe.across(hidden, train, make_student=make_digit_student, seed=dd.generator("a"))
    again = recipe.across(hidden, train, make_student=make_digit_student, seed=dd.generator("a"))
    assert found.content_id == again.content_id
    assert len(found) == 20 and found.class_names == train.class_names
    assert found.preprocess == train.preprocess
    assert torch.equal(found.owner, found.labels.argmax(1))
    assert found.provenance["base"] == {"name": "hidden", "fingerprint": hidden.fingerprint, "images": len(hidden)}
    every = train.batch(torch.arange(len(train))).x
    at = [int((every == image).flatten(1).all(1).nonzero()[0]) for image in found.images]
    # Two of twenty by chance.
    assert int((train.labels[at] == found.owner).sum()) >= 8


def test_what_ld_refuses(tiny, make_student):
    with pytest.raises(ValueError, match="start must choose real images, got 'noise'"):
        dd.LD(start="noise")
    with pytest.raises(ValueError, match=r"ridge must be finite and not negative, got -1"):
        dd.LD(ridge=-1)
    other = dd.RealData(
        torch.rand(9, 1, 8, 8, generator=dd.generator("o")),
        torch.arange(9) % 2,
        class_names=("a", "b"),
        preprocess=dd.Preprocess.unit(1),
    )
    with pytest.raises(ValueError, match=r"base must have shape \(3, 8, 12\), got \(1, 8, 8\)"):
        dd.LD(ipc=1).across(other, tiny, make_student=make_student, seed=dd.generator(0))
    with pytest.raises(ValueError, match="base must hold at least 21 images, got 20"):
        dd.LD(ipc=7).across(tiny, tiny, make_student=make_student, seed=dd.generator(0))


def test_what_ld_derives(tiny, digits):
    for images, batch in ((1, 10), (2, 10), (5, 25), (10, 50)):
        protocol = dd.LD(ipc=images).protocol(digits[0])
        assert protocol.batch_size == batch
        assert protocol.epochs * protocol.steps_in_epoch(10 * images) == 1000
        assert (protocol.optimizer, protocol.network) == ("adam", "alexnet-cifar")
    assert dd.LD(ipc=1, student_steps=7, student_batch=2).protocol(tiny).epochs == 4


@pytest.mark.parametrize(
    ("ipc", "per_class", "steps", "batch"),
    [(832, None, 64, 39), (10, None, 10, 3), (128, None, 64, 6), (10, 4, 3, 12), (1, 4, 1, 12)],
)
def test_the_length_of_a_curriculum(tiny, make_student, ipc, per_class, steps, batch):
    recipe = dd.GTN(ipc=ipc, per_class=per_class, generator_dim=2, generator_width=1)
    plan = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0))
    assert plan.objective.steps == steps
    assert plan.syn.rate().shape == (steps, 2)
    protocol = recipe.protocol(tiny)
    assert (protocol.batch_size, protocol.order, protocol.epochs) == (batch, "stored", 1)
    assert protocol.steps_in_epoch(len(plan.syn)) == steps
    # Each step sees as many images of each class.
    first = plan.syn.classes[:batch]
    assert len(first.bincount(minlength=3).unique()) == 1


def test_the_paper_has_64_steps_of_about_128_images(digits):
    assert dd.GTN().protocol(digits[0]).batch_size == 130


def test_a_curriculum_gets_better(digits, make_digit_student):
    settings = {"student_lr": 0.1, "student_momentum": 0.8, "generator_dim": 16, "generator_width": 16}
    recipe = dd.GTN(ipc=5, steps=25, real_batch=48, **settings)
    run = Run(recipe, digits[0], make_student=make_digit_student, seed=dd.generator("gtn")).distillation
    rates = run.plan.syn.rate().detach().clone()
    losses = [step.loss for step in run]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.04
    after = run.plan.syn.rate().detach()
    assert bool((after != rates).any(0).all()), "rates and momenta are learned"
    assert bool((after > 0).all()) and bool((after[:, 1] < 1).all())


def test_the_learned_pace_travels(tiny, make_student, tmp_path):
    recipe = dd.GTN(ipc=2, steps=2, real_batch=4, generator_dim=2, generator_width=1)
    found = dd.distill(recipe, tiny, make_student=make_student, seed=0)
    found.save(tmp_path / "set")
    found = dd.Distilled.load(tmp_path / "set")
    assert len(found.learned_lr) == len(found.learned_momentum) == 2
    protocol = dataclasses.replace(
        dd.TrainingProtocol.from_dict(found.protocol), networks=1, network_options={"width": 4, "depth": 1}
    )
    protocol, per_step = protocol.with_learned(found.learned_lr, found.learned_momentum)
    assert per_step.rates == found.learned_lr and per_step.momenta == found.learned_momentum
    per_step.check(protocol, len(found))
