"""A hostile server: a client refuses what breaks a rule, sends no more than agreed, and stays usable."""

from __future__ import annotations

import io
import logging
import re
import tracemalloc

import numpy as np
import pytest
import torch
from federation import TASK, TRAIN, participant
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

import ddsdk as dd
from ddsdk.artefact import to_bytes
from ddsdk_integrations.federated import CustomDistillation, InProcessGrid, Packing, RequestLimits, UpdateEncoding
from ddsdk_integrations.federated.client_checks import Request
from ddsdk_integrations.federated.payload import MessageError, content_digest

WEIGHTS = TASK.initial_arrays()
CLASSIFIER = next(name for name, array in WEIGHTS.items() if len(array.shape) == 4)
QUICK = dd.DM(ipc=2, steps=1, real_batch=16)
K = TASK.num_classes
LARGE = 10**15


def mine(context):
    return TRAIN.images[:200], TRAIN.labels[:200]


def client(**how):
    return participant(
        **{"load": mine, "distil": QUICK, "encoding": UpdateEncoding(images=4, steps=1, student_steps=1), **how}
    )


def knowledge(images=2 * K, classes=None):
    """Return the record of images of other clients, as an honest server sends it."""
    grey = torch.full((images, *TASK.image_shape), 0.5)
    ids = torch.arange(images) % K if classes is None else classes
    return ArrayRecord({"images": to_bytes(grey), "classes": ids})


def content(number=1, **entries):
    """Return the content of an honest request."""
    config = {"server-round": number, "seed": 0, "radius": 1.0, "logits": True, "go-on": True, "task": TASK.digest}
    arrays = ArrayRecord({name: WEIGHTS[name] for name in WEIGHTS})
    records = {"config": ConfigRecord({**config, **entries}), "arrays": arrays, "knowledge": knowledge()}
    return RecordDict(records)


def config(**entries):
    return lambda c: c["config"].update({name.replace("_", "-"): value for name, value in entries.items()})


def without(record, name=None):
    return lambda c: c.pop(record) if name is None else c[record].pop(name)


def weight(change, name=CLASSIFIER):
    """Replace an array of the weights by a function of its values."""
    return lambda c: c["arrays"].update({name: Array(change(c["arrays"][name].numpy().copy()))})


def filled(value):
    def change(values):
        values.flat[-1] = value
        return values

    return change


def declared(shape, *, dtype="float32", header=None, stype="numpy.ndarray", data=None):
    """Replace an array by a hundred bytes with this declaration, and a header of its own."""

    def change(c):
        stream = io.BytesIO()
        fields = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": header or shape}
        np.lib.format.write_array_header_1_0(stream, fields)
        raw = stream.getvalue() + b"\0" * 100 if data is None else data
        c["arrays"][CLASSIFIER] = Array(dtype, shape, stype, raw)

    return change


def known(**arrays):
    return lambda c: c["knowledge"].update({name: Array(np.asarray(value)) for name, value in arrays.items()})


def of_rows(rows):
    shape = (rows, *TASK.image_shape)
    return known(images=np.broadcast_to(np.zeros((), np.uint8), shape), classes=np.zeros(rows, np.int64))


SHAPE = tuple(WEIGHTS[CLASSIFIER].shape)
ROUND, RADIUS = (
    r"server-round must be a whole number in 1\.\.1000000, got ",
    r"radius must be a number in 0\.\.100, got ",
)
UNKNOWN, LAYOUT = r"config must have no entries but .*, got ", r"arrays\['[\w.]+'\] must "

