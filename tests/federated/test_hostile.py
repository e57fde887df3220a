"""Federations with hostile and silent clients: withdrawal, quorum, exclusion, and clean images of the server."""

from __future__ import annotations

import dataclasses
import logging
from itertools import pairwise

import pytest
import torch
from federation import CLIENTS, QUICK, TASK, TEST, TRAIN, load, participant, run, strategy
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

import ddsdk as dd
from ddsdk_integrations.federated import (
    CrossClientFilter,
    InProcessGrid,
    Quorum,
    Refusal,
    RoundReport,
    accuracy_of,
    dirichlet,
    fed_synth,
)
from ddsdk_integrations.federated.registry import NodeRegistry
from ddsdk_integrations.federated.traffic import exchange

RECIPE = dd.DM(ipc=5, steps=2, real_batch=16)
CLEAN = TRAIN.subset(torch.cat([TRAIN.index_of_class(c)[:5] for c in range(TASK.num_classes)]))


def flipped(context):
    images, labels = load(context)
    return images, (labels + 1) % TASK.num_classes


class From(ClientApp):
    """Honest before a round, and hostile from this round on."""

    def __init__(self, first, hostile):
        super().__init__()
        self._first, self._hostile = first, participant(distil=RECIPE, load=hostile).app()
        self._honest = participant(distil=RECIPE).app()

    def __call__(self, message, context):
        hostile = message.content["config"].get("server-round", 0) >= self._first
        return (self._hostile if hostile else self._honest)(message, context)


HONEST = [participant(distil=RECIPE).app()] * CLIENTS


def test_what_a_refused_client_left_in_the_pool_is_withdrawn(caplog):
    made = strategy(remember=3)
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        run(made, [*HONEST, From(2, flipped)], rounds=2, clients=CLIENTS + 1)
    first, second = made.reports
    assert (first.taken, first.withdrawn) == (CLIENTS + 1, 0)
    hostile = {r.node for r in second.refused if r.class_id is None}
    assert len(hostile) == 1
    assert (second.taken, second.withdrawn) == (CLIENTS, 50)
    assert len(made.pool.images) == 2 * CLIENTS * 50
    assert "round 2: 50 images of earlier rounds withdrawn" in caplog.text
    assert RoundReport.from_json(second.to_json()) == second


def test_of_a_refused_class_only_that_class_is_withdrawn():
    def exchanged(context):
        images, labels = load(context)
        other = labels.clone()
        other[labels == 0], other[labels == 1] = 1, 0
        return images, other

    made = strategy(remember=2)
    run(made, [*HONEST, From(2, exchanged)], rounds=2, clients=CLIENTS + 1)
    report = made.reports[1]
    refused = {r.class_id for r in report.refused}
    assert refused and refused <= {0, 1}
    assert report.withdrawn == 5 * len(refused)
    assert report.taken == CLIENTS + 1


@pytest.mark.parametrize(
    ("refusal", "hostile"),
    [
        (Refusal(1, 1, "sender", ""), False),
        (Refusal(1, 11, "duplicate", ""), False),
        (Refusal(1, 12, "quota", ""), False),
        (Refusal(1, 7, "range", ""), True),
        (Refusal(1, 13, "agreement", "", 4), True),
        (Refusal(1, 14, "harm", ""), True),
    ],
)
def test_a_message_of_someone_else_withdraws_nothing(refusal, hostile):
    assert refusal.hostile == hostile


def test_a_majority_is_refused_by_clean_images_of_the_server():
    """Three of five clients exchange their classes; with clean images the result is that of the two others."""
    hostile = participant(distil=RECIPE, load=flipped).app()
    options = {"protocol": dataclasses.replace(QUICK, epochs=20), "clean": CLEAN}
    expected = strategy(**options)
    alone = run(expected, HONEST[:2], clients=2)
    made = strategy(**options)
    found = run(made, [*HONEST[:2], hostile, hostile, hostile], clients=CLIENTS + 1)
    assert torch.equal(found, alone)
    assert made.reports[0].taken == 2
    assert {r.check for r in made.reports[0].refused} == {13}


