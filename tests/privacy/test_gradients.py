"""Private gradient matching: gradients of each record against a loop, and the release of their sum."""

from __future__ import annotations

import pytest
import torch
from test_mechanism import mechanism, records, student

import ddsdk as dd
from ddsdk_integrations.privacy.budget import BudgetSpentError
from ddsdk_integrations.privacy.gradients import (
    MatchNoisedGradients,
    NoisedGradients,
    matched_weights,
    sample_gradients,
)
from ddsdk_integrations.privacy.mechanism import PrivacyError


@pytest.mark.parametrize("name", ["convnet", "mlp", "lenet"])
def test_the_gradients_of_records_are_those_of_a_loop(name):
    real = dd.load("digits") if name == "lenet" else records(6)
    if name == "lenet":
        real = dd.RealData(
            torch.rand(5, 1, 28, 28, generator=dd.generator("x")),
            torch.tensor([0, 1, 2, 0, 1]),
            class_names="abc",
            preprocess=dd.Preprocess.unit(1),
        )
    network = dd.network_factory(name, real.image_shape, 3)(dd.generator("net"))
    batch = real.batch(torch.arange(5))
    found = sample_gradients(network, batch)
    for i in range(5):
        one = dd.Batch(batch.x[i : i + 1], batch.y[i : i + 1])
        alone = dd.weight_gradients(network, one, graph=False)
        assert torch.allclose(found[i], torch.cat([g.flatten() for g in alone]), atol=1e-5)
    assert all(p.grad is None for p in network.parameters())


def test_a_release_is_the_clipped_sum_over_the_expected_size():
    real = records(12)
    made = mechanism(real, sample_rate=1.0, clip=0.1)
    supply = NoisedGradients(made, dd.FreshStudents(student()), releases=1, expected=20.0)
    lesson = supply.next(made.sealed, None, dd.generator("step"))
    rows = sample_gradients(lesson.network, real.batch(torch.arange(12)))
    wanted = (rows * (0.1 / rows.norm(dim=1, keepdim=True)).clamp_max(1)).sum(0) / 20
    assert torch.allclose(torch.cat([g.flatten() for g in lesson.gradients]), wanted, atol=1e-6)
    assert [g.shape for g in lesson.gradients] == [p.shape for _, p in matched_weights(lesson.network)]
    with pytest.raises(BudgetSpentError):
        supply.next(made.sealed, None, dd.generator("step", 2))


def test_a_plan_runs_on_releases_alone():
    made = mechanism(records(30), sample_rate=0.8, clip=1.0)
    classes = dd.class_slots(3, 2)
    start = torch.randn(6, 1, 8, 8, generator=dd.generator("start"))
    syn = dd.SyntheticSet(dd.Pixels(start), dd.hard_labels(classes, 3), classes, 3)
    plan = dd.Plan(
        syn=syn,
        objective=MatchNoisedGradients(),
        students=NoisedGradients(made, dd.FreshStudents(student()), releases=4, expected=24.0),
        make_optimizer=lambda syn: torch.optim.SGD(syn.parameters(), lr=0.1),
        steps=4,
    )
    run = dd.Distillation(plan, made.sealed, rng=dd.generator("run"))
    losses = [step.loss for step in run]
    assert len(losses) == 4
    assert not torch.equal(run.result.parametrization.images, start)
    assert made.ledger.releases[0].count == 4


def test_batch_norm_is_refused():
    made = mechanism()
    supply = NoisedGradients(made, dd.FreshStudents(student(norm="batch")), releases=1, expected=20.0)
    with pytest.raises((PrivacyError,)):
        supply.next(made.sealed, None, dd.generator("step"))
    assert made.ledger.releases == ()
