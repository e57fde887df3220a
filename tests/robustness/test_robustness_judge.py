"""The judge: what it counts, the networks that it trains, and the warnings that make figures doubtful."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import ddsdk as dd
from ddsdk_integrations.robustness import (
    FGSM,
    PGD,
    AttackOutcome,
    AttackTrial,
    Robustness,
    RobustnessJudge,
    Threat,
    TrainingPGD,
    UnitModel,
    robustness_table,
    square,
)

QUICK = (AttackTrial(FGSM()), AttackTrial(PGD(steps=15, restarts=1)), AttackTrial(square(100), images=20, networks=1))


def judge(**how):
    usual = {"norm": "linf", "radii": (0.05, 0.1), "trials": QUICK, "images": 40, "networks": 2}
    return RobustnessJudge(**{**usual, **how})


def report(outcomes, clean=(0.9,), chance=0.1, norm="linf"):
    found = tuple(AttackOutcome(*o[:3], tuple(o[3]), 0.0) for o in outcomes)
    return Robustness("a set", norm, clean, found, 10, chance, 0.01, 1.0)


def shares(good, n=10):
    return [i < good for i in range(n)]


def test_an_honest_network_passes_and_attacks_bite(digits, models):
    found = judge()(models, digits[1], seed=dd.generator("judge"), name="digits")
    assert found.warnings == []
    assert found.radii == [0.05, 0.1]
    assert found.attacks == ["FGSM", "PGD-15", "Square-100", "PGD-10"]
    assert len(found.accuracies("PGD-15", 0.1)) == 2
    assert len(found.accuracies("Square-100", 0.1)) == 1
    for network in range(2):
        assert found.clean[network] > found.worst(0.05)[network] > found.worst(0.1)[network]
        assert found.worst(0.1)[network] <= min(found.accuracies("PGD-15", 0.1)[network], found.clean[network])
    again = judge()(models, digits[1], seed=dd.generator("judge"), name="digits")
    assert [o.kept for o in again.outcomes] == [o.kept for o in found.outcomes]
    table = robustness_table([found])
    assert table.splitlines()[0] == "| set | clean | linf 0.05 | linf 0.1 | warnings |"
    assert table.splitlines()[2].startswith("| digits | ")
    told = found.to_dict()
    assert told["worst"] == [[0.05, found.worst(0.05)], [0.1, found.worst(0.1)]]


def test_the_networks_are_those_of_the_engine(digits, protocol, some_digits, models):
    _, test = digits
    score = dd.evaluate(some_digits, test, protocol, seed=dd.generator("models"))
    x = test.preprocess.inverse(test.batch(torch.arange(len(test))).x).clamp(0, 1)
    mine = tuple(float(model.correct(x, test.labels).double().mean()) for model in models)
    assert mine == pytest.approx(score.accuracies, abs=2 / len(test))


def test_adversarial_training_holds_more_than_plain_training(digits, protocol, some_digits, models):
    train, test = digits
    adversary = TrainingPGD(preprocess=train.preprocess, threat=Threat("linf", 0.15), steps=4)
    one = judge(networks=1, radii=(0.15,), trials=(AttackTrial(PGD(steps=15, restarts=1)),), images=100)
    hard = one.networks_of(some_digits, train, protocol, seed=dd.generator("models"), adversary=adversary)
    rng = dd.generator("judge")
    plain, robust = one(models[:1], test, seed=rng), one(hard, test, seed=rng)
    assert robust.worst(0.15)[0] > plain.worst(0.15)[0] + 0.1


def test_the_test_images_are_balanced_from_the_first_on(digits):
    x, labels = RobustnessJudge(images=25).test_images(digits[1])
    assert torch.bincount(labels, minlength=10).tolist() == [3] * 5 + [2] * 5
    assert torch.bincount(labels[:10], minlength=10).tolist() == [1] * 10
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


class Saturated(nn.Module):
    """Rounded scores: as good as before, and without any gradient. The classic case of masking."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return (self.network(x) * 50).round() / 50 + 0 * x.sum()


