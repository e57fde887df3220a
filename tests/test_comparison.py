"""The table of one set beside real images: each cell against a direct evaluation, and the scores against formulas."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest
import torch
from scipy import stats

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.experiments import SetComparison, comparison_markdown, half_width, read_sets, with_labels_of_kind
from ddsdk.experiments.same_labels import mean_entropy, temperature_of_entropy, tempered
from ddsdk.experiments.set_comparison import full_data_protocol, mean_accuracy
from ddsdk.experiments.set_scores import set_accuracies
from ddsdk.foundation import generator
from ddsdk.judging import TrainingSet, trained_network
from ddsdk.training import Score

SMALL = {"width": 6}
COMMON = dd.TrainingProtocol(name="published", epochs=4, networks=2, labels="hard", network_options=SMALL)
OWN = dd.TrainingProtocol(name="own", epochs=20, networks=2, augmentation="crop", network_options=SMALL)
FULL = {"full_epochs": 15}


@pytest.fixture(scope="module")
def pair():
    train, test = dd.load_pair("digits")
    return train.subset(torch.arange(300)), test.subset(torch.arange(100))


def soft_set(train, ipc=2, **changes):
    """Real images with soft labels of chance, whose second choice is the next class, and a learned rate."""
    chosen = dd.distill(dd.BASELINES["k-means"](ipc=ipc), train)
    rows = 0.75 * chosen.labels + 0.25 * chosen.labels.roll(1, 1)
    fields = {"labels": rows, "protocol": OWN.to_dict(), "learned_lr": 0.05, "provenance": {"recipe": "mtt"}}
    return dataclasses.replace(chosen, **(fields | changes))


def compared(distilled, pair, folder, **options):
    settings = {"own": OWN, "common": COMMON, "baselines": ["random", "k-means"], "seeds": (3, 4), **FULL, **options}
    comparison = SetComparison(distilled, *pair, results=folder, **settings)
    steps = list(comparison.steps())
    assert steps[-1].done == steps[-1].total == comparison.rounds
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    return comparison, steps


def mean_of(scores):
    return statistics.fmean(a for score in scores for a in score.accuracies)


def test_each_cell_is_a_direct_evaluation(pair, tmp_path):
    train, test = pair
    distilled = soft_set(train)
    comparison, _ = compared(distilled, pair, tmp_path, networks={"mlp": (COMMON.changed(network="mlp"), "mlp")})
    plain = dataclasses.replace(OWN, augmentation="")
    rated = dataclasses.replace(OWN, lr=0.05)
    names = ["own protocol", "own, no augmentation", "hard labels", "hard labels, mlp"]
    assert comparison.settings == names
    protocols = dict(zip(names, (OWN, plain, COMMON, COMMON.changed(network="mlp")), strict=True))
    wanted = {}
    for seed in (3, 4):
        for name, protocol in protocols.items():
            # The learned rate belongs to the own protocol.
            rate = None if name.startswith("hard") else distilled.learned_lr
            score = dd.evaluate(dataclasses.replace(distilled, learned_lr=rate), test, protocol, seed=seed)[0]
            wanted.setdefault((name, "set"), []).append(score)
        for name in ("random", "k-means"):
            chosen = dd.distill(dd.BASELINES[name](ipc=2), train, seed=generator(seed, name))
            wanted.setdefault(("hard labels", name), []).append(dd.evaluate(chosen, test, COMMON, seed=seed)[0])
            if name == "random":
                mlp = dd.evaluate(chosen, test, protocols["hard labels, mlp"], seed=seed)[0]
                wanted.setdefault(("hard labels, mlp", "random"), []).append(mlp)
                full = TrainingSet(train.batch(torch.arange(len(train))), comparison.full)
                network = trained_network(full, 0, rng=generator(seed, "all training images"))
                labelled = with_labels_of_kind(chosen, distilled, OWN, network)
                for row, protocol in (("own protocol", rated), ("own, no augmentation", plain)):
                    protocol = dataclasses.replace(protocol, lr=0.05)
                    found = dd.evaluate(labelled, test, protocol, seed=seed)[0]
                    wanted.setdefault((row, "random"), []).append(found)
    for (row, column), scores in wanted.items():
        cell = comparison.accuracy(row, column)
        assert cell.mean == pytest.approx(mean_of(scores)), (row, column)
        assert cell.networks == 4
        values = [a for score in scores for a in score.accuracies]
        assert cell.half == pytest.approx(half_width(values if column == "set" else [s.mean for s in scores]))
    assert comparison.accuracy("own protocol", "k-means") is None
    own, bare = (comparison.accuracy(row, "random").mean for row in names[:2])
    assert own != bare


def test_scores_are_those_of_the_published_formulas(pair, tmp_path):
    comparison, _ = compared(soft_set(pair[0]), pair, tmp_path)
    value = lambda row, column: comparison.accuracy(row, column).mean  # noqa: E731
    hlr = comparison.full_accuracy.mean - value("hard labels", "set")
    ior = value("own protocol", "set") - value("own protocol", "random")
    plain = value("own, no augmentation", "set") - value("own, no augmentation", "random")
    scaled = lambda a: (math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1))  # noqa: E731
    assert comparison.ranking == pytest.approx((hlr, ior, scaled((ior - hlr) / 2), scaled((ior + plain) / 2)))


def test_scores_are_kept_and_the_page_of_sets_reads_them(pair, tmp_path):
    distilled = soft_set(pair[0])
    distilled.save(tmp_path / "mtt-2")
    first, _ = compared(distilled, pair, tmp_path / "mtt-2-results")
    again, steps = compared(distilled, pair, tmp_path / "mtt-2-results")
    assert all(step.kept for step in steps)
    assert comparison_markdown(again).splitlines()[:9] == comparison_markdown(first).splitlines()[:9]
    (entry,) = read_sets(tmp_path)
    assert {r["score"]["protocol"] for r in entry.scores} == {"own", "own, no augmentation", "published"}
    labelled = f"random, labels as {distilled.content_id[:8]}"
    assert {r["score"]["name"] for r in entry.baselines} == {"random", "k-means", labelled}
    (found,) = set_accuracies([entry])
    wanted = [("hard labels", "set"), ("hard labels", "random"), ("own protocol", "set"), ("own protocol", "random")]
    means = [100 * first.accuracy(*cell).mean for cell in wanted]
    assert [found.hard, found.random, found.own, found.own_random] == pytest.approx(means)


def test_hard_labels_need_no_network_on_the_full_training_set(pair, tmp_path):
    chosen = dd.distill(dd.BASELINES["means"](ipc=1), pair[0])
    comparison, steps = compared(chosen, pair, tmp_path, own=COMMON, full_epochs=0, seeds=(0,))
    assert "all training images" not in {step.name for step in steps}
    assert comparison.settings == ["own protocol", "hard labels"]
    found = comparison.ranking
    assert (found.hlr, found.lrs) == (None, None)
    scaled = (math.exp(found.ior) - math.exp(-1)) / (math.e - math.exp(-1))
    assert found.ars == pytest.approx(scaled)
    soft, _ = compared(soft_set(pair[0]), pair, tmp_path, full_epochs=0, seeds=(0,))
    assert soft.ranking == (None, None, None, None)
    assert "no network on the full training set labels random images" in comparison_markdown(soft)


def test_labels_of_real_images_are_predictions_as_soft_as_those_of_the_set(pair):
    train, _ = pair
    distilled = soft_set(train)
    chosen = dd.distill(dd.BASELINES["random"](ipc=2), train)
    network = dd.network_factory("convnet", train.image_shape, 10, width=4)(generator(1))
    labelled = with_labels_of_kind(chosen, distilled, OWN, network)
    wanted = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert mean_entropy(labelled.labels) == pytest.approx(wanted, abs=1e-4)
    with torch.no_grad():
        logits = network(chosen.images)
    assert torch.equal(labelled.labels.argmax(1), logits.argmax(1))
    assert torch.equal(labelled.owner, chosen.owner)
    # One temperature for all rows: the logarithms are proportional to the logits up to a constant for each row.
    centred = [rows - rows.mean(1, keepdim=True) for rows in (labelled.labels.double().log(), logits.double())]
    ratio = centred[0] / centred[1]
    assert float(ratio.std() / ratio.mean()) < 1e-2
    scores = dataclasses.replace(distilled, labels=distilled.labels - 0.1, label_space="scores")
    regression = dataclasses.replace(OWN, loss="mse")
    targets = with_labels_of_kind(chosen, scores, regression, network)
    assert targets.label_space == "scores"
    torch.testing.assert_close(targets.labels, labelled.labels - 0.1, atol=1e-4, rtol=0)


def test_the_temperature_has_ends():
    rows = torch.softmax(torch.randn(5, 4, generator=generator("rows")), 1)
    assert mean_entropy(tempered(rows, temperature_of_entropy(rows, 0.0))) < 0.1
    assert mean_entropy(tempered(rows, temperature_of_entropy(rows, 9.0))) == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize("freedom", [1, 2, 5, 20, 21, 40, 300])
def test_intervals_are_those_of_students_t(freedom):
    values = [0.1 * (i % 7) for i in range(freedom + 1)]
    low, high = stats.t.interval(0.95, freedom, statistics.fmean(values), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2, rel=1e-9)


def test_intervals_of_selections_count_seeds_and_not_networks():
    fields = {"name": "x", "protocol": "p", "network": "n", "images": 1, "stored_floats": 1, "seconds": 1.0}
    scores = [Score(accuracies=(0.5, 0.6), **fields), Score(accuracies=(0.7, 0.9), **fields)]
    assert mean_accuracy(scores, selected=False).half == pytest.approx(half_width([0.5, 0.6, 0.7, 0.9]))
    assert mean_accuracy(scores, selected=True).half == pytest.approx(half_width([0.55, 0.8]))
    assert mean_accuracy(scores[:1], selected=True).half == pytest.approx(half_width([0.5, 0.6]))


def test_the_full_training_takes_5000_steps_at_most_300_epochs():
    assert full_data_protocol(COMMON, 50_000, None).epochs == 26
    assert full_data_protocol(COMMON, 300, None).epochs == 300
    assert full_data_protocol(COMMON, 300, 7).name == "full training set, 7 epochs"
    assert full_data_protocol(dataclasses.replace(COMMON, augmentation="crop"), 300, 7).augmentation == ""


def test_the_command_prints_and_writes_the_table(tmp_path, capsys):
    train, _ = dd.load_pair("digits")
    folder = tmp_path / "set"
    soft_set(train, ipc=1).save(folder)
    quick = ["--epochs", "2", "--repeats", "1", "--width", "4", "--full-epochs", "1", "--threads", "1"]
    command = ["evaluate", str(folder), "--data", "digits", "--compare", *quick, "--networks", "mlp"]
    assert main([*command, "--markdown", str(tmp_path / "table.md")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "seeds 0, each with new random images" in said
    table = (tmp_path / "table.md").read_text()
    assert "| accuracy, % | set | random | k-means | moderate | over random | s |" in table
    for row in ("| own protocol |", "| own, no augmentation |", "| hard labels |", "| hard labels, mlp |", "| HLR |"):
        assert row in table
    assert main([*command, "--protocol", "both"]) == 2
    assert "protocol and labels must be left out with --compare" in capsys.readouterr().err
    assert main([*command, "--seeds", "0"]) == 2
