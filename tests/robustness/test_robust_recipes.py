"""Robust recipes: any recipe that fits, attacked real images, flat networks; and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from tiny_recipes import RECIPE_SETTINGS

import ddsdk as dd
from ddsdk.students import FixedTeachers
from ddsdk_integrations.robustness import (
    AdversarialLearning,
    AttackedObjective,
    AttackedSource,
    RobustMatching,
    Threat,
    TrainingPGD,
)

THREAT = Threat("linf", 0.1)
LEARNING = ["kip", "rfad", "frepo", "dd", "sldd", "rat-bptt", "rtp"]
MATCHING = ["dm", "dc", "dsa", "idc", "datadam", "m3d", "dream", "jiang"]
POOL = {"networks": 1, "network_epochs": 1, "network_lr": 0.01}


def recipe(name, **how):
    return dd.RECIPES[name](ipc=2, **{**RECIPE_SETTINGS[name], **how})


def distilled(robust, tiny, make_student):
    return dd.distill(robust, tiny, make_student=make_student, seed=dd.generator("run"))


@pytest.mark.parametrize("name", LEARNING)
def test_every_recipe_that_tests_its_student_learns_under_attack(name, tiny, make_student, tmp_path):
    robust = AdversarialLearning(recipe=recipe(name), threat=THREAT, attack_steps=2)
    found = distilled(robust, tiny, make_student)
    plain = distilled(recipe(name), tiny, make_student)
    assert found.images.shape == plain.images.shape
    changed = not torch.equal(found.images, plain.images) or not torch.equal(found.labels, plain.labels)
    assert changed
    told = found.provenance
    assert told["recipe"] == "adversarial-learning"
    assert told["parameters"]["of"] == name
    assert told["parameters"]["threat"] == {"norm": "linf", "radius": 0.1}
    assert found.protocol == plain.protocol
    found.save(tmp_path / "set")
    assert dd.Distilled.load(tmp_path / "set").content_id == found.content_id


@pytest.mark.parametrize("name", MATCHING)
@pytest.mark.parametrize("how", [{}, {"students": "robust"}, {"students": "robust", "attacked": False}])
def test_every_matcher_matches_attacked_images(name, how, tiny, make_student):
    robust = RobustMatching(recipe=recipe(name), threat=THREAT, attack_steps=2, **POOL, **how)
    found = distilled(robust, tiny, make_student)
    assert torch.isfinite(found.images).all()
    assert found.provenance["runs"]["count"] == 1
    assert found.provenance["parameters"]["recipe"]["ipc"] == 2
    plain = distilled(recipe(name), tiny, make_student)
    assert found.images.shape == plain.images.shape
    assert not torch.equal(found.images, plain.images)


def test_students_that_are_no_networks_stay_and_real_images_are_attacked(tiny, make_student):
    settings = {"recipe": recipe("idm"), "threat": THREAT, "attack_steps": 2, **POOL}
    assert torch.isfinite(distilled(RobustMatching(**settings), tiny, make_student).images).all()
    with pytest.raises(ValueError, match=r"single networks as students .* got 'idm with QueueStudents'"):
        distilled(RobustMatching(**settings, students="robust"), tiny, make_student)


def test_the_same_run_gives_the_same_bits(tiny, make_student):
    robust = RobustMatching(recipe=recipe("dm"), threat=THREAT, attack_steps=2, **POOL)
    torch.manual_seed(1)
    first = distilled(robust, tiny, make_student)
    torch.manual_seed(2)
    assert torch.equal(first.images, distilled(robust, tiny, make_student).images)


def test_attacked_images_stay_in_their_ball_and_fool_their_victim(digits, models):
    train, _ = digits
    adversary = TrainingPGD(preprocess=train.preprocess, threat=THREAT, steps=5)
    source, victim = AttackedSource(train, models[0].network, adversary), models[0].network
    assert source.num_classes == 10
    assert source.device == train.device
    for draw in (lambda s: s.of_class(3, 20, dd.generator("d")), lambda s: s.mixed(20, dd.generator("d"))):
        clean, attacked = draw(train), draw(source)
        assert torch.equal(clean.y, attacked.y)
        moved = train.preprocess.inverse(attacked.x) - train.preprocess.inverse(clean.x)
        assert 0.05 < float(moved.abs().max()) <= 0.1 + 1e-5
        right = [(victim(b.x).argmax(1) == b.y.argmax(1)).float().mean() for b in (clean, attacked)]
        assert right[1] < right[0]


def test_the_wrapped_objective_sees_what_the_source_gives(tiny, make_student):
    victims = FixedTeachers(lambda i: make_student(dd.generator("victim")).requires_grad_(False))
    seen = []

    def objective(student, real, syn, rng):
        seen.append(real.of_class(0, 4, rng).x)
        yield torch.zeros((), requires_grad=True)

    def adversary(loss, x, rng):
        return x + 1

    list(AttackedObjective(objective, adversary, victims)(None, tiny, None, dd.generator("s")))
    assert torch.equal(seen[0], tiny.of_class(0, 4, dd.generator("s")).x + 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AdversarialLearning(recipe="kip", threat=THREAT), "recipe must be an iterative recipe"),
        (lambda: AdversarialLearning(recipe=dd.KIP(), threat=THREAT, attack_steps=0), "attack_steps must be"),
        (lambda: RobustMatching(recipe=dd.MTT(), threat=THREAT), "train no networks of its own"),
        (lambda: RobustMatching(recipe=dd.DM(), threat=THREAT, students="flat"), "students must be one of"),
        (lambda: RobustMatching(recipe=dd.DM(), threat=THREAT, attacked=False), "attacked must be True"),
        (lambda: RobustMatching(recipe=dd.DM(), threat=THREAT, networks=0), "networks must be at least 1"),
        (lambda: RobustMatching(recipe=dd.DM(), threat=THREAT, curvature=-1.0), "curvature must be finite"),
        (lambda: RobustMatching(recipe=dd.DM(), threat=THREAT, network_lr=0.0), "lr must be positive"),
        (lambda: TrainingPGD(preprocess=dd.Preprocess.unit(1), threat=THREAT, steps=0), "steps must be"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_matches_cannot_learn_under_attack(tiny, make_student):
    robust = AdversarialLearning(recipe=recipe("dm"), threat=THREAT)
    with pytest.raises(ValueError, match="take RobustMatching for matching recipes, got 'dm with ClassMatch'"):
        distilled(robust, tiny, make_student)


def test_the_evaluation_and_size_are_those_of_the_recipe(tiny):
    robust = AdversarialLearning(recipe=recipe("kip"), threat=THREAT)
    assert robust.ipc == 2
    assert robust.protocol(tiny) == recipe("kip").protocol(tiny)