# Change of an honest request, and the expected refusal: argument, rule, value.
ATTACKS = {
    "no config": (without("config"), r"records must have 'config', got "),
    "unknown record": (lambda c: c.update(images=ConfigRecord()), r"records must be among .*, got .*'images'"),
    "record with control characters": (lambda c: c.update({"\x1b[2J\n": ConfigRecord()}), r"records must be among "),
    "config of arrays": (lambda c: c.update(config=ArrayRecord()), r"config must be of type ConfigRecord"),
    "weights of text": (lambda c: c.update(arrays=ConfigRecord()), r"arrays must be of type ArrayRecord"),
    "knowledge of text": (lambda c: c.update(knowledge=ConfigRecord()), r"knowledge must be of type ArrayRecord"),
    "another task": (config(task="0" * 64), r"task must be '\w+', as the client has agreed, got '000"),
    "task as a number": (config(task=7), r"task must be .*, got 7"),
    "task of deep JSON": (config(task="[" * 100_000), r"task must be .*, got '\[\["),
    "no round": (without("config", "server-round"), r"config must have 'server-round'"),
    "negative round": (config(server_round=-1), ROUND + "-1"),
    "round zero": (config(server_round=0), ROUND + "0"),
    "huge round": (config(server_round=LARGE), ROUND + "1000000000000000"),
    "fractional round": (config(server_round=1.5), ROUND + r"1\.5"),
    "round as a Boolean": (config(server_round=True), ROUND + "True"),
    "round as text": (config(server_round="2"), ROUND + "'2'"),
    "list of rounds": (config(server_round=[1, 2]), ROUND + r"\[1, 2\]"),
    "seed as text": (config(seed="0"), "seed must be a whole number of 64 bits, got '0'"),
    "fractional seed": (config(seed=0.5), "seed must be a whole number of 64 bits, got 0.5"),
    "radius NaN": (config(radius=float("nan")), RADIUS + "nan"),
    "infinite radius": (config(radius=float("inf")), RADIUS + "inf"),
    "negative radius": (config(radius=-1.0), RADIUS + r"-1\.0"),
    "huge radius": (config(radius=LARGE), RADIUS + "1000000000000000"),
    "radius as text": (config(radius="1"), RADIUS + "'1'"),
    "radius as a Boolean": (config(radius=True), RADIUS + "True"),
    "logits as a number": (config(logits=1), "logits must be true or false, got 1"),
    "go-on as text": (config(go_on="yes"), "go-on must be true or false, got 'yes'"),
    "proximal term": (config(proximal_mu=0.1), "proximal-mu must be 0, because clients train without .*, got 0.1"),
    "proximal term NaN": (config(proximal_mu=float("nan")), "proximal-mu must be 0, .*, got nan"),
    "more images": (config(ipc=50), UNKNOWN + r"\['ipc'\]"),
    "huge number of steps": (config(steps=LARGE), UNKNOWN + r"\['steps'\]"),
    "huge number of epochs": (config(epochs=LARGE), UNKNOWN + r"\['epochs'\]"),
    "learning rate NaN": (config(lr=float("nan")), UNKNOWN + r"\['lr'\]"),
    "soft labels": (config(soft=True), UNKNOWN + r"\['soft'\]"),
    "real images": (config(raw=True), UNKNOWN + r"\['raw'\]"),
    "statistics": (config(mean=True, covariance=True), UNKNOWN + r"\['covariance', 'mean'\]"),
    "another codec": (config(codec='{"name": "half"}'), UNKNOWN + r"\['codec'\]"),
    "entry with control characters": (lambda c: c["config"].update({"a\x1b]0;\nb": 1}), UNKNOWN),
    "many entries": (lambda c: c["config"].update({f"x{i}": i for i in range(10_000)}), "config must have at most 64"),
    "missing array": (without("arrays", CLASSIFIER), "arrays must have the arrays of the task's network and no others"),
    "further array": (lambda c: c["arrays"].update(more=Array(np.zeros(3))), "arrays must have .*, got \\['more'\\]"),
    "array with control characters": (
        lambda c: c["arrays"].update({"\x1b[2J": Array(np.zeros(3))}),
        "arrays must have the arrays of the task's network and no others",
    ),
    "complex weights": (weight(lambda v: v.astype(np.complex64)), LAYOUT + "have a dtype of .*, got 'complex64'"),
    "whole-number weights": (weight(lambda v: v.astype(np.int32)), LAYOUT + "have a dtype of .*, got 'int32'"),
    "weights of another shape": (weight(lambda v: v[:1]), LAYOUT + r"have shape \(.*\), got "),
    "scalar weights": (weight(lambda _: np.asarray(np.float32(0))), LAYOUT + r"have shape \(.*\), got \(\)"),
    "weights of NaN": (weight(filled(np.nan)), LAYOUT + "be finite, got nan"),
    "infinite weights": (weight(filled(-np.inf)), LAYOUT + "be finite, got -inf"),
    "huge weights": (weight(filled(1e30)), LAYOUT + r"not exceed 1e\+06 in magnitude, got 1"),
    "4 GB of weights in 100 bytes": (declared((2**30,)), LAYOUT + "have shape "),
    "4 GB in the header alone": (declared(SHAPE, header=(2**30,)), LAYOUT + "be as declared"),
    "a shape that overflows in the header": (declared(SHAPE, header=(2**62, 2**62)), LAYOUT + "be as declared"),
    "fewer bytes than declared": (declared(SHAPE), LAYOUT + "have [0-9]+ bytes, got 100"),
    "no bytes": (declared(SHAPE, data=b""), "the request cannot be read: ValueError"),
    "weights of another library": (declared(SHAPE, stype="torch"), LAYOUT + "be a numpy array, got 'torch'"),
    "pickled weights": (declared(SHAPE, dtype="float32", data=b"\x80\x04N."), "the request cannot be read: ValueError"),
    "no classes of knowledge": (without("knowledge", "classes"), r"knowledge must have images and classes, got "),
    "float knowledge": (known(images=np.zeros((2 * K, *TASK.image_shape), np.float32)), r"knowledge\['images'\] must "),
    "knowledge of another shape": (known(images=np.zeros((2 * K, 3, 8, 8), np.uint8)), r"knowledge\['images'\] must "),
    "knowledge of another length": (known(classes=np.zeros(3, np.int64)), r"knowledge\['images'\] must have dtype"),
    "classes of knowledge as floats": (known(classes=np.zeros(2 * K)), r"knowledge\['classes'\] must have dtype"),
    "scalar class of knowledge": (known(classes=np.int64(0)), r"images of knowledge must number 1\.\.500, got 0"),
    "empty knowledge": (of_rows(0), r"images of knowledge must number 1\.\.500, got 0"),
    "million images of knowledge": (of_rows(10**6), r"images of knowledge must number 1\.\.500, got 1000000"),
    "one class of knowledge": (
        of_rows(51),
        r"images of a class in knowledge must number at most 50 \(.*knowledge\), got 51",
    ),
    "unknown class of knowledge": (
        known(classes=np.full(2 * K, K)),
        rf"classes of knowledge must lie in 0\.\.9, got \[{K}",
    ),
    "negative class of knowledge": (
        known(classes=np.full(2 * K, -1)),
        r"classes of knowledge must lie in 0\.\.9, got \[-1",
    ),
}


