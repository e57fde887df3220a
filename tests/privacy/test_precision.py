"""Double precision under any default type: clipping, sums and noise, and the one rounding at the end."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from private_records import flat, mechanism, records, sealed, student

import ddsdk as dd
from ddsdk_integrations.privacy import DPKIP, NDPDC, PSG
from ddsdk_integrations.privacy import mechanism as mechanism_module
from ddsdk_integrations.privacy.statistics import private_class_means, private_class_sizes, private_normalisation

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@contextmanager
def default(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("by", ["all", "class"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_release_is_the_double_sum_with_double_noise_rounded_once(monkeypatch, dtype, by):
    """Against a loop in float64 with known noise, bit for bit: no default type and no single precision in between."""
    real = records()
    known = torch.linspace(-3, 3, 3 * 64, dtype=torch.float64)
    monkeypatch.setattr(mechanism_module, "secret_normal", lambda shape: known[: shape.numel()].view(shape))
    with default(dtype):
        made = mechanism(real, sample_rate=1.0, noise_multiplier=0.7, clip=0.3)
        found = made.noised_sum(flat, 64, by=by)
    total = torch.zeros(3, 64, dtype=torch.float64)
    batch = real.batch(torch.arange(len(real)))
    for x, y in zip(batch.x.flatten(1).double(), batch.y.argmax(1), strict=True):
        total[y] += x * min(1.0, 0.3 / float(x.norm()))
    total = total if by == "class" else total.sum(0, keepdim=True)
    wanted = (total + 0.7 * 0.3 * known[: total.numel()].view(total.shape)).float()
    assert found.dtype == torch.float32
    # The order of the additions differs in the last digit of float64, which moves a float32 in one case of a billion.
    assert torch.equal(found, wanted if by == "class" else wanted[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_and_coins_have_all_their_digits_under_any_default_type(dtype):
    with default(dtype):
        noise = mechanism_module.secret_normal(torch.Size([1000]))
        assert noise.dtype == torch.float64
        assert bool((noise != noise.float().double()).any())
        assert len(set(noise.tolist())) == 1000
        assert int(mechanism_module.secret_bernoulli(1 << 20, 1e-9).sum()) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_float32_under_any_default_type(dtype):
    real = records(36, preprocess=dd.Preprocess.unit(1))
    with default(dtype):
        sizes = private_class_sizes(sealed(real), noise_multiplier=1e-6)
        means = private_class_means(sealed(real), share=1.0)
        moments = private_normalisation(sealed(real), noise_multiplier=1e-6).preprocess
    assert sizes == pytest.approx((12, 12, 12), abs=1e-3)
    wanted = torch.stack([real.batch(real.index_of_class(c)).x.mean(0) for c in range(3)])
    assert means.dtype == torch.float32
    assert torch.allclose(means, wanted, atol=0.01)
    assert moments.mean == pytest.approx(dd.Preprocess.fit_normalise(real.images).mean, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize(
    "recipe",
    [
        NDPDC(ipc=1, releases=2, steps=2),
        PSG(ipc=1, students=1, steps_per_student=2, student_epochs=1),
        DPKIP(ipc=1, steps=2),
    ],
    ids=["ndpdc", "psg", "dp-kip"],
)
def test_a_run_under_another_default_type_releases_in_full_or_spends_nothing(recipe, dtype):
    private = sealed()
    try:
        with default(dtype):
            made = dd.distill(recipe, private, make_student=student(), seed=0)
    except (RuntimeError, TypeError, ValueError):
        assert private.ledger.releases == ()
    else:
        assert made.images.dtype == torch.float32
        assert bool(torch.isfinite(made.images).all())
