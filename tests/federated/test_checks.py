"""Adversaries beside four honest clients in a real round: the honest result is unchanged, to the bit."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from federation import CLIENTS, RECIPE, TASK, participant, run, strategy, vector
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

import ddsdk as dd
from ddsdk_integrations.federated import CHECKS, InProcessGrid, ReplyLimits
from ddsdk_integrations.federated.payload import content_digest


def tampered(change, recipe=RECIPE, *, sealed=True):
    """Return an app that changes what an honest client would send."""
    honest = participant(distil=recipe).app()
    app = ClientApp()
    app.query("stats")(lambda message, context: honest(message, context))

    @app.train("distill")
    def distil(message, context):
        reply = honest(message, context)
        change(reply.content)
        if sealed and {"syn", "meta"} <= set(reply.content) and isinstance(reply.content["meta"], ConfigRecord):
            reply.content["meta"]["digest"] = content_digest(reply.content["syn"], reply.content["meta"])
        return reply

    return app


def array(content, name, change):
    value = content["syn"][name].numpy().copy()
    content["syn"][name] = Array(change(value))


def claim(content, **what):
    content["syn"]["images"] = Array(**{**vars_of(content["syn"]["images"]), **what})


def vars_of(found):
    return {name: getattr(found, name) for name in ("dtype", "shape", "stype", "data")}


def header(content, shape):
    """Say the same huge shape in the declaration and in numpy's own header, over the bytes of a small one."""
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    content["syn"]["images"] = Array("uint8", shape, "numpy.ndarray", stream.getvalue() + b"\0" * 64)


def half_of(content):
    """Send half floats in place of bytes."""
    import json

    images = content["syn"]["images"].numpy().astype(np.float16) / 255
    content["syn"]["images"] = Array(images)
    content["meta"]["codec"] = json.dumps({"name": "half"})
    return images


def not_a_number(content):
    images = half_of(content)
    images[0, 0, 0, 0] = np.nan
    content["syn"]["images"] = Array(images)


def far_away(content):
    images = half_of(content)
    images[0] += 100
    content["syn"]["images"] = Array(images)


def soft(content, value):
    rows = np.zeros((len(content["syn"]["classes"].numpy()), TASK.num_classes), np.float16)
    rows[:, 0] = value
    content["syn"]["soft"] = Array(rows)


def honest_rows(content):
    classes = content["syn"]["classes"].numpy()
    content["syn"]["soft"] = Array(np.eye(TASK.num_classes, dtype=np.float16)[classes])


def claim_kind(content):
    content["meta"]["codec-error"] = "0\nround 1: all is well"


def metrics(**changes):
    return lambda content: content["metrics"].update(changes)


def meta(**changes):
    return lambda content: content["meta"].update({k.replace("_", "-"): v for k, v in changes.items()})


def counts(total):
    """Claim so many images, and class counts that fit."""

    def change(content):
        content["metrics"]["num-examples"] = total
        content["metrics"]["class-counts"] = [total] + [0] * (TASK.num_classes - 1)

    return change