def ask(grid, sent, kind="train.distill"):
    """Return the reply of the only client to a message."""
    (reply,) = grid.send_and_receive([Message(sent, *grid.get_node_ids(), kind)])
    return reply


def answer(grid, sent, kind="train.distill"):
    """Return the digest of arrays and statements of an accepted request, without the time that it took."""
    reply = ask(grid, sent, kind)
    assert not reply.has_error(), reply.error
    found = reply.content
    return content_digest(found["syn"], found["meta"])


def state(grid):
    """Return the state of the only client without its count of bytes."""
    (context,) = grid.contexts.values()
    return {name: context.state[name] for name in context.state if name != "ddsdk-traffic"}


@pytest.fixture(scope="module")
def honest():
    """Sets of two rounds of an honest server, of which the second starts from the first."""
    grid = InProcessGrid(client().app(), 1)
    return [answer(grid, content(number)) for number in (1, 2)]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_name_rule_and_value_and_changes_nothing(name, honest, caplog):
    change, expected = ATTACKS[name]
    grid = InProcessGrid(client().app(), 1)
    assert answer(grid, content(1)) == honest[0]
    before, attack = state(grid), content(2)
    change(attack)
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        reply = ask(grid, attack)
    reason = reply.error.reason
    assert reply.error.code == 6
    assert re.match(expected, reason), reason
    assert len(reason) <= 200 and reason.isprintable()
    assert f"the client refused a request: {reason}" in caplog.text
    assert state(grid) == before
    assert answer(grid, content(2)) == honest[1]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_allocates_less_than_its_own_size(name):
    attack = content(2)
    ATTACKS[name][0](attack)
    size = sum(len(array.data) for record in attack.array_records.values() for array in record.values())
    message = Message(attack, 1, "train.distill")
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            Request.of(message, "distill", TASK, RequestLimits())
        assert tracemalloc.get_traced_memory()[1] < size + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["train.update", "train"])
