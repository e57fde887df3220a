"""Private gradient matching: gradients of each record against a loop, and the release of their sum."""

from __future__ import annotations

import pytest
import torch
from private_records import mechanism, records, sealed, student

import ddsdk as dd
from ddsdk.objectives import ByFeatures, by_kernel, weight_gradients
from ddsdk.students import FixedTeachers, FreshStudents
from ddsdk.synthetic import MultiFormation, centred_labels, class_slots, hard_labels
from ddsdk.training import FullyConnectedNTK, Ridge
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError
from ddsdk_integrations.privacy.dp_kip import NoisedRegression
from ddsdk_integrations.privacy.gradients import (
    MatchNoisedGradients,
    NoisedGradients,
    dp_sgd,
    matched_weights,
    sample_gradients,
)
from ddsdk_integrations.privacy.refusals import PrivacyError


def grey(n=5, side=28):
    return dd.RealData(
        torch.rand(n, 1, side, side, generator=dd.generator("x")),
        torch.arange(n) % 3,
        class_names="abc",
        preprocess=dd.Preprocess.unit(1),
    )


@pytest.mark.parametrize("name", ["convnet", "mlp", "lenet"])
def test_the_gradients_of_records_are_those_of_a_loop(name):
    real = grey() if name == "lenet" else records(6)
    network = dd.network_factory(name, real.image_shape, 3)(dd.generator("net"))
    batch = real.batch(torch.arange(5))
    found = sample_gradients(network, batch, matched_weights(network))
    for i in range(5):
        one = dd.Batch(batch.x[i : i + 1], batch.y[i : i + 1])
        alone = weight_gradients(network, one, graph=False)
        assert torch.allclose(found[i], torch.cat([g.flatten() for g in alone]), atol=1e-5)
    assert all(p.grad is None for p in network.parameters())


def test_gradients_by_all_parameters_are_those_of_a_loop():
    real, network = records(4), student()(dd.generator("net"))
    batch = real.batch(torch.arange(4))
    found = sample_gradients(network, batch, [name for name, _ in network.named_parameters()])
    for i in range(4):
        loss = torch.nn.functional.cross_entropy(network(batch.x[i : i + 1]), batch.y[i : i + 1])
        alone = torch.autograd.grad(loss, list(network.parameters()))
        assert torch.allclose(found[i], torch.cat([g.flatten() for g in alone]), atol=1e-5)


def test_a_release_is_the_clipped_sum_over_the_expected_size():
    real = records(12)
    made = mechanism(real, sample_rate=1.0, clip=0.1)
    supply = NoisedGradients(made, FreshStudents(student()), expected=[8.0, 6.0, 6.0])
    update = supply.next(sealed(real), None, dd.generator("step"))
    rows = sample_gradients(update.network, real.batch(torch.arange(12)), matched_weights(update.network))
    wanted = (rows * (0.1 / rows.norm(dim=1, keepdim=True)).clamp_max(1)).sum(0) / 20
    (found,) = update.gradients
    assert torch.allclose(torch.cat([g.flatten() for g in found]), wanted, atol=1e-6)
    parameters = dict(update.network.named_parameters())
    assert [g.shape for g in found] == [parameters[n].shape for n in matched_weights(update.network)]
    with pytest.raises(BudgetSpentError):
        supply.next(sealed(real), None, dd.generator("step", 2))


def test_gradients_of_classes_are_those_of_their_records_under_the_same_augmentation():
    real = records(12)
    made = mechanism(real, sample_rate=1.0, clip=0.1)
    flip = dd.Augmentation("flip_crop")
    how = {"expected": [4.0, 2.0, 8.0], "augmentation": flip, "classwise": True}
    update = NoisedGradients(made, FreshStudents(student()), **how).next(sealed(real), None, dd.generator(3))
    batch = real.batch(torch.arange(12))
    names = matched_weights(update.network)
    rows = sample_gradients(update.network, dd.Batch(update.draw(batch.x), batch.y), names)
    rows = rows * (0.1 / rows.norm(dim=1, keepdim=True)).clamp_max(1)
    for c, size in enumerate((4.0, 2.0, 8.0)):
        found = torch.cat([g.flatten() for g in update.gradients[c]])
        assert torch.allclose(found, rows[real.labels == c].sum(0) / size, atol=1e-6)
    terms = list(MatchNoisedGradients()(update, sealed(real), real, dd.generator(4)))
    assert len(terms) == 3
    # Clipping shortens rows, and a cosine does not see by how much where they agree.
    assert max(map(float, terms)) < 5