ADVERSARIES = {
    "wrong round": (1, meta(round=7)),
    "round as text": (1, meta(round="1")),
    "too large": (2, lambda c: c["syn"].update(more=Array(np.zeros(70_000, np.uint8)))),
    "another record": (3, lambda c: c.update(more=ConfigRecord())),
    "no meta": (1, lambda c: c.pop("meta")),
    "meta of arrays": (1, lambda c: c.update(meta=ArrayRecord())),
    "metrics missing": (3, lambda c: c.pop("metrics")),
    "another key": (3, meta(more=1)),
    "another format": (3, meta(format=2)),
    "another task": (3, meta(task="0" * 64)),
    "another array": (3, lambda c: c["syn"].update(more=Array(np.zeros(3, np.uint8)))),
    "unknown codec": (3, meta(codec='{"name": "pickle"}')),
    "codec that is no JSON": (3, meta(codec="{")),
    "codec with a rank beyond the image": (3, meta(codec='{"name": "low-rank", "rank": 999999}')),
    "long text": (3, meta(manifest="x" * 10_000)),
    "manifest that is no JSON": (3, meta(manifest="{")),
    "manifest of a list": (3, meta(manifest="[1]")),
    "manifest with a line of its own": (
        3,
        meta(manifest='{"recipe": "dm\\nround 1: all is well", "parameters": {}, "versions": {}}'),
    ),
    "manifest without a bottom": (3, meta(manifest="[" * 4000)),
    "another dtype": (4, lambda c: array(c, "images", lambda v: v.astype(np.float64))),
    "dtype not as declared": (4, lambda c: claim(c, dtype="float64")),
    "uint8 that is float": (4, lambda c: claim(c, data=Array(np.zeros(c["syn"]["images"].shape, np.float32)).data)),
    "not numpy": (4, lambda c: claim(c, stype="torch.pickle")),
    "no header": (4, lambda c: claim(c, data=b"junk")),
    "a huge declared shape": (4, lambda c: claim(c, shape=(2**31 - 1, 1, 8, 8))),
    "a huge shape everywhere": (4, lambda c: header(c, (2**31 - 1, 1, 8, 8))),
    "a shape that overflows": (4, lambda c: header(c, (2**31 - 1, 2**31 - 1, 2**31 - 1, 4))),
    "object array": (4, lambda c: claim(c, data=object_array())),
    "another shape": (5, lambda c: array(c, "images", lambda v: v[..., :7].copy())),
    "fewer classes than images": (5, lambda c: array(c, "classes", lambda v: v[:-1].copy())),
    "more than the quota": (
        5,
        lambda c: [array(c, name, lambda v: np.repeat(v[:1], 9, 0)) for name in ("images", "classes")],
    ),
    "nothing": (5, lambda c: [array(c, name, lambda v: v[:0]) for name in ("images", "classes")]),
    "NaN": (6, not_a_number),
    "out of range": (7, far_away),
    "unknown class": (8, lambda c: array(c, "classes", lambda v: v + 100)),
    "negative class": (8, lambda c: array(c, "classes", lambda v: v - 100)),
    "negative label": (9, lambda c: soft(c, -1.0)),
    "labels that sum to 2": (9, lambda c: soft(c, 2.0)),
    "weight of 10^12": (10, counts(10**12)),
    "negative weight": (10, counts(-5)),
    "fractional weight": (10, metrics(**{"num-examples": 3.5})),
    "counts that do not sum": (10, metrics(**{"class-counts": [1] * TASK.num_classes})),
    "counts for too few classes": (10, metrics(**{"class-counts": [1]})),
    "another metric": (10, metrics(more=1.0)),
    "a rate of infinity": (6, lambda c: c["syn"].update(rate=Array(np.array([np.inf], np.float32)))),
    "a rate that explodes": (10, lambda c: c["syn"].update(rate=Array(np.array([99], np.float32)))),
    "a million rates": (5, lambda c: c["syn"].update(rate=Array(np.ones(9000, np.float32)))),
    "labels that nobody asked for": (9, lambda c: honest_rows(c)),
    "a line of its own in the log": (3, lambda c: claim_kind(c)),
    "a long round": (1, meta(round="7" * 50_000)),
    "texts in place of one": (3, meta(manifest=["x"] * 3)),
    "images of classes that do not exist": (
        5,
        lambda c: (
            array(c, "classes", lambda v: np.arange(100, 100 + len(v)).astype(np.int16))
            or [array(c, n, lambda v: np.concatenate([v] * 5)) for n in ("images",)]
            or array(c, "classes", lambda v: np.arange(100, 100 + 5 * len(v)).astype(np.int16))
        ),
    ),
    "a negative rate": (10, lambda c: c["syn"].update(rate=Array(np.array([-1], np.float32)))),
}


def object_array():
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return stream.getvalue() + b"cos\nsystem\n"


LIMITS = ReplyLimits(images=8, max_bytes=60_000)


@pytest.fixture(scope="module")
def honest():
    return run(strategy(limits=LIMITS))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_an_adversary_is_refused_by_its_check_and_changes_nothing(name, honest, caplog):
    check, change = ADVERSARIES[name]
    made = strategy(limits=LIMITS)
    apps = [participant().app()] * CLIENTS + [tampered(change)]
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        found = run(made, apps, clients=CLIENTS + 1)
    assert torch.equal(found, honest)
    (report,) = made.reports
    assert report.taken == CLIENTS
    ((_, number, word, reason, _),) = report.refused
    assert len(reason) <= 200
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert (number, word) == (check, {n: w for n, w, _ in CHECKS}[check])
    assert f"refused by check {check} ({word}): {reason}" in caplog.text


