"""The payload: what is sent is what arrives, to the precision of its codec, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from federation import TASK, TRAIN, load
from flwr.app import ConfigRecord, Context, Message, RecordDict

import ddsdk as dd
from ddsdk.artefact.codec_table import codec_state
from ddsdk.artefact.codecs import Components, Half, LowRank, Tiles, Uint8
from ddsdk.foundation.files import canonical_json
from ddsdk_integrations.federated import (
    LocalData,
    LocalTraining,
    Packing,
    ReplyLimits,
    ReplySpec,
    UpdateEncoding,
    inspect_replies,
)
from ddsdk_integrations.federated.payload import content_digest, pack
from ddsdk_integrations.federated.updates import encoded_update


def local():
    context = Context(1, 1, {"partition-id": 0, "num-partitions": 4}, RecordDict(), {})
    return LocalData.of(TASK, *load(context), least=2)


def made(data, soft=False):
    rng = dd.generator("made")
    k = len(data.classes)
    classes = torch.arange(k).repeat_interleave(2)
    labels = torch.nn.functional.one_hot(classes, k).float()
    if soft:
        labels = 0.7 * labels + 0.3 * torch.rand(2 * k, k, generator=rng).softmax(1)
    return dd.Distilled(
        TASK.preprocess(torch.rand(2 * k, *TASK.image_shape, generator=rng)),
        labels / labels.sum(1, keepdim=True),
        class_names=data.real.class_names,
        preprocess=TASK.preprocess,
        classes=classes,
        learned_lr=(0.5, 0.25),
        provenance={"recipe": "dm", "parameters": {"ipc": 2}, "data": {"fingerprint": "f"}, "device": "cpu"},
    )


def received(content, data, node=7, **limits):
    message = reply(content, node)
    allowed = {node: frozenset(range(TASK.num_classes))}
    spec = ReplySpec(task=TASK, round_number=1, allowed=allowed, limits=ReplyLimits(**{"soft": True, **limits}))
    return inspect_replies([message], spec)


def reply(content, node):
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    asked = Message(RecordDict({"config": ConfigRecord()}), node, "train.distill")
    return Message(content, reply_to=asked)


@pytest.mark.parametrize(
    ("codec", "error"),
    [(Uint8(), 0.5 / 255 + 1e-6), (Half(), 5e-4), (LowRank(8), 4e-3)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_set_arrives_to_the_precision_of_its_codec(codec, error):
    data = local()
    sent = made(data, soft=True)
    content = pack(sent, data, Packing(codec=codec, soft=True), round_number=1)
    (one,), refused = received(content, data)
    assert refused == []
    assert (one.images - sent.unit_images()).abs().max() <= error
    assert torch.equal(one.classes, torch.tensor(data.classes)[sent.owner])
    assert torch.allclose(one.labels[:, list(data.classes)], sent.labels, atol=1e-3)
    assert one.labels.sum(1).sub(1).abs().max() < 2e-3
    assert one.rate == (0.5, 0.25)
    assert one.counts == data.counts
    assert one.examples == len(load_images())
    difference = (codec.unpack(codec.pack(sent.unit_images())) - sent.unit_images()).square().mean().sqrt()
    assert one.meta["codec-error"] == pytest.approx(float(difference), abs=2e-4)
    told = json.loads(one.meta["manifest"])
    assert (told["recipe"], told["parameters"]) == ("dm", {"ipc": 2})
    # Nothing else of the provenance leaves the client.
    assert set(told) == {"recipe", "parameters", "versions"}
    assert set(told["versions"]) == {"ddsdk", "torch"}
    assert "no formal privacy guarantee" in one.meta["privacy"].lower()


def load_images():
    return load(Context(1, 1, {"partition-id": 0}, RecordDict(), {}))[1]


def test_hard_labels_are_class_ids_alone():
    data = local()
    content = pack(made(data), data, Packing(), round_number=1)
    assert set(content["syn"]) == {"images", "classes", "rate"}
    (one,), _ = received(content, data)
    assert torch.equal(one.labels.argmax(1), one.classes)
    assert torch.equal(one.labels.sum(1), torch.ones(len(one.labels)))


def test_the_digest_covers_arrays_and_meta():
    data = local()
    content = pack(made(data), data, Packing(), round_number=1)
    arrays, meta = content["syn"], content["meta"]
    before = content_digest(arrays, meta)
    assert meta["digest"] == before
    told, meta["manifest"] = meta["manifest"], "{}"
    assert content_digest(arrays, meta) != before
    meta["manifest"] = told
    assert content_digest(arrays, meta) == before
    arrays["images"].data = arrays["images"].data[:-1] + bytes([arrays["images"].data[-1] ^ 1])
    assert content_digest(arrays, meta) != before


def test_what_a_codec_cuts_off_is_part_of_its_error():
    """Bytes end at 0 and 1; a set that goes beyond says by how much."""
    data = local()
    wide = made(data)
    wide = dataclasses.replace(wide, images=TASK.preprocess(3 * TASK.preprocess.inverse(wide.images) - 1))
    unit = TASK.preprocess.inverse(wide.images)
    content = pack(wide, data, Packing(), round_number=1)
    cut = float((unit.clamp(0, 1) - unit).square().mean().sqrt())
    assert content["meta"]["codec-error"] == pytest.approx(cut, rel=0.02)
    (one,), _ = received(pack(wide, data, Packing(codec=Half()), round_number=1), data)
    assert (one.images - unit).abs().max() < 2e-3


def test_soft_labels_stay_with_the_class_and_with_what_the_client_holds():
    data = local()
    sent = made(data, soft=True)
    content = pack(sent, data, Packing(soft=True), round_number=1)
    _, refused = received(content, data, soft=False)
    assert refused[0][1:3] == (9, "labels")
    assert "ReplyLimits.soft is False" in refused[0].reason
    allowed = {7: frozenset(data.classes[:-1])}
    kept = torch.isin(sent.owner, torch.arange(len(data.classes) - 1))
    part = dataclasses.replace(sent, images=sent.images[kept], labels=sent.labels[kept], classes=sent.classes[kept])
    content = pack(part, data, Packing(soft=True), round_number=1)
    spec = ReplySpec(task=TASK, round_number=1, allowed=allowed, limits=ReplyLimits(soft=True))
    _, refused = inspect_replies([reply(content, 7)], spec)
    assert "must lie on classes that the client holds" in refused[0].reason
    swapped = dataclasses.replace(sent, labels=sent.labels.flip(1))
    _, refused = received(pack(swapped, data, Packing(soft=True), round_number=1), data)
    assert "must be largest at their class" in refused[0].reason
    # An update is a function of any probabilities.
    spec = ReplySpec(task=TASK, round_number=1, allowed=allowed, update=True)
    content = pack(dataclasses.replace(part, labels=part.labels.flip(1)), data, Packing(soft=True), round_number=1)
    assert inspect_replies([reply(content, 7)], spec)[1] == []


def test_replies_come_out_in_the_order_of_the_contract():
    data = local()
    content = pack(made(data), data, Packing(), round_number=1)
    allowed = {node: frozenset(data.classes) for node in (5, 3, 9)}
    spec = ReplySpec(task=TASK, round_number=1, allowed=allowed)
    for order in ((3, 5, 9), (9, 5, 3), (5, 9, 3)):
        sets, _ = inspect_replies([reply(content, node) for node in order], spec)
        assert [one.node for one in sets] == [5, 3, 9]


@pytest.mark.parametrize("codec", [Components(), Tiles(2)], ids=["components", "tiles"])
def test_codecs_keep_each_image_by_itself(codec):
    data = local()
    with pytest.raises(ValueError, match="codec must be one of uint8, half, low-rank"):
        pack(made(data), data, Packing(codec=codec), round_number=1)
    encoding = UpdateEncoding(images=4, student_steps=1, steps=1, codec=codec)
    network, rng = TASK.make(dd.generator("x")), dd.generator("update")
    with pytest.raises(ValueError, match="codec must be one of uint8, half, low-rank"):
        encoded_update(network, data, LocalTraining(), encoding, rng, round_number=1)
    content = pack(made(data), data, Packing(), round_number=1)
    content["meta"]["codec"] = canonical_json(codec_state(codec)).decode()
    content["meta"]["digest"] = content_digest(content["syn"], content["meta"])
    assert received(content, data)[1][0].reason.startswith("codec must be one of")


def test_local_data_leaves_out_what_is_too_small():
    labels = torch.tensor([0] * 5 + [3] * 2 + [7] * 9)
    images = TRAIN.images[: len(labels)]
    data = LocalData.of(TASK, images, labels, least=3)
    assert data.classes == (0, 7)
    assert data.counts == (5, 0, 0, 2, 0, 0, 0, 9, 0, 0)
    assert data.real.class_sizes == (5, 9)
    assert torch.equal(data.ids(torch.tensor([0, 1])), torch.tensor([0, 7]))
    rows = data.rows(torch.tensor([[0.25, 0.75]]))
    assert rows[0, 0] == 0.25
    assert rows[0, 7] == 0.75
    assert torch.equal(data.batch().y.argmax(1), labels[labels != 3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 10])}, r"labels must lie in 0..9, got \[10\]"),
        ({"images": torch.rand(2, 1, 9, 8)}, "images must have the shape"),
        ({"least": 3}, "labels must have 3 images of at least one class"),
    ],
)
def test_local_data_refuses_what_is_not_of_the_task(change, message):
    arguments = {"images": TRAIN.images[:2], "labels": torch.tensor([0, 1]), "least": 1, **change}
    with pytest.raises(ValueError, match=message):
        LocalData.of(TASK, arguments["images"], arguments["labels"], least=arguments["least"])