@pytest.mark.parametrize("name", ["another task", "negative round", "weights of NaN", "4 GB in the header alone"])
def test_other_trainings_have_the_same_checks(kind, name):
    grid = InProcessGrid(client().app(), 1)
    attack = content(1)
    del attack["knowledge"]
    assert not ask(grid, attack, kind).has_error()
    ATTACKS[name][0](attack)
    assert ask(grid, attack, kind).error.code == 6
    del attack["arrays"]
    assert ask(grid, attack, kind).error.reason.startswith("records must have 'arrays'")


@pytest.mark.parametrize(
    ("kind", "sent", "reason"),
    [
        ("query.stats", {"action": "raw"}, "action must be one of distill, update, fit, got 'raw'"),
        ("query.stats", {"classes": [0]}, "config must have no entries but"),
        ("query.traffic", {"all": True}, "config must have no entries but"),
        ("query.images", {}, "ValueError: No query function registered with name 'images'"),
        ("train.everything", {}, "ValueError: No train function registered with name 'everything'"),
        ("evaluate", {}, "ValueError: No evaluate function registered"),
    ],
)
def test_questions_that_were_not_agreed_have_no_answer(kind, sent, reason):
    reply = ask(InProcessGrid(client().app(), 1), RecordDict({"config": ConfigRecord(sent)}), kind)
    assert reply.error.reason.startswith(reason)


@pytest.mark.parametrize("size", [1e6, 1e-40])
def test_extreme_weights_within_the_limits_give_an_error_or_a_sound_set(size, honest):
    """What such weights make is no start of a later set: the client drops it if it is not finite."""
    grid = InProcessGrid(client().app(), 1)
    attack = content(1, **{"go-on": False})
    for name in WEIGHTS:
        weight(lambda values: np.full_like(values, size), name)(attack)
    reply = ask(grid, attack)
    if reply.has_error():
        assert "its log has the details" in reply.error.reason
    else:
        assert np.isfinite(reply.content["syn"]["images"].numpy()).all()
    assert answer(grid, content(1)) == honest[0]


def test_a_message_without_content_is_refused():
    (context,) = InProcessGrid(client().app(), 1).contexts.values()
    request = Message(Error(0, "none"), reply_to=Message(content(), 1, "train.distill"))
    reply = client().app()(request, context)
    assert reply.error.reason == "message must have content, got 'an error'"


def test_errors_of_the_clients_own_code_keep_their_text(monkeypatch, caplog):
    def broken(*_):
        raise OSError("cannot read /home/alice/patients/net.py")

    monkeypatch.setattr("ddsdk_integrations.federated.client_checks._network", broken)
    grid = InProcessGrid(client().app(), 1)
    assert ask(grid, content(1)).error.reason == "the request cannot be read: OSError"
    assert "net.py" in caplog.text


def test_an_owner_may_agree_to_less():
    limits = RequestLimits(actions=("distill",), radius=0.5, knowledge=1)
    grid = InProcessGrid(client(requests=limits).app(), 1)
    sent = content(1, radius=0.5)
    assert "images of knowledge must number 1..10, got 20" in ask(grid, sent).error.reason
    del sent["knowledge"]
    assert not ask(grid, sent).has_error()
    for kind, action in (("train", "fit"), ("train.update", "update")):
        assert f"action must be one of distill, stats, traffic, which the client's owner allows, got {action!r}" in (
            ask(grid, sent, kind).error.reason
        )
    assert "radius must be a number in 0..0.5, got 1.0" in ask(grid, content(1)).error.reason


def test_further_entries_are_those_of_the_owner():
    grid = InProcessGrid(client(requests=RequestLimits(entries=("note",))).app(), 1)
    assert not ask(grid, content(1, note="hello")).has_error()
    assert ask(grid, content(1, other="hello")).has_error()


def counting(**how):
    """Return a grid of a client whose sets are drawn anew in each distillation, and the list of its distillations."""
    drawn = []

    def function(real):
        drawn.append(1)
        return dd.distill(QUICK, real, seed=len(drawn))

    return InProcessGrid(client(distil=CustomDistillation(function, ipc=2), **how).app(), 1), drawn