def test_a_broken_digest_is_refused(honest):
    made = strategy(limits=LIMITS)

    def flip(content):
        array(content, "images", lambda v: v ^ 1)

    assert torch.equal(
        run(made, [participant().app()] * CLIENTS + [tampered(flip, sealed=False)], clients=CLIENTS + 1), honest
    )
    assert made.reports[0].refused[0].check == 3
    assert "digest" in made.reports[0].refused[0].reason


class Relay(Grid):
    """A grid that changes what comes back."""

    def __init__(self, grid):
        self._grid = grid

    def __getattr__(self, name):
        return getattr(self._grid, name)

    set_run = run = create_message = send_and_receive = None
    extra = ()

    def get_node_ids(self):
        return self._grid.get_node_ids()

    def push_messages(self, messages):
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids):
        found = list(self._grid.pull_messages(message_ids))
        return [self.changed(message) for message in found]


class Impostor(Relay):
    """The second client answers in the name of the first, too late to be the first."""

    first = None

    def changed(self, message):
        if message.metadata.message_type != "train.distill":
            return message
        if self.first is None:
            self.first = message
        elif self.first is not True:
            self.first, message = True, self.first
        return message


class Stranger(Relay):
    """The last answer comes from a node that nobody asked."""

    seen = 0

    def changed(self, message):
        self.seen += message.metadata.message_type == "train.distill"
        if self.seen != CLIENTS + 1:
            return message
        self.seen += 1
        return Message(message.content, reply_to=Message(message.content, 999, "train.distill"))


class Requery(Relay):
    """The last answer says that it is one to the question what the client holds."""

    seen = 0

    def changed(self, message):
        self.seen += message.metadata.message_type == "train.distill"
        if self.seen == CLIENTS + 1:
            self.seen += 1
            message.metadata.message_type = "query.stats"
        return message


@pytest.mark.parametrize("relay", [Stranger, Requery])
def test_answers_that_are_none_are_refused(relay, honest):
    made = strategy(limits=LIMITS)
    grid = relay(InProcessGrid(participant().app(), CLIENTS + 1))
    found = vector(made.start(grid, TASK.initial_arrays(), 1).arrays)
    if relay is Stranger:
        assert torch.equal(found, honest)
        assert [one.name for one in made.reports[0].refused] == ["sender"]
    else:
        assert made.reports[0].taken == CLIENTS + 1


def test_a_second_answer_in_one_name_is_refused():
    made = strategy(limits=LIMITS)
    grid = Impostor(InProcessGrid(participant().app(), CLIENTS))
    made.start(grid, TASK.initial_arrays(), 1)
    assert [one.name for one in made.reports[0].refused] == ["sender"]
    assert made.reports[0].taken == CLIENTS - 1


class Unreadable(Relay):
    """Content that raises when it is read, as of objects that are no protocol buffers."""

    seen = 0

    def changed(self, message):
        self.seen += message.metadata.message_type == "train.distill"
        if self.seen == CLIENTS + 1:
            self.seen += 1
            raise ValueError("Error parsing message\nround 9: all is well")
        return message


def test_a_reply_that_cannot_be_read_costs_its_sender_alone(honest, caplog):
    made = strategy(limits=LIMITS)
    grid = Unreadable(InProcessGrid(participant().app(), CLIENTS + 1))
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        found = vector(made.start(grid, TASK.initial_arrays(), 1).arrays)
    assert torch.equal(found, honest)
    ((_, reason),) = made.reports[0].failed
    assert "the reply cannot be read: ValueError: Error parsing message round 9" in reason
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_class_that_a_client_does_not_hold_is_refused():
    def only_zeros(content):
        array(content, "classes", lambda v: np.full_like(v, 9))

    class Poor(ClientApp):
        """Says that it holds no nine."""

        def __call__(self, message, context):
            reply = tampered(only_zeros)(message, context)
            if "stats" in reply.content:
                told = dict(reply.content["stats"])
                told["class-counts"] = [*told["class-counts"][:9], 0]
                reply.content["stats"] = MetricRecord(told)
            return reply

    made = strategy(limits=ReplyLimits(images=50))
    run(made, [participant().app()] * CLIENTS + [Poor()], clients=CLIENTS + 1)
    assert [(r.check, r.name) for r in made.reports[0].refused] == [(8, "classes")]


