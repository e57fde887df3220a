"""Students of a client, and updates written as images, against slow and obvious versions."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from federation import TASK, load
from flwr.app import Context, RecordDict
from test_payload import reply

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import mean_embedding
from ddsdk.training.flat import weight_vector
from ddsdk_integrations.federated import LocalData, LocalTraining, ReplySpec, UpdateEncoding, inspect_replies
from ddsdk_integrations.federated.client import PerturbedStudents
from ddsdk_integrations.federated.meta_knowledge import dynamic_loss
from ddsdk_integrations.federated.updates import encoded_update, recovered_update


def local(classes=None):
    images, labels = load(Context(1, 1, {"partition-id": 0}, RecordDict(), {}))
    if classes is not None:
        kept = torch.isin(labels, torch.tensor(classes))
        images, labels = images[kept], labels[kept]
    return LocalData.of(TASK, images, labels)


def test_a_student_has_the_outputs_of_the_clients_classes():
    data = local([1, 4, 8])
    network = TASK.make(dd.generator("server"))
    student = PerturbedStudents(data=data, around=network)(dd.generator("student"))
    x = data.batch().x[:5]
    assert torch.allclose(student(x), network(x)[:, [1, 4, 8]], atol=1e-6)
    assert torch.equal(student.embed(x), network.embed(x))
    student.head.weight.data.zero_()
    assert network.head.weight.abs().sum() > 0


def test_embeddings_with_logits_are_what_feddm_matches():
    data = local([1, 4])
    network = TASK.make(dd.generator("server"))
    student = PerturbedStudents(data=data, around=network, logits=True)(dd.generator("student"))
    x = data.batch().x[:5]
    assert torch.allclose(student.embed(x), torch.cat([network.embed(x), network(x)], 1), atol=1e-6)
    assert torch.allclose(student(x), network(x)[:, [1, 4]], atol=1e-6)
    real, fake = dd.Batch(x, None), dd.Batch(x.flip(0) * 0.5, None)
    a, b = (mean_embedding(student, batch, graph=False) for batch in (real, fake))
    wanted = sum((f(real.x).mean(0) - f(fake.x).mean(0)).square().sum() for f in (network.embed, network))
    assert (a[0] - b[0]).square().sum().item() == pytest.approx(wanted.item(), rel=1e-5)


def test_students_lie_within_the_radius_in_all_directions():
    data = local()
    network = TASK.make(dd.generator("server"))
    make = PerturbedStudents(data=data, around=network, radius=0.7)
    rows = list(data.classes)
    assert rows == list(range(TASK.num_classes))
    moves = torch.stack([weight_vector(make(dd.generator("student", i))) - weight_vector(network) for i in range(40)])
    lengths = moves.norm(dim=1)
    assert lengths.max() <= 0.7 + 1e-5
    assert lengths.min() < 0.2 < 0.5 < lengths.max()
    directions = moves / lengths[:, None]
    assert (directions @ directions.T).fill_diagonal_(0).abs().max() < 0.25
    same = PerturbedStudents(data=data, around=network, radius=0.7)(dd.generator("student", 3))
    assert torch.equal(weight_vector(same) - weight_vector(network), moves[3])
    with pytest.raises(ValueError, match="radius must be finite and not negative"):
        PerturbedStudents(data=data, radius=-1.0)


def test_fresh_students_do_not_depend_on_the_servers_weights():
    data = local()
    a = PerturbedStudents(data=data)(dd.generator("student", 1))
    b = PerturbedStudents(data=data)(dd.generator("student", 2))
    assert not torch.equal(weight_vector(a), weight_vector(b))


def test_known_images_count_little():
    outputs = torch.tensor([[9.0, -9.0], [-9.0, 9.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none").detach()
    weights = 2 / (1 + (-losses).exp()) - 1
    loss = dynamic_loss(outputs, labels)
    assert loss.item() == pytest.approx(float((weights * losses).sum()), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, outputs)
    plain = outputs.detach().softmax(1) - labels
    assert torch.allclose(gradient, weights[:, None] * plain, atol=1e-6)


def test_an_update_is_recovered_from_its_images():
    """The gap that the client reached is the gap that the server sees, and more steps make it smaller."""
    data = local([0, 1, 2])
    network = TASK.make(dd.generator("server"))
    training = LocalTraining(lr=0.05, batch_size=32)
    trained = copy.deepcopy(network)
    rng = dd.generator("update")
    training.fit(trained, data.batch(), derive(rng, "fit"))
    target = weight_vector(trained) - weight_vector(network)
    before = weight_vector(network)

    def gap(steps):
        encoding = UpdateEncoding(images=12, student_steps=2, steps=steps)
        content = encoded_update(network, data, training, encoding, rng, round_number=1)
        spec = ReplySpec(task=TASK, round_number=1, allowed={7: frozenset(data.classes)}, update=True)
        (one,), refused = inspect_replies([reply(content, 7)], spec)
        assert refused == []
        assert len(one.images) == 12
        found = recovered_update(network, one, TASK, 2)
        return float((found - target).square().sum() / target.square().sum()), one.meta["manifest"]

    few, _ = gap(1)
    many, told = gap(80)
    assert many < 0.8 * few < 0.8
    assert json.loads(told)["gap"] == pytest.approx(many, abs=0.05)
    assert torch.equal(weight_vector(network), before)


def test_images_of_an_update_are_shared_out_by_the_clients_classes():
    images, labels = load(Context(1, 1, {"partition-id": 0}, RecordDict(), {}))
    kept = torch.cat([torch.nonzero(labels == 2).flatten()[:4], torch.nonzero(labels == 5).flatten()[:12]])
    data = LocalData.of(TASK, images[kept], labels[kept])
    from ddsdk_integrations.federated.updates import _start

    starts, classes = _start(data, UpdateEncoding(images=8), dd.generator("start"))
    assert starts.shape == (8, *TASK.image_shape)
    assert torch.bincount(classes, minlength=10).tolist() == [0, 0, 2, 0, 0, 6, 0, 0, 0, 0]
