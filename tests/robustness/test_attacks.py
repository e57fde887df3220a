"""Attacks: against a second library and slow versions; success rises with the radius; nothing global is touched."""

from __future__ import annotations

import foolbox
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk_integrations.robustness import (
    FGSM,
    PGD,
    AutoAttack,
    Threat,
    TrainingPGD,
    UnitModel,
    ascend,
    square,
    surviving,
    transfer,
)

THREATS = [Threat("linf", 0.1), Threat("l2", 1.0)]


def left(attack, model, shown, threat, key="attack"):
    return float(surviving(attack, model, *shown, threat, dd.generator(key)).float().mean())


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
def test_projected_ascent_is_that_of_foolbox(models, shown, threat):
    x, labels = shown
    kind = foolbox.attacks.LinfPGD if threat.norm == "linf" else foolbox.attacks.L2PGD
    theirs = kind(steps=15, abs_stepsize=0.25 * threat.radius, random_start=False)
    network = foolbox.PyTorchModel(models[0], bounds=(0, 1), device="cpu")
    _, expected, fooled = theirs(network, x.clone(), labels, epsilons=threat.radius)
    found = ascend(
        lambda z: cross_entropy(models[0](z), labels, reduction="sum"),
        x,
        threat,
        start=x,
        steps=15,
        step_size=0.25 * threat.radius,
    )
    assert ((found - expected).abs().flatten(1).amax(1) < 1e-3).float().mean() > 0.95
    mine = ~models[0].correct(found, labels)
    assert (mine == fooled).float().mean() > 0.98


def test_fgsm_is_that_of_foolbox(models, shown):
    x, labels = shown
    network = foolbox.PyTorchModel(models[0], bounds=(0, 1), device="cpu")
    _, expected, _ = foolbox.attacks.FGSM()(network, x.clone(), labels, epsilons=0.05)
    found = FGSM()(models[0], x, labels, Threat("linf", 0.05), dd.generator("fgsm"))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.label)
def test_projected_ascent_is_the_slow_loop_image_by_image(threat):
    weights = torch.randn(12, 3, generator=dd.generator("w"), dtype=torch.float64)

    def logits(x):
        return torch.tanh(x.flatten(1)) @ weights

    x = torch.rand(4, 1, 3, 4, generator=dd.generator("x"), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    found = ascend(
        lambda z: cross_entropy(logits(z), labels, reduction="sum"), x, threat, start=x, steps=6, step_size=0.05
    )
    for n in range(len(x)):
        image = x[n : n + 1].clone()
        for _ in range(6):
            image.requires_grad_()
            (gradient,) = torch.autograd.grad(cross_entropy(logits(image), labels[n : n + 1]), image)
            step = gradient.sign() if threat.norm == "linf" else gradient / gradient.norm()
            change = image.detach() + 0.05 * step - x[n : n + 1]
            if threat.norm == "linf":
                change = change.clamp(-threat.radius, threat.radius)
            else:
                change = change * min(1.0, threat.radius / float(change.norm()))
            image = (x[n : n + 1] + change).clamp(0, 1)
        assert torch.allclose(found[n], image[0], atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_success_rises_with_the_radius_to_all_images(models, shown, norm):
    radii = (0.02, 0.1, 0.2, 0.5) if norm == "linf" else (0.2, 1.0, 2.0, 8.0)
    attack = PGD(steps=20, restarts=1)
    curve = [left(attack, models[0], shown, Threat(norm, radius)) for radius in radii]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] > 0.5
    assert curve[-1] == 0


def test_more_steps_and_restarts_never_help_the_defender(models, shown):
    threat = Threat("linf", 0.1)
    once = surviving(PGD(steps=10, restarts=1), models[0], *shown, threat, dd.generator("a"))
    again = surviving(PGD(steps=10, restarts=3), models[0], *shown, threat, dd.generator("a"))
    assert not (again & ~once).any()
    assert left(PGD(steps=40, restarts=1), models[0], shown, threat) <= float(once.float().mean()) + 0.02
    assert left(FGSM(), models[0], shown, threat) >= float(once.float().mean()) - 0.02


def test_autoattack_leaves_no_more_than_pgd_and_keeps_the_global_state(models, shown):
    threat, few = Threat("linf", 0.1), (shown[0][:6], shown[1][:6])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    auto = AutoAttack(queries=30)
    assert auto.name == "AutoAttack, 30 queries"
    found = left(auto, models[0], few, threat)
    assert torch.equal(torch.get_rng_state(), before)
    assert found <= left(PGD(steps=20, restarts=1), models[0], few, threat) + 1e-9
    part, found = AutoAttack(parts=("apgd-ce", "square"), queries=30), []
    assert part.name == "apgd-ce+square"
    for seed in (3, 4):
        torch.manual_seed(seed)
        found.append(part(models[0], *few, threat, dd.generator("same")))
    assert torch.equal(*found)


def test_square_asks_for_no_gradient(models, shown):
    class Blind(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x.detach())

    blind = UnitModel(Blind(models[0].network), models[0].preprocess)
    attack = square(150)
    assert attack.name == "Square-150"
    threat = Threat("linf", 0.2)
    assert left(attack, blind, shown, threat) == left(attack, models[0], shown, threat) < 0.9


def test_autoattack_with_three_classes(tiny, make_student):
    model = UnitModel(make_student(dd.generator("n")), tiny.preprocess)
    found = surviving(
        AutoAttack(queries=20), model, tiny.images[:6], tiny.labels[:6], Threat("l2", 0.5), dd.generator("a")
    )
    assert found.shape == (6,)


def test_an_adversary_keeps_its_bounds_in_pixels_and_raises_the_loss(digits, models):
    train, _ = digits
    threat = Threat("linf", 0.07)
    adversary = TrainingPGD(preprocess=train.preprocess, threat=threat, steps=5)
    x, y = train.batch(torch.arange(20))
    network = models[0].network

    def loss(z):
        return cross_entropy(network(z), y, reduction="sum")

    found = adversary(loss, x, dd.generator("a"))
    moved = train.preprocess.inverse(found) - train.preprocess.inverse(x)
    assert float(moved.abs().max()) <= 0.07 + 1e-5
    assert float(train.preprocess.inverse(found).min()) >= -1e-5
    assert float(loss(found)) > float(loss(x)) + 1
    assert not found.requires_grad
    assert torch.equal(found, adversary(loss, x, dd.generator("a")))


def test_transfer_is_worst_at_home(models, shown):
    named = {"first": models[0], "second": models[1]}
    found = transfer(named, *shown, Threat("linf", 0.1), seed=dd.generator("t"), attack=PGD(steps=20, restarts=1))
    for i, row in enumerate(found.accuracy):
        assert row[i] == min(row)
        assert row[i] < found.clean[i]
        assert row[1 - i] < found.clean[1 - i]
    assert "| attacked (linf 0.1) | first | second |" in found.table()
    with pytest.raises(ValueError, match="models must hold at least one"):
        transfer({}, *shown, Threat("linf", 0.1), seed=dd.generator("t"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGD(steps=0), "steps must be at least 1"),
        (lambda: PGD(restarts=0), "restarts must be at least 1"),
        (lambda: PGD(reach=-1.0), "reach must be positive"),
        (lambda: AutoAttack(parts=("fgsm",)), "parts must be some of"),
        (lambda: AutoAttack(parts=()), "parts must be some of"),
        (lambda: square(0), "queries must be at least 1"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
