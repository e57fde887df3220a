"""The mechanism: moments of what it releases, its sensitivity before noise, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ddsdk as dd
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError, Ledger
from ddsdk_integrations.privacy.guard import refuse_mixing, refuse_private_start
from ddsdk_integrations.privacy.mechanism import Mechanism, PrivacyError, clipped
from ddsdk_integrations.privacy.released import MatchClassSums, ReleasedSums, released_class_sums

HUGE = Budget(epsilon=1e30, delta=0.5)


def records(n=40, seed=0):
    rng = dd.generator("records", seed)
    labels = torch.arange(n) % 3
    return dd.RealData(
        torch.rand(n, 1, 8, 8, generator=rng),
        labels,
        class_names="abc",
        preprocess=dd.Preprocess.normalise([0.5], [0.5]),
    )


def mechanism(real=None, **how):
    usual = {"sample_rate": 0.5, "noise_multiplier": 1e-9, "clip": 1.0}
    return Mechanism(records() if real is None else real, Ledger(HUGE), **{**usual, **how})


def flat(batch):
    return batch.x.flatten(1)


def test_what_comes_out_has_the_moments_that_it_states():
    """Mean q sum clip(x), variance q (1 - q) sum clip(x)^2 + (s C)^2 for every number."""
    real, q, noise, clip, draws = records(), 0.3, 0.7, 0.5, 4000
    made = mechanism(real, sample_rate=q, noise_multiplier=noise, clip=clip)
    right = made.reserve("flat", draws)
    found = torch.stack([made.noised_sum(right, flat, 64) for _ in range(draws)])
    rows = clipped(flat(real.batch(torch.arange(len(real)))), clip)
    variance = q * (1 - q) * rows.square().sum(0) + (noise * clip) ** 2
    error = (found.mean(0) - q * rows.sum(0)) / (variance / draws).sqrt()
    assert error.abs().max() < 4.5
    assert error.square().mean() == pytest.approx(1, abs=0.6)
    assert found.var(0).div(variance).sub(1).abs().max() < 6 * math.sqrt(2 / draws)
    assert made.ledger.releases[0].count == draws


def test_noise_is_independent_from_release_to_release_and_never_the_same_twice():
    made = mechanism(sample_rate=1.0, noise_multiplier=1.0)
    other = mechanism(sample_rate=1.0, noise_multiplier=1.0)
    right, again = made.reserve("flat", 400), other.reserve("flat", 1)
    found = torch.stack([made.noised_sum(right, flat, 64) for _ in range(400)])
    noise = found - found.mean(0)
    correlation = (noise[:-1] * noise[1:]).mean() / noise.square().mean()
    assert abs(float(correlation)) < 0.03
    assert not torch.allclose(found[0], other.noised_sum(again, flat, 64))


@pytest.mark.parametrize("by", ["all", "class"])
def test_removing_a_record_changes_the_sum_before_noise_by_the_clip_norm_at_most(by):
    real = records()
    whole = mechanism(real, sample_rate=1.0, clip=0.25)
    total = whole.noised_sum(whole.reserve("flat", 1), flat, 64, by=by)
    for i in range(0, len(real), 7):
        kept = torch.arange(len(real)) != i
        without = mechanism(real.subset(torch.nonzero(kept).flatten()), sample_rate=1.0, clip=0.25)
        moved = (total - without.noised_sum(without.reserve("flat", 1), flat, 64, by=by)).norm()
        assert 0.2 < float(moved) <= 0.25 * (1 + 1e-4)


def test_a_record_that_is_not_finite_counts_as_nothing():
    rows = torch.tensor([[3.0, 4.0], [float("nan"), 1.0], [float("inf"), 0.0], [0.3, 0.4], [0.0, 0.0]])
    found = clipped(rows, 1.0)
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0, 0], [0, 0], [0.3, 0.4], [0, 0]]))


def test_an_empty_sample_is_released_like_any_other():
    made = mechanism(sample_rate=1e-9, noise_multiplier=2.0, clip=3.0)
    right = made.reserve("flat", 300)
    found = torch.stack([made.noised_sum(right, flat, 64) for _ in range(300)])
    assert float(found.std()) == pytest.approx(6.0, rel=0.03)
    by_class = made.noised_sum(made.reserve("flat", 1), flat, 64, by="class")
    assert by_class.shape == (3, 64)


def test_sums_of_classes_add_up_to_the_sum():
    made = mechanism(sample_rate=1.0)
    right = made.reserve("flat", 2)
    whole, parts = made.noised_sum(right, flat, 64), made.noised_sum(right, flat, 64, by="class")
    assert torch.allclose(whole, parts.sum(0), atol=1e-4)


def test_the_count_comes_before_the_look():
    made = Mechanism(records(), Ledger(Budget(epsilon=1, delta=1e-5)), sample_rate=0.5, noise_multiplier=20.0)
    right = made.reserve("flat", 1)

    def failing(batch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        made.noised_sum(right, failing, 64)
    assert made.ledger.releases[0].count == 1
    with pytest.raises(BudgetSpentError):
        made.noised_sum(right, flat, 64)
    with pytest.raises(ValueError, match=r"per_example must return rows \(\d+, 64\)"):
        made.noised_sum(made.reserve("flat", 1), lambda batch: flat(batch)[:, :3], 64)


def test_records_do_not_leave():
    sealed = mechanism().sealed
    assert (sealed.num_classes, sealed.device.type) == (3, "cpu")
    for draw in (lambda: sealed.of_class(0, 5, dd.generator(0)), lambda: sealed.mixed(5, dd.generator(0))):
        with pytest.raises(PrivacyError, match="private records must not leave the mechanism"):
            draw()
    assert not any("secret" in key or "seed" in key for key in vars(sealed))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.BatchNorm2d(2, affine=False)).requires_grad_(False),
        nn.Sequential(nn.InstanceNorm2d(2, track_running_stats=True)),
        nn.Sequential(nn.SyncBatchNorm(2)),
    ],
    ids=["batch norm", "frozen, without parameters", "running statistics", "of several devices"],
)
def test_a_network_that_mixes_records_is_refused_frozen_or_not(network):
    with pytest.raises(PrivacyError, match="network must treat records one by one, got"):
        refuse_mixing(network)
    refuse_mixing(nn.Sequential(nn.GroupNorm(1, 2), nn.InstanceNorm2d(2), nn.LayerNorm(2)))


@pytest.mark.parametrize("start", ["real", "k-means", "means", "herding"])
def test_a_start_from_records_is_refused(start):
    with pytest.raises(PrivacyError, match="images that begin as records are records"):
        refuse_private_start(start)
    refuse_private_start("noise")


def student(**how):
    return dd.network_factory("convnet", (1, 8, 8), 3, width=4, depth=1, **how)


def test_released_sums_are_those_of_a_loop_without_noise():
    real = records()
    made = mechanism(real, sample_rate=1.0, clip=0.3)
    augmentation = dd.Augmentation("crop_flip")
    found = released_class_sums(made, student(), augmentation, dd.generator("nets"), releases=3)
    assert made.ledger.releases[0].count == 3
    supply = ReleasedSums(found, student(), augmentation)
    everything = real.batch(torch.arange(len(real)))
    for step in range(6):
        lesson = supply.next(made.sealed, None, dd.generator("step", step))
        wanted = torch.zeros_like(lesson.sums)
        seen = lesson.draw(everything.x)
        for x, y in zip(seen, everything.y, strict=True):
            row = lesson.network.embed(x[None])[0]
            wanted[int(y.argmax())] += row * min(1.0, 0.3 / float(row.norm()))
        assert torch.allclose(lesson.sums, wanted, atol=1e-4)


def test_noise_is_drawn_once_for_each_release():
    made = mechanism(sample_rate=0.5, noise_multiplier=3.0)
    found = released_class_sums(made, student(), dd.Augmentation(""), dd.generator("nets"), releases=4)
    supply = ReleasedSums(found, student(), dd.Augmentation(""))
    before = made.ledger.releases[0].count
    lessons = [supply.next(made.sealed, None, dd.generator("step", i)) for i in range(50)]
    assert made.ledger.releases[0].count == before == 4
    assert len({id(lesson.sums) for lesson in lessons}) == 4


def test_a_match_of_sums_is_zero_for_the_records_themselves():
    real = records(30)
    made = mechanism(real, sample_rate=1.0, clip=1.0)
    found = released_class_sums(made, student(), dd.Augmentation(""), dd.generator("nets"), releases=1)
    lesson = ReleasedSums(found, student(), dd.Augmentation("")).next(made.sealed, None, dd.generator(0))
    terms = list(MatchClassSums(expected=10, clip=1.0)(lesson, made.sealed, real, dd.generator(1)))
    assert len(terms) == 3
    assert max(map(float, terms)) < 1e-9


def test_networks_with_batch_norm_are_refused_before_anything_is_spent():
    made = mechanism()
    with pytest.raises(PrivacyError, match="BatchNorm2d"):
        released_class_sums(
            made, student(norm="batch"), dd.Augmentation(""), dd.generator("nets"), releases=2
        )
    assert made.ledger.releases == ()
