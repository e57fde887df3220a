"""Bases and addresses: what they decode to, where they start, and how many images a budget pays."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

import ddsdk as dd
from ddsdk.synthetic import AddressedBases, address_count

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


@pytest.mark.parametrize(
    ("shape", "ipc", "count"), [(CIFAR, 1, 115), (MNIST, 1, 29), (MNIST, 10, 470), ((1, 27, 27), 1, 25)]
)
def test_the_budget_pays_the_bases_first_and_then_addresses(shape, ipc, count):
    """CIFAR-10: (10 * 3072 - 16 * 768) / 160 = 115.2; MNIST: (7840 - 16 * 196) / 160 = 29.4, and 470.4."""
    assert address_count(ipc, 10, shape, bases=16, factor=2) == count
    stored = AddressedBases(10 * count, shape, bases=16, factor=2, rng=dd.generator(0)).stored_floats()
    budget = ipc * 10 * shape[0] * shape[1] * shape[2]
    assert stored <= budget < stored + 10 * 16


def test_a_budget_without_an_address_is_refused():
    with pytest.raises(ValueError, match="bases must leave an address for each of 2 classes in 128 floats, got 8"):
        address_count(1, 2, (1, 8, 8), bases=8, factor=2)
    with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
        AddressedBases(4, MNIST, factor=0, rng=dd.generator(0))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_an_image_is_its_mixture_enlarged(factor):
    found = AddressedBases(6, (2, 8, 7), bases=4, factor=factor, rng=dd.generator(1)).double()
    slots = torch.tensor([5, 0, 0, 3])
    images, owners = found.decode(slots, dd.generator(0))
    assert torch.equal(owners, slots)
    for image, slot in zip(images, slots, strict=True):
        mixed = sum(a * b for a, b in zip(found.addresses[slot], found.bases, strict=True))
        large = interpolate(mixed[None], (8, 7), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(image, large)
    assert found.stored_floats() == found.bases.numel() + 24


def test_enough_bases_hold_the_images_themselves_and_fewer_the_nearest():
    images = torch.randn(6, 2, 5, 7, generator=dd.generator("images"))
    gaps = []
    for bases in (8, 6, 3, 2):
        found = AddressedBases(6, (2, 5, 7), bases=bases, factor=1, rng=dd.generator(1))
        found.encode(images)
        decoded, _ = found.decode(torch.arange(6), dd.generator(0))
        gaps.append(float((decoded - images).square().sum().detach()))
    assert max(gaps[:2]) < 1e-8
    tails = torch.linalg.svdvals(images.flatten(1)).square()
    assert gaps[2] == pytest.approx(float(tails[3:].sum()), rel=1e-4)
    assert gaps[3] == pytest.approx(float(tails[2:].sum()), rel=1e-4)


def test_every_basis_can_move_from_any_start():
    """No basis and its addresses are both zero, where neither would have a gradient."""
    images = torch.randn(3, 1, 6, 6, generator=dd.generator("images"))
    for encoded in (False, True):
        found = AddressedBases(3, (1, 6, 6), bases=5, factor=2, rng=dd.generator(1))
        if encoded:
            found.encode(images)
        x, _ = found.decode(torch.arange(3), dd.generator(0))
        (x - 1).square().sum().backward()
        moves = found.bases.grad.flatten(1).abs().sum(1) + found.addresses.grad.abs().sum(0)
        assert bool((moves > 0).all())
