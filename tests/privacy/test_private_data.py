"""Sealed records: nothing leaves, what is public is declared, what is not is paid for, and the certificate says so."""

from __future__ import annotations

import pytest
import torch
from private_records import HUGE, PUBLIC, records, sealed

import ddsdk as dd
from ddsdk_integrations.privacy.accounting import certified_epsilon
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError
from ddsdk_integrations.privacy.refusals import PrivacyError
from ddsdk_integrations.privacy.statistics import private_class_means, private_class_sizes, private_normalisation


def test_records_do_not_leave():
    private = sealed()
    for draw in (lambda: private.of_class(0, 5, dd.generator(0)), lambda: private.mixed(5, dd.generator(0))):
        with pytest.raises(PrivacyError, match="private records must not leave the mechanism"):
            draw()
    assert private.description == {"name": "data"}
    assert not hasattr(private, "fingerprint")
    with pytest.raises(TypeError):
        len(private)


def test_texts_that_no_certificate_could_hold_are_refused_at_once():
    for text in ("x" * 400, "a\nb"):
        with pytest.raises(ValueError, match="assumption must be one line of at most 300 printable characters"):
            sealed(statistics=text)


def test_records_are_not_public_images():
    real = records()
    for same in (real, real.with_preprocess(dd.Preprocess.unit(1))):
        with pytest.raises(PrivacyError, match="public must not hold records, got 'data', where 40 of 40 images"):
            sealed(real, public=same)
    others = records(5, seed=1, preprocess=dd.Preprocess.unit(1))
    private = sealed(real, public=others)
    assert torch.equal(private.public, PUBLIC(others.images))
    assert "the images called 'data' are public" in private.ledger.assumptions
    assert sealed().public is None


def test_public_images_must_fit_and_follow_into_another_value_space():
    small = dd.RealData(
        torch.rand(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64), class_names="a", preprocess=dd.Preprocess.unit(1)
    )
    with pytest.raises(ValueError, match=r"public must have shape \(1, 8, 8\)"):
        sealed(public=small)
    others, other = records(5, seed=1), dd.Preprocess.normalise([0.1], [0.2])
    moved = sealed(public=others).with_preprocess(other, "constants")
    assert torch.equal(moved.public, other(others.images))


@pytest.mark.parametrize("preprocess", [PUBLIC, dd.Preprocess.fit_zca(records().images)], ids=["mean", "zca"])
def test_values_that_may_be_fitted_on_records_are_refused(preprocess):
    with pytest.raises(PrivacyError, match="statistics must name the source of the constants"):
        sealed(records(preprocess=preprocess), statistics="")
    assert "normalisation: constants" in sealed(records(preprocess=preprocess)).ledger.assumptions
    sealed(records(preprocess=dd.Preprocess.unit(1)), statistics="")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"class_size": 0}, "class_size must"),
        ({"class_size": [1, 2]}, "class_size must be one number, or one for each of 3 classes"),
        ({"budget": Budget(epsilon=1, delta=0.1)}, r"delta must lie below 1/records, 0.0278"),
    ],
)
def test_bad_public_facts_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        sealed(**how)


def test_normalisation_can_be_paid_for():
    real = records(300, preprocess=dd.Preprocess.unit(1))
    private = sealed(real, class_size=100)
    found = private_normalisation(private, noise_multiplier=1e-6)
    wanted = dd.Preprocess.fit_normalise(real.images)
    assert found.preprocess.mean == pytest.approx(wanted.mean, abs=1e-4)
    assert found.preprocess.std == pytest.approx(wanted.std, abs=1e-3)
    assert found.ledger is private.ledger
    assert private.ledger.releases[0].what == "channel moments"
    assert "normalisation: paid for in the ledger" in found.certificate.assumptions
    with pytest.raises(ValueError, match="private must be in the unit range"):
        private_normalisation(found, noise_multiplier=1.0)
    assert min(private_normalisation(private, noise_multiplier=3.0).preprocess.std) > 0


def test_class_sizes_can_be_paid_for():
    assert private_class_sizes(sealed(records(40)), noise_multiplier=1e-6) == pytest.approx((14, 13, 13), abs=1e-3)
    assert min(private_class_sizes(sealed(), noise_multiplier=1e4)) >= 1


def test_class_means_can_be_paid_for():
    real = records(36)
    found = private_class_means(sealed(real, class_size=12), share=1.0)
    wanted = torch.stack([real.batch(real.index_of_class(c)).x.mean(0) for c in range(3)])
    assert torch.allclose(found, wanted, atol=0.01)
    private = sealed(budget=Budget(epsilon=1, delta=1e-3))
    private_class_means(private, share=0.5)
    assert 0.4 < private.ledger.epsilon <= 0.5
    with pytest.raises(BudgetSpentError, match="is spent"):
        private_class_means(private, share=0.4)


def test_a_certificate_counts_what_was_released():
    private = sealed(budget=Budget(epsilon=2, delta=1e-3))
    with pytest.raises(PrivacyError, match="a certificate must count a release"):
        _ = private.certificate
    private.mechanism("a", releases=3, sample_rate=0.1, noise_multiplier=4.0)
    private.mechanism("b", releases=2, sample_rate=1.0, noise_multiplier=9.0, clip=0.5)
    found = private.certificate
    assert [(r.what, r.count, r.clip) for r in found.releases] == [("a", 3, 1.0), ("b", 2, 0.5)]
    assert found.epsilon == private.ledger.epsilon == certified_epsilon(found) > 0
    assert found.accountant.startswith("rdp (opacus ")
    assert "adding or removing one record" in found.statement
    assert HUGE.delta == found.delta
    assert "the ledger was kept in memory" in found.assumptions[-1]


def test_a_certificate_knows_what_others_entered_in_the_same_file(tmp_path):
    budget, path = Budget(epsilon=2, delta=1e-3), tmp_path / "ledger.json"
    one, two = sealed(budget=budget, path=path), sealed(budget=budget, path=path, statistics="a table")
    one.mechanism("a", releases=3, sample_rate=0.1, noise_multiplier=4.0)
    before = one.certificate.epsilon
    two.mechanism("b", releases=2, sample_rate=1.0, noise_multiplier=9.0)
    assert one.certificate == two.certificate
    assert one.certificate.epsilon > before
    assert {"normalisation: constants", "normalisation: a table"} <= set(one.certificate.assumptions)
    assert "memory" not in str(one.certificate.assumptions)


def test_a_certificate_of_next_to_nothing_is_one():
    private = sealed(budget=Budget(epsilon=1, delta=1e-3))
    private.mechanism("a", releases=1, sample_rate=0.01, noise_multiplier=1000.0)
    assert private.certificate.epsilon == 0
    assert private.certificate.statement.startswith("(0, 0.001)-differential privacy")


def test_a_statement_rounds_epsilon_up():
    private = sealed(budget=Budget(epsilon=1, delta=1e-3))
    private.mechanism("a", releases=1, sample_rate=1.0, noise_multiplier=8.0)
    told = float(private.certificate.statement[1:].split(",")[0])
    assert private.ledger.epsilon <= told < private.ledger.epsilon + 1e-4
