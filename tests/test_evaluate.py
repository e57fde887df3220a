"""Evaluation of a distilled set in Python: the same conditions as `ddsdk evaluate`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.judging import TrainingSet, baseline_size, in_space_of, read_scores, stored_reading, top1_accuracy
from ddsdk.training import PerStepSchedule
from ddsdk.training.fit import accuracy

SHORT = dd.TrainingProtocol(name="short", network_options={"depth": 1, "width": 4}, networks=2, epochs=3, lr=0.05)


@pytest.fixture(scope="module")
def whitened():
    """Training data, test data in another value space, and a set with a learned rate and a stored protocol."""
    train, test = dd.load("digits", zca=True), dd.load("digits", split="test")
    distilled = dd.distill(dd.BASELINES["means"](ipc=1), train, seed=0)
    return train, test, dataclasses.replace(distilled, learned_lr=0.125, protocol=SHORT.to_dict())


def test_a_set_brings_its_space_its_rate_and_its_protocol(whitened):
    train, test, distilled = whitened
    by_hand = dd.evaluate(
        (distilled.images, distilled.labels),
        test.with_preprocess(train.preprocess),
        dataclasses.replace(SHORT, lr=0.125),
        seed=3,
    )
    assert dd.evaluate(distilled, test, seed=3).accuracies == by_hand.accuracies
    assert distilled.evaluate(test, seed=3).accuracies == by_hand.accuracies
    in_test_space = dd.evaluate(
        (distilled.images, distilled.labels), test, dataclasses.replace(SHORT, lr=0.125), seed=3
    )
    assert in_test_space.accuracies != by_hand.accuracies
    with pytest.raises(TypeError, match="protocol must be a TrainingProtocol for plain images and labels, got None"):
        dd.evaluate((distilled.images, distilled.labels), test)


def test_python_and_the_command_give_equal_scores(whitened, tmp_path):
    train, test, distilled = whitened
    distilled.save(tmp_path / "set")
    data = "--data digits --zca --baselines random,k-means --networks convnet,mlp --width 4 --seed 3"
    assert main(["evaluate", str(tmp_path / "set"), *data.split()]) == 0
    records = [record["score"] for record in read_scores(tmp_path / "set-results")]
    stored = {(record["network"], record["name"]): tuple(record["accuracies"]) for record in records}
    assert len(stored) == 6
    for network in ("convnet", "mlp"):
        protocol = SHORT.changed(network=network, options={"width": 4})
        for score in dd.evaluate(distilled, test, protocol, baselines=["random", "k-means"], train=train, seed=3):
            assert score.accuracies == stored.pop((score.network, score.name))
    assert stored == {}


def test_several_networks_and_baselines_have_one_row_each(whitened, tmp_path):
    train, test, distilled = whitened
    brief = dataclasses.replace(SHORT, network_options={}, networks=1, epochs=1)
    options = {"networks": ["mlp", "convnet"], "baselines": ["random"], "train": train, "name": "mine"}
    scores = dd.evaluate(distilled, test, brief, results=tmp_path, **options)
    assert [(s.name, s.network) for s in scores] == [(n, w) for w in ("mlp", "convnet") for n in ("mine", "random")]
    assert scores.mean == scores[0].mean
    assert len(str(scores).splitlines()) == 5
    assert dd.evaluate(distilled, test, brief, results=tmp_path, **options) == scores
    assert {s.images for s in scores} == {10}
    assert baseline_size(distilled, train) == 1


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"baselines": ["random"]}, TypeError, "train must be the real training data"),
        ({"baselines": ["rando"]}, ValueError, "baselines must be among random, herding"),
        ({"networks": ["convne"]}, ValueError, "did you mean 'convnet'"),
        (
            {"seed": torch.Generator(), "results": "folder"},
            ValueError,
            "seed must be an integer for scores in a folder",
        ),
    ],
)
def test_what_is_missing_is_named(whitened, options, kind, text):
    _, test, distilled = whitened
    with pytest.raises(kind, match=text):
        dd.evaluate(distilled, test, **options)


def test_data_of_other_classes_or_shape_are_refused(whitened):
    train, test, distilled = whitened
    other = dataclasses.replace(distilled, class_names=tuple("abcdefghij"))
    with pytest.raises(ValueError, match="class names of test must be those of the set"):
        dd.evaluate(other, test)
    with pytest.raises(ValueError, match="class names of train must be those of the set"):
        in_space_of(other, train, "train")
    wide = dd.RealData(
        torch.rand(10, 1, 8, 9), torch.arange(10), class_names=test.class_names, preprocess=dd.Preprocess.unit(1)
    )
    with pytest.raises(ValueError, match=r"test images must have the shape of the set's images, \(1, 8, 8\)"):
        dd.evaluate(distilled, wide)


def test_accuracy_in_pieces_is_that_of_all_images_at_once(digits):
    _, test = digits
    network = dd.network_factory("convnet", test.image_shape, 10, width=4)(dd.generator(0))
    whole = test.batch(torch.arange(len(test)))
    assert top1_accuracy(network, test) == accuracy(network, whole.x, test.labels)
    assert network.training


def test_a_rate_for_each_step_needs_the_stored_order(whitened):
    _, _, distilled = whitened
    ordered = dataclasses.replace(distilled, learned_lr=(0.1, 0.2, 0.3))
    stored = TrainingSet.of(ordered, dataclasses.replace(SHORT, order="stored"))
    assert stored.per_step == PerStepSchedule(ordered.learned_lr)
    assert TrainingSet.of(ordered).per_step == PerStepSchedule()


@pytest.fixture
def pictures(tmp_path):
    """Folders train and test with three classes of pictures of different sizes."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("ant", "bee", "cow"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (8 + i, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")
    return tmp_path / "data"


