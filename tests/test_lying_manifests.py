"""Manifests whose hashes fit and whose statements do not: what can be computed is computed and compared."""

from __future__ import annotations

import dataclasses
import io
import itertools
from types import SimpleNamespace

import msgspec
import pytest
from artefact_sets import forge, make_set

import ddsdk as dd
from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.folder import read_manifest_summary
from ddsdk.cli import main
from ddsdk.cli.console import readable_seconds
from ddsdk.foundation.errors import ArtifactError
from ddsdk.judging import EvaluationProgress, check_cost, stored_protocol
from ddsdk.recipes import RECIPES
from ddsdk.training import TrainingProtocol


def state(**changes):
    def edit(body):
        body["storage"] |= changes

    return edit


@pytest.mark.parametrize("name", ["label_floats", "other_floats", "floats", "bytes", "tensor_bytes"])
@pytest.mark.parametrize("value", [-7, 10**15])
def test_storage_is_computed_from_the_shapes(tmp_path, name, value):
    true = msgspec.to_builtins(make_set().manifest)["storage"][name]
    forge(tmp_path, state(**{name: value}))
    for read in (Distilled.load, read_manifest_summary):
        with pytest.raises(
            ArtifactError, match=rf"storage must state {name} {true} for these tensors, got {value}"
        ) as e:
            read(tmp_path)
        assert e.value.reason == "storage"


@pytest.mark.parametrize("value", [-7, 0, (1 << 40) + 1])
def test_the_floats_of_the_images_are_bounded(tmp_path, value):
    forge(tmp_path, state(image_floats=value))
    with pytest.raises(ArtifactError, match=rf"image_floats must lie in 1\.\.{1 << 40}, got {value}"):
        Distilled.load(tmp_path)


def test_the_kind_of_the_labels_is_computed(tmp_path):
    images, floats = make_set().images.numel(), make_set().labels.numel()
    counted = {"labels": "soft", "label_floats": floats, "floats": images + floats, "bytes": 4 * (images + floats)}
    forge(tmp_path, state(**counted))
    with pytest.raises(ArtifactError, match=r"storage must state hard labels, got soft \[storage\]"):
        Distilled.load(tmp_path)


def test_a_loaded_set_has_the_id_of_its_file(tmp_path):
    forge(tmp_path)
    assert Distilled.load(tmp_path).content_id == read_manifest_summary(tmp_path).id
    forge(tmp_path, lambda body: body["preprocess"].update(note="ignored by the reader"))
    with pytest.raises(ArtifactError) as error:
        Distilled.load(tmp_path)
    assert error.value.reason in ("id", "preprocess")


@pytest.mark.parametrize("base", ["published", "quick"])
def test_an_honest_protocol_keeps_its_name(base):
    protocol = getattr(TrainingProtocol, base)("flip")
    for honest in (
        protocol,
        protocol.changed(networks=7),
        protocol.changed(network="mlp", epochs=10),
        protocol.changed(options={"width": 4}, labels="hard"),
    ):
        assert stored_protocol(make_set(protocol=honest.to_dict())) == honest


def test_the_protocols_of_all_methods_keep_their_names():
    real = dd.load("digits")
    for recipe in {**RECIPES, **dd.BASELINES}.values():
        protocol = recipe(ipc=1).protocol(real)
        assert stored_protocol(make_set(protocol=protocol.to_dict())) == protocol


@pytest.mark.parametrize("name", ["published", "quick", "published, 10 epochs", "Published", " published"])
def test_a_protocol_of_ones_own_cannot_take_a_reserved_name(name):
    values = TrainingProtocol(epochs=300, lr=0.5).to_dict() | {"protocol": name}
    found = stored_protocol(make_set(protocol=values))
    assert found.name == f"claims {name.strip()}" and found.lr == 0.5
    assert stored_protocol(make_set(protocol=values | {"protocol": "my own"})).name == "my own"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 10**15}, "epochs must be at most 20000 in the protocol of a set .*, got 1000000000000000"),
        ({"networks": 10**6}, "networks must be at most 100 in the protocol of a set .*, got 1000000"),
        (
            {"epochs": 20000, "networks": 100, "batch_size": 1},
            "steps must be at most 5000000 in the protocol of a set .*, got 12000000",
        ),
        ({"network_options": {"width": 10**9}}, "width must be at most 4096 .*, got 1000000000"),
        ({"network_options": {"depth": 10**7}}, "depth must be at most 4096 in the protocol of a set .*, got 10000000"),
        ({"network_options": {"width": 4096, "depth": 5}}, "weights must be at most 500000000"),
        ({"decay_at": [0.5] * 2000}, "decay_at must be at most 1000 numbers in the protocol of a set .*, got 2000"),
    ],
)
def test_a_foreign_protocol_is_bounded(values, message):
    distilled = make_set(shape=(3, 32, 32), protocol=TrainingProtocol().to_dict() | values)
    with pytest.raises(ValueError, match=message) as error:
        check_cost(stored_protocol(distilled), distilled)
    assert "--trust-protocol" in str(error.value) and "protocol=" in str(error.value)


