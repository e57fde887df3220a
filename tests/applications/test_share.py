"""Sharing: nobody on both sides, limits that refuse, a card that promises nothing, and a set that trains again."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from fake_device import FakeCuda
from tiny_recipes import RECIPE_SETTINGS
from torch import nn

import ddsdk as dd
from benchmarks.share import BENCHMARK
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import derive
from ddsdk_integrations.share import (
    ExportLimits,
    ExportRefusedError,
    ReleaseTerms,
    TeacherLabels,
    check_claims,
    prepare_release,
    reproduces_accuracy,
    simulated_patients,
    split_by_group,
    use_metrics,
)
from ddsdk_integrations.share.release import rounded_count

QUICK = dd.TrainingProtocol(name="quick", network="mlp", network_options={"width": 32}, epochs=60, lr=0.1)
TERMS = ReleaseTerms(title="Digits of people", intended_use="to try the command", licence="that of the source")
CERTIFICATE = dd.Certificate(
    epsilon=2.0,
    delta=1e-5,
    adjacency="adding or removing one record",
    protects="one image",
    mechanism="noised sums",
    releases=(NoisedRelease(what="sums", clip=1.0, noise_multiplier=1.0, sample_rate=0.1, count=3),),
    accountant="rdp",
    noise_source="the operating system",
    assumptions=("public normalisation",),
)


@pytest.fixture(scope="module")
def patients(digits):
    small = digits[0].subset(torch.cat([digits[0].index_of_class(c)[:60] for c in range(10)]))
    return simulated_patients(small, 6, dd.generator("patients"))


def students(records):
    return dd.network_factory("mlp", records.image_shape, records.num_classes, width=32)


def made(patients, recipe, **how):
    records, ids = patients
    usual = {"terms": TERMS, "protocol": QUICK, "networks": 1, "seed": dd.generator("release")}
    return prepare_release(records, ids, recipe=recipe, make_student=students(records), **{**usual, **how})


@pytest.fixture(scope="module")
def from_noise(patients):
    return made(patients, TeacherLabels(recipe=dd.DM(ipc=3, steps=60, start="noise", augmentation=""), lr=0.1))


@pytest.fixture(scope="module")
def copies(patients):
    return made(patients, TeacherLabels(recipe=dd.BASELINES["random"](ipc=3), lr=0.1))


def test_patients_have_one_class_and_look_alike(patients):
    records, ids = patients
    for patient in range(int(ids.max()) + 1):
        assert len(records.labels[ids == patient].unique()) == 1
    assert torch.bincount(ids).tolist() == [6] * 100
    within = torch.stack([records.images[ids == p].std(0).mean() for p in range(100)]).mean()
    same_class = torch.stack([records.images[records.labels == c].std(0).mean() for c in range(10)]).mean()
    assert within < same_class


def test_nobody_is_on_both_sides(patients):
    records, ids = patients
    names = [f"patient {i}" for i in ids.tolist()]
    rest, held = split_by_group(records, names, 0.3, dd.generator("split"))
    assert not set(ids[rest].tolist()) & set(ids[held].tolist())
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(len(records)))
    for c in range(10):
        share = float((records.labels[held] == c).double().mean()) * len(held) / records.class_sizes[c]
        assert 0.3 <= share <= 0.4 + 1e-9


def test_splits_that_cannot_be_are_refused(patients):
    records, ids = patients
    with pytest.raises(ValueError, match="groups must have one entry for each of the 600 images"):
        split_by_group(records, ids[:5], 0.3, dd.generator(0))
    with pytest.raises(ValueError, match="fraction must lie strictly between 0 and 1"):
        split_by_group(records, ids, 1.0, dd.generator(0))
    with pytest.raises(ValueError, match="groups must be enough for images of each class in the training part"):
        split_by_group(records, torch.zeros(600, dtype=torch.int64), 0.3, dd.generator(0))


class Table(nn.Module):
    """Logits by the first pixel, which is the number of a row."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, x):
        return self.rows[x[:, 0, 0, 0].round().long()]


