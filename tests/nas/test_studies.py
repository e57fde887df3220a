"""The bridge to Optuna: trials score what `rank` scores, prune, and start from a ranking."""

from __future__ import annotations

import pytest

import ddsdk as dd
from ddsdk_integrations.nas import ConvNetSpace, ParameterCount, ProxyObjective, add_ranking, distributions, rank

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = ConvNetSpace(image_shape=(1, 16, 16), num_classes=10, widths=(4, 8))


class Noisy:
    """The number of parameters, and a hundredth of it that depends on the seed."""

    seconds = 0.0
    identity = {"kind": "noisy"}  # noqa: RUF012

    def __call__(self, make, rng):
        count = ParameterCount()(make, rng)["score"]
        return {"score": count * (1 + (rng.initial_seed() % 1000) / 1e5)}


def objective(**more):
    return ProxyObjective(space=SPACE, proxy=Noisy(), seed=dd.generator("run"), **more)


def study(**more):
    told = {"direction": "maximize", "pruner": optuna.pruners.NopPruner()} | more
    return optuna.create_study(**told, sampler=optuna.samplers.RandomSampler(seed=0))


def test_trials_score_what_a_ranking_scores():
    found = study()
    found.optimize(objective(seeds=2), n_trials=6)
    by_name = {one.name: one for one in SPACE}
    names = [trial.user_attrs["candidate"] for trial in found.trials]
    ranking = rank([by_name[name] for name in set(names)], Noisy(), seed=dd.generator("run"), seeds=2)
    for trial in found.trials:
        assert trial.value == ranking.means[trial.user_attrs["candidate"]]
        assert len(trial.intermediate_values) == 2
    assert found.best_value == max(ranking.means.values())


def test_a_pruner_stops_poor_candidates():
    found = study(pruner=optuna.pruners.ThresholdPruner(lower=1e9))
    found.optimize(objective(seeds=3), n_trials=2)
    assert {trial.state for trial in found.trials} == {optuna.trial.TrialState.PRUNED}
    assert all(len(trial.intermediate_values) == 1 for trial in found.trials)


def test_size_can_be_a_second_value():
    found = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    found.optimize(objective(parameters=True), n_trials=3)
    for trial in found.trials:
        score, size = trial.values
        assert size == int(size) and size <= score <= 1.01 * size


def test_a_study_goes_on_from_a_ranking():
    candidates = SPACE.sample(8, dd.generator("sample"))
    ranking = rank(candidates, Noisy(), seed=dd.generator("run"))
    found = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    assert add_ranking(found, SPACE, ranking) == 8
    assert found.best_trial.user_attrs["candidate"] == ranking.best()[0]
    assert found.best_value == max(ranking.means.values())
    found.optimize(objective(), n_trials=2)
    assert len(found.trials) == 10
    assert list(distributions(SPACE)) == list(SPACE.choices)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="seeds"):
        objective(seeds=0)
    with pytest.raises(TypeError, match="seed must be an integer or a"):
        ProxyObjective(space=SPACE, proxy=Noisy(), seed=0.0)