def test_a_repeated_request_draws_no_second_noise():
    grid, drawn = counting(requests=RequestLimits(answers=2))
    first = answer(grid, content(1))
    assert [answer(grid, content(1)) for _ in range(3)] == [first] * 3
    assert len(drawn) == 1
    # The same round with another seed is a further answer, and the owner's limit counts it.
    assert answer(grid, content(1, seed=1)) != first
    assert len(drawn) == 2
    for sent in (content(1), content(2)):
        assert ask(grid, sent).error.reason == "answers must not exceed 2 in a run, got 3"
    assert len(drawn) == 2
    # Questions about class counts and bytes are no further disclosure.
    assert not ask(grid, RecordDict(), "query.stats").has_error()


def test_a_failing_answer_counts_and_its_text_stays_with_the_client(caplog):
    def fails(context):
        raise OSError("/home/ward/patients.csv")

    grid = InProcessGrid(client(load=fails, requests=RequestLimits(answers=2)).app(), 1)
    for number in (1, 2):
        assert ask(grid, content(number)).error.reason == "the client failed with OSError, and its log has the details"
    assert "patients.csv" in caplog.text
    assert ask(grid, content(3)).error.reason.startswith("answers must not exceed 2")


def test_the_time_of_a_run_is_bounded():
    grid = InProcessGrid(client(requests=RequestLimits(seconds=1e-6)).app(), 1)
    assert not ask(grid, content(1)).has_error()
    assert ask(grid, content(2)).error.reason.startswith("seconds must stay below 1e-06 in a run, got ")
    assert ask(grid, RecordDict(), "query.stats").has_error()
    assert not ask(grid, RecordDict(), "query.traffic").has_error()


PLANTED = {
    "of text": ConfigRecord({"images": "all"}),
    "without classes": ArrayRecord({"images": torch.zeros(2, *TASK.image_shape).half()}),
    "of another shape": ArrayRecord({"images": torch.zeros(2, 3, 9, 9).half(), "classes": torch.zeros(2).long()}),
    "of NaN": ArrayRecord({"images": torch.full((2, *TASK.image_shape), torch.nan), "classes": torch.zeros(2).long()}),
    "without bytes": ArrayRecord(
        {name: Array("float16", (2,), "numpy.ndarray", b"") for name in ("images", "classes")}
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_damaged_state_is_dropped(name, honest, caplog):
    grid = InProcessGrid(client().app(), 1)
    (context,) = grid.contexts.values()
    context.state["ddsdk-set"] = PLANTED[name]
    context.state["ddsdk-traffic"] = ConfigRecord({"down": "many"})
    assert answer(grid, content(1)) == honest[0]
    assert "the stored set of the previous round is damaged" in caplog.text
    assert answer(grid, content(2)) == honest[1]


@pytest.mark.parametrize("planted", [{"answers": -10}, {"answers": "0"}, {"answers": 0, "seconds": float("nan")}])
def test_a_damaged_account_ends_the_answers_of_a_run(planted, caplog):
    grid = InProcessGrid(client().app(), 1)
    (context,) = grid.contexts.values()
    context.state["ddsdk-account"] = ConfigRecord(planted)
    assert ask(grid, content(1)).error.reason.startswith("answers must not exceed 1000 in a run")
    assert "the account of answers in the client's state is damaged" in caplog.text


def test_a_set_has_the_form_that_its_owner_chose():
    """No request changes the number of images or adds labels."""
    grid = InProcessGrid(client(packing=Packing(soft=False)).app(), 1)
    reply = ask(grid, content(1)).content
    assert sorted(reply["syn"]) == ["classes", "images"]
    assert np.unique(reply["syn"]["classes"].numpy(), return_counts=True)[1].max() == QUICK.ipc


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RequestLimits(actions=("raw",)), "actions must be among distill, update, fit"),
        (lambda: RequestLimits(answers=0), "answers must be at least 1"),
        (lambda: RequestLimits(seconds=0.0), "seconds must be"),
        (lambda: RequestLimits(radius=float("nan")), "radius must be"),
    ],
)
def test_bad_limits_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
