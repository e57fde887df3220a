"""Every algorithm in a small federation: it learns, gives the same bits again, goes on after a stop, and fails well."""

from __future__ import annotations

import dataclasses
import logging
import time

import pytest
import torch
from federation import CLIENTS, QUICK, TASK, TEST, load, participant, run, strategy, vector
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedProx

import ddsdk as dd
from ddsdk.errors import ArtifactError, ResumeError
from ddsdk_integrations.federated import (
    Alone,
    CountingGrid,
    DynaFed,
    Encoding,
    FedNova,
    InProcessGrid,
    LocalTraining,
    MetaKnowledge,
    Packing,
    Scaffold,
    Trajectory,
    accuracy_of,
    client_traffic,
    dosfl,
    fed_dm,
    fed_mk,
    fed_synth,
    one_shot,
)

AVERAGING = {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}
SETS = {
    "one-shot": (lambda **how: strategy(one_shot, evaluation=QUICK, **how), {}),
    "fed-d3": (
        lambda **how: strategy(one_shot, evaluation=QUICK, **how),
        {"distil": dd.KIP(ipc=2, steps=3, real_batch=16), "packing": Packing(soft=True)},
    ),
    "dosfl": (
        lambda **how: strategy(dosfl, **how),
        {"distil": dd.DD(ipc=2, passes=1, steps=2, real_batch=16)},
    ),
    "feddm": (lambda **how: strategy(fed_dm, radius=0.5, trust=1.0, **how), {}),
    "feddm, going on": (lambda **how: strategy(fed_dm, radius=0.5, go_on=True, remember=2, **how), {}),
    "fedmk": (
        lambda **how: strategy(fed_mk, evaluation=QUICK, **how),
        {"distil": MetaKnowledge(ipc=2, steps=2, student_steps=2, real_batch=16)},
    ),
    "fedsynth": (lambda **how: strategy(fed_synth, **how), {"encoding": Encoding(images=10, steps=3)}),
    "goetz": (
        lambda **how: strategy(fed_synth, student_steps=1, **how),
        {"encoding": Encoding(images=10, student_steps=1, steps=3)},
    ),
    "baseline": (
        lambda **how: strategy(one_shot, evaluation=QUICK, **how),
        {"distil": dd.BASELINES["herding"](ipc=3)},
    ),
}


def weights(name, rounds=2, grid=None, **how):
    make, client = SETS[name]
    made = make(**how)
    return run(made, participant(**client).app(), rounds=rounds, **(grid or {})), made


@pytest.mark.parametrize("name", SETS)
def test_an_algorithm_learns_and_gives_the_same_bits_in_any_order_under_any_global_seed(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, made = weights(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, _ = weights(name, grid={"seed": 5})
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, vector(TASK.initial_arrays()))
    assert [report.taken for report in made.reports] == [CLIENTS, CLIENTS]
    assert all(report.refused == report.missing == report.silent == () for report in made.reports)
    other, _ = weights(name, seed=1)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["feddm, going on", "fedmk", "fedsynth"])
def test_a_server_that_was_stopped_goes_on_with_the_same_bits(name, tmp_path):
    make, client = SETS[name]
    grid = InProcessGrid(participant(**client).app(), CLIENTS)
    whole, whole_made = weights(name, rounds=3)
    make(folder=tmp_path).start(grid, TASK.initial_arrays(), 2, evaluate_fn=accuracy_of(TASK, TEST))
    again = make(folder=tmp_path)
    # The weights of the third call are not looked at: the folder has others.
    result = again.start(grid, TASK.initial_arrays(9), 3, evaluate_fn=accuracy_of(TASK, TEST))
    assert torch.equal(vector(result.arrays), whole)
    assert [r.round_number for r in again.reports] == [1, 2, 3]
    assert list(result.evaluate_metrics_serverapp) == [0, 1, 2, 3]
    assert [dataclasses.replace(r, seconds=0, up=0, down=0) for r in again.reports] == [
        dataclasses.replace(r, seconds=0, up=0, down=0) for r in whole_made.reports
    ]
    # The second server asks once more who is there.
    assert again.traffic.up > whole_made.traffic.up
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["round-3.safetensors"]