def test_what_does_harm_to_the_pool_is_left_out():
    """Without the comparison of labels, the influence on the clean images alone decides."""
    hostile = participant(distil=RECIPE, load=flipped).app()
    made = strategy(clean=CLEAN, screen=CrossClientFilter(agree=0.0))
    run(made, [*HONEST, hostile], clients=CLIENTS + 1)
    (refusal,) = made.reports[0].refused
    assert (refusal.check, refusal.name, refusal.class_id) == (14, "harm", None)
    assert "of the error on clean images is due to this client" in refusal.reason
    assert made.reports[0].taken == CLIENTS
    assert len(made.pool.images) == CLIENTS * 50


def test_clean_images_of_another_kind_are_refused():
    firsts = torch.stack([TRAIN.index_of_class(c)[0] for c in range(TASK.num_classes)])
    with pytest.raises(ValueError, match="clean must have at least two images of each class, got 1"):
        strategy(clean=TRAIN.subset(firsts))
    pair = torch.nonzero(TRAIN.labels < 2).flatten()
    two = TASK.real(TRAIN.images[pair], TRAIN.labels[pair], classes=(0, 1), name="two classes")
    with pytest.raises(ValueError, match="clean must have the classes"):
        strategy(clean=two)


def test_clean_images_do_not_judge_weight_updates():
    with pytest.raises(ValueError, match="clean must be None where clients send updates"):
        fed_synth(TASK, clean=CLEAN)


