"""Runs of a client and of the server: warm starts, facts of the data that travel, and what a set records."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from federation import CLIENTS, QUICK, RECIPE, TASK, TRAIN, load, participant, run, strategy
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from wrapped_recipes import Noting, Undone

import ddsdk as dd
from ddsdk.running import Run
from ddsdk_integrations.federated import (
    CustomDistillation,
    FederatedTask,
    InProcessGrid,
    LocalData,
    ReplySpec,
    ServerTrajectory,
    UpdateEncoding,
    fed_dm,
    fed_mk,
    inspect_replies,
    one_shot,
)
from ddsdk_integrations.federated.weight_path import WeightPath, placeholder_data

STILL = dd.DM(ipc=2, steps=1, real_batch=8, image_lr=1e-9, augmentation="")
TILED = dd.M3D(ipc=2, steps=1, real_batch=8, image_lr=1e-9, augmentation="")
STEP = 1 / 254


def two_classes(context):
    images, labels = load(context)
    kept = labels < 2
    return images[kept], labels[kept]


def answered(client, **records):
    """Return the set with which a client of two classes answers a message, and its manifest."""
    grid = InProcessGrid(client.app(), 1)
    (node,) = grid.get_node_ids()
    content = RecordDict({"config": ConfigRecord({"server-round": 1}), **records})
    (reply,) = grid.send_and_receive([Message(content, node, "train.distill")])
    assert not reply.has_error(), reply.error
    spec = ReplySpec(task=client.task, round_number=1, allowed={node: frozenset({0, 1})})
    (one,), refused = inspect_replies([reply], spec)
    assert refused == []
    return one, json.loads(one.meta["manifest"])


def knowledge(levels, each=2):
    """Return grey images of each class, as a server sends them."""
    classes = torch.tensor(list(levels)).repeat_interleave(each)
    values = torch.tensor([round(255 * level) for level in levels.values()], dtype=torch.uint8)
    images = values.repeat_interleave(each)[:, None, None, None].expand(-1, *TASK.image_shape).clone()
    return ArrayRecord({"images": images, "classes": classes})


@pytest.mark.parametrize("average", [None, 0.99])
@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("inner", [STILL, TILED], ids=["pixels", "tiles"])
def test_average_and_undo_go_back_to_the_warm_start(inner, average, undone):
    wrapped = Undone(inner=inner, ipc=2)
    recipe = dataclasses.replace(wrapped if undone else inner, average=average)
    known = knowledge({0: 0.25, 1: 0.75}, each=8)
    one, _ = answered(participant(distil=recipe, load=two_classes), knowledge=known)
    means = [float(one.images[one.classes == c].mean()) for c in range(2)]
    assert means == pytest.approx([0.25, 0.75], abs=STEP)
    assert wrapped.noted == ["poisoned"] * undone


@pytest.mark.parametrize("average", [None, 0.99])
def test_a_client_goes_on_from_its_own_set(average):
    recipe = Undone(inner=STILL, ipc=2, average=average)
    first, second = rounds_of(strategy(fed_dm, go_on=True), participant(distil=recipe).app())
    assert len(recipe.noted) == 2 * CLIENTS
    assert torch.allclose(first, second, atol=STEP)


def rounds_of(made, app):
    """Return the images of all clients, round by round."""
    sound, found = made._accepted, []

    def keeping(server_round, replies):
        sets = sound(server_round, replies)
        found.append(torch.cat([one.images for one in sets]))
        return sets

    made._accepted = keeping
    run(made, app, rounds=2)
    return found


def test_a_start_goes_as_far_as_it_does_and_recipes_without_steps_pass_it_over():
    known = knowledge({1: 0.5}, each=1)
    for recipe, goes_on in ((STILL, True), (dd.BASELINES["random"](ipc=2), False)):
        client = participant(distil=recipe, load=two_classes)
        (cold, _), (warm, _) = answered(client), answered(client, knowledge=known)
        assert torch.equal(warm.images[[0, 1, 3]], cold.images[[0, 1, 3]])
        assert torch.allclose(warm.images[2], torch.tensor(0.5), atol=STEP) == goes_on
        assert torch.equal(warm.images, cold.images) != goes_on


def test_a_client_that_loses_a_class_goes_on_with_the_others():
    """What it keeps are classes of the task, whatever their places among its own."""
    calls = []

    def load_less(context):
        images, labels = load(context)
        calls.append(1)
        # The first call asks what it holds.
        kept = labels > (0 if len(calls) <= 2 else 3)
        return images[kept], labels[kept]

    made = strategy(fed_dm, go_on=True)
    sets, sound = [], made._accepted
    made._accepted = lambda *args: sets.append(sound(*args)) or sets[-1]
    run(made, participant(distil=STILL, load=load_less).app(), rounds=2, clients=1)
    (first,), (second,) = sets
    assert torch.unique(first.classes).tolist() == list(range(1, 10))
    assert torch.unique(second.classes).tolist() == list(range(4, 10))
    assert torch.allclose(second.images, first.images[first.classes > 3], atol=STEP)


def with_facts(*, pictures=True, mirror_safe=False):
    return dd.RealData(
        TRAIN.images,
        TRAIN.labels,
        class_names=TRAIN.class_names,
        preprocess=TRAIN.preprocess,
        pictures=pictures,
        mirror_safe=mirror_safe,
    )


PUBLISHED = "color_crop_cutout_flip_scale_rotate"
FACTS = {
    "digits": (TRAIN, (True, False, PUBLISHED.replace("_flip", "")), "crop"),
    "clothes": (with_facts(mirror_safe=True), (True, True, PUBLISHED), "crop_flip"),
    "text": (with_facts(pictures=False, mirror_safe=True), (False, True, ""), ""),
}


@pytest.mark.parametrize(("real", "wanted", "server"), FACTS.values(), ids=FACTS)
def test_facts_of_the_data_reach_clients_and_server(real, wanted, server):
    recipe = Noting(inner=RECIPE, ipc=1)
    # A public part of the data says what is agreed on.
    task = FederatedTask.of(real.subset(torch.arange(200)), network="convnet", width=4, depth=2)
    assert (task.pictures, task.mirror_safe) == wanted[:2]
    answered(participant(task=task, distil=recipe, load=two_classes))
    assert recipe.noted == [wanted]
    whole = LocalData.of(task, real.images, real.labels).real
    for data in (whole, placeholder_data(task)):
        assert (data.pictures, data.mirror_safe) == wanted[:2]
    for make in (one_shot, fed_dm, fed_mk):
        assert make(task).learn.protocol.augmentation == server
        assert make(task, protocol=QUICK).learn.protocol == QUICK


def test_a_set_made_under_other_facts_is_refused():
    tasks = [dataclasses.replace(TASK, **facts) for facts in ({}, {"mirror_safe": True}, {"pictures": False})]
    assert len({task.digest for task in tasks}) == 3
    for task in tasks[1:]:
        made = strategy(one_shot, protocol=QUICK)
        run(made, [participant().app()] * (CLIENTS - 1) + [participant(task=task).app()])
        assert made.reports[0].taken == CLIENTS - 1
        # The client compares the task of the request with its own before it distils.
        ((_, reason),) = made.reports[0].failed
        assert reason.startswith(f"task must be '{task.digest}', as the client has agreed")


def test_the_set_of_a_function_is_sent_as_it_is():
    herding = dd.BASELINES["herding"](ipc=3)
    seen = []

    def function(real):
        seen.append(real.mirror_safe)
        return dd.distill(herding, real, seed=dd.generator("mine"))

    one, manifest = answered(participant(distil=CustomDistillation(function, ipc=3), load=two_classes))
    assert torch.bincount(one.classes).tolist() == [3, 3]
    assert (manifest["recipe"], manifest["parameters"]["ipc"]) == ("herding", 3)
    assert seen == [False]


@pytest.mark.parametrize("distil", [dd.DM, lambda real: None, "dm"])
def test_what_is_no_recipe_is_refused(distil):
    with pytest.raises(TypeError, match=r"distil must be a ddsdk\.Recipe or a CustomDistillation, got"):
        participant(distil=distil)


SHORT = {"student_steps": 2, "steps": 3}
PATHS = {
    "update": (UpdateEncoding(images=10, **SHORT), 2),
    "dynafed": (ServerTrajectory(rounds=2, ipc=1, span=2, tune_steps=1, **SHORT), 4),
}


@pytest.mark.parametrize(("method", "rounds"), PATHS.values(), ids=PATHS)
def test_a_path_of_weights_is_distilled_by_the_one_owner_of_runs(method, rounds):
    """The artefact names the method and the network, has real seconds, and a run goes on bit for bit."""
    size = sum(p.numel() for p in TASK.make(dd.generator("size")).parameters())
    path = WeightPath(
        task=TASK,
        weights=tuple(0.1 * torch.randn(size, generator=dd.generator("path", i)) for i in range(rounds)),
        images=torch.randn(10, *TASK.image_shape, generator=dd.generator("start")),
        classes=torch.arange(10),
        rate=0.05,
    )
    made = dd.distill(method, path, seed=5)
    assert made.provenance["recipe"] == method.name in PATHS
    assert made.provenance["student"]["network"] == "convnet"
    assert made.provenance["student"]["options"]["width"] == 4
    assert made.provenance["steps_done"] == 3
    assert made.provenance["seconds"] > 0
    assert made.class_names == TASK.class_names
    assert made.learned_lr is not None
    half = Run(method, path, seed=5)
    next(half)
    rest = Run(method, path, seed=5)
    rest.load_state_dict(half.state_dict())
    assert rest.complete().content_id == made.content_id
    assert dd.distill(method, path, seed=6).content_id != made.content_id


def test_a_clients_set_records_the_network_that_matched():
    from ddsdk_integrations.federated.client import PerturbedStudents

    data = LocalData.of(TASK, TRAIN.images, TRAIN.labels)
    made = dd.distill(RECIPE, data.real, make_student=PerturbedStudents(data=data))
    assert made.provenance["student"] == {"network": "convnet", "options": dict(TASK.factory.options)}
