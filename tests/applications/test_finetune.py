"""Sets for a frozen backbone: the backbone stays, only heads are matched, and a probe that is the smallest there is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from benchmarks.finetune import ExperimentConfig, pretrained, some_classes
from ddsdk.foundation import derive
from ddsdk.networks import Backbone
from ddsdk.objectives import weight_gradients
from ddsdk.students import BackboneStudents
from ddsdk.training import embeddings
from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, fine_tune, linear_probe, probe_accuracy


@pytest.fixture
def backbone(tiny):
    return dd.network_factory("convnet", tiny.image_shape, 5, width=4, depth=1, norm="batch")(dd.generator("b"))


@pytest.fixture
def frozen(tiny, backbone):
    features = embeddings(backbone, tiny.batch(torch.arange(1)).x).shape[1]
    return FrozenBackbone(backbone, features=features, num_classes=3)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def test_students_have_the_features_of_the_backbone_and_a_head_of_their_own(tiny, backbone, frozen):
    x = tiny.batch(torch.arange(4)).x
    one, two = frozen(dd.generator(0)), frozen(dd.generator(1))
    wanted = copy.deepcopy(backbone).eval().embed(x)
    for student in (one, two):
        assert torch.equal(student.embed(x), wanted)
        assert [name for name, _ in student.named_parameters()] == ["head.weight", "head.bias"]
    assert not torch.equal(one.head.weight, two.head.weight)
    assert torch.equal(one.head.weight, frozen(dd.generator(0)).head.weight)
    wide = FrozenBackbone(backbone, features=7, num_classes=3)
    with pytest.raises(ValueError, match="features must be 96, got 7"):
        wide(dd.generator(0))(x)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        FrozenBackbone(backbone, features=7, num_classes=0)


def test_gradients_that_are_matched_are_those_of_the_head(tiny, frozen):
    batch = tiny.batch(torch.arange(6))
    student = frozen(dd.generator(0))
    (found,) = weight_gradients(student, batch, graph=False)
    features = student.embed(batch.x)
    slow = (student(batch.x).softmax(1) - batch.y).T @ features / 6
    torch.testing.assert_close(found, slow.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "recipe", [LinearGradientMatching(ipc=1, steps=2, augmentation=""), dd.DM(ipc=1, steps=2), dd.FRePo(ipc=1, steps=2)]
)
def test_no_recipe_changes_the_backbone(tiny, backbone, frozen, recipe):
    before, inside = state(backbone), state(frozen._features._unregistered[0])
    found = dd.distill(recipe, tiny, make_student=frozen, seed=dd.generator("run"))
    assert len(found) == 3
    assert same(before, state(backbone))
    assert same(inside, state(frozen._features._unregistered[0]))


def test_gradients_of_all_weights_are_refused(tiny, make_student):
    with pytest.raises(TypeError, match="must be BackboneStudents or a FrozenBackbone, got NetworkFactory"):
        dd.distill(LinearGradientMatching(ipc=1, steps=1), tiny, make_student=make_student, seed=0)
    with pytest.raises(ValueError, match="image_lr must"):
        LinearGradientMatching(image_lr=0)


def test_a_set_for_a_named_backbone_is_probed_with_it(digits):
    train, test = digits
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU())
    named = Backbone(module, mean=[0.3], std=[0.4], side=12, name="convolution")
    recipe = LinearGradientMatching(ipc=1, steps=2, real_batch=8, augmentation="")
    found = dd.distill(recipe, train, make_student=BackboneStudents(named, train), seed=0)
    assert (found.protocol["learner"], found.protocol["network"]) == ("probe", "convolution")
    assert dd.evaluate(found, test, backbone=named)[0].network == "probe on convolution"


def test_the_probe_is_where_the_gradient_is_zero():
    rng = dd.generator("probe")
    features, labels = torch.randn(20, 5, generator=rng).double(), torch.eye(3).double()[torch.arange(20) % 3]
    head = linear_probe(features, labels, decay=0.01)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = cross_entropy(features @ weight.T + bias, labels) + 0.01 * weight.square().sum() / 2
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert float(gradient.abs().max()) < 1e-4
    with pytest.raises(ValueError, match="decay must"):
        linear_probe(features, labels, decay=0)


class Pixels(nn.Module):
    """A backbone whose features are the pixels."""

    def forward(self, x):
        return x.flatten(1)


def test_a_probe_on_pixels_of_all_images_is_logistic_regression(digits):
    from sklearn.linear_model import LogisticRegression

    train, test = digits
    everything = train.batch(torch.arange(len(train)))
    names = {"class_names": train.class_names, "preprocess": train.preprocess}
    whole = dd.Distilled(everything.x, everything.y, **names)
    found = probe_accuracy(Pixels(), whole, test, decay=0.01)
    theirs = LogisticRegression(C=1 / (0.01 * len(train)), max_iter=1000, tol=1e-8)
    theirs.fit(everything.x.flatten(1).numpy(), train.labels.numpy())
    right = theirs.predict(test.batch(torch.arange(len(test))).x.flatten(1).numpy()) == test.labels.numpy()
    assert found == pytest.approx(right.mean(), abs=0.005)


def test_tuning_moves_a_copy_and_keeps_the_statistics_of_batch_norm(tiny, backbone):
    chosen = dd.distill(dd.BASELINES["random"](ipc=2), tiny, seed=0)
    before = state(backbone)
    how = dd.TrainingProtocol(epochs=3, lr=0.05)
    found = fine_tune(backbone, chosen, how, seed=dd.generator("t"))
    assert same(before, state(backbone))
    after = state(found.backbone)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert "body.0.0.weight" in moved
    assert not [name for name in moved if "running" in name or "batches" in name]
    again = fine_tune(backbone, chosen, how, seed=dd.generator("t"))
    assert same(state(found), state(again))


def test_some_classes_are_numbered_from_zero(digits):
    found = some_classes(digits[0], range(5, 10))
    assert found.class_names == tuple("56789")
    assert found.class_sizes == digits[0].class_sizes[5:]


def test_some_classes_keep_the_facts_of_the_data(tiny):
    facts = {"name": "scans", "pictures": False, "mirror_safe": True}
    names = {"class_names": tiny.class_names, "preprocess": tiny.preprocess}
    found = some_classes(dd.RealData(tiny.images, tiny.labels, **names, **facts), range(1, 3))
    assert {fact: getattr(found, fact) for fact in facts} == facts


def test_matched_images_teach_a_probe_more_than_their_start(digits):
    """From the same real images: what matching adds."""
    setting = ExperimentConfig(width=8, pretraining=8)
    train, test = (some_classes(data, range(5, 10)) for data in digits)
    backbone = pretrained(some_classes(digits[0], range(5)), setting, dd.generator("pretrained"))
    features = embeddings(backbone, train.batch(torch.arange(1)).x).shape[1]
    frozen = FrozenBackbone(backbone, features=features, num_classes=5)
    recipe = LinearGradientMatching(ipc=1, steps=60, real_batch=32, augmentation="", start="real")
    found = dd.distill(recipe, train, make_student=frozen, seed=dd.generator("run"))
    start = recipe.plan(train, make_student=frozen, rng=derive(dd.generator("run"), "plan")).syn
    names = {"class_names": train.class_names, "preprocess": train.preprocess}
    before = dd.Distilled(*start.detached(dd.generator(0)), **names)
    gain = probe_accuracy(backbone, found, test) - probe_accuracy(backbone, before, test)
    assert gain > 0.05