class Clock:
    """Clock that advances by sleeping alone."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("ddsdk_integrations.federated.traffic.time", self)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 1e-3)


class Timed(Grid):
    """Grid whose node i answers after `delays[i]` seconds of the clock; None for never."""

    set_run = run = create_message = send_and_receive = None

    def __init__(self, clock, delays):
        self._clock, self._delays, self._asked = clock, delays, {}

    def get_node_ids(self):
        return list(range(len(self._delays)))

    def push_messages(self, messages):
        for message in messages:
            self._asked[str(message.metadata.dst_node_id)] = message
        return [str(message.metadata.dst_node_id) for message in messages]

    def pull_messages(self, message_ids):
        (i,) = message_ids
        delay = self._delays[int(i)]
        return [] if delay is None or self._clock.now < delay else [self._asked[i]]


def asked(nodes):
    return [Message(RecordDict(), node, "train.distill") for node in nodes]


@pytest.mark.parametrize(
    ("delays", "quorum", "replies", "seconds"),
    [
        # All answer: no wait.
        ([1, 2, 3], Quorum(), 3, 3),
        # Two of three are the quorum at 2 s; the grace is a quarter of 100 s.
        ([1, 2, None], Quorum(), 2, 27),
        ([1, 2, 20], Quorum(), 3, 20),
        ([1, 2, 60], Quorum(grace=0.0), 2, 2),
        # No quorum: the whole timeout.
        ([1, None, None], Quorum(), 1, 100),
        ([1, 2, None], None, 2, 100),
        # A quorum shortly before the timeout does not extend it.
        ([90, 91, None], Quorum(), 2, 100),
    ],
)
def test_a_round_ends_a_grace_period_after_its_quorum(delays, quorum, replies, seconds, monkeypatch):
    clock = Clock(monkeypatch)
    found = exchange(Timed(clock, delays), asked(range(len(delays))), 100.0, quorum)
    assert len(found) == replies
    assert clock.now == pytest.approx(seconds, abs=1.5)


def test_questions_to_new_nodes_are_no_quorum(monkeypatch):
    clock = Clock(monkeypatch)
    grid = Timed(clock, [5, 1, 1, None])
    found = exchange(grid, asked([0]), 100.0, Quorum(grace=0.1), beside=asked([1, 2, 3]))
    assert len(found) == 3
    assert clock.now == pytest.approx(15, abs=1.5)


def test_replies_between_two_polls_have_the_order_of_the_node_ids(monkeypatch):
    clock = Clock(monkeypatch)
    found = exchange(Timed(clock, [0, 5, 5, 0]), asked([2, 3, 1, 0]), 100.0)
    assert [m.metadata.dst_node_id for m in found] == [0, 3, 1, 2]


def test_the_quorum_is_a_whole_number_of_nodes():
    assert [Quorum().needed(n) for n in (1, 2, 3, 4, 6, 7, 9)] == [1, 2, 2, 3, 4, 5, 6]
    assert Quorum(share=1.0).needed(7) == 7


class Hushed(Grid):
    """Grid in which a node never answers the requests of the rounds up to `last`."""

    set_run = run = create_message = send_and_receive = None

    def __init__(self, grid, node, last):
        self._grid, self._node, self._last, self._hidden = grid, node, last, set()

    def get_node_ids(self):
        return self._grid.get_node_ids()

    def push_messages(self, messages):
        messages = list(messages)
        ids = list(self._grid.push_messages(messages))
        for i, message in zip(ids, messages, strict=True):
            number = message.content["config"].get("server-round", self._number)
            self._number = number
            if message.metadata.dst_node_id == self._node and 0 < number <= self._last:
                self._hidden.add(i)
        return ids

    _number = 0

    def pull_messages(self, message_ids):
        return self._grid.pull_messages([i for i in message_ids if i not in self._hidden])


def test_a_node_that_stays_silent_is_excluded_and_comes_back(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    made = strategy(quorum=Quorum(grace=0.1))
    grid = InProcessGrid(participant().app(), CLIENTS)
    node = list(grid.contexts)[1]
    seconds = []

    def lap(server_round, arrays):
        seconds.append(clock.now)

    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        made.start(Hushed(grid, node, 2), TASK.initial_arrays(), 5, timeout=3600, evaluate_fn=lap)
    assert [r.silent for r in made.reports] == [(node,), (node,), (), (), ()]
    # It states its class counts beside the third round.
    assert [r.excluded for r in made.reports] == [(), (), (node,), (), ()]
    assert [r.asked for r in made.reports] == [4, 4, 3, 4, 4]
    assert f"node {node} stayed silent in 2 rounds and is excluded" in caplog.text
    assert f"round 3: nodes {node} got no request, because they stayed silent" in caplog.text
    # A tenth of the timeout at most, where a silent node used to cost all of it.
    laps = [b - a for a, b in pairwise(seconds)]
    assert max(laps) <= 370
    assert laps[3:] == pytest.approx([0, 0], abs=1)


def test_an_answer_ends_the_count_of_silent_rounds():
    registry = NodeRegistry(TASK, "distill", Quorum(patience=2))
    for answered in ([8], [7, 8], [8]):
        registry.count_silence([7, 8], answered)
    assert registry.excluded == set()
    registry.count_silence([7, 8], [8])
    assert registry.excluded == {7}


def test_reports_of_an_older_version_are_read():
    plain = RoundReport(round_number=1, asked=1, taken=1).to_json()
    del plain["excluded"], plain["withdrawn"]
    assert RoundReport.from_json(plain) == RoundReport(round_number=1, asked=1, taken=1)


@pytest.mark.slow
@pytest.mark.parametrize(("attackers", "cost"), [(1, 0.03), (3, 0.1)])
def test_label_flippers_with_fifty_images_cost_little(attackers, cost):
    """Without the checks, one of seven costs 80 points."""
    parts = dirichlet(TRAIN.labels, 6, 5.0, dd.generator("parts"), least=30)

    def share(context):
        mine = parts[context.node_config["partition-id"]]
        return TRAIN.images[mine], TRAIN.labels[mine]

    def lies(context):
        return TRAIN.images, (TRAIN.labels + 1) % TASK.num_classes

    honest = participant(load=share, distil=dd.DM(ipc=5, steps=5, real_batch=32)).app()
    hostile = participant(load=lies, distil=dd.BASELINES["random"](ipc=50)).app()
    found = []
    for apps in ([honest] * 6, [honest] * 6 + [hostile] * attackers):
        made = strategy(protocol=dataclasses.replace(QUICK, epochs=60))
        result = made.start(InProcessGrid(apps, len(apps)), TASK.initial_arrays(), 1, timeout=600)
        found.append(accuracy_of(TASK, TEST)(0, result.arrays)["accuracy"])
    assert found[0] > 0.8
    assert found[0] - found[1] <= cost
