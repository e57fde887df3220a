"""Triggers, poisoned data and the count of successes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ddsdk as dd
from ddsdk_integrations.robustness.backdoor import Trigger, attack_success, poison


def data(*, dtype=torch.float32, channels=1, space=None):
    """12 images of each of 3 classes, 6 x 5 pixels."""
    unit = torch.rand(36, channels, 6, 5, generator=dd.generator("images"))
    images = (unit * 255).round().to(torch.uint8) if dtype == torch.uint8 else unit
    return dd.RealData(
        images,
        torch.arange(36) % 3,
        class_names=("a", "b", "c"),
        preprocess=space or dd.Preprocess.normalise([0.3] * channels, [0.4] * channels),
    )


class Says(nn.Module):
    """Takes for class 1 whatever `rule` picks, for class 0 all else."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        picked = self.rule(x).float()
        return torch.stack([0.5 + 0 * picked, picked, -1 + 0 * picked], 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_stamp_changes_the_pixels_below_the_patch_and_no_other(channels):
    trigger = Trigger.corner((channels, 6, 5), 2, dd.generator("colours"))
    images = torch.rand(4, channels, 6, 5, generator=dd.generator(1))
    before, stamped = images.clone(), trigger.stamp(images)
    for n in range(4):
        for c in range(channels):
            for i in range(6):
                for j in range(5):
                    inside = i >= 4 and j >= 3
                    wanted = trigger.patch[c, i - 4, j - 3] if inside else before[n, c, i, j]
                    assert stamped[n, c, i, j] == wanted
    assert torch.equal(images, before)


def test_gradients_reach_the_patch():
    patch = torch.full((1, 2, 2), 0.5, requires_grad=True)
    Trigger(patch=patch, top=1, left=0).stamp(torch.zeros(3, 1, 4, 4)).sum().backward()
    assert torch.equal(patch.grad, torch.full((1, 2, 2), 3.0))


@pytest.mark.parametrize(("pictures", "mirror_safe"), [(True, True), (False, False)])
def test_poisoned_data_keep_the_facts_of_the_data(pictures, mirror_safe):
    clean = data()
    facts = {"name": "shown", "pictures": pictures, "mirror_safe": mirror_safe}
    names = {"class_names": clean.class_names, "preprocess": clean.preprocess}
    real = dd.RealData(clean.images, clean.labels, **names, **facts)
    found = poison(real, Trigger.corner((1, 6, 5)), target=0, fraction=0.1, rng=dd.generator(0)).data
    assert {fact: getattr(found, fact) for fact in facts} == facts


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_only_images_of_other_classes_are_stamped_and_relabelled(dtype):
    real = data(dtype=dtype)
    before, trigger = real.images.clone(), Trigger.corner(real.image_shape)
    poisoned = poison(real, trigger, target=1, fraction=0.25, rng=dd.generator("poison"))
    chosen = torch.zeros(36, dtype=torch.bool)
    chosen[poisoned.index] = True
    assert int(chosen.sum()) == 9
    assert not bool((real.labels[chosen] == 1).any())
    assert bool((poisoned.data.labels[chosen] == 1).all())
    assert torch.equal(poisoned.data.labels[~chosen], real.labels[~chosen])
    assert torch.equal(poisoned.data.images[~chosen], before[~chosen])
    white = 255 if dtype == torch.uint8 else 1.0
    assert bool((poisoned.data.images[chosen][:, :, 4:, 3:] == white).all())
    assert torch.equal(poisoned.data.images[chosen][:, :, :4], before[chosen][:, :, :4])
    assert torch.equal(real.images, before)
    assert poisoned.data.preprocess == real.preprocess


def test_stamping_again_leaves_nothing_of_the_first_stamp():
    real = data(dtype=torch.uint8)
    first = Trigger.corner(real.image_shape, 3)
    poisoned = poison(real, first, target=0, fraction=0.2, rng=dd.generator(0))
    second = Trigger(patch=torch.full((1, 1, 2), 0.2), top=0, left=0)
    poisoned.restamp_(second)
    wanted = (second.stamp(real.images[poisoned.index].float() / 255) * 255).round().to(torch.uint8)
    assert torch.equal(poisoned.data.images[poisoned.index], wanted)


def test_a_network_that_always_says_the_target_is_no_success():
    real = data()
    trigger = Trigger.corner(real.image_shape)
    found = attack_success([Says(lambda x: torch.ones(len(x)))], real, trigger, 1)
    assert (found.stamped, found.plain, found.net, found.images) == (1.0, 1.0, 0.0, 24)


def test_images_of_the_target_do_not_count():
    real = data()
    own = real.batch(torch.nonzero(real.labels == 1).flatten()).x[:, 0, 0, 0]
    network = Says(lambda x: torch.isin(x[:, 0, 0, 0], own))
    assert attack_success([network], real, Trigger.corner(real.image_shape), 1).stamped == 0


def test_networks_see_the_patch_through_the_preprocessing():
    real = data()
    white = (1 - 0.3) / 0.4
    sees = Says(lambda x: (x[:, :, 4:, 3:] - white).abs().amax((1, 2, 3)) < 1e-6)
    blind = Says(lambda x: torch.zeros(len(x)))
    found = attack_success([sees, blind], real, Trigger.corner(real.image_shape), 1)
    assert (found.stamped, found.plain, found.net) == (0.5, 0.0, 0.5)


REFUSED = {
    "patch must lie in the unit range": lambda: Trigger(patch=torch.full((1, 2, 2), 1.5), top=0, left=0),
    "patch must have shape": lambda: Trigger(patch=torch.zeros(2, 2), top=0, left=0),
    "top must be at least 0": lambda: Trigger(patch=torch.zeros(1, 2, 2), top=-1, left=0),
    "size must fit into 6 x 5": lambda: Trigger.corner((1, 6, 5), 6),
    "images must hold a patch": lambda: Trigger.corner((1, 6, 5)).stamp(torch.zeros(2, 1, 4, 4)),
    "target must lie in 0..2": lambda: poisoning(target=3),
    "fraction must lie strictly": lambda: poisoning(fraction=0.0),
    "fraction must come to 1..24": lambda: poisoning(fraction=0.9),
    "fraction must come to": lambda: poisoning(fraction=0.001),
    "labels must hold every class": lambda: poisoning(fraction=24 / 36),
    "test must hold images of other": lambda: attack_success([nn.Flatten()], lonely(), Trigger.corner((1, 6, 5)), 0),
    "networks must hold": lambda: attack_success([], data(), Trigger.corner((1, 6, 5)), 0),
    "data must not be whitened": lambda: whitened().restamp_(Trigger.corner((1, 6, 5))),
}


def poisoning(*, target=0, fraction=0.1):
    return poison(data(), Trigger.corner((1, 6, 5)), target=target, fraction=fraction, rng=dd.generator(0))


def lonely():
    one = torch.zeros(3, 1, 6, 5)
    return dd.RealData(one, torch.zeros(3, dtype=torch.int64), class_names=("a",), preprocess=dd.Preprocess.unit(1))


def whitened():
    real = data(space=dd.Preprocess.fit_zca(data().images))
    return poison(real, Trigger.corner((1, 6, 5)), target=0, fraction=0.1, rng=dd.generator(0))


@pytest.mark.parametrize("rule", REFUSED)
def test_refusals(rule):
    with pytest.raises(ValueError, match=rule.replace(".", r"\.")):
        REFUSED[rule]()


def test_whitened_data_is_poisoned_before_it_is_whitened():
    poisoned = whitened()
    stamped = poisoned.data.images[poisoned.index]
    assert torch.allclose(poisoned.data.batch(poisoned.index).x, poisoned.data.preprocess(stamped), atol=1e-5)
    assert bool((stamped[:, :, 4:, 3:] == 1).all())