def test_masked_gradients_are_found(digits, models):
    masked = UnitModel(Saturated(models[0].network), models[0].preprocess)
    found = judge(networks=1)([masked], digits[1], seed=dd.generator("judge"))
    assert any("masking" in warning and "Square" in warning for warning in found.warnings)
    assert any("where nothing should be left" in warning for warning in found.warnings)


def test_networks_near_chance_are_told(digits):
    train, test = digits
    make = dd.network_factory("convnet", train.image_shape, 10, width=4, depth=1)
    models = [UnitModel(make(dd.generator("untrained")), train.preprocess)]
    found = judge(networks=1, trials=(AttackTrial(FGSM()),))(models, test, seed=dd.generator("judge"))
    assert any("near chance" in warning for warning in found.warnings)


def test_the_worst_attack_counts_image_by_image_and_radius_by_radius():
    found = report(
        [
            ("PGD-50", 0.1, 0, [True, True, False, True]),
            ("FGSM", 0.1, 0, [True, False, True, True]),
            ("AutoAttack", 0.1, 0, [False]),
            ("PGD-50", 0.2, 0, [True, True, True, False]),
        ]
    )
    assert found.worst(0.1) == [0.25]
    assert found.worst(0.2) == [0.0]


@pytest.mark.parametrize(
    ("outcomes", "clean", "words"),
    [
        ([("PGD-50", 0.1, 0, shares(6)), ("Square-500", 0.1, 0, shares(4))], (0.9,), "20.0% more than Square"),
        ([("PGD-50", 0.1, 0, shares(3)), ("PGD-50", 0.2, 0, shares(5))], (0.9,), "more at radius 0.2 than at 0.1"),
        ([("PGD-10", 0.1, 0, shares(3)), ("PGD-50", 0.1, 0, shares(5))], (0.9,), "more steps help the defender"),
        ([("PGD-50", 0.5, 0, shares(2))], (0.9,), "where nothing should be left"),
        ([("PGD-50", 0.1, 0, shares(1))], (0.15,), "near chance"),
        ([("PGD-50", 0.1, 0, shares(3)), ("Square-500", 0.1, 0, shares(5))], (0.9,), None),
        ([("PGD-50", 0.1, 0, shares(5)), ("PGD-50", 0.2, 0, shares(3))], (0.9,), None),
        ([("PGD-10", 0.1, 0, shares(5)), ("PGD-50 x 5", 0.1, 0, shares(3))], (0.9,), None),
        ([("PGD-50", 0.5, 0, shares(0))], (0.9,), None),
        ([("FGSM", 0.1, 0, shares(3)), ("FGSM", 0.2, 0, shares(5))], (0.9,), None),
    ],
)
def test_what_is_told_and_what_is_not(outcomes, clean, words):
    warnings = report(outcomes, clean).warnings
    if words is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert words in warning


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"norm": "l0"}, "norm must be one of"),
        ({"radii": ()}, "radii must rise"),
        ({"radii": (0.1, 0.05)}, "radii must rise"),
        ({"radii": (0.0, 0.05)}, "radius must be positive"),
        ({"trials": ()}, "trials must hold at least one"),
        ({"trials": (AttackTrial(FGSM()), AttackTrial(FGSM()))}, "trials must have one name each"),
        ({"images": 0}, "images must be at least 1"),
        ({"networks": 0}, "networks must be at least 1"),
        ({"margin": 1.0}, "margin must lie"),
    ],
)
def test_refusals(how, words):
    with pytest.raises(ValueError, match=words):
        judge(**how)


def test_a_judge_needs_networks(digits):
    with pytest.raises(ValueError, match="models must hold at least one network"):
        judge()([], digits[1], seed=dd.generator("judge"))
    with pytest.raises(ValueError, match="images must be at least 1"):
        AttackTrial(FGSM(), images=0)


def test_a_kernel_protocol_trains_no_network(digits, some_digits, protocol):
    kernel = dataclasses.replace(protocol, learner="kernel", network="fc-ntk", network_options={"depth": 1})
    with pytest.raises(ValueError, match="learner must be 'network'"):
        judge().networks_of(some_digits, digits[0], kernel, seed=dd.generator("k"))
