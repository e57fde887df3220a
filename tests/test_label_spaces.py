"""Sets with scores, or with a pace of their own: their folder, their card, their views, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from artefact_sets import make_set, same

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.artefact.card import card_markdown
from ddsdk.artefact.manifest import encode_manifest
from ddsdk.artefact.report import html_report
from ddsdk.foundation.errors import ArtifactError
from ddsdk.synthetic import FreeLabels, LearnedRate, Pixels, centred_labels, nearest_distributions

SCORES = centred_labels(torch.arange(3).repeat_interleave(2), 3, 0.5)


def scored(**options):
    base = make_set(**options)
    return dataclasses.replace(base, labels=SCORES, label_space="scores")


PACED = {"learned_lr": (0.1, 0.02, 0.3), "learned_momentum": (0.0, 0.5, 0.9)}


@pytest.mark.parametrize(
    ("distilled", "number"),
    [
        (make_set(learned_lr=0.1), 1),
        (make_set(soft=True), 1),
        (scored(), 2),
        (make_set(learned_lr=(0.1,)), 2),
        (make_set(learned_momentum=0.5), 2),
        (scored(**PACED), 2),
    ],
)
def test_round_trip_with_the_least_format(tmp_path, distilled, number):
    distilled.save(tmp_path / "set")
    found = dd.Distilled.load(tmp_path / "set")
    same(found, distilled)
    assert found.learned_momentum == distilled.learned_momentum
    assert found.manifest.format == number


def test_a_set_without_scores_is_written_as_before():
    distilled = make_set(learned_lr=0.5)
    body = json.loads(encode_manifest(distilled.manifest))
    assert body["format"] == 1
    assert body["tensors"]["learned_lr"]["shape"] == []
    assert (body["label_space"], body["storage"]["other_floats"]) == ("probabilities", 1)


def test_rates_of_steps_are_counted():
    cost = scored(**PACED).manifest.storage
    assert (cost.labels, cost.label_floats, cost.other_floats) == ("soft", 18, 6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"learned_lr": (0.1, -0.1)}, "learned_lr must be positive and finite, got -0.1"),
        ({"learned_lr": (0.1, float("nan"))}, "learned_lr must be positive and finite, got nan"),
        ({"learned_lr": (1e-60,)}, "learned_lr must be positive and finite, got 0"),
        ({"learned_lr": ()}, "learned_lr must be a number or one for each step"),
        ({"learned_lr": ((0.1,),)}, "learned_lr must be a number or one for each step"),
        ({"learned_momentum": 1.0}, "learned_momentum must lie in 0 <= value < 1, got 1"),
        ({"learned_momentum": (0.5, -0.5)}, "learned_momentum must lie in 0 <= value < 1, got -0.5"),
        ({"learned_momentum": float("nan")}, "learned_momentum must lie in 0 <= value < 1, got nan"),
        ({"labels": torch.full((6, 3), torch.inf)}, "labels must be finite, got NaN or infinity in row 0"),
        ({"labels": SCORES}, "labels must be non-negative"),
        ({"label_space": "logits"}, "label_space must be 'probabilities' or 'scores', got 'logits'"),
    ],
)
def test_bad_scores_and_paces_are_named(change, text):
    space = {} if change.keys() & {"label_space"} or change.get("labels") is SCORES else {"label_space": "scores"}
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(make_set(), **space, **change)


def forged(folder, edit, **arrays):
    from test_artifact import forge, reason_of

    forge(folder, edit, **arrays)
    return reason_of(folder)[0]


def as_format(number, **changes):
    return lambda body: body.update(format=number, **changes)


def test_an_honest_forgery_of_scores_opens(tmp_path):
    from test_artifact import forge

    rates = np.array([0.1, 0.2], dtype=np.float32)
    forge(tmp_path, as_format(2, label_space="scores"), labels=SCORES.numpy(), learned_lr=rates)
    found = dd.Distilled.load(tmp_path)
    assert found.label_space == "scores"
    assert found.learned_lr == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize(
    ("edit", "arrays", "reason"),
    [
        # Older readers would take these for something else, so their number must say that they cannot.
        (as_format(1, label_space="scores"), {}, "schema"),
        (as_format(1), {"learned_lr": [0.1, 0.2]}, "schema"),
        (as_format(1), {"learned_momentum": 0.5}, "schema"),
        (as_format(2), {}, "schema"),
        (as_format(2), {"learned_lr": [[0.1]]}, "schema"),
        (as_format(2), {"learned_lr": [0.1, 0.0]}, "rate"),
        (as_format(1), {"learned_lr": -0.1}, "rate"),
        (as_format(2), {"learned_lr": [0.1, np.inf]}, "finite"),
        (as_format(2), {"learned_momentum": 1.0}, "rate"),
        (as_format(2), {"learned_momentum": [0.5, -0.5]}, "rate"),
        (as_format(2), {"learned_beta": 0.5}, "schema"),
        (as_format(3), {}, "schema"),
        (as_format(4), {}, "schema"),
        (as_format(5), {}, "schema"),
        (as_format(6), {}, "format"),
    ],
)
def test_hostile_folders_are_refused(tmp_path, edit, arrays, reason):
    given = {name: np.array(value, dtype=np.float32) for name, value in arrays.items()}
    assert forged(tmp_path, edit, **given) == reason


def test_scores_read_as_probabilities_of_an_older_manifest_are_refused(tmp_path):
    scored().save(tmp_path / "a")
    make_set().save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "manifest.json", tmp_path / "a" / "manifest.json")
    with pytest.raises(ArtifactError, match=r"\[mixed\]"):
        dd.Distilled.load(tmp_path / "a")


def slow_projection(row):
    """Find the cut by bisection: what exceeds it sums to 1."""
    low, high = min(row) - 1, max(row)
    for _ in range(200):
        cut = (low + high) / 2
        low, high = (cut, high) if sum(max(v - cut, 0) for v in row) > 1 else (low, cut)
    return [max(v - low, 0) for v in row]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e6])
def test_nearest_distributions_agree_with_a_slow_search(scale):
    rows = scale * torch.randn(20, 7, generator=dd.generator("rows"), dtype=torch.float64)
    found = nearest_distributions(rows)
    slow = torch.tensor([slow_projection(row) for row in rows.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, slow, rtol=0, atol=1e-9)
    torch.testing.assert_close(nearest_distributions(rows + 3), found, rtol=0, atol=1e-9)
    torch.testing.assert_close(nearest_distributions(found), found, rtol=0, atol=1e-12)


def test_huge_scores_have_a_nearest_distribution():
    rows = torch.tensor([[3e38, -3e38, 0.0], [3e38, 3e38, 0.0]])
    assert nearest_distributions(rows).tolist() == [[1, 0, 0], [0.5, 0.5, 0]]


def test_views_of_the_labels():
    distilled = scored()
    assert torch.equal(distilled.as_dataset().tensors[1], SCORES)
    # Half of a centred one-hot row lies inside: 1/2 of the mass moves to the class, the rest is shared.
    near = distilled.as_dataset("probabilities").tensors[1]
    torch.testing.assert_close(near[0], torch.tensor([2 / 3, 1 / 6, 1 / 6]))
    assert torch.equal(distilled.as_dataset(labels="hard").tensors[1], torch.eye(3).repeat_interleave(2, 0))
    soft = make_set(soft=True)
    assert torch.equal(soft.as_dataset("probabilities").tensors[1], soft.labels)
    assert torch.equal(soft.as_dataset("hard").tensors[1].argmax(1), soft.labels.argmax(1))
    with pytest.raises(ValueError, match=r"labels must be one of \['stored', 'probabilities', 'hard', 'centred'\]"):
        soft.as_dataset("soft")


def test_a_union_has_no_pace_of_steps():
    a, b = scored(**PACED), scored(seed=1, **PACED)
    both = a.concat(b)
    assert (both.label_space, both.learned_lr, both.learned_momentum) == ("scores", None, None)
    one = scored(learned_lr=0.1, learned_momentum=0.5)
    assert one.concat(one).learned_momentum == 0.5
    with pytest.raises(ValueError, match="label_space must be the same in all sets"):
        a.concat(make_set())


def test_cards_say_how_to_use_scores_paces_and_kernels():
    plain = card_markdown(make_set().manifest)
    for word in ("scores", "kernel", "stored order"):
        assert word not in plain
    card = card_markdown(scored(**PACED).manifest)
    assert "| labels | soft, scores |" in card
    for text in (
        "scores: any real numbers, not probabilities",
        "A learning rate was learned for each of 3 training steps: `learned_lr`",
        "A momentum was learned for each of 3 training steps: `learned_momentum`",
        "in their stored order",
    ):
        assert text in card
    protocol = {"learner": "kernel", "network": "fc-ntk", "epochs": 300}
    kernel = card_markdown(scored(protocol=protocol).manifest)
    assert "This set does not train networks" in kernel
    assert "| network | fc-ntk |" in kernel
    for word in ("Train a fresh network", "## Training", "networks trained on it", "epochs"):
        assert word not in kernel
        assert word in card_markdown(scored(protocol={"network": "mlp", "epochs": 3}).manifest)


def test_scores_go_out_as_they_are(tmp_path):
    distilled = scored(**PACED)
    dd.to_npz(distilled, tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz") as file:
        assert np.array_equal(file["labels"], SCORES.numpy())
        assert file["learned_lr"].tolist() == pytest.approx(PACED["learned_lr"])
        assert file["learned_momentum"].tolist() == pytest.approx(PACED["learned_momentum"])
        assert json.loads(str(file["metadata"]))["label_space"] == "scores"
    dd.to_image_folder(distilled, tmp_path / "images")
    assert len(list((tmp_path / "images").rglob("*.png"))) == 6
    result = {"protocol": "own", "network": "convnet", "images": 6, "stored_floats": 9, "seconds": 1.0}
    result |= {"name": "mine", "accuracies": [0.5], "labels": "scores", "loss": "mse"}
    page = html_report([("mine", distilled)], [result])
    assert "<td>scores, mse</td>" in page
    assert "soft, scores" in page


def test_parquet_holds_exact_scores(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    dd.to_parquet(scored(), tmp_path / "set.parquet")
    rows = parquet.read_table(tmp_path / "set.parquet").to_pydict()["scores"]
    assert np.array_equal(np.array(rows, dtype=np.float32), SCORES.numpy())


def test_assembled_sets_carry_what_was_learned(tiny):
    classes = torch.arange(3)
    rate = LearnedRate(0.1, steps=4, momentum=0.5)
    labels = FreeLabels(centred_labels(classes, 3))
    syn = dd.SyntheticSet(Pixels(torch.zeros(3, 3, 8, 12)), labels, classes, 3, rate)
    found = assemble(
        dd.DM(ipc=1), syn, tiny, protocol=dd.TrainingProtocol(loss="mse"), rng=dd.generator(0), seconds=1.0
    )
    assert found.label_space == "scores"
    assert found.learned_lr == pytest.approx((0.1,) * 4)
    assert found.learned_momentum == (0.5,) * 4
    assert found.protocol["loss"] == "mse"
