"""The mechanism: moments of what it releases, its sensitivity before noise, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from private_records import flat, mechanism, records, sealed
from torch import nn

from ddsdk_integrations.privacy.budget import BudgetSpentError
from ddsdk_integrations.privacy.mechanism import clipped, secret_bernoulli, secret_normal
from ddsdk_integrations.privacy.refusals import PrivacyError, refuse_mixing


def test_what_comes_out_has_the_moments_that_it_states():
    """Mean q sum clip(x), variance q (1 - q) sum clip(x)^2 + (s C)^2 for every number."""
    real, q, noise, clip, draws = records(), 0.3, 0.7, 0.5, 4000
    made = mechanism(real, draws, sample_rate=q, noise_multiplier=noise, clip=clip)
    found = torch.stack([made.noised_sum(flat, 64) for _ in range(draws)])
    rows = clipped(flat(real.batch(torch.arange(len(real)))), clip)
    variance = q * (1 - q) * rows.square().sum(0) + (noise * clip) ** 2
    error = (found.mean(0) - q * rows.sum(0)) / (variance / draws).sqrt()
    assert error.abs().max() < 4.5
    assert error.square().mean() == pytest.approx(1, abs=0.6)
    assert found.var(0).div(variance).sub(1).abs().max() < 6 * math.sqrt(2 / draws)
    assert made.left == 0


def test_noise_is_independent_from_release_to_release_and_never_the_same_twice():
    made = mechanism(releases=400, sample_rate=1.0, noise_multiplier=1.0)
    found = torch.stack([made.noised_sum(flat, 64) for _ in range(400)])
    noise = found - found.mean(0)
    correlation = (noise[:-1] * noise[1:]).mean() / noise.square().mean()
    assert abs(float(correlation)) < 0.03
    other = mechanism(sample_rate=1.0, noise_multiplier=1.0)
    assert not torch.allclose(found[0], other.noised_sum(flat, 64))


@pytest.mark.parametrize("by", ["all", "class"])
def test_removing_a_record_changes_the_sum_before_noise_by_the_clip_norm_at_most(by):
    real = records()
    total = mechanism(real, sample_rate=1.0, clip=0.25).noised_sum(flat, 64, by=by)
    for i in range(0, len(real), 7):
        kept = torch.arange(len(real)) != i
        without = mechanism(real.subset(torch.nonzero(kept).flatten()), sample_rate=1.0, clip=0.25)
        moved = (total - without.noised_sum(flat, 64, by=by)).norm()
        assert 0.2 < float(moved) <= 0.25 * (1 + 1e-4)


def test_a_record_that_is_not_finite_counts_as_nothing():
    rows = torch.tensor([[3.0, 4.0], [float("nan"), 1.0], [float("inf"), 0.0], [0.3, 0.4], [0.0, 0.0]])
    found = clipped(rows, 1.0)
    assert torch.allclose(found, torch.tensor([[0.6, 0.8], [0, 0], [0, 0], [0.3, 0.4], [0, 0]]))


def test_an_empty_sample_is_released_like_any_other():
    made = mechanism(releases=300, sample_rate=1e-9, noise_multiplier=2.0, clip=3.0)
    found = torch.stack([made.noised_sum(flat, 64) for _ in range(300)])
    assert float(found.std()) == pytest.approx(6.0, rel=0.03)
    by_class = mechanism(sample_rate=1e-9).noised_sum(flat, 64, by="class")
    assert by_class.shape == (3, 64)


def test_sums_of_classes_add_up_to_the_sum():
    made = mechanism(releases=2, sample_rate=1.0)
    whole, parts = made.noised_sum(flat, 64), made.noised_sum(flat, 64, by="class")
    assert torch.allclose(whole, parts.sum(0), atol=1e-4)


def test_the_count_comes_before_the_look():
    private = sealed()
    made = private.mechanism("flat", releases=2, sample_rate=1.0, noise_multiplier=1.0)
    assert private.ledger.releases[0].count == 2

    def failing(batch):
        if len(batch.x) == 40:  # the records, and not the noise images before them
            raise RuntimeError("no")
        return flat(batch)

    made.noised_sum(flat, 64)
    with pytest.raises(RuntimeError, match="no"):
        made.noised_sum(failing, 64)
    with pytest.raises(BudgetSpentError, match="all 2 releases of flat are made"):
        made.noised_sum(flat, 64)
    with pytest.raises(ValueError, match=r"rows must have shape \(\d+, 64\)"):
        mechanism(sample_rate=1.0).noised_sum(lambda batch: flat(batch)[:, :3], 64)


@pytest.mark.parametrize(
    "rows",
    [
        lambda batch: flat(batch) - flat(batch).mean(0),
        lambda batch: flat(batch) * (flat(batch).norm(dim=1, keepdim=True) == flat(batch).norm(dim=1).max()),
        lambda batch: 0.5 * (flat(batch) + flat(batch).flip(0)),
        lambda batch: nn.BatchNorm2d(1)(batch.x).flatten(1),
    ],
    ids=["batch mean", "largest of the batch", "mixup", "batch norm"],
)
def test_rows_that_depend_on_other_records_are_refused_before_a_look(rows):
    made = mechanism()
    with pytest.raises(PrivacyError, match="rows must depend on one record each"):
        made.noised_sum(rows, 64)
    assert made.left == 1


def test_later_releases_are_tried_too_and_so_is_what_only_large_batches_show():
    made = mechanism(releases=3)
    made.noised_sum(flat, 64)
    with pytest.raises(PrivacyError, match="rows must depend on one record each"):
        made.noised_sum(lambda batch: flat(batch) - flat(batch).mean(0), 64)

    def largest(batch):
        rows = flat(batch)
        kept = torch.zeros(len(rows), 1).index_fill_(0, rows.norm(dim=1).topk(min(16, len(rows))).indices, 1.0)
        return rows * kept

    with pytest.raises(PrivacyError, match="rows must depend on one record each"):
        mechanism().noised_sum(largest, 64)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deep copy", "pickle"])
def test_a_mechanism_is_not_copied_or_stored(how):
    with pytest.raises(PrivacyError, match="a mechanism must not be copied or stored, got one for flat"):
        how(mechanism())


def test_noise_has_the_stated_size_in_every_class():
    made = mechanism(releases=200, sample_rate=1e-9, noise_multiplier=2.0, clip=3.0)
    found = torch.stack([made.noised_sum(flat, 64, by="class") for _ in range(200)])
    assert found.std((0, 2)).tolist() == pytest.approx([6.0] * 3, rel=0.04)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_low_precision_are_clipped_in_full(dtype):
    real = records(1 * 3)
    alone = mechanism(real, sample_rate=1.0, clip=1.0)
    total = alone.noised_sum(lambda batch: flat(batch).to(dtype), 64, by="class")
    assert float(total.norm(dim=1).max()) <= 1 + 1e-5


def test_long_rows_are_taken_in_small_pieces():
    seen = []

    def rows(batch):
        seen.append(len(batch.x))
        return flat(batch).repeat(1, 1 << 15)

    mechanism(records(40), sample_rate=1.0).noised_sum(rows, 64 << 15)
    assert max(seen[2:]) == 8


def test_secret_numbers_are_uniform_normal_and_deaf_to_seeds():
    torch.manual_seed(1)
    one = secret_normal(torch.Size([200_000]))
    torch.manual_seed(1)
    two = secret_normal(torch.Size([200_000]))
    assert not torch.equal(one, two)
    assert one.dtype == torch.float64
    assert abs(float(one.mean())) < 0.01
    assert float(one.std()) == pytest.approx(1, abs=0.01)
    assert float((one.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)
    assert float(secret_bernoulli(200_000, 0.3).double().mean()) == pytest.approx(0.3, abs=0.005)
    # Numbers of 24 bits would be below 1e-9 sixty times too often.
    assert int(sum(secret_bernoulli(1 << 22, 1e-9).sum() for _ in range(8))) <= 1
    assert bool(secret_bernoulli(100, 1.0).all())


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
