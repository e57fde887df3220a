"""Linear probes on a frozen backbone: their fit, their protocol in the artefact, and what an evaluation refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import ddsdk as dd
from ddsdk.judging import TrainingSet, stored_protocol
from ddsdk.networks import Backbone
from ddsdk.students import BackboneStudents
from ddsdk.training import Probe, probe_protocol, protocol_on


def backbone(seed: int = 0, features: int = 6, **changes) -> Backbone:
    """A random convolution over grey images of 12 pixels."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(1, features, 5), nn.BatchNorm2d(features), nn.ReLU())
    return Backbone(module, **{"mean": [0.3], "std": [0.4], "side": 12, "name": f"random-{seed}", **changes})


@pytest.fixture(scope="module")
def made(digits):
    train, _ = digits
    recipe = dd.DM(ipc=2, steps=2, real_batch=8)
    return dd.distill(recipe, train, make_student=BackboneStudents(backbone(), train), seed=0)


def test_the_probe_is_logistic_regression_on_the_standardised_features(digits):
    train, test = digits
    found = dd.distill(dd.BASELINES["random"](ipc=20), train, seed=0)
    # The bias is free in both, and C is the inverse of the decay times the number of images.
    protocol = probe_protocol(backbone(), train, decay=0.01)
    score = dd.evaluate(found, test, protocol, backbone=backbone())
    statistics = protocol.probe

    def features(real, index=None):
        f = backbone().embed(real.unit_images(index)).detach().double().numpy()
        return (f - statistics.shift) / statistics.scale

    unit = found.preprocess.inverse(found.images)
    x = (backbone().embed(unit).detach().double().numpy() - statistics.shift) / statistics.scale
    machine = LogisticRegression(C=1 / (0.01 * len(found)), max_iter=2000, tol=1e-9).fit(x, found.classes.numpy())
    expected = machine.score(features(test), test.labels.numpy())
    assert score.mean == pytest.approx(expected, abs=0.003)
    assert score.mean > 0.3
    assert len(score.accuracies) == 1


def test_statistics_are_those_of_real_images_in_any_value_space(digits):
    train, _ = digits
    few = train.subset(torch.arange(300))
    probe = probe_protocol(backbone(), few).probe
    features = backbone().embed(few.unit_images()).detach().double()
    torch.testing.assert_close(torch.tensor(probe.shift).double(), features.mean(0), rtol=1e-3, atol=1e-6)
    scale = features.std(0, correction=0)
    torch.testing.assert_close(
        torch.tensor(probe.scale).double(), scale.clamp(min=float(scale.mean()) / 100), rtol=1e-3, atol=1e-6
    )
    unit = few.with_preprocess(dd.Preprocess.unit(1))
    assert probe_protocol(backbone(), unit).probe == probe


def test_the_artefact_states_the_backbone_and_its_probe(made, tmp_path):
    made.save(tmp_path / "set")
    found = dd.Distilled.load(tmp_path / "set")
    protocol = stored_protocol(found)
    assert (protocol.name, protocol.learner, protocol.network) == ("probe", "probe", "random-0")
    probe = protocol.probe
    assert probe is not None
    assert (probe.sha256, probe.features, probe.side) == (backbone().sha256, 6, 12)
    assert (probe.mean, probe.std) == ((0.3,), (0.4,))
    assert len(probe.shift) == len(probe.scale) == 6
    student = found.provenance["student"]
    assert (student["network"], student["options"]["sha256"]) == ("random-0", backbone().sha256)
    card = (tmp_path / "set" / "README.md").read_text()
    assert "a linear probe on it" in card
    assert backbone().sha256 in card
    assert "epochs" not in card
    assert found.content_id == made.content_id


def test_a_protocol_without_a_probe_is_written_as_before():
    assert "probe" not in dd.TrainingProtocol.published().to_dict()


def test_the_same_backbone_is_asked_for_by_name_hash_and_option(digits, made):
    _, test = digits
    for other in (None, backbone(1), backbone(side=14)):
        with pytest.raises(ValueError, match=f"backbone must be random-0 .*{backbone().sha256}.*--backbone SPEC"):
            TrainingSet.of(made, backbone=other)
    with pytest.raises(ValueError, match="backbone must be random-0"):
        dd.evaluate(made, test)
    score = dd.evaluate(made, test, backbone=backbone())
    assert (score[0].protocol, score[0].network, score[0].loss) == ("probe", "probe on random-0", "probe")
    assert "±" not in score[0].accuracy_text
    with pytest.raises(ValueError, match="networks must be empty with a backbone"):
        dd.evaluate(made, test, backbone=backbone(), networks=["mlp"])
    with pytest.raises(ValueError, match="protocol must be None or that of a probe"):
        dd.evaluate(made, test, dd.TrainingProtocol.quick(), backbone=backbone())


def test_no_cached_score_is_given_without_the_backbone(digits, made, tmp_path):
    _, test = digits
    options = {"results": tmp_path / "scores"}
    first = dd.evaluate(made, test, backbone=backbone(), **options)
    again = dd.evaluate(made, test, backbone=backbone(), **options)
    assert first == again
    with pytest.raises(ValueError, match="backbone must be random-0"):
        dd.evaluate(made, test, **options)


