"""Proxies that train, and ranking by units of work: the same numbers from whoever works."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ddsdk as dd
from ddsdk.experiments import Processes
from ddsdk.foundation import Store, derive
from ddsdk.judging import TrainingSet, network_accuracy
from ddsdk.training import PerStepSchedule
from ddsdk_integrations.nas import Ranking, TrainingProxy, distilled_proxy, early_stopping, rank
from ddsdk_integrations.nas.ranking import network_signature


@pytest.fixture
def chosen(pictures):
    return dd.distill(dd.BASELINES["random"](ipc=3), pictures[0], seed=dd.generator("chosen"))


@pytest.fixture
def proxy(pictures, chosen, training):
    return distilled_proxy(chosen, pictures[1], protocol=training, seed=dd.generator("proxy"))


def broken(rng):
    """A factory whose networks fit no picture."""
    return torch.nn.Linear(3, 3)


def test_a_score_is_the_accuracy_that_the_judge_measures(pictures, chosen, training, candidates):
    make, root = candidates[0], dd.generator("root")
    options = {"network": "convnet", "network_options": dict(make.options)}
    proxy = distilled_proxy(chosen, pictures[1], protocol=training, seed=dd.generator(0))
    protocol = dataclasses.replace(training, **options)
    expected = network_accuracy(TrainingSet.of(chosen, protocol), pictures[1], 0, rng=root)
    assert proxy(make, derive(root, "network", 0)) == {"score": expected}


def test_soft_and_learned_labels_rates_and_spaces_come_from_the_set(pictures, chosen, candidates):
    soft = 0.8 * chosen.labels + 0.02
    whitened = dd.Preprocess.normalise([0.3], [0.2])
    own = dd.TrainingProtocol(name="own", epochs=2, batch_size=10, order="stored", decay_at=())
    rates = tuple(0.01 * (i + 1) for i in range(6))
    distilled = dataclasses.replace(chosen, labels=soft, preprocess=whitened, protocol=own.to_dict(), learned_lr=rates)
    proxy = distilled_proxy(distilled, pictures[1], seed=dd.generator(0))
    assert proxy.per_step.rates == distilled.learned_lr
    assert torch.equal(proxy.batch.y, soft)
    assert proxy.held_out.preprocess == whitened
    assert 0 <= proxy(candidates[0], dd.generator(0))["score"] <= 1
    # Under another protocol the rates mean nothing.
    other = distilled_proxy(distilled, pictures[1], protocol=own, steps=2, seed=dd.generator(0))
    assert not any(other.per_step)


def test_early_stopping_is_the_beginning_of_training(pictures, training, candidates):
    train, held_out = pictures
    whole = training.steps_in_epoch(len(train)) * training.epochs
    for steps in (None, whole):
        proxy = early_stopping(train, held_out, protocol=training, steps=steps, test=held_out)
        found = proxy(candidates[0], dd.generator("run"))
        assert found["score"] == found["test"]
        if steps is None:
            expected = found
    assert found == expected


def test_batch_norm_takes_its_statistics_from_real_images(pictures, chosen, training, candidates):
    batch_norm = candidates[2]
    assert batch_norm.options["norm"] == "batch"
    train, held_out = pictures
    # Another brightness: what the set's own statistics make of real images is then nothing.
    shifted = dataclasses.replace(chosen, images=chosen.images + 5)
    scores = [
        distilled_proxy(shifted, held_out, protocol=training, steps=20, statistics=statistics, seed=dd.generator(0))(
            batch_norm, dd.generator("run")
        )["score"]
        for statistics in (None, train)
    ]
    assert scores[1] > scores[0] + 0.1


def test_what_a_score_depends_on_is_in_the_identity(pictures, chosen, training):
    train, held_out = pictures
    usual = {"protocol": training, "seed": dd.generator(0)}
    base = distilled_proxy(chosen, held_out, **usual)
    same = distilled_proxy(
        chosen, held_out, protocol=dataclasses.replace(training, name="x", networks=9), seed=dd.generator(1)
    )
    assert base.identity == same.identity
    others = [
        distilled_proxy(dataclasses.replace(chosen, images=chosen.images + 1), held_out, **usual),
        distilled_proxy(chosen, train, **usual),
        distilled_proxy(chosen, held_out, steps=3, **usual),
        distilled_proxy(chosen, held_out, statistics=train, **usual),
        distilled_proxy(chosen, held_out, protocol=dataclasses.replace(training, lr=0.1), seed=dd.generator(0)),
        early_stopping(train, held_out, protocol=training),
        early_stopping(train, held_out, protocol=training, test=train),
        dataclasses.replace(base, held_out=held_out.with_preprocess(dd.Preprocess.unit(1))),
    ]
    assert len({str(one.identity) for one in [base, *others]}) == 1 + len(others)


def test_bad_proxies_are_refused(pictures, chosen, training):
    held_out = pictures[1]
    batch = dd.Batch(chosen.images, chosen.labels)
    good = {"batch": batch, "protocol": training, "held_out": held_out}
    with pytest.raises(ValueError, match="images of shape"):
        TrainingProxy(**{**good, "batch": dd.Batch(batch.x[:, :, :8], batch.y)})
    with pytest.raises(ValueError, match="rows of 10 labels"):
        TrainingProxy(**{**good, "batch": dd.Batch(batch.x, batch.y[:, :3])})
    with pytest.raises(ValueError, match="learner"):
        TrainingProxy(**{**good, "protocol": dataclasses.replace(training, learner="kernel", network="fc-ntk")})
    with pytest.raises(ValueError, match="steps"):
        TrainingProxy(**good, steps=0)
    with pytest.raises(ValueError, match="steps must be None"):
        TrainingProxy(**good, steps=2, per_step=PerStepSchedule((0.1, 0.2)))
    with pytest.raises(ValueError, match="statistics"):
        TrainingProxy(**good, statistics=batch.x[:1])


def test_a_ranking_does_not_depend_on_order_or_worker(proxy, candidates, tmp_path):
    rng = dd.generator("run")
    here = rank(candidates, proxy, seed=rng, seeds=2)
    backwards = rank(candidates[::-1], proxy, seed=rng, seeds=2)
    pool = rank(candidates, proxy, seed=rng, seeds=2, store=tmp_path, executor=Processes(1))
    assert here.scores == backwards.scores == pool.scores
    assert here.seeds == 2 and here.seconds > 0 and here.before == proxy.seconds
    assert all(len(set(values)) >= 1 and 0 <= min(values) <= max(values) <= 1 for values in here.scores.values())
    assert here.parameters[next(iter(here.scores))] == sum(
        p.numel() for p in candidates[0](dd.generator(0)).parameters()
    )


def test_what_is_there_is_not_computed_again(proxy, candidates, tmp_path):
    class Counting:
        calls, seconds, identity = 0, 0.0, proxy.identity

        def __call__(self, make, rng):
            Counting.calls += 1
            return proxy(make, rng)

    first = rank(candidates[:2], Counting(), seed=dd.generator(0), store=tmp_path)
    assert Counting.calls == 2
    more = rank(candidates[:3], Counting(), seed=dd.generator(0), seeds=2, store=tmp_path)
    assert Counting.calls == 6
    assert {name: values[:1] for name, values in more.scores.items() if name in first.scores} == first.scores
    rank(candidates[:2], Counting(), seed=dd.generator(1), store=tmp_path)
    assert Counting.calls == 8
    assert len(Store(tmp_path).finished()) == 8


def test_a_factory_that_changed_under_its_name_is_computed_again(proxy, candidates, tmp_path):
    one, other = (rank([("it", make)], proxy, seed=dd.generator(0), store=tmp_path) for make in candidates[:2])
    assert one.parameters != other.parameters or one.scores != other.scores
    assert network_signature(candidates[0]) == network_signature(candidates[0])
    assert network_signature(candidates[0])[0] != network_signature(candidates[1])[0]


def test_a_candidate_with_an_error_is_left_out_and_listed(proxy, candidates):
    found = rank([*candidates[:2], broken], proxy, seed=dd.generator(0), name="some")
    assert len(found.scores) == 2 and "broken" not in found.scores
    assert set(found.failures) == {"broken"}
    with pytest.raises(RuntimeError, match="no candidate could be scored"):
        rank([broken], proxy, seed=dd.generator(0))


def test_rankings_are_plain_values_and_tell_seeds_apart():
    both = Ranking(
        name="x",
        scores={"a": (0.2, 0.4), "b": (0.3, 0.3), "c": (0.1, 0.0)},
        seconds=4.0,
        before=1.0,
        extra={"test": {"a": (0.1, 0.1), "b": (0.2, 0.2), "c": (0.3, 0.3)}},
    )
    assert Ranking.from_dict(both.to_dict()) == both
    assert both.best(2) == ["a", "b"]
    assert both.seed(1).scores == {"a": (0.4,), "b": (0.3,), "c": (0.0,)}
    assert (both.seed(1).seconds, both.seed(1).before) == (2.0, 1.0)
    assert both.by("test").best() == ["c"]
    for call in (lambda: both.seed(2), lambda: both.by("x"), lambda: Ranking.from_dict({"name": 1})):
        with pytest.raises(ValueError, match="must"):
            call()
    with pytest.raises(ValueError, match="scores must"):
        Ranking(name="x", scores={"a": (1.0,), "b": (1.0, 2.0)})


def test_bad_requests_are_refused(proxy, candidates):
    with pytest.raises(TypeError, match="seed must be an integer or a"):
        rank(candidates, proxy, seed=0.0)
    with pytest.raises(ValueError, match="seeds"):
        rank(candidates, proxy, seed=dd.generator(0), seeds=0)
    with pytest.raises(ValueError, match="different names"):
        rank(candidates[:1] * 2, proxy, seed=dd.generator(0))