def test_figures_are_those_of_a_loop():
    """Eight images of three patients; what networks say is written down."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    groups = ["a", "a", "a", "b", "b", "c", "c", "d"]
    p = torch.tensor([0.9, 0.4, 0.45, 0.2, 0.6, 0.7, 0.8, 0.3])  # of class 0
    real = dd.RealData(
        torch.arange(8)[:, None, None, None].float() / 8,
        labels,
        class_names="xy",
        preprocess=dd.Preprocess.normalise([0.0], [1 / 8]),
    )
    found = use_metrics([Table(torch.stack([p, 1 - p], 1).log())], real, groups)
    assert found.accuracy == 2 / 8
    assert found.sensitivity == (1 / 4, 1 / 4)
    # a votes 0.583 for class 0 (right), b 0.4 (right), c 0.75 (wrong), d 0.3 (wrong).
    assert found.groups == pytest.approx(0.5)
    sure = torch.maximum(p, 1 - p)
    right = ((p < 0.5).long() == labels).float()
    slow = 0.0
    for b in range(15):
        inside = (sure * 15).long() == b
        if inside.any():
            slow += float((sure[inside] - right[inside]).sum().abs()) / 8
    assert found.calibration == pytest.approx(slow, abs=1e-6)
    mixed = use_metrics([Table(torch.stack([p, 1 - p], 1).log())], real, ["a"] * 8)
    assert mixed.groups is None


def test_soft_labels_are_those_of_the_teacher(patients, from_noise):
    found = from_noise.distilled
    assert found.label_space == "probabilities"
    assert float(found.labels.max()) < 1
    torch.testing.assert_close(found.labels.sum(1), torch.ones(30))
    records, _ = patients
    recipe = TeacherLabels(recipe=dd.BASELINES["random"](ipc=1), epochs=1, temperature=1e6)
    flat = dd.distill(recipe, records, make_student=students(records), seed=0)
    torch.testing.assert_close(flat.labels, torch.full((10, 10), 0.1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sldd", "idc", "random"])
def test_soft_labels_change_the_labels_and_nothing_else(tiny, make_student, name):
    """Learned rates, what a decoder stores, the protocol and the record of the run are those of the recipe."""
    recipe = dd.BASELINES["random"](ipc=2) if name == "random" else dd.RECIPES[name](ipc=2, **RECIPE_SETTINGS[name])
    root = dd.generator("soft")
    found = dd.distill(TeacherLabels(recipe=recipe, epochs=1), tiny, make_student=make_student, seed=root)
    plain = dd.distill(recipe, tiny, make_student=make_student, seed=derive(root, "recipe"))
    assert torch.equal(found.images, plain.images)
    assert torch.equal(found.owner, plain.owner)
    assert not torch.equal(found.labels, plain.labels)
    for field in ("learned_lr", "learned_momentum", "stored_floats", "protocol", "preprocess"):
        assert getattr(found, field) == getattr(plain, field), field
    told, before = dict(found.provenance), dict(plain.provenance)
    assert told.pop("soft_labels") == {"epochs": 1, "lr": 0.02, "temperature": 1.0}
    assert told.pop("seconds") >= 0
    before.pop("seconds")
    assert told == before
    assert (name == "sldd") == (found.learned_lr is not None)
    assert (name == "idc") == (found.stored_floats < found.images.numel())


def test_soft_labels_have_no_steps(tiny, make_student):
    recipe = TeacherLabels(recipe=dd.BASELINES["random"](ipc=1), epochs=1)
    with pytest.raises(ValueError, match="budget must be left out for soft labels, which has no steps"):
        dd.distill(recipe, tiny, make_student=make_student, budget=1.0)


def test_the_usual_networks_of_a_release_are_those_of_the_recipe(patients):
    """One integer is a root like any generator."""
    recipe = TeacherLabels(recipe=dd.BASELINES["random"](ipc=1), epochs=1)
    how = {"terms": TERMS, "protocol": QUICK, "networks": 1, "held_out": 0.5}
    one, two = (prepare_release(*patients, recipe=recipe, seed=seed, **how) for seed in (3, dd.generator(3)))
    assert torch.equal(one.distilled.labels, two.distilled.labels)
    assert one.audit.record == two.audit.record
    assert one.distilled.provenance["student"]["network"] == "convnet"


def test_images_of_patients_keep_the_facts_of_the_data(digits):
    facts = {"name": "scans", "pictures": False, "mirror_safe": True}
    names = {"class_names": digits[0].class_names, "preprocess": digits[0].preprocess}
    real = dd.RealData(digits[0].images, digits[0].labels, **names, **facts)
    found, _ = simulated_patients(real, 6, dd.generator("patients"))
    assert {fact: getattr(found, fact) for fact in facts} == facts


def test_a_release_within_its_limits_is_written_and_trains_again(patients, from_noise, tmp_path):
    records, ids = patients
    from_noise.export(tmp_path / "set", ExportLimits(membership_auc=0.7, membership_at_1=0.5))
    loaded = dd.Distilled.load(tmp_path / "set")
    told = loaded.provenance
    assert told["audit"]["near_copies"] == 0
    assert told["limits"] == {"membership_auc": 0.7, "membership_at_1": 0.5, "near_copies": 0}
    assert told["terms"]["licence"] == "that of the source"
    assert told["data"] == {"name": "digits", "images": "about 400", "groups": "about 70"}
    card = (tmp_path / "set" / "README.md").read_text()
    assert "no formal privacy guarantee" in card
    for entry in ("near_copies", "membership_auc", "intended_use"):
        assert entry in card.replace("\\", "")
    for word in ("anonymous", "anonymised", "private set"):
        assert word not in card
    assert records.fingerprint not in card
    held = records.subset(from_noise.held_out)
    ok, _ = reproduces_accuracy(loaded, held, ids[from_noise.held_out], seed=dd.generator("again"), networks=1)
    assert ok
    with pytest.raises(ValueError, match="distilled must be a release with recorded metrics"):
        plain = dataclasses.replace(loaded, provenance={})
        reproduces_accuracy(plain, held, ids[from_noise.held_out])


def test_a_release_that_lost_its_labels_does_not_reproduce(patients, copies):
    records, ids = patients
    held = records.subset(copies.held_out), ids[copies.held_out]
    ok, again = reproduces_accuracy(copies.distilled, *held, seed=dd.generator("again"), networks=1)
    assert ok
    assert again.accuracy > 0.5
    with FakeCuda():
        there = reproduces_accuracy(
            copies.distilled, held[0].to("cuda"), held[1], seed=dd.generator("again"), networks=1
        )
    assert there == (ok, again)
    broken = dataclasses.replace(copies.distilled, labels=copies.distilled.labels.roll(1, 1))
    ok, _ = reproduces_accuracy(broken, *held, seed=dd.generator("again"), networks=1)
    assert not ok


def test_a_set_of_copies_is_not_exported(copies, tmp_path):
    with pytest.raises(ExportRefusedError, match="near copies 30 above the limit 0") as caught:
        copies.export(tmp_path / "set", ExportLimits())
    assert any("near copies" in text for text in caught.value.broken)
    assert not (tmp_path / "set").exists()
    assert copies.audit.smallest_distance < 1e-3


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"membership_auc": 0.1}, "membership auc .* above the limit 0.1"),
        ({"smallest_distance": 5.0}, "smallest distance .* below the limit 5"),
        ({"least_sensitivity": 1.1}, "least sensitivity .* below the limit 1.1"),
        ({"shadow_auc": 0.6}, "shadow auc is limited to 0.6 and was not measured"),
        ({"epsilon": 1.0}, "epsilon is limited to 1 and was not measured"),
    ],
)
def test_each_limit_refuses(from_noise, tmp_path, limits, message):
    wide = ExportLimits(**{"membership_auc": None, "membership_at_1": None, "near_copies": None, **limits})
    with pytest.raises(ExportRefusedError, match=message) as caught:
        from_noise.export(tmp_path / "set", wide)
    assert len(caught.value.broken) == 1
    assert not (tmp_path / "set").exists()


def test_epsilon_is_read_from_the_certificate(from_noise):
    limits = ExportLimits(membership_auc=None, membership_at_1=None, epsilon=3.0)
    assert limits.broken(from_noise.audit, CERTIFICATE) == ()
    assert "epsilon 2 above the limit 1" in ExportLimits(epsilon=1.0).broken(from_noise.audit, CERTIFICATE)


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="near_copies must be at least 0"):
        ExportLimits(near_copies=-1)
    with pytest.raises(ValueError, match="membership_auc must be finite and not negative"):
        ExportLimits(membership_auc=math.nan)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "An anonymised set",
            "fully Anonymous",
            "de-identified images",
            "a private set",
            "Robust to noise",
            "seamless",
        ),
        # Cyrillic letters, an invisible joiner, a mark on a letter, and wide letters.
        *("\u0430n\u043enym\u043eus images", "ano\u200dnymous", "pr\u00edvate", "\uff50rivate"),
        *("GDPR compliant", "Complies with nothing, but compliance is stated", "HIPAA-ready"),
    ],
)
def test_words_that_promise_need_a_measurement(patients, from_noise, text):
    with pytest.raises(ValueError, match="title must not contain"):
        check_claims("title", text, from_noise.distilled)
    terms = dataclasses.replace(TERMS, intended_use=text)
    with pytest.raises(ValueError, match="intended_use must not contain"):
        made(patients, TeacherLabels(recipe=dd.BASELINES["random"](ipc=1), epochs=1), terms=terms)


def test_words_beside_their_measurement_stand(from_noise):
    certified = dataclasses.replace(from_noise.distilled, certificate=CERTIFICATE)
    check_claims("title", "An anonymised, private set", certified)
    measured = dataclasses.replace(from_noise.distilled, provenance={"seam": {"score": 1.0}})
    check_claims("title", "A tileable texture", measured)
    check_claims("title", "Privately owned by nobody", from_noise.distilled)


def test_shadow_runs_are_made_when_asked(patients):
    recipe = TeacherLabels(recipe=dd.BASELINES["random"](ipc=2), epochs=1)
    found = made(patients, recipe, shadow_runs=4)
    assert found.audit.shadow.runs == 4
    assert found.distilled.provenance["audit"]["shadow"]["runs"] == 4
    broken = ExportLimits(membership_auc=None, membership_at_1=None, near_copies=None, shadow_auc=0.0)
    assert "shadow auc" in broken.broken(found.audit, None)[0]


@pytest.mark.parametrize(("count", "told"), [(7, "about 7"), (1234, "about 1000"), (96, "about 100")])
def test_counts_are_coarse(count, told):
    assert rounded_count(count) == told


def test_the_benchmark_refuses_other_splits(tmp_path, capsys):
    assert BENCHMARK.run(["--data", "digits", "--out", str(tmp_path), "--split", "hospital"]) == 2
    assert "split must be patient or image, got 'hospital'" in capsys.readouterr().err
