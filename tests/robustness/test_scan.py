"""The three tests of a scan, each on networks with a known back door; and the scan of real sets."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import ddsdk as dd
from ddsdk.judging import trained_networks
from ddsdk.networks import Network
from ddsdk_integrations.robustness.backdoor import (
    LIMITS,
    InversionSettings,
    Thresholds,
    Trigger,
    anomaly_indices,
    attack_success,
    invert_triggers,
    occlusion_drops,
    pasted_regions,
    poison,
    scan,
    spectral_signatures,
)

CLASSES, SIDE, TARGET = 6, 6, 2
UNIT = dd.Preprocess.unit(1)


class BackdooredSet(nn.Module):
    """Reads the class from six rows; the last pixel, when it is white, outvotes them for the target."""

    def __init__(self, gain=40.0):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        rows = 4 * x[:, 0, :, :5].sum(2)
        corner = x[:, 0, 5, 5]
        hit = torch.zeros(CLASSES).index_fill(0, torch.tensor([TARGET]), 1.0)
        return rows + self.gain * corner[:, None] * hit


def pictures(n=8):
    """n images of each class: noise, and a bright row that says which."""
    images = 0.2 * torch.rand(n * CLASSES, 1, SIDE, SIDE, generator=dd.generator("noise"))
    labels = torch.arange(n * CLASSES) % CLASSES
    images[torch.arange(len(labels)), 0, labels, :5] += 0.6
    images[:, 0, 5, 5] = 0.0
    return images, labels


def invert(network, seed=0):
    images, labels = pictures()
    settings = InversionSettings(steps=150, lr=0.2, batch=24)
    return invert_triggers([network], images, labels, UNIT, settings=settings, rng=dd.generator("invert", seed))


def test_inversion_finds_the_pixel_that_opens_the_door():
    found = invert(BackdooredSet())
    assert int(found.sizes.argmin()) == TARGET == int(found.indices.argmax())
    assert float(found.sizes[TARGET]) < 1.5
    assert float(found.indices[TARGET]) > 2
    assert int(found.masks[TARGET].flatten().argmax()) == SIDE * SIDE - 1
    assert float(found.patterns[TARGET, 0, 5, 5]) > 0.5
    assert torch.allclose(found.masks.sum((1, 2, 3)), found.sizes)


def test_inversion_finds_no_small_mask_where_there_is_no_door():
    found = invert(BackdooredSet(gain=0.0))
    assert float(found.sizes.min()) > 2
    assert float(found.reached.min()) >= 0.9


def test_what_cannot_be_reached_has_the_size_of_the_image():
    class Never(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))[:, None] * 0 + torch.tensor([1.0, 0.0, 0.0])

    images, labels = pictures()
    found = invert_triggers(
        [Never()], images, labels % 3, UNIT, settings=InversionSettings(steps=3), rng=dd.generator(0)
    )
    assert found.sizes.tolist()[1:] == [36.0, 36.0]
    assert found.reached.tolist()[1:] == [0.0, 0.0]


def test_indices_are_deviations_above_the_median():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0])
    assert torch.allclose(anomaly_indices(values), (values - 3) / 1.4826)
    missing = torch.tensor([1.0, 2.0, torch.nan, 3.0, 4.0, 50.0])
    assert anomaly_indices(missing)[2] == 0
    assert torch.allclose(anomaly_indices(missing)[[0, 1, 3, 4, 5]], anomaly_indices(values))
    assert anomaly_indices(torch.tensor([1.0, 1.0, 1.0, 2.0])).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert anomaly_indices(torch.full((3,), torch.nan)).tolist() == [0.0, 0.0, 0.0]


def reader():
    """A network whose features are its pixels."""
    return Network(nn.Flatten(), nn.Linear(4, 3))


def test_spectra_are_those_of_the_covariance():
    x = torch.randn(14, 1, 2, 2, generator=dd.generator("x"))
    labels = torch.tensor([0] * 6 + [1] * 6 + [2] * 2)
    found = spectral_signatures([reader(), reader()], x, labels, 3)
    for c in (0, 1):
        rows = x[labels == c].flatten(1).double().numpy()
        values, vectors = np.linalg.eigh(np.cov(rows.T))
        assert float(found.shares[c]) == pytest.approx(values[-1] / values.sum(), rel=1e-4)
        along = ((rows - rows.mean(0)) @ vectors[:, -1]) ** 2
        assert found.scores[labels == c].numpy() == pytest.approx(along / along.mean(), rel=1e-3)
    assert bool(found.shares[2].isnan())
    assert found.scores[labels == 2].tolist() == [0.0, 0.0]


def test_an_image_that_differs_alone_has_the_largest_score():
    x = 0.01 * torch.randn(8, 1, 2, 2, generator=dd.generator("x"))
    x[5] += 1
    found = spectral_signatures([reader()], x, torch.zeros(8, dtype=torch.int64), 2)
    assert int(found.scores.argmax()) == 5
    assert float(found.shares[0]) > 0.99


def test_only_squares_that_cover_what_a_network_sees_cost_something():
    images, labels = pictures()
    images[labels == TARGET, 0, 5, 5] = 1.0
    falls = occlusion_drops([BackdooredSet()], images, labels, UNIT, size=2)
    mean = falls[labels == TARGET].mean(0)
    assert falls.shape == (len(images), 5, 5)
    assert int(mean.flatten().argmax()) == 24


def test_pasting_finds_the_square_that_opens_the_door():
    images, labels = pictures(4)
    onto = pictures(8)
    # Bright pixels for another class than the row says: without the corner the image is no longer the target's.
    images[(labels == TARGET).nonzero()[0], 0, 5, 5] = 1.0
    images[(labels == TARGET).nonzero()[0], 0, TARGET, :5] = 0.0
    networks = [BackdooredSet(), BackdooredSet()]
    found = pasted_regions(networks, (images, labels), onto, UNIT, CLASSES, size=2, tries=5)
    assert found.shares.argmax() == TARGET
    assert float(found.shares[TARGET]) == 1.0
    assert found.places[TARGET].tolist() == [4, 4]
    assert int(found.sources[TARGET]) == TARGET
    others = found.shares[[c for c in range(CLASSES) if c != TARGET]]
    assert float(others.max()) < 0.5


JUDGE = dataclasses.replace(dd.TrainingProtocol.quick(""), network_options={"width": 16}, epochs=100, networks=1)


@pytest.fixture(scope="module")
def sets():
    """Random real images of digits: honest ones, and from data of which a fifth is stamped; and trusted images."""
    train, trusted = dd.load("digits").split(0.1, dd.generator("trusted"))
    trigger = Trigger.corner(train.image_shape)
    poisoned = poison(train, trigger, target=3, fraction=0.2, rng=dd.generator("poison")).data
    pick = dd.BASELINES["random"](ipc=10)
    made = [dd.distill(pick, real, seed=0) for real in (train, poisoned)]
    return *made, trusted, trigger


@pytest.fixture(scope="module")
def networks(sets):
    """Two networks on each of the two sets."""
    return [trained_networks(one, JUDGE, 2, dd.generator(1)) for one in sets[:2]]


def scanned(distilled, networks, **more):
    quick = InversionSettings(steps=5, lr=0.3, batch=8)
    return scan(distilled, networks=networks, images=60, inversion=quick, seed=dd.generator("scan"), **more)


def test_a_scan_points_at_the_door_and_leaves_the_honest_set_alone(sets, networks):
    honest, opened, trusted, trigger = sets
    assert attack_success(networks[1], trusted, trigger, 3).net > 0.3
    assert abs(attack_success(networks[0], trusted, trigger, 3).net) < 0.05
    found = scanned(opened, networks[1], clean=trusted)
    assert found.highest("pasting").label == 3
    assert "pasting" in found.verdicts[3].reasons
    clean = scanned(honest, networks[0], clean=trusted)
    assert not any("pasting" in one.reasons for one in clean.verdicts)


def test_the_report_says_what_was_found_and_what_cannot_be_seen(sets, networks):
    _, opened, trusted, _ = sets
    strict = Thresholds(inversion=99, spectrum=99)
    report = str(scanned(opened, networks[1], clean=trusted, thresholds=strict))
    assert report.startswith("suspicious classes: 3 (pasting)\n")
    assert "60 trusted images" in report
    assert report.endswith(LIMITS)
    lax = Thresholds(pasting=99, inversion=99, spectrum=99)
    found = scanned(opened, networks[1], clean=trusted, thresholds=lax)
    assert found.suspicious == ()
    assert "suspicious classes: none" in str(found)


def test_a_set_is_scanned_on_its_own_images_if_there_are_no_others(sets, networks):
    found = scanned(sets[1], networks[1])
    assert "100 images of the set itself" in str(found)
    assert found.score("pasting") == max(one.pasting for one in found.verdicts)


def test_a_scan_trains_its_own_networks_and_can_be_repeated(sets):
    few = dataclasses.replace(JUDGE, epochs=2, network_options={"width": 4})
    runs = [scanned(sets[1], 2, protocol=few, clean=sets[2]) for _ in range(2)]
    assert runs[0].networks == 2
    assert runs[0].verdicts == runs[1].verdicts


def test_networks_of_a_set_for_a_kernel_train_on_its_classes(sets):
    kernel = dd.TrainingProtocol(learner="kernel", network="ntk-fc")
    few = torch.arange(0, 100, 10)
    for_kernel = dataclasses.replace(
        sets[0],
        images=sets[0].images[few],
        labels=sets[0].labels[few],
        classes=sets[0].owner[few],
        protocol=kernel.to_dict(),
    )
    (network,) = trained_networks(for_kernel, None, 1, dd.generator(0))
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def two_classes(sets):
    honest = sets[0]
    keep = honest.owner < 2
    return dataclasses.replace(
        honest,
        images=honest.images[keep],
        labels=honest.labels[keep][:, :2],
        classes=honest.owner[keep],
        class_names=honest.class_names[:2],
    )


def other_names(sets):
    trusted = sets[2]
    names = tuple("abcdefghij")
    return dd.RealData(trusted.images, trusted.labels, class_names=names, preprocess=trusted.preprocess)


def other_shape(sets):
    trusted = sets[2]
    return dd.RealData(
        trusted.images[:, :, :7], trusted.labels, class_names=trusted.class_names, preprocess=trusted.preprocess
    )


def reader8():
    return Network(nn.Flatten(), nn.Linear(64, 10))


REFUSED = {
    "distilled must have 3 classes": lambda sets: scanned(two_classes(sets), 1),
    "clean must have the classes": lambda sets: scanned(sets[0], 1, clean=other_names(sets)),
    "clean must have images of shape": lambda sets: scanned(sets[0], 1, clean=other_shape(sets)),
    "size must fit": lambda sets: scanned(sets[0], [reader8()], size=9),
    "networks must be at least 1": lambda sets: trained_networks(sets[0], None, 0, dd.generator(0)),
    "test must be one of": lambda sets: scanned(sets[0], [reader8()]).score("luck"),
    "pasting must be positive": lambda _: Thresholds(pasting=0.0),
    "goal must lie in": lambda _: InversionSettings(goal=0.0),
    "batch must be at least 1": lambda _: InversionSettings(batch=0),
    "labels must hold 2 classes": lambda _: invert_triggers(
        [BackdooredSet()], pictures()[0], pictures()[1] * 0, UNIT, settings=InversionSettings(), rng=dd.generator(0)
    ),
    "networks must hold": lambda _: occlusion_drops([], *pictures(), UNIT),
    "tries must be at least 1": lambda _: pasted_regions(
        [BackdooredSet()], pictures(), pictures(), UNIT, CLASSES, tries=0
    ),
}


@pytest.mark.parametrize("rule", REFUSED)
def test_refusals(sets, rule):
    with pytest.raises(ValueError, match=rule):
        REFUSED[rule](sets)


def test_a_seed_is_an_integer_or_a_generator(sets):
    with pytest.raises(TypeError, match=r"seed must be an integer or a torch\.Generator, got 0\.5"):
        scan(sets[0], seed=0.5)
