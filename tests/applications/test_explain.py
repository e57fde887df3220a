"""Explanations by a synthetic set: closed forms against solving again, rankings against leave-one-out on digits."""

from __future__ import annotations

import json

import pytest
import torch

import ddsdk as dd
from benchmarks.explain import BENCHMARK
from ddsdk.training import KernelMachine, Ridge, kernel_machine, solve, solve_labels
from ddsdk_integrations.explain import (
    Explainer,
    Influence,
    NetworkKernel,
    data_modelling_score,
    draw_explanations,
    leave_one_out,
    random_subsets,
    rank_correlation,
    removal_test,
)

MACHINE = kernel_machine("fc-ntk", rule="absolute", ridge=0.01)


@pytest.fixture
def small_set(tiny):
    rng = dd.generator("set")
    return dd.Distilled(
        torch.randn(6, *tiny.image_shape, generator=rng),
        torch.randn(6, 3, generator=rng),
        class_names=tiny.class_names,
        preprocess=tiny.preprocess,
        label_space="scores",
        protocol=dd.KIP().protocol(tiny).to_dict(),
    )


def all_of(real):
    x, y = real.batch(torch.arange(len(real)))
    return x, y.double() - 1 / real.num_classes


def test_contributions_sum_to_the_prediction_of_the_machine(tiny, small_set):
    x, _ = all_of(tiny)
    explainer = Explainer(small_set)
    found = explainer.explain(x)
    machine = kernel_machine("fc-ntk", depth=1, rule="trace", ridge=1e-6)
    theirs = machine.fitted(small_set.images, small_set.labels)(x)
    torch.testing.assert_close(found.prediction, theirs, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.contributions.sum(1), found.prediction, rtol=0, atol=1e-12)
    rows = torch.arange(len(x))
    torch.testing.assert_close(found.own.sum(1), found.prediction[rows, found.classes], rtol=0, atol=1e-12)
    assert bool((found.own.gather(1, found.top(2)).diff(dim=1) <= 0).all())


def test_probabilities_are_centred_as_regression_has_them(tiny):
    chosen = dd.distill(dd.BASELINES["random"](ipc=2), tiny, seed=0)
    found = Explainer(chosen, MACHINE)
    torch.testing.assert_close(found.labels.sum(1), torch.zeros(6).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3])