def set_of_digits(protocol):
    distilled = dd.distill(dd.BASELINES["random"](ipc=1), dd.load("digits"))
    return dataclasses.replace(distilled, protocol=protocol.to_dict(), stored_floats=64)


@pytest.mark.parametrize("network", ["os", "os.path:join", "subprocess.run", "../gift/model.py", "ddsdk.cli:main"])
def test_the_network_of_a_set_imports_nothing(network):
    distilled = set_of_digits(TrainingProtocol(name="gift", network=network))
    with pytest.raises(ValueError, match=r"network.* must be one of"):
        dd.evaluate(distilled, dd.load("digits", split="test"))


@pytest.fixture
def costly(tmp_path):
    """A set of digits whose protocol never ends."""
    protocol = TrainingProtocol(name="long", network="mlp", network_options={"width": 2}, epochs=10**15)
    set_of_digits(protocol).save(tmp_path / "costly")
    return tmp_path / "costly"


def test_evaluate_refuses_a_protocol_without_end(costly):
    with pytest.raises(ValueError, match="epochs must be at most 20000"):
        dd.evaluate(Distilled.load(costly), dd.load("digits", split="test"))


def test_the_command_line_refuses_it_and_names_the_way_out(costly, capsys):
    command = ["evaluate", str(costly), "--data", "digits", "--baselines", ""]
    assert main(command) != 0
    assert "epochs must be at most 20000" in capsys.readouterr().err
    assert main([*command, "--epochs", "1", "--repeats", "1"]) == 0
    found = capsys.readouterr().out
    assert "states a storage of 64 floats for 640 pixel values" in found


def test_a_protocol_may_be_trusted(costly, capsys, monkeypatch):
    trained = []
    monkeypatch.setattr("ddsdk.cli.evaluate.score_with_baselines", lambda *given, **options: trained.append(given[3]))
    monkeypatch.setattr("ddsdk.cli.evaluate.show_scores", lambda *given: None)
    assert main(["evaluate", str(costly), "--data", "digits", "--baselines", "", "--trust-protocol"]) == 0
    assert [protocol.epochs for protocol in trained] == [10**15]


@pytest.fixture
def an_hour(tmp_path, monkeypatch):
    """A set of digits whose evaluation seems to take an hour: each look at the clock is a second later."""
    protocol = TrainingProtocol(name="slow", network="mlp", network_options={"width": 2}, epochs=40, networks=90)
    set_of_digits(protocol).save(tmp_path / "slow")
    seconds = itertools.count()
    monkeypatch.setattr("ddsdk.cli.evaluate.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    return tmp_path / "slow"


@pytest.mark.parametrize(("answer", "trained"), [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)])
def test_a_long_evaluation_asks_before_it_goes_on(an_hour, capsys, monkeypatch, answer, trained):
    steps = iter([EvaluationProgress(done, 3600, name="slow") for done in (*range(1, 7), 3600)])
    monkeypatch.setattr("ddsdk.judging.comparison_steps", lambda *_, **__: steps)
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("ddsdk.cli.evaluate.show_scores", lambda *_: None)
    assert main(["evaluate", str(an_hour), "--data", "digits", "--baselines", ""]) == (0 if trained else 75)
    said = capsys.readouterr().err
    assert "about 60 minutes; --epochs and --repeats shorten it" in said
    assert "go on? [y/N]" in said
    assert (next(steps, None) is None) == trained


@pytest.mark.parametrize("option", [["--trust-protocol"], ["--epochs", "41"], []])
def test_nothing_is_asked_without_a_terminal_or_about_a_length_of_ones_own(an_hour, capsys, monkeypatch, option):
    steps = iter([EvaluationProgress(done, 3600, name="slow") for done in (*range(1, 7), 3600)])
    monkeypatch.setattr("ddsdk.judging.comparison_steps", lambda *_, **__: steps)
    terminal = io.StringIO("n\n")
    terminal.isatty = lambda: bool(option)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("ddsdk.cli.evaluate.show_scores", lambda *_: None)
    assert main(["evaluate", str(an_hour), "--data", "digits", "--baselines", "", *option]) == 0
    said = capsys.readouterr().err
    assert "the evaluation takes about 6" in said
    assert "go on?" not in said


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (119, "119 s"), (120, "2 minutes"), (7200, "2 hours"), (172_800, "2 days")]
)
def test_durations_are_readable(seconds, text):
    assert readable_seconds(seconds) == text