def test_a_state_of_something_else_is_refused(tmp_path):
    grid = InProcessGrid(participant().app(), CLIENTS)
    strategy(folder=tmp_path).start(grid, TASK.initial_arrays(), 1)
    with pytest.raises(ResumeError, match="has another ask; name a new folder"):
        strategy(folder=tmp_path, radius=2.0).start(grid, TASK.initial_arrays(), 2)
    (tmp_path / "round-1.safetensors").unlink()
    with pytest.raises(ArtifactError, match="does not exist"):
        strategy(folder=tmp_path).start(grid, TASK.initial_arrays(), 2)
    (tmp_path / "federation.json").write_text('{"format": 99}')
    with pytest.raises(ArtifactError, match="format must be 1, got 99"):
        strategy(folder=tmp_path).start(grid, TASK.initial_arrays(), 2)


def test_a_federation_of_sets_learns_digits():
    app = participant(distil=dd.DM(ipc=5, steps=5, real_batch=32)).app()
    made = strategy(one_shot, evaluation=dataclasses.replace(QUICK, epochs=60))
    result = made.start(
        InProcessGrid(app, CLIENTS), TASK.initial_arrays(), 1, evaluate_fn=accuracy_of(TASK, TEST)
    )
    accuracy = [m["accuracy"] for m in result.evaluate_metrics_serverapp.values()]
    assert accuracy[0] < 0.3
    assert accuracy[1] > 0.7
    union = made.distilled()
    assert len(union) == len(made.pool.images)
    assert dd.Distilled.from_bytes(union.to_bytes()).content_id == union.content_id


def test_a_function_of_the_data_distils():
    herding = dd.BASELINES["herding"](ipc=3)

    def function(real):
        return herding(real, make_student=None, rng=dd.generator("mine"))

    made = strategy(one_shot, evaluation=QUICK)
    run(made, participant(distil=Alone(function, ipc=3)).app())
    assert made.reports[0].taken == CLIENTS


def test_both_ends_count_the_same_bytes():
    made = strategy()
    grid = InProcessGrid(participant().app(), CLIENTS)
    made.start(grid, TASK.initial_arrays(), 2)
    theirs = client_traffic(grid)
    assert (theirs.up, theirs.down) == (made.traffic.up, made.traffic.down)
    assert (
        made.traffic.total == theirs.up + theirs.down > 2 * CLIENTS * 4 * len(vector(TASK.initial_arrays()))
    )
    assert sum(r.up for r in made.reports) == made.traffic.up
    averaged = CountingGrid(InProcessGrid(participant().app(), CLIENTS))
    FedAvg(**AVERAGING).start(averaged, TASK.initial_arrays(), 2)
    theirs = client_traffic(averaged)
    assert theirs.down > 0
    # The question itself is counted at this end alone.
    assert (theirs.up, theirs.down) == (averaged.traffic.up - _answers(theirs), averaged.traffic.down)


def _answers(theirs):
    return CLIENTS * (len("down") + len("up") + 16)


class Broken(ClientApp):
    """Says what it holds, and then fails, or sleeps."""

    def __init__(self, seconds=None):
        super().__init__()
        self._honest, self._seconds = participant().app(), seconds

    def __call__(self, message, context):
        if message.metadata.message_type == "train.distill":
            if self._seconds is None:
                raise RuntimeError("no power")
            time.sleep(self._seconds)
        return self._honest(message, context)


def alone_with_nine(app):
    """Only the last client holds nines, and it runs `app`."""

    def without_nines(context):
        images, labels = load(context)
        return images[labels != 9], labels[labels != 9]

    return [participant(load=without_nines).app()] * (CLIENTS - 1) + [app]


def test_a_failing_client_costs_its_set_and_the_missing_class_is_named(caplog):
    made = strategy()
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        run(made, alone_with_nine(Broken()))
    (report,) = made.reports
    assert (report.taken, report.missing) == (CLIENTS - 1, (TASK.class_names[9],))
    assert "RuntimeError: no power" in report.failed[0][1]
    assert f"no images of the classes {TASK.class_names[9]}, which clients hold" in caplog.text


