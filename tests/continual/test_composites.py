"""Images made of others, against their formulas; and the relation to what is remembered."""

from __future__ import annotations

import pytest
import torch
from fake_device import FakeCuda, FakeTensor
from torch.nn.functional import cosine_similarity

import ddsdk as dd
from ddsdk.objectives import ClassMatch
from ddsdk.running.run import Run
from ddsdk.synthetic import Pixels, hard_labels
from ddsdk_integrations.continual import CombinationMatching, CompositeMatching, RelationMatch
from ddsdk_integrations.continual.composites import Combinations, Composites

SHAPE = (1, 6, 6)


def real_data(num_classes=3, per_class=9):
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    images = torch.rand(len(labels), *SHAPE, generator=dd.generator("real"))
    names = [str(c) for c in range(num_classes)]
    return dd.RealData(images, labels, class_names=names, preprocess=dd.Preprocess.normalise((0.4,), (0.3,)))


def test_composites_are_sigmoids_of_weighted_sums():
    bounds = torch.full((1, 1, 1), -1.0), torch.full((1, 1, 1), 2.0)
    images = 3 * torch.rand(2 * 4, *SHAPE, generator=dd.generator("composites")) - 1
    made = Composites(images, 2, 3, bounds)
    slots = torch.tensor([5, 0, 7])
    found, owners = made.decode(slots, dd.generator("decode"))
    for image, slot in zip(found, slots.tolist(), strict=True):
        weights, components = made.weights[slot // 4, slot % 4], made.components[slot // 4]
        total = sum(w * component for w, component in zip(weights, components, strict=True))
        assert torch.allclose(image, -1 + 3 / (1 + torch.exp(-total)), atol=1e-5)
    assert torch.equal(owners, slots)
    # The first images of a class are its components at the start: they come back.
    first, _ = made.decode(torch.tensor([0, 1, 2]), dd.generator("decode"))
    assert torch.allclose(first, images[:3].clamp(-0.997, 1.997), atol=1e-3)
    assert made.stored_floats() == 2 * 3 * 36 + 2 * 4 * 3


def test_combinations_are_positive_and_sum_to_one():
    candidates = torch.rand(2, 5, *SHAPE, generator=dd.generator("candidates"))
    made = Combinations(candidates, 3, dd.generator("start"))
    found, _ = made.decode(torch.arange(6), dd.generator("decode"))
    weights = made.logits.exp() / made.logits.exp().sum(2, keepdim=True)
    wanted = (weights[..., None, None, None] * candidates[:, None]).sum(2).flatten(0, 1)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert len({image.detach().numpy().tobytes() for image in found}) == 6
    assert made.stored_floats() == 6 * 36
    with pytest.raises(ValueError, match="images must be means of the candidates, got 6 others"):
        made.encode(found)


@pytest.mark.parametrize("kind", [CompositeMatching, CombinationMatching], ids=lambda kind: kind.name)
def test_a_run_takes_the_device_of_its_data(kind):
    recipe = kind(ipc=2, matching=dd.DM(steps=2, real_batch=9, augmentation=""), lr=0.05)
    make_student = dd.network_factory("mlp", SHAPE, 3, width=4)
    with FakeCuda():
        run = Run(recipe, real_data().to("cuda"), make_student=make_student)
        found = run.complete()
        assert all(isinstance(p, FakeTensor) for p in run.distillation.plan.syn.parameters())
    assert torch.equal(found.images, dd.distill(recipe, real_data(), make_student=make_student).images)


@pytest.mark.parametrize("kind", [CompositeMatching, CombinationMatching], ids=lambda kind: kind.name)
def test_a_run_lowers_its_loss_and_repeats(kind):
    real = real_data()
    matching = dd.DM(steps=60, real_batch=9, augmentation="")
    recipe = kind(ipc=2, matching=matching, lr=0.05)
    make = dd.network_factory("mlp", SHAPE, 3)
    losses = []
    for _ in range(2):
        run = Run(recipe, real, make_student=make, seed=dd.generator("run")).distillation
        losses.append([step.loss for step in run])
    assert losses[0] == losses[1]
    assert sum(losses[0][-10:]) < 0.9 * sum(losses[0][:10])


def relation(x, means, embed):
    return cosine_similarity(embed(x)[:, None], means[None], dim=2).mean(0)


def test_relations_are_mean_cosines_with_remembered_class_means():
    real = real_data()
    make = dd.network_factory("mlp", SHAPE, 3)
    student = make(dd.generator("student"))
    syn = dd.SyntheticSet(
        Pixels(real.batch(torch.tensor([0, 9, 18])).x), hard_labels(torch.arange(3), 3), torch.arange(3), 3
    )
    terms = list(RelationMatch(new=2, real_batch=100)(student, real, syn, dd.generator("terms")))
    means = student.embed(real.batch(real.index_of_class(2)).x).mean(0, keepdim=True)
    for c, term in enumerate(terms):
        mine = relation(syn.at(torch.tensor([c]), dd.generator(0)).x, means, student.embed)
        theirs = relation(real.batch(real.index_of_class(c)).x, means, student.embed)
        assert float(term.detach()) == pytest.approx(float((mine - theirs).detach().square().sum()), rel=1e-4)
    assert len(terms) == 2
    assert list(RelationMatch(new=3)(student, real, syn, dd.generator("none"))) == []


def test_what_is_remembered_does_not_change_beside_the_new_classes():
    from ddsdk_integrations.continual import Distiller

    real = real_data()
    distiller = Distiller(
        dd.DC(students=2, steps_per_student=2, student_epochs=1, real_batch=9, start="real", image_lr=1.0),
        network="mlp",
        network_options={},
        past=True,
        relation=1.0,
    )
    old = torch.rand(2, *SHAPE, generator=dd.generator("old"))
    start = old, torch.tensor([2, 2])
    made = distiller(real, 2, rng=dd.generator("run"), new=2, start=start)
    assert torch.allclose(made.images[made.classes == 2], old, atol=1e-6)
    alone = distiller(real, 2, rng=dd.generator("run"), new=3, start=start)
    assert not torch.allclose(alone.images[alone.classes == 2], old, atol=1e-3)


@pytest.mark.parametrize("recipe", [dd.BASELINES["random"](), dd.IDM(ipc=2, steps=1)], ids=["no steps", "idm"])
def test_past_wants_a_recipe_that_matches_class_by_class(recipe):
    from ddsdk_integrations.continual import Distiller

    distiller = Distiller(recipe, network="mlp", past=True)
    if isinstance(getattr(recipe, "steps", None), int):
        plan = recipe.plan(real_data(), make_student=dd.network_factory("mlp", SHAPE, 3), rng=dd.generator(0))
        assert not isinstance(plan.objective, ClassMatch)
    with pytest.raises(ValueError, match="recipe must match class by class if past=True"):
        distiller(real_data(), 2, rng=dd.generator("run"), new=2)


def test_composites_live_in_the_unit_range():
    real = real_data()
    whitened = real.with_preprocess(dd.Preprocess.fit_zca(real.images))
    make = dd.network_factory("mlp", SHAPE, 3)
    with pytest.raises(ValueError, match="preprocess must not whiten"):
        CompositeMatching(ipc=2).plan(whitened, make_student=make, rng=dd.generator(0))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="lr must be positive"):
        CompositeMatching(lr=0)
    make = dd.network_factory("mlp", SHAPE, 3)
    with pytest.raises(ValueError, match="candidates must be at least 1, got 0"):
        CombinationMatching(candidates=0).plan(real_data(), make_student=make, rng=dd.generator(0))
