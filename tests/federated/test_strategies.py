"""Every algorithm in a small federation: it learns, gives the same bits again, goes on after a stop, and fails well."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from federation import CLIENTS, QUICK, TASK, TEST, participant, run, strategy, told, vector
from flwr.serverapp.strategy import FedAvg

import ddsdk as dd
from ddsdk.artefact.codecs import LowRank
from ddsdk_integrations.federated import (
    AverageUpdates,
    CountingGrid,
    CrossClientFilter,
    CustomDistillation,
    InProcessGrid,
    LocalTraining,
    MergedSteps,
    MetaKnowledge,
    Packing,
    ReplyLimits,
    RoundReport,
    ServerTrajectory,
    UpdateEncoding,
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
    "one-shot": (lambda **how: strategy(one_shot, protocol=QUICK, **how), {}),
    "fed-d3": (
        lambda **how: strategy(one_shot, protocol=QUICK, limits=ReplyLimits(soft=True), **how),
        {"distil": dd.KIP(ipc=2, steps=3, real_batch=16), "packing": Packing(soft=True)},
    ),
    "dosfl": (lambda **how: strategy(dosfl, **how), {"distil": dd.DD(ipc=2, passes=1, steps=2, real_batch=16)}),
    "feddm": (lambda **how: strategy(fed_dm, radius=0.5, trust=1.0, **how), {}),
    "feddm, going on": (lambda **how: strategy(fed_dm, radius=0.5, go_on=True, remember=2, **how), {}),
    "fedmk": (
        lambda **how: strategy(fed_mk, protocol=QUICK, **how),
        {"distil": MetaKnowledge(ipc=2, steps=2, student_steps=2, real_batch=16)},
    ),
    "fedsynth": (lambda **how: strategy(fed_synth, **how), {"encoding": UpdateEncoding(images=10, steps=3)}),
    "goetz": (
        lambda **how: strategy(fed_synth, student_steps=1, **how),
        {"encoding": UpdateEncoding(images=10, student_steps=1, steps=3)},
    ),
    "baseline": (lambda **how: strategy(one_shot, protocol=QUICK, **how), {"distil": dd.BASELINES["herding"](ipc=3)}),
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
    assert told(again) == told(whole_made)
    if whole_made.pool is not None:
        assert torch.equal(again.pool.weights, whole_made.pool.weights)
        assert again.pool.influence == whole_made.pool.influence
    # The second server asks once more who is there.
    assert again.traffic.up > whole_made.traffic.up
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "federation.previous.safetensors",
        "federation.safetensors",
    ]


def test_a_federation_of_sets_learns_digits():
    app = participant(distil=dd.DM(ipc=5, steps=5, real_batch=32)).app()
    made = strategy(one_shot, protocol=dataclasses.replace(QUICK, epochs=60))
    result = made.start(InProcessGrid(app, CLIENTS), TASK.initial_arrays(), 1, evaluate_fn=accuracy_of(TASK, TEST))
    accuracy = [m["accuracy"] for m in result.evaluate_metrics_serverapp.values()]
    assert accuracy[0] < 0.3
    assert accuracy[1] > 0.7
    union = made.distilled()
    assert len(union) == len(made.pool.images)
    assert dd.Distilled.from_bytes(union.to_bytes()).content_id == union.content_id


def test_a_function_of_the_data_distils():
    herding = dd.BASELINES["herding"](ipc=3)

    def function(real):
        return dd.distill(herding, real, make_student=None, seed=dd.generator("mine"))

    made = strategy(one_shot, protocol=QUICK)
    run(made, participant(distil=CustomDistillation(function, ipc=3)).app())
    assert made.reports[0].taken == CLIENTS


def test_the_report_says_what_packing_lost_at_most():
    plain, coarse = strategy(), strategy()
    run(plain)
    low = participant(packing=Packing(codec=LowRank(1))).app()
    run(coarse, [participant().app()] * (CLIENTS - 1) + [low])
    # Half a byte, and what distilling moved out of the unit range.
    assert 0 < plain.reports[0].codec_error < 0.02
    assert coarse.reports[0].codec_error > 0.05
    for made in (plain, coarse):
        assert RoundReport.from_json(json.loads(json.dumps(made.reports[0].to_json()))) == made.reports[0]


def test_both_ends_count_the_same_bytes():
    made = strategy()
    grid = InProcessGrid(participant().app(), CLIENTS)
    made.start(grid, TASK.initial_arrays(), 2)
    theirs = client_traffic(grid)
    assert (theirs.up, theirs.down) == (made.traffic.up, made.traffic.down)
    assert made.traffic.total == theirs.up + theirs.down > 2 * CLIENTS * 4 * len(vector(TASK.initial_arrays()))
    assert sum(r.up for r in made.reports) == made.traffic.up
    averaged = CountingGrid(InProcessGrid(participant().app(), CLIENTS))
    FedAvg(**AVERAGING).start(averaged, TASK.initial_arrays(), 2)
    theirs = client_traffic(averaged)
    assert theirs.down > 0
    # The question itself is counted at this end alone.
    assert (theirs.up, theirs.down) == (averaged.traffic.up - _answers(theirs), averaged.traffic.down)


def _answers(theirs):
    return CLIENTS * (len("down") + len("up") + 16)


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


def test_training_stays_within_the_trust_radius():
    start = vector(TASK.initial_arrays())
    for trust in (0.01, 0.1):
        near = run(strategy(fed_dm, trust=trust))
        assert float((near - start).norm()) == pytest.approx(trust, rel=1e-3)
    assert float((run(strategy(fed_dm)) - start).norm()) > 0.11


def test_merged_steps_are_those_of_a_plain_loop():
    """Step k of each client before step k + 1 of any, through all passes, each with its own rate."""
    from test_pool import contribution

    sets = [
        dataclasses.replace(contribution(1, [0, 1, 0, 1]), rate=(0.1, 0.2, 0.3, 0.4)),
        dataclasses.replace(contribution(2, [2, 3]), rate=(0.5, 0.6)),
    ]
    network = TASK.make(dd.generator("server"))
    learned = MergedSteps(passes=2, reach=1e9)(network, sets, TASK, dd.generator("x"))
    plain = TASK.make(dd.generator("server"))
    plain.train()
    for client, rows, rate in (
        *((0, slice(0, 2), 0.1), (1, slice(0, 2), 0.5), (0, slice(2, 4), 0.2), (1, slice(0, 2), 0.6)),
        *((0, slice(0, 2), 0.3), (0, slice(2, 4), 0.4)),
    ):
        one = sets[client]
        optimizer = torch.optim.SGD(plain.parameters(), lr=rate)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain(TASK.preprocess(one.images[rows])), one.labels[rows])
        loss.backward()
        optimizer.step()
    assert torch.allclose(vector_of(learned.network), vector_of(plain), atol=1e-6)
    assert learned.influence == 1.0
    short = TASK.make(dd.generator("server"))
    before = vector_of(short).clone()
    MergedSteps(passes=1, reach=0.01)(short, sets[1:], TASK, dd.generator("x"))
    assert float((vector_of(short) - before).norm()) == pytest.approx(0.01, rel=1e-3)


def vector_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_one_client_alone_is_saved_and_goes_on(tmp_path):
    """Its reach has no bound, which a file of the state has to hold."""
    grid = InProcessGrid(participant(encoding=UpdateEncoding(images=4, steps=1)).app(), 1)
    for rounds in (1, 2):
        made = strategy(fed_synth, folder=tmp_path)
        made.start(grid, TASK.initial_arrays(), rounds)
    assert [report.influence for report in made.reports] == [float("inf")] * 2


def test_updates_are_capped_and_one_that_explodes_is_refused():
    from test_pool import contribution

    sets = [dataclasses.replace(contribution(i, [0, 1, 2]), rate=(0.05,)) for i in (1, 2, 3)]
    wild = dataclasses.replace(contribution(4, [0, 1, 2]), rate=(float("inf"),))
    start = vector_of(TASK.make(dd.generator("server")))

    def moved(sets, **how):
        learned = AverageUpdates(student_steps=2, **how)(
            TASK.make(dd.generator("server")), sets, TASK, dd.generator("x")
        )
        return vector_of(learned.network) - start, learned

    plain, learned = moved(sets)
    with_wild, other = moved([*sets, wild])
    assert torch.equal(plain, with_wild)
    assert [(r.node, r.name) for r in other.refused] == [(4, "finite")]
    assert learned.share == pytest.approx(1 / 3)
    fast = dataclasses.replace(sets[0], node=5, rate=(5.0,))
    free, _ = moved([*sets, fast], cap=1e6)
    capped, _ = moved([*sets, fast], cap=1.0)
    assert capped.norm() < 0.5 * free.norm()
    trimmed, _ = moved([*sets, fast], trim=0.25)
    assert trimmed.norm() < 0.5 * free.norm()
    assert moved([wild])[0].abs().sum() == 0


def test_clients_start_from_what_they_kept_and_from_what_others_know():
    """With no image steps to speak of, a set is where it started."""
    still = dd.DM(ipc=2, steps=1, image_lr=1e-9, real_batch=8)
    sent = []
    for go_on in (False, True):
        made = strategy(fed_dm, go_on=go_on)
        sets = []
        run_with_sets(made, participant(distil=still).app(), sets)
        sent.append([torch.cat([one.images for one in one_round]) for one_round in sets])
    fresh, kept = sent
    assert not torch.allclose(fresh[0], fresh[1], atol=1e-2)
    assert torch.allclose(kept[0], kept[1], atol=1 / 254)
    made = strategy(fed_mk, knowledge=1, protocol=QUICK, screen=CrossClientFilter(near=0))
    sets = []
    run_with_sets(made, participant(distil=still).app(), sets)
    first, second = sets
    for one in second:
        for c in torch.unique(one.classes):
            known = torch.cat([other.images[other.classes == c] for other in first])
            mine = one.images[one.classes == c][0]
            assert (known - mine).abs().amax((1, 2, 3)).min() <= 1 / 254


def run_with_sets(made, app, sets):
    """Run two rounds, and keep the sets that passed."""
    sound = made._accepted

    def keeping(server_round, replies):
        found = sound(server_round, replies)
        sets.append(found)
        return found

    made._accepted = keeping
    run(made, app, rounds=2)


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
        (lambda: UpdateEncoding(images=0), "images must be at least 1"),
        (lambda: ServerTrajectory(span=9, rounds=3), "span must not exceed 3 rounds"),
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
