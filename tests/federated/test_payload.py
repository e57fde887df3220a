"""The payload: what is sent is what arrives, to the precision of its codec, and nothing else is taken for it."""

from __future__ import annotations

import pytest
import torch
from federation import TASK, TRAIN, load
from flwr.app import ConfigRecord, Context, Message, RecordDict

import ddsdk as dd
from ddsdk.codecs import Components, Half, LowRank, Tiles, Uint8
from ddsdk_integrations.federated import Contract, LocalData, Packing, inspect_replies
from ddsdk_integrations.federated.payload import codec_error, content_digest, pack


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
        provenance={"recipe": "dm"},
    )


def received(content, data, node=7, **limits):
    message = reply(content, node)
    allowed = {node: frozenset(range(TASK.num_classes))}
    contract = Contract(task=TASK, round_number=1, allowed=allowed, **limits)
    return inspect_replies([message], contract)


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
    assert one.meta["recipe"] == "dm"
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


def test_tiles_arrive_as_their_images():
    from ddsdk_integrations.federated.payload import pack_items

    data, rng = local(), dd.generator("canvases")
    canvases = torch.rand(len(data.classes), *TASK.image_shape, generator=rng)
    told = {"round": 1, "recipe": "idc", "privacy": ""}
    content = pack_items(canvases, torch.tensor(data.classes), None, data, Tiles(2), told=told)
    (one,), refused = received(content, data)
    assert refused == []
    assert len(one.images) == 4 * len(canvases)
    assert torch.equal(one.classes, torch.tensor(data.classes).repeat_interleave(4))
    assert codec_error(Tiles(2), canvases) <= 0.5 / 255
    _, refused = received(content, data, images=3)
    assert refused[0].check == 5


def test_the_digest_covers_arrays_and_meta():
    data = local()
    content = pack(made(data), data, Packing(), round_number=1)
    arrays, meta = content["syn"], content["meta"]
    before = content_digest(arrays, meta)
    assert meta["digest"] == before
    meta["recipe"] = "other"
    assert content_digest(arrays, meta) != before
    meta["recipe"] = "dm"
    assert content_digest(arrays, meta) == before
    arrays["images"].data = arrays["images"].data[:-1] + bytes([arrays["images"].data[-1] ^ 1])
    assert content_digest(arrays, meta) != before


def test_what_shares_tensors_cannot_be_sent():
    data = local()
    with pytest.raises(ValueError, match="codec must keep each item by itself"):
        pack(made(data), data, Packing(codec=Components()), round_number=1)


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