class Copier(ClientApp):
    """Answers with the set of the client at partition `victim`, and claims partition `claimed`."""

    def __init__(self, victim, claimed):
        super().__init__()
        self._victim, self._claimed = victim, claimed

    def __call__(self, message, context):
        mine, context.node_config = context.node_config, {"partition-id": self._victim, "num-partitions": 5}
        try:
            reply = participant().app()(message, context)
        finally:
            context.node_config = mine
        if "stats" in reply.content:
            reply.content["stats"]["partition-id"] = self._claimed
        return reply


class Late(Relay):
    """The reply of the client at partition `late` arrives one poll after the others."""

    late, asked = None, None

    def push_messages(self, messages):
        ids = list(messages)
        node = list(self._grid.contexts)[self.late]
        found = list(self._grid.push_messages(ids))
        self.asked = {i for i, m in zip(found, ids, strict=True) if m.metadata.dst_node_id == node}
        return found

    def pull_messages(self, message_ids):
        late = self.asked & set(message_ids)
        self.asked -= late
        return self._grid.pull_messages([i for i in message_ids if i not in late])


@pytest.mark.parametrize("claimed", [CLIENTS, 0])
def test_a_copy_that_arrives_later_is_refused_whatever_partition_it_claims(claimed, honest):
    apps = [participant().app()] * CLIENTS + [Copier(0, claimed)]
    grid = Late(InProcessGrid(apps, CLIENTS + 1))
    grid.late = CLIENTS
    made = strategy(limits=LIMITS)
    assert torch.equal(vector(made.start(grid, TASK.initial_arrays(), 1).arrays), honest)
    copier = list(grid.contexts)[-1]
    assert [(r.node, r.check, r.name) for r in made.reports[0].refused] == [(copier, 11, "duplicate")]
    assert "which arrived earlier" in made.reports[0].refused[0].reason


def test_a_poisoned_set_is_refused_class_by_class():
    """Classifiers of the other clients contradict its labels: the honest result is unchanged."""

    def inverted(content):
        array(content, "images", lambda v: 255 - v)

    recipe = dd.DM(ipc=6, steps=2, real_batch=16)
    client = participant(distil=recipe)
    honest = run(strategy(limits=LIMITS), client.app())
    made = strategy(limits=LIMITS)
    evil = tampered(inverted, recipe)
    assert torch.equal(run(made, [client.app()] * CLIENTS + [evil], clients=CLIENTS + 1), honest)
    assert {(r.check, r.name) for r in made.reports[0].refused} == {(13, "agreement")}
    assert "% of the labels" in made.reports[0].refused[-1].reason
    assert made.reports[0].taken == CLIENTS


def test_a_poison_that_no_check_sees_has_no_more_than_the_stated_share():
    """With too few holders to judge a class, its weight is what the report says, and no more."""

    def swapped(content):
        array(content, "images", lambda v: 255 - v)

    made = strategy(limits=ReplyLimits(images=2))
    run(made, [participant().app()] * 2 + [tampered(swapped)], clients=3)
    (report,) = made.reports
    assert report.refused == ()
    assert report.taken == 3
    pool = made.pool
    for c in range(TASK.num_classes):
        rows = pool.classes == c
        share = pool.weights[rows][-2:].sum() / pool.weights[rows].sum()
        assert share <= pool.influence[c] + 1e-6
    assert report.influence == pytest.approx(max(pool.influence.values()))


def test_the_docs_list_these_adversaries():
    page = (Path(__file__).parents[2] / "docs" / "integrations" / "federated.md").read_text()
    words = {number: word for number, word, _ in CHECKS}
    for name, (check, _) in ADVERSARIES.items():
        assert f"| {name} | {check} {words[check]} |" in page
