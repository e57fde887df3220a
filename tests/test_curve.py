"""`ddsdk curve`: seconds that count, marks, protocols, restart, the table, the picture, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from itertools import pairwise

import pytest
import torch
from PIL import Image

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.experiments import curve as curve_module
from ddsdk.experiments.curve import CurveConfig, CurvePoint, RecipeCurve, measure_curve
from ddsdk.experiments.curve_view import curve_picture, curve_table, spread_out
from ddsdk.foundation import ArtifactError, DivergedError, FolderBusyError, Store, Timing, Unit, read_json
from ddsdk.planning.methods import METHODS, configured_methods
from ddsdk.planning.presets import FAMILIES, PRESETS, family, preset
from ddsdk.running.run import Run
from ddsdk.training.protocol import Score, TrainingProtocol

JUDGE = {"judge_networks": 1, "judge_epochs": 2, "judge_width": 4}
ARGS = ["curve", "--data", "digits", "--threads", "1", "--width", "4", "--depth", "1", "--seconds", "0.05,0.15"]
ARGS += ["--judge-epochs", "2", "--judge-width", "4", "--no-plot", "--set", "dm.real_batch=4"]


@pytest.fixture
def task(tiny):
    return CurveConfig(
        train=tiny,
        seconds=(1.0, 2.0, 4.0),
        network="convnet",
        network_options={"width": 4, "depth": 1},
        held_out=0.3,
        **JUDGE,
    )


@pytest.fixture
def ticking(monkeypatch):
    """A processor clock that a step of a distillation moves by 0.6 s, and nothing else."""
    clock = [0.0]
    monkeypatch.setattr(curve_module.time, "process_time", lambda: clock[0])
    real = dd.Distillation.__next__

    def step(self):
        if self.index < self.plan.steps:
            clock[0] += 0.6
        return real(self)

    monkeypatch.setattr(dd.Distillation, "__next__", step)
    return clock


def measured(folder, name, method, task):
    found = list(measure_curve(folder, name, method, task))
    assert [p.point for p in found[:-1]] == list(found[-1].curve.points) or found[-1].kept
    return found[-1].curve


def test_a_method_is_paused_behind_each_mark(tmp_path, task, ticking):
    curve = measured(tmp_path, "dm", dd.DM(ipc=1, steps=50, real_batch=4), task)
    assert [(p.time_budget, p.step, round(p.seconds, 3)) for p in curve.points] == [
        (1.0, 2, 1.2),
        (2.0, 4, 2.4),
        (4.0, 7, 4.2),
    ]
    assert (curve.ended, curve.note, curve.prepared, curve.family) == (False, "", 0.0, "matching")


def test_the_sets_are_those_of_a_run_without_pauses(tmp_path, task, ticking):
    curve = measured(tmp_path, "dm", dd.DM(ipc=1, steps=50, real_batch=4), task)
    rest, _ = task.split()
    make = dd.network_factory("convnet", rest.image_shape, 3, width=4, depth=1)
    whole = dd.distill(dd.DM(ipc=1, steps=7, real_batch=4), rest, make_student=make, seed=0)
    (home,) = tmp_path.glob("dm-*")
    assert [dd.Distilled.load(home / f"{m:g}").content_id for m in task.seconds] == [p.set for p in curve.points]
    last = dd.Distilled.load(home / "4")
    assert last.content_id == whole.content_id
    assert last.provenance["cpu_seconds"] == 4.2


def test_a_method_that_is_done_keeps_its_last_set(tmp_path, task, ticking):
    curve = measured(tmp_path, "dm", dd.DM(ipc=1, steps=3, real_batch=4), task)
    assert [(p.time_budget, p.step) for p in curve.points] == [(1.0, 2), (2.0, 3)]
    assert curve.ended
    assert curve.at(4.0) is curve.at(2.0) is curve.points[-1]
    assert curve.at(0.5) is None
    exactly = measured(tmp_path, "dm", dd.DM(ipc=1, steps=2, real_batch=4), task)
    assert [(p.time_budget, p.step) for p in exactly.points] == [(1.0, 2)]
    assert exactly.ended


def test_one_step_may_pass_several_marks(tmp_path, task, ticking):
    short = dataclasses.replace(task, seconds=(0.1, 0.2, 0.7))
    curve = measured(tmp_path, "dm", dd.DM(ipc=1, steps=50, real_batch=4), short)
    assert [(p.time_budget, p.step) for p in curve.points] == [(0.2, 1), (0.7, 2)]
    assert curve.at(0.1) is None


def test_networks_count_whenever_they_were_trained(tmp_path, task, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    method = dd.MTT(ipc=1, steps=1, student_steps=2, experts=2, expert_epochs=3)
    first = measured(tmp_path / "a", "mtt", method, task)
    again = measured(tmp_path / "b", "mtt", method, task)
    assert len(list((tmp_path / "cache").glob("run-*"))) == 2
    make = dd.network_factory("convnet", task.train.image_shape, 3, **task.network_options)
    rest, _ = task.split()
    spent = Run(method, rest, make_student=make, seed=0).runs.cpu_seconds
    assert spent > 0
    assert first.prepared > spent - 0.01
    assert again.prepared > spent - 0.01
    assert first.points[-1].seconds > first.prepared


def test_networks_that_take_too_long_end_a_curve_without_a_point(tmp_path, task, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    hasty = dataclasses.replace(task, seconds=(1e-6, 2e-6))
    curve = measured(tmp_path, "mtt", dd.MTT(ipc=1, experts=2, expert_epochs=3), hasty)
    assert curve.points == ()
    assert "experts or teachers were not trained" in curve.note
    assert "not trained after" in curve_table([curve])


def test_a_run_that_diverges_keeps_its_points_and_says_so(tmp_path, task, ticking, monkeypatch):
    step = dd.Distillation.__next__

    def failing(self):
        if self.index == 3:
            raise DivergedError("too fast")
        return step(self)

    monkeypatch.setattr(dd.Distillation, "__next__", failing)
    curve = measured(tmp_path, "dm", dd.DM(ipc=1, steps=50, real_batch=4), task)
    assert [p.step for p in curve.points] == [2]
    assert not curve.ended
    assert curve.note == "diverged after 2 s: too fast"
    assert curve.at(4.0) is None


def test_a_method_without_steps_has_one_point(tmp_path, task):
    curve = measured(tmp_path, "random", METHODS["random"](ipc=1), task)
    assert [(p.time_budget, p.step) for p in curve.points] == [(1.0, 0)]
    assert curve.ended
    assert curve.family == "selection"
    assert curve.points[0].own is None


def test_both_protocols_are_judged_where_they_differ(tmp_path, task, ticking):
    short = dataclasses.replace(task, seconds=(0.5,))
    (dm,) = measured(tmp_path, "dm", dd.DM(ipc=1, steps=9, real_batch=4), short).points
    assert dm.own is None
    assert dm.published.protocol == "published, 2 epochs, width 4"
    idc = dd.IDC(ipc=1, steps=9, steps_per_student=2, student_steps=1, real_batch=4)
    (point,) = measured(tmp_path, "idc", idc, short).points
    assert point.own.protocol == "idc, width 4"
    soft = METHODS["rded"](ipc=1, images=4, crops=2, teacher_epochs=1)
    (point,) = measured(tmp_path, "rded", soft, dataclasses.replace(task, seconds=(1e3,))).points
    assert (point.published.labels, point.own.labels) == ("soft as hard", "soft")


def test_no_held_out_image_is_distilled(task):
    rest, held = task.split()
    assert len(rest) + len(held) == len(task.train)
    assert held.name == "tiny, held-out training images"
    shown = {bytes(image.numpy().tobytes()) for image in rest.images}
    assert not shown & {bytes(image.numpy().tobytes()) for image in held.images}
    same = task.train.split(0.3, dd.generator("validation"))[1]
    assert torch.equal(same.images, held.images)


def test_a_method_keeps_what_belongs_to_its_own_protocol(task):
    kernel = TrainingProtocol(learner="kernel", network="linear")
    assert task.judging.of(kernel) is kernel
    own = TrainingProtocol(epochs=30, networks=3)
    short = task.judging.of(own, own=True)
    assert (short.epochs, short.networks) == (30, 1)
    assert [dataclasses.replace(task, judge_epochs=n).judging.of(own).epochs for n in (2, 90)] == [2, 30]
    assert task.judging.of(TrainingProtocol(network="mlp")).network_options == {"width": 4}
    whole = dataclasses.replace(task, judge_epochs=None, judge_width=None, judge_networks=3)
    assert whole.judging.of(TrainingProtocol.published()) == TrainingProtocol.published()


def test_students_are_of_the_network_that_the_protocol_names(task):
    assert task.students(dd.DM()) == ("convnet", {"width": 4, "depth": 1})
    free = dataclasses.replace(task, network="", network_options={"width": 4})
    assert free.students(dd.DM()) == ("convnet", {"width": 4})
    own = {"width": 4, "norm": "none", "doubling": True, "init": "lecun-normal"}
    assert free.students(METHODS["frepo"]()) == ("convnet", own)
    assert free.students(METHODS["kip"]()) == ("convnet", {"width": 4})
    network, options = free.students(METHODS["dd"]())
    assert (network, options) == (METHODS["dd"]().protocol(task.train).network, {"init": "xavier-normal"})
    assert network != "convnet"


def test_a_finished_method_is_not_run_again(tmp_path, capsys, monkeypatch):
    args = [*ARGS, "--recipes", "dm,random", "--out", str(tmp_path)]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "dm: 0." in said
    assert "random: 0.0 s, step 0" in said
    files = {p: p.read_bytes() for p in tmp_path.glob("*") if p.is_file()}
    assert {p.name for p in files} == {"curves.json", "curves.md"}

    def forbidden(self):
        raise AssertionError("no step")

    monkeypatch.setattr(dd.Distillation, "__next__", forbidden)
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "dm: already measured" in said
    assert "random: already measured" in said
    assert {p: p.read_bytes() for p in files} == files
    assert {c["recipe"] for c in json.loads((tmp_path / "curves.json").read_text())["curves"]} == {"dm", "random"}


def test_a_method_that_was_stopped_is_measured_again(tmp_path, task, ticking):
    method = dd.DM(ipc=1, steps=50, real_batch=4)
    run = measure_curve(tmp_path, "dm", method, task)
    assert next(run).point is not None
    run.close()
    assert list(Store(tmp_path / "store").results("curve")) == []
    ticking[0] = 0.0
    curve = measured(tmp_path, "dm", method, task)
    assert len(curve.points) == 3
    ((_, kept),) = Store(tmp_path / "store").results("curve")
    assert read_json(kept, RecipeCurve, "curve", "the curve") == curve
    other = dataclasses.replace(method, real_batch=3)
    measured(tmp_path, "dm", other, task)
    assert len(list(tmp_path.glob("dm-*"))) == 2


def test_a_record_that_is_no_curve_is_refused(tmp_path, task):
    method = dd.DM(ipc=1, steps=50, real_batch=4)
    unit = Unit("curve", task.conditions("dm", method))
    for damaged in (b"{}", b'{"recipe": "dm"}'):
        Store(tmp_path / "store").publish(unit, damaged, Timing(1.0, 1.0, "here"), replace=True)
        with pytest.raises(ArtifactError, match="the curve of dm must hold a curve"):
            list(measure_curve(tmp_path, "dm", method, task))


def test_two_processes_do_not_measure_the_same_curve(tmp_path, task):
    method = dd.DM(ipc=1, steps=50, real_batch=4)
    unit = Unit("curve", task.conditions("dm", method))
    with Store(tmp_path / "store").lease(unit.id) as held:
        assert held
        with pytest.raises(FolderBusyError, match="another process measures the curve of dm"):
            next(measure_curve(tmp_path, "dm", method, task))


def score(value, labels="hard"):
    return Score(
        name="x",
        protocol="published",
        network="convnet",
        accuracies=(value, value + 0.02),
        images=10,
        stored_floats=10,
        seconds=1.0,
        labels=labels,
    )


def drawn(name, values, own=None, seconds=(30.0, 60.0, 120.0, 240.0), ended=False):
    points = tuple(
        CurvePoint(
            time_budget=mark,
            seconds=mark + 0.4,
            step=i,
            set="0",
            published=score(value),
            own=None if own is None else score(value + own, "soft"),
        )
        for i, (mark, value) in enumerate(zip(seconds, values, strict=False))
    )
    conditions = {
        "seconds": list(seconds),
        "data": {"name": "fashion-mnist"},
        "network": "convnet",
        "network_options": {"width": 16},
        "parameters": {"ipc": 1},
    }
    return RecipeCurve(
        recipe=name, family=family(name), points=points, prepared=3.0, ended=ended, conditions=conditions
    )


CURVES = [
    drawn("dm", (0.66, 0.68, 0.69, 0.7)),
    drawn("idc", (0.64, 0.7, 0.74, 0.75), own=0.02),
    drawn("random", (0.42,), ended=True),
    drawn("frepo", (0.6, 0.69), own=0.03),
]


def test_the_table_has_a_row_for_each_protocol():
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in curve_table(CURVES).splitlines()]
    assert lines[0][5:9] == ["30 s", "60 s", "120 s", "240 s"]
    assert [line[0] for line in lines[2:]] == ["dm", "idc", "idc", "random", "frepo", "frepo"]
    by = {(line[0], line[2]): line[4:9] for line in lines[2:]}
    assert by["dm", "published"][:2] == ["hard", "67.0 ± 1.4"]
    assert by["random", "published"][1:] == ["43.0 ± 1.4"] * 4
    assert by["frepo", "own"][0] == "soft"
    assert by["frepo", "own"][3:] == ["–", "–"]
    with pytest.raises(ValueError, match="curves must have the same time budgets"):
        curve_table([CURVES[0], drawn("dc", (0.5,), seconds=(1.0,))])
    with pytest.raises(ValueError, match="hold at least one curve"):
        curve_table([])


def test_the_picture_is_the_same_every_time():
    pytest.importorskip("matplotlib")
    svg = curve_picture(CURVES, "svg")
    assert svg == curve_picture(CURVES, "svg")
    for name in ("dm", "idc", "random", "frepo"):
        assert svg.count(f">{name}  ".encode()) == 2
    wide, narrow = (Image.open(io.BytesIO(curve_picture(c))).size[0] for c in (CURVES, [CURVES[0], CURVES[2]]))
    assert wide == 2 * narrow
    with pytest.raises(ValueError, match="curves must have a point"):
        curve_picture([drawn("dm", ())])


def test_names_at_the_ends_do_not_touch():
    assert spread_out([0.1, 0.5], 0.1) == pytest.approx([0.1, 0.5])
    assert spread_out([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread_out([0.4, 0.5, 0.5, 0.9], 0.1) == pytest.approx([0.3667, 0.4667, 0.5667, 0.9], abs=1e-3)
    assert spread_out([0.2, 0.97, 0.99], 0.1) == pytest.approx([0.2, 0.9, 1.0])
    found = spread_out([0.01 * i for i in range(9)], 0.05)
    assert all(b - a > 0.0499 for a, b in pairwise(found))


def test_a_missing_plotting_library_is_said_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    args = [a for a in ARGS if a != "--no-plot"]
    assert main([*args, "--recipes", "dm", "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'ddsdk[bench]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


BAD = {
    "recipe": (["--recipes", "dmm"], "recipes must be among dc, dsa"),
    "no mark": (["--seconds", ","], "seconds must be at least one positive, finite number, in increasing order"),
    "time_budgets": (["--seconds", "60,30"], "finite number, in increasing order"),
    "time_budget": (["--seconds", "30,x"], "seconds must be positive numbers, separated by commas, got 'x'"),
    "ipc": (["--ipc", "0"], "ipc must be at least 1, got 0"),
    "set": (["--set", "dm.image_lr"], "set must be like dm.image_lr=0.5, got 'dm.image_lr'"),
    "set another": (["--set", "dc.image_lr=1"], "set must name one of the methods, dm"),
    "set unknown": (["--set", "dm.imagelr=1"], "did you mean 'image_lr'?"),
    "set text": (["--set", "dm.image_lr=fast"], "set must fit the parameter, got 'dm.image_lr=fast'"),
    "set zero": (["--set", "dm.steps=0"], "steps must be at least 1, got 0"),
    "epochs": (["--judge-epochs", "0"], "judge_epochs must be at least 1, got 0"),
    "network": (["--network", "convnets"], "network must be among convnet"),
    "held out": (["--held-out", "0"], "fraction must lie strictly between 0 and 1"),
}


@pytest.mark.parametrize("args, message", BAD.values(), ids=BAD)
def test_bad_options_are_named(tmp_path, capsys, args, message):
    assert main([*ARGS, "--recipes", "dm", *args, "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.unit"))


def test_every_preset_fits_its_method():
    methods = configured_methods([], 10, [])
    assert set(methods) == set(PRESETS)
    assert methods["dc"].start == "real"
    assert configured_methods(["dc"], 1, [])["dc"].start == "noise"
    assert configured_methods(["dc"], 10, [], paper=True)["dc"] == dd.DC(ipc=10)
    assert preset("k-center", 5) == {}
    assert family("dc") == "matching"
    assert not FAMILIES["selection"] & FAMILIES["meta-learning"]


def test_settings_have_the_types_of_their_parameters():
    given = ["mtt.image_lr=1e3", "mtt.augmentation=none", "mtt.anneal=true", "mtt.student-steps=5"]
    method = configured_methods(["mtt"], 2, given)["mtt"]
    assert (method.image_lr, method.augmentation, method.anneal, method.student_steps) == (1000.0, None, True, 5)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_of_every_method_can_be_set(name):
    for field in dataclasses.fields(METHODS[name]):
        if isinstance(field.default, int | float | str | bool):
            changed = configured_methods([name], 1, [f"{name}.{field.name}={field.default}"], paper=True)[name]
            assert getattr(changed, field.name) == field.default
