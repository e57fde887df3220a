"""Noised class sums: what is released is what a loop gives, drawn once, and what is matched is the same of the set."""

from __future__ import annotations

import pytest
import torch
from private_records import records, sealed, student

import ddsdk as dd
from ddsdk_integrations.privacy.class_sums import ClassSumStudents, FeatureSpace, MatchClassSums, released_class_sums
from ddsdk_integrations.privacy.refusals import PrivacyError

SHAPE = (1, 8, 8)


def public(n=20):
    return torch.randn(n, *SHAPE, generator=dd.generator("public"))


def released(space, real=None, releases=3, **how):
    real = records() if real is None else real
    usual = {"sample_rate": 1.0, "noise_multiplier": 1e-9, "clip": 0.3}
    made = sealed(real).mechanism("sums", releases=releases, **{**usual, **how})
    return released_class_sums(made, space, SHAPE, dd.generator("nets"))


@pytest.mark.parametrize(
    "how",
    [{}, {"centre": public(5)}, {"subspace": public(), "directions": 4}, {"centre": public(5), "subspace": public()}],
    ids=["plain", "centred", "subspace", "both"],
)
def test_released_sums_are_those_of_a_loop_without_noise(how):
    real = records()
    space = FeatureSpace(student(), dd.Augmentation("crop_flip"), **how)
    supply = ClassSumStudents(released(space, real), space)
    everything = real.batch(torch.arange(len(real)))
    for step in range(6):
        update = supply.next(None, None, dd.generator("step", step))
        wanted = torch.zeros_like(update.sums)
        for x, y in zip(everything.x, everything.y, strict=True):
            row = update.features(x[None])[0]
            wanted[int(y.argmax())] += row * min(1.0, 0.3 / float(row.norm()))
        assert torch.allclose(update.sums, wanted, atol=1e-4)


def test_a_centre_takes_off_what_public_images_have_in_common():
    space = FeatureSpace(student(), dd.Augmentation(""), centre=public())
    assert space.at(7)(public()).mean(0).norm() < 1e-4
    plain = FeatureSpace(student(), dd.Augmentation(""))
    assert plain.at(7)(public()).mean(0).norm() > 0.1


def test_a_subspace_keeps_the_directions_in_which_public_images_vary_most():
    space = FeatureSpace(student(), dd.Augmentation(""), subspace=public(), directions=3)
    rows = FeatureSpace(student(), dd.Augmentation("")).at(7)(public())
    kept = space.at(7)(public())
    assert kept.shape == (20, 3)
    spectrum = torch.linalg.svdvals(rows - rows.mean(0)).square()
    assert float((kept - kept.mean(0)).square().sum()) == pytest.approx(float(spectrum[:3].sum()), rel=1e-4)


def test_noise_is_drawn_once_for_each_release():
    space = FeatureSpace(student(), dd.Augmentation(""))
    found = released(space, releases=4, sample_rate=0.5, noise_multiplier=3.0)
    supply = ClassSumStudents(found, space)
    updates = [supply.next(None, None, dd.generator("step", i)) for i in range(50)]
    assert {id(update.sums) for update in updates} == {id(one.sums) for one in found}
    assert len({float(one.sums[0, 0]) for one in found}) == 4


def test_a_match_of_sums_is_zero_for_the_records_themselves():
    real = records(30)
    space = FeatureSpace(student(), dd.Augmentation(""), centre=public())
    update = ClassSumStudents(released(space, real, 1, clip=1.0), space).next(None, None, dd.generator(0))
    terms = list(MatchClassSums(expected=[10, 10, 10], clip=1.0)(update, real, real, dd.generator(1)))
    assert len(terms) == 3
    assert max(map(float, terms)) < 1e-9
    other = list(MatchClassSums(expected=[20, 10, 10], clip=1.0)(update, real, real, dd.generator(1)))
    assert float(other[0]) > 1e-3
    assert float(other[1]) < 1e-9


def test_networks_with_batch_norm_are_refused_before_a_record_is_looked_at():
    made = sealed().mechanism("sums", releases=2, sample_rate=0.5, noise_multiplier=1.0)
    space = FeatureSpace(student(norm="batch"), dd.Augmentation(""))
    with pytest.raises(PrivacyError, match="BatchNorm2d"):
        released_class_sums(made, space, SHAPE, dd.generator("nets"))
    assert made.left == 2
    with pytest.raises(ValueError, match="releases must hold at least one"):
        ClassSumStudents((), space)