def test_weights_decide_and_the_protocol_states_the_preprocessing(digits, made):
    _, test = digits
    same = dd.evaluate(made, test, backbone=backbone(side=20, mean=[0.0]))
    assert same.accuracies == dd.evaluate(made, test, backbone=backbone()).accuracies


def test_another_backbone_is_a_transfer_that_the_row_names(digits, made):
    train, test = digits
    with pytest.raises(TypeError, match=r"train must be real training data, .* features of random-1"):
        dd.evaluate(made, test, backbone=backbone(1, 9))
    score = dd.evaluate(made, test, backbone=backbone(1, 9), train=train)
    assert (score[0].protocol, score[0].network) == ("probe, transfer from random-0", "probe on random-1")
    assert score.accuracies != dd.evaluate(made, test, backbone=backbone()).accuracies


def test_a_transfer_keeps_labels_and_decay(digits):
    train, _ = digits
    protocol = dataclasses.replace(probe_protocol(backbone(), train, decay=0.02), labels="hard")
    found, _ = protocol_on(backbone(1, 9), protocol, train)
    assert found.probe is not None
    assert (found.labels, found.probe.decay, found.probe.features) == ("hard", 0.02, 9)


def test_a_set_of_trained_networks_is_probed_if_a_backbone_is_given(digits):
    train, test = digits
    means = dd.distill(dd.BASELINES["means"](ipc=1), train)
    assert dd.evaluate(means, test, backbone=backbone(), train=train)[0].network == "probe on random-0"


def test_baselines_are_probed_and_herding_selects_by_the_backbone(digits, made):
    train, test = digits
    scores = dd.evaluate(made, test, backbone=backbone(), train=train, baselines=["random", "moderate"])
    assert [(s.name, s.network) for s in scores] == [
        ("dm", "probe on random-0"),
        ("random", "probe on random-0"),
        ("moderate", "probe on random-0"),
    ]
    key, students = dd.generator(0, "moderate"), BackboneStudents(backbone(), train)
    chosen = dd.distill(dd.BASELINES["moderate"](ipc=2), train, make_student=students, seed=key)
    assert dd.evaluate(chosen, test, stored_protocol(made), backbone=backbone()).accuracies == scores[2].accuracies


def test_a_network_of_ones_own_choice_still_trains(digits, made):
    _, test = digits
    score = dd.evaluate(made, test, dd.TrainingProtocol(epochs=1, networks=1), networks=["mlp"])
    assert score[0].network == "mlp"
    changed = stored_protocol(made).changed(network="mlp")
    assert (changed.learner, changed.probe, changed.name) == ("network", None, "probe, mlp")


def test_scores_as_labels_become_probabilities(digits):
    train, test = digits
    chosen = dd.distill(dd.BASELINES["random"](ipc=2), train, seed=0)
    shifted = dataclasses.replace(chosen, labels=chosen.labels - 0.1, label_space="scores")
    protocol = probe_protocol(backbone(), train)
    scores = [dd.evaluate(one, test, protocol, backbone=backbone()).mean for one in (chosen, shifted)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "00"},
        {"shift": (0.0,)},
        {"scale": (1.0, 0.0)},
        {"scale": (1.0, float("inf"))},
        {"std": (0.0,)},
        {"mean": (0.5, 0.5)},
        {"features": 0},
        {"decay": 0.0},
        {"side": 0},
    ],
)
def test_facts_out_of_range_are_refused(changes):
    facts = {"sha256": 64 * "a", "features": 2, "mean": (0.5,), "std": (0.5,), "shift": (0.0, 0.0), "scale": (1.0, 1.0)}
    good = dd.TrainingProtocol(learner="probe", probe=Probe(**facts)).to_dict()
    assert dd.TrainingProtocol.from_dict(good).probe == Probe(**facts)
    with pytest.raises(ValueError, match="must"):
        Probe(**{**facts, **changes})
    with pytest.raises(dd.ArtifactError):
        dd.TrainingProtocol.from_dict({**good, "probe": {**good["probe"], **changes}})


def test_the_learner_and_the_probe_belong_together():
    with pytest.raises(ValueError, match="probe must be given for the learner 'probe' alone"):
        dd.TrainingProtocol(learner="probe")


def test_validation_of_a_run_probes(digits):
    train, held = digits[0].split(0.2, dd.generator(0))
    validation = dd.Validation(held=held, every=1, backbone=backbone())
    options = {"make_student": BackboneStudents(backbone(), train), "validation": validation}
    found = dd.distill(dd.DM(ipc=1, steps=2, real_batch=8), train, **options)
    assert found.provenance["best_step"] in (0, 1, 2)
    with pytest.raises(ValueError, match="backbone must be random-0"):
        options["validation"] = dataclasses.replace(validation, backbone=None)
        dd.distill(dd.DM(ipc=1, steps=2, real_batch=8), train, **options)


def test_the_students_have_the_backbones_features_of_unit_images(digits):
    train, _ = digits
    students = BackboneStudents(backbone(), train)
    index = torch.arange(4)
    one, two = students(dd.generator(0)), students(dd.generator(1))
    torch.testing.assert_close(one.embed(train.batch(index).x), backbone().embed(train.unit_images(index)))
    assert [name for name, _ in one.named_parameters()] == ["head.weight", "head.bias"]
    assert not torch.equal(one.head.weight, two.head.weight)
    assert protocol_on(backbone(), probe_protocol(backbone(), train), None)[0].probe is not None