def test_a_silent_client_does_not_stop_a_round(caplog):
    made = strategy()
    apps = alone_with_nine(participant().app())
    grid = InProcessGrid(apps, CLIENTS)
    silent = list(grid.contexts)[-1]

    def hush(server_round, arrays):
        grid._silent = {silent} if server_round == 1 else set()

    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        made.start(grid, TASK.initial_arrays(), 2, timeout=60, evaluate_fn=hush)
    assert made.reports[-1].silent == (silent,)
    assert made.reports[-1].missing == (TASK.class_names[9],)
    assert f"nodes {silent} did not answer in time" in caplog.text


def test_a_slow_client_is_left_behind_when_the_round_is_over():
    made = strategy()
    apps = [*[participant().app()] * (CLIENTS - 1), Broken(seconds=3.0)]
    grid = InProcessGrid(apps, CLIENTS)
    result = made.start(grid, TASK.initial_arrays(), 1, timeout=2.5)
    assert made.reports[0].taken == CLIENTS - 1
    assert len(made.reports[0].silent) == 1
    assert torch.isfinite(vector(result.arrays)).all()


def test_a_client_that_is_late_to_say_what_it_holds_takes_part_from_the_next_round_on(caplog):
    made = strategy()
    grid = InProcessGrid(participant().app(), CLIENTS, silent=[2])
    node = list(grid.contexts)[2]

    def speak(server_round, arrays):
        if server_round == 1:
            grid._silent = set()

    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        made.start(grid, TASK.initial_arrays(), 3, evaluate_fn=speak)
    assert [r.asked for r in made.reports] == [CLIENTS - 1, CLIENTS - 1, CLIENTS]
    assert f"node {node} did not say what it holds" in caplog.text


def test_a_client_that_never_says_what_it_holds_is_asked_three_times():
    made = strategy()
    messages = []

    class Listening(ClientApp):
        def __call__(self, message, context):
            messages.append(message.metadata.message_type)
            raise RuntimeError("no")

    run(made, [*[participant().app()] * (CLIENTS - 1), Listening()], rounds=4)
    assert messages == ["query.stats"] * 3
    assert [r.asked for r in made.reports] == [CLIENTS - 1] * 4


@pytest.mark.parametrize(
    "told", [{"class-counts": [1]}, {"partition-id": 0.5}, {"class-counts": [-1] * 10}, {}]
)
def test_a_census_of_nonsense_is_not_believed(told):
    class Lying(ClientApp):
        def __call__(self, message, context):
            reply = participant().app()(message, context)
            if "stats" in reply.content:
                reply.content["stats"] = MetricRecord({**reply.content["stats"], **told} if told else {})
            return reply

    made = strategy()
    run(made, [*[participant().app()] * (CLIENTS - 1), Lying()])
    assert made.reports[0].asked == CLIENTS - 1


def test_without_any_set_the_weights_stay(caplog):
    made = strategy()
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        found = run(made, Broken())
    assert torch.equal(found, vector(TASK.initial_arrays()))
    assert "no set was taken" in caplog.text
    assert made.reports[0].missing == TASK.class_names


def test_a_share_of_the_clients_is_asked_the_same_in_every_run():
    first, made = weights("feddm", fraction_train=0.5)
    second, _ = weights("feddm", fraction_train=0.5, grid={"seed": 3})
    assert [r.asked for r in made.reports] == [2, 2]
    assert torch.equal(first, second)


def test_remembered_sets_are_learned_from_again():
    _, made = weights("feddm", rounds=3)
    alone = len(made.pool.images)
    _, made = weights("feddm, going on", rounds=3)
    assert len(made.pool.images) == 2 * alone
    assert made.reports[-1].influence == pytest.approx(made.reports[0].influence, rel=0.2)


def averaged(made, rounds=2, clients=CLIENTS, **training):
    app = participant(training=LocalTraining(**{"lr": 0.05, "batch_size": 32, **training})).app()
    return run(made, app, rounds=rounds, clients=clients)


def test_scaffold_starts_as_fedavg_and_fednova_is_fedavg_for_equal_clients():
    plain = averaged(FedAvg(**AVERAGING), 1)
    assert torch.allclose(averaged(Scaffold(TASK, **AVERAGING), 1), plain, atol=1e-6)
    # One client: every normalisation and every correction cancels.
    alone = averaged(FedAvg(**AVERAGING), 3, clients=1)
    for made in (Scaffold(TASK, **AVERAGING), FedNova(**AVERAGING)):
        assert torch.allclose(averaged(made, 3, clients=1), alone, atol=1e-4)
    assert not torch.allclose(averaged(FedNova(**AVERAGING), 1), plain, atol=1e-4)
    assert not torch.allclose(
        averaged(Scaffold(TASK, **AVERAGING), 2), averaged(FedAvg(**AVERAGING), 2), atol=1e-4
    )