def test_evaluation_reads_data_as_the_set_was_read(pictures, tmp_path, capsys):
    data, out = ["--data", str(pictures)], str(tmp_path / "set")
    reading = ["--resize", "8x10", "--fit", "crop", "--classes", "cow,ant"]
    assert main(["distill", *data, *reading, "--recipe", "means", "--ipc", "1", "--out", out]) == 0
    line = [*data, "--width", "4", "--epochs", "1", "--repeats", "1", "--baselines", ""]
    assert main(["evaluate", out, *line, "--results", str(tmp_path / "as-stored")]) == 0
    assert main(["evaluate", out, *line, *reading, "--results", str(tmp_path / "as-given")]) == 0
    stored, given = (read_scores(tmp_path / name) for name in ("as-stored", "as-given"))
    assert stored[0]["conditions"]["test"] == given[0]["conditions"]["test"]
    capsys.readouterr()
    options = stored_reading(dd.Distilled.load(out))
    assert options == {"resize": dd.data.Resize(8, 10, "crop"), "classes": dd.data.ClassChoice.of("cow,ant")}
    assert (str(options["resize"]), dd.data.ClassChoice.of(str(options["classes"]))) == (
        "8x10 (crop)",
        options["classes"],
    )
    groups = dd.data.ClassChoice.of("land=cow,ant;bee")
    assert dd.data.ClassChoice.of(str(groups)) == groups
    _, test = dd.load_pair(pictures, **options)
    assert test.class_names == ("cow", "ant")


def test_another_geometry_is_noted_and_another_vocabulary_refused(pictures, caplog):
    caplog.set_level("INFO", logger="ddsdk")
    train, _ = dd.load_pair(pictures, resize=8)
    distilled = dd.distill(dd.BASELINES["means"](ipc=1), train)
    _, padded = dd.load_pair(pictures, resize=dd.data.Resize(8, 8, "pad"))
    caplog.clear()
    distilled.evaluate(padded, SHORT.changed(epochs=1, networks=1), baselines=["random", "k-means"], train=train)
    # One note, however many sets are evaluated.
    text = "the test images have the geometry {'height': 8, 'width': 8, 'fit': 'pad'}, and the set"
    assert caplog.text.count("have the geometry") == caplog.text.count(text) == 1
    train.reading["vocabulary"] = {"sha256": "a"}
    with pytest.raises(ValueError, match="vocabulary of test must be that of the set, None"):
        in_space_of(distilled, train)
    # A union of sets states no vocabulary.
    assert in_space_of(distilled.concat(distilled), train) is train
    altered = dataclasses.replace(distilled, provenance={"data": {"resize": {"height": -1, "width": 8, "fit": "crop"}}})
    with pytest.raises(ValueError, match="resize must be one side or"):
        stored_reading(altered)


def perceptron(hidden: int = 6) -> nn.Module:
    """Return a network of one's own, which draws its weights from torch's global generator."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def test_networks_of_ones_own_and_of_libraries_judge(whitened, tmp_path):
    train, test, distilled = whitened
    brief = dataclasses.replace(SHORT, network_options={}, networks=1, epochs=2)
    chosen = [perceptron, perceptron(9), "torchvision:resnet18"]
    options = {"baselines": ["random"], "train": train, "results": tmp_path}
    scores = distilled.evaluate(test, brief, networks=chosen, **options)
    names = [f"{__name__}.perceptron", "torch.nn.modules.container.Sequential (drawn anew)", "torchvision:resnet18"]
    assert [(s.network, s.name) for s in scores] == [(n, s) for n in names for s in ("means", "random")]
    assert distilled.evaluate(test, brief, networks=chosen, **options) == scores
    # Two functions of the same name are different networks.
    other = distilled.evaluate(test, brief, networks=[lambda: perceptron(5)], results=tmp_path)
    again = distilled.evaluate(test, brief, networks=[lambda: perceptron(7)], results=tmp_path)
    assert other[0].network == again[0].network
    assert len(read_scores(tmp_path)) == 8


def test_a_stored_name_imports_no_code(whitened, tmp_path, monkeypatch):
    _, test, distilled = whitened
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    protocol = {**SHORT.to_dict(), "network": "planted:network", "network_options": {}}
    hostile = dataclasses.replace(distilled, protocol=protocol)
    with pytest.raises(ValueError, match=r"network of a protocol must be one of convnet.*choose the network with"):
        hostile.evaluate(test)
    brief = dataclasses.replace(dd.TrainingProtocol.from_dict(protocol), networks=1, epochs=1)
    assert hostile.evaluate(test, brief, networks=["mlp"])[0].network == "mlp"
    hostile.save(tmp_path / "set")
    line = ["evaluate", str(tmp_path / "set"), "--data", "digits", "--zca", "--baselines", "", "--epochs", "1"]
    assert main(line) == 2
    assert main([*line, "--networks", "mlp", "--repeats", "1"]) == 0
    # The user may name a network of any module.
    (tmp_path / "mine.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))")
    results = tmp_path / "mine"
    assert main([*line, "--networks", "mine:net", "--repeats", "1", "--results", str(results)]) == 0
    assert read_scores(results)[0]["score"]["network"] == "mine:net"