def test_any_parametrization_runs_on_releases_alone():
    """The plan of the paper with another store of pixels: nothing of the mechanism knows what the set is made of."""
    private = sealed(records(30))
    made = private.mechanism("gradients", releases=4, sample_rate=0.8, noise_multiplier=1e-9)
    canvases = torch.randn(6, 1, 8, 8, generator=dd.generator("start"))
    classes = class_slots(3, 2)
    syn = dd.SyntheticSet(MultiFormation(canvases.clone(), 2), hard_labels(classes, 3), classes, 3)
    plan = dd.Plan(
        syn=syn,
        objective=MatchNoisedGradients(),
        students=NoisedGradients(made, FreshStudents(student()), expected=[8.0] * 3),
        make_optimizer=lambda syn: torch.optim.SGD(syn.parameters(), lr=0.1),
        steps=4,
    )
    before = syn.detached(dd.generator(0)).x.clone()
    run = dd.Distillation(plan, private, rng=dd.generator("run"))
    assert len([step.loss for step in run]) == 4
    assert not torch.equal(run.result.detached(dd.generator(0)).x, before)
    assert made.left == 0


def test_batch_norm_is_refused():
    made = mechanism()
    supply = NoisedGradients(made, FreshStudents(student()), expected=[8.0, 6.0, 6.0])
    batch_norm = student(norm="batch")(dd.generator(0))
    supply._students = FixedTeachers(lambda _: batch_norm)
    with pytest.raises(PrivacyError, match="BatchNorm2d"):
        supply.next(sealed(), None, dd.generator("step"))
    assert made.left == 1


@pytest.mark.parametrize("kind", ["kernel", "features"])
def test_gradients_of_regression_are_those_of_a_loop(kind):
    """In float64 against autograd on one record at a time, ridge included."""
    real = records(7)
    if kind == "kernel":
        compare, learner = by_kernel, FullyConnectedNTK(depth=2)
    else:
        compare, learner = ByFeatures(bias=0.1), student()(dd.generator(1)).eval().requires_grad_(False)
    objective = NoisedRegression(
        mechanism=mechanism(real), compare=compare, ridge=Ridge(rule="trace", strength=0.1), expected=7.0
    )
    classes = class_slots(3, 2)
    images = torch.randn(6, 1, 8, 8, generator=dd.generator("images"))
    labels = centred_labels(classes, 3, 1.0)
    batch = real.batch(torch.arange(7))
    found = objective.record_gradients(learner, dd.Batch(images, labels), batch)
    assert found.shape == (7, 6 * 64)
    for i in range(7):
        leaf = images.clone().requires_grad_()
        gram, cross = compare(learner, leaf, batch.x[i : i + 1])
        shift = 0.1 * gram.diagonal().mean() * torch.eye(6, dtype=gram.dtype)
        told = cross @ torch.linalg.solve(gram + shift, labels.to(gram))
        loss = 0.5 * (told - (batch.y[i].double() - 1 / 3)).square().sum()
        (wanted,) = torch.autograd.grad(loss, leaf)
        assert torch.allclose(found[i], wanted.flatten(), atol=1e-6 * float(wanted.abs().max()) + 1e-7)


def test_a_classifier_learns_from_noised_gradients():
    real = dd.load("digits")
    private = sealed(real, Budget(epsilon=1e30, delta=1e-4), class_size=180)
    make = dd.network_factory("mlp", real.image_shape, 10, width=32)
    network = dp_sgd(private, make_student=make, seed=dd.generator("run"), steps=40, sample_rate=0.2, lr=4.0, clip=0.1)
    everything = real.batch(torch.arange(len(real)))
    with torch.no_grad():
        right = (network(everything.x).argmax(1) == real.labels).double().mean()
    assert right > 0.8
    assert private.ledger.releases[0].count == 40