def test_fednova_by_hand():
    start = vector(TASK.initial_arrays())
    app = participant().app()
    grid = InProcessGrid(app, 2)
    found = vector(FedNova(**AVERAGING).start(grid, TASK.initial_arrays(), 1).arrays)
    moves, steps, sizes = [], [], []
    for i in range(2):
        alone = InProcessGrid(app, 2, silent=[1 - i])
        moved = vector(FedAvg(**AVERAGING).start(alone, TASK.initial_arrays(), 1).arrays)
        size = len(load(alone.contexts[list(alone.contexts)[i]])[1])
        moves.append(start - moved)
        steps.append(-(-size // 32))
        sizes.append(size)
    p = [n / sum(sizes) for n in sizes]
    tau = sum(a * b for a, b in zip(p, steps, strict=True))
    wanted = start - tau * sum(a * d / t for a, d, t in zip(p, moves, steps, strict=True))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_the_proximal_term_holds_clients_back():
    start = vector(TASK.initial_arrays())
    near = averaged(FedProx(**AVERAGING, proximal_mu=5.0), 1)
    far = averaged(FedAvg(**AVERAGING), 1)
    same = averaged(FedProx(**AVERAGING, proximal_mu=0.0), 1)
    assert (near - start).norm() < 0.8 * (far - start).norm()
    assert torch.allclose(same, far, atol=1e-6)


def test_dynafed_costs_what_fedavg_costs_and_tunes_after_its_rounds():
    trajectory = Trajectory(rounds=2, ipc=1, span=1, student_steps=2, steps=3, tune_steps=3)

    def traffic(made, rounds):
        grid = CountingGrid(InProcessGrid(participant().app(), CLIENTS))
        arrays = made.start(grid, TASK.initial_arrays(), rounds).arrays
        return vector(arrays), grid.traffic.total

    made = DynaFed(TASK, trajectory, **AVERAGING)
    found, total = traffic(made, 3)
    plain, same = traffic(FedAvg(**AVERAGING), 3)
    assert total == same
    assert not torch.allclose(found, plain, atol=1e-5)
    assert made.made is not None
    assert made.made.ipc == 1
    early, _ = traffic(DynaFed(TASK, trajectory, **AVERAGING), 1)
    assert torch.allclose(early, traffic(FedAvg(**AVERAGING), 1)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: strategy(fed_dm, radius=-1.0), "radius must be finite and not negative"),
        (lambda: strategy(fed_dm, trust=0.0), "radius must be positive"),
        (lambda: strategy(fed_dm, remember=0), "remember must be at least 1"),
        (lambda: strategy(fed_synth, remember=2), "remember must be 1 where clients send updates"),
        (lambda: strategy(fed_dm, fraction_train=0.0), "fraction_train must lie in 0 < value <= 1"),
        (lambda: strategy(fed_mk, knowledge=-1), "knowledge must be at least 0"),
        (lambda: strategy(one_shot).distilled(), "strategy must have run a round"),
        (lambda: participant(least=0), "least must be at least 1"),
        (lambda: LocalTraining(momentum=1.0), "momentum must"),
        (lambda: Encoding(images=0), "images must be at least 1"),
        (lambda: Trajectory(span=9, rounds=3), "span must not exceed 3 rounds"),
        (lambda: MetaKnowledge(student_steps=0), "student_steps must be at least 1"),
        (lambda: InProcessGrid([], 0), "app must be one, or one for each of 0"),
        (
            lambda: dataclasses.replace(TASK, preprocess=dd.Preprocess.fit_zca(TEST.images)),
            "preprocess must not whiten",
        ),
        (lambda: dataclasses.replace(TASK, image_shape=(3, 8, 8)), "image_shape must have 1 channels"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_of_another_network_are_an_error():
    with pytest.raises(RuntimeError, match="Missing key"):
        TASK.loaded(ArrayRecord({"weight": torch.zeros(1)}))