def test_removal_is_solving_again(tiny, small_set, count):
    x, _ = all_of(tiny)
    explainer = Explainer(small_set, MACHINE)
    removed = torch.stack([torch.randperm(6, generator=dd.generator("r", i))[:count] for i in range(len(x))])
    found = explainer.without(x, removed)
    for i in range(len(x)):
        rest = [j for j in range(6) if j not in removed[i].tolist()]
        slow = MACHINE.fitted(small_set.images[rest], small_set.labels[rest])(x[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], slow, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_influence_is_leaving_out_and_solving_again(tiny, small_set, ridge):
    """Slow: the normal equations of the labels of the set, without each training image in turn."""
    x, truth = all_of(tiny)
    queries = x[:5] + 0.3
    explainer = Explainer(small_set, MACHINE)
    influence = Influence(explainer, tiny, ridge=ridge)
    falls, weights = influence.falls(queries), influence.weights(queries)
    torch.testing.assert_close(weights @ truth, influence.predict(queries), rtol=1e-8, atol=1e-8)

    gram = MACHINE.kernel(small_set.images, small_set.images)
    amount = ridge * float(gram.diagonal().mean())
    metric = gram + 0.01 * torch.eye(6)

    def fit(kept):
        cross = MACHINE.kernel(x[kept], small_set.images)
        beta = torch.linalg.solve(cross.T @ cross + amount * metric, cross.T @ truth[kept])
        return MACHINE.kernel(queries, small_set.images) @ beta

    everything = torch.arange(len(x))
    before = fit(everything)
    classes = before.argmax(1)
    for t in range(len(x)):
        after = fit(everything[everything != t])
        rows = torch.arange(5)
        slow = before[rows, classes] - after[rows, classes]
        torch.testing.assert_close(falls[:, t], slow, rtol=1e-5, atol=1e-7)


def test_without_ridge_the_labels_are_those_of_label_solve(tiny, small_set):
    x, truth = all_of(tiny)
    gram = MACHINE.kernel(small_set.images, small_set.images)
    cross = MACHINE.kernel(x, small_set.images)
    solved = solve_labels(gram, [(cross, truth)], MACHINE.ridge).values
    slow = MACHINE.fitted(small_set.images, solved)(x)
    found = Influence(Explainer(small_set, MACHINE), tiny).predict(x)
    torch.testing.assert_close(found, slow, rtol=1e-6, atol=1e-6)


def test_leave_one_out_is_leaving_one_out(tiny):
    x, truth = all_of(tiny)
    queries, classes = x[:4] * 0.5, torch.tensor([0, 2, 1, 1])
    found = leave_one_out(MACHINE, tiny, queries, classes)
    rows = torch.arange(4)
    before = MACHINE.fitted(x, truth)(queries)[rows, classes]
    for t in range(len(x)):
        kept = torch.arange(len(x)) != t
        after = MACHINE.fitted(x[kept], truth[kept])(queries)[rows, classes]
        torch.testing.assert_close(found[:, t], before - after, rtol=1e-7, atol=1e-9)


def test_a_set_of_all_training_images_gives_leave_one_out_itself(tiny):
    x, _ = all_of(tiny)
    whole = dd.Distilled(
        x.contiguous(), tiny.batch(torch.arange(len(tiny))).y, class_names=tiny.class_names, preprocess=tiny.preprocess
    )
    none = kernel_machine("fc-ntk", rule="absolute", ridge=0.0)
    explainer = Explainer(whole, none)
    queries = x[:6] * 0.7
    influence = Influence(explainer, tiny, ridge=0.05)
    classes = influence.predict(queries).argmax(1)
    shared = kernel_machine("fc-ntk", rule="absolute", ridge=0.05 * explainer.unit)
    theirs = leave_one_out(shared, tiny, queries, classes)
    torch.testing.assert_close(influence.falls(queries), theirs, rtol=1e-5, atol=1e-8)


def test_rank_correlation_is_spearmans():
    scipy = pytest.importorskip("scipy.stats")
    first = torch.randint(0, 5, (4, 20), generator=dd.generator("a")).double()
    second = torch.randn(4, 20, generator=dd.generator("b")).double()
    found = rank_correlation(first, second)
    for i in range(4):
        assert float(found[i]) == pytest.approx(float(scipy.spearmanr(first[i], second[i])[0]), abs=1e-12)


def test_the_modelling_score_of_sums_is_one():
    influence = torch.randn(3, 12, generator=dd.generator("i")).double()
    subsets = random_subsets(12, 30, 0.5, dd.generator("s"))
    assert subsets.sum(1).tolist() == [6] * 30
    outputs = subsets.double() @ influence.T
    assert data_modelling_score(influence, subsets, outputs.exp()) == pytest.approx(1)
    assert data_modelling_score(-influence, subsets, outputs) == pytest.approx(-1)
    with pytest.raises(ValueError, match="outputs must have shape"):
        data_modelling_score(influence, subsets, outputs.T)


@pytest.fixture(scope="module")
def kip(digits):
    recipe = dd.KIP(ipc=5, steps=80, real_batch=200, learn_labels=True)
    return dd.distill(recipe, digits[0], seed=dd.generator("kip"))


def test_named_images_carry_the_prediction_ten_times_more_than_random_ones(digits, kip):
    explainer = Explainer(kip)
    x = digits[1].batch(torch.arange(60)).x
    for count in (1, 5):
        found = removal_test(explainer, x, count, dd.generator("random"))
        assert found.top > 0.3
        assert found.top > 10 * abs(found.random)
        assert abs(found.least) < abs(found.random) + 0.01


def test_influence_ranks_as_leave_one_out_does_and_better_than_neighbours(digits, kip):
    train, test = digits
    x = test.batch(torch.arange(40)).x
    machine = kernel_machine("fc-ntk", ridge=0.1)
    influence = Influence(Explainer(kip), train, ridge=0.1)
    assert influence.agreement > 0.95
    classes = influence.predict(x).argmax(1)
    truth, found = leave_one_out(machine, train, x, classes), influence.falls(x)
    near = -torch.cdist(x.flatten(1), train.batch(torch.arange(len(train))).x.flatten(1))
    assert float(rank_correlation(found, truth).mean()) > 0.15
    assert float(rank_correlation(near, truth).mean()) < 0.05
    ten = truth.topk(10, dim=1).indices
    shared = (influence.behind(x, 10)[:, :, None] == ten[:, None]).any(2).double().mean()
    assert float(shared) > 0.5


def test_features_of_a_network_are_a_kernel(tiny, make_student, small_set):
    network = make_student(dd.generator("n")).eval()
    kernel = NetworkKernel(network)
    x, _ = all_of(tiny)
    features = network.embed(x).double()
    torch.testing.assert_close(kernel(x, x[:3]), features @ features[:3].T / features.shape[1])
    machine = KernelMachine(kernel=kernel, ridge=Ridge(strength=1e-3))
    found = Explainer(small_set, machine).explain(x)
    slow = (
        kernel(x, small_set.images)
        @ solve(kernel(small_set.images, small_set.images), small_set.labels, machine.ridge).values
    )
    torch.testing.assert_close(found.prediction, slow, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_explained_is_refused(tiny, small_set):
    chosen = dd.distill(dd.BASELINES["random"](ipc=1), tiny, seed=0)
    with pytest.raises(ValueError, match="machine must be given for a set that is made for networks"):
        Explainer(chosen)
    explainer = Explainer(small_set, MACHINE)
    with pytest.raises(ValueError, match=r"x must have shape \(B, \(3, 8, 12\)\)"):
        explainer.explain(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="count must not exceed the 6 images"):
        explainer.explain(torch.zeros(1, 3, 8, 12)).top(7)
    with pytest.raises(ValueError, match="count must leave some of the 6 images"):
        removal_test(explainer, torch.zeros(1, 3, 8, 12), 6, dd.generator(0))
    with pytest.raises(ValueError, match="records must be at least as many as the set"):
        Influence(explainer, tiny.subset(torch.cat([tiny.index_of_class(c)[:1] for c in range(3)])))
    with pytest.raises(ValueError, match="ridge must be finite and not negative"):
        Influence(explainer, tiny, ridge=-1)
    with pytest.raises(ValueError, match="share must lie strictly between 0 and 1"):
        random_subsets(4, 2, 1.0, dd.generator(0))
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.20"):
        Influence(explainer, tiny).behind(torch.zeros(1, 3, 8, 12), 21)


def test_explanations_are_drawn(tiny, small_set, tmp_path):
    draw_explanations(Explainer(small_set, MACHINE), tiny, tiny, torch.tensor([0, 3]), tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 5000


def test_models_of_halves_are_distilled_again_if_asked(tmp_path):
    asked = ["--data", "digits", "--images", "8", "--ipc", "1", "--steps", "3", "--queries", "10", "--subsets", "4"]
    asked += ["--methods", "leave-one-out itself", "--no-plots"]
    found = []
    for more in ([], ["--again"]):
        assert BENCHMARK.run([*asked, *more, "--out", str(tmp_path)]) == 0
        found.append(json.loads((tmp_path / "cells.json").read_text())["cells"][0])
    assert found[0]["lds"] != found[1]["lds"]
    assert found[0]["correlation"] == found[1]["correlation"]


def test_the_benchmark_refuses_a_ridge_of_one(tmp_path, capsys):
    assert BENCHMARK.run(["--data", "digits", "--out", str(tmp_path), "--ridge", "1"]) == 2
    assert "ridge must lie in 0 <= value < 1" in capsys.readouterr().err
