"""The command line, run in this process on scikit-learn's digits and on small arrays."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import ddsdk as dd
from ddsdk.artefact.distilled import Distilled
from ddsdk.cli import main
from ddsdk.foundation import Store, Timing, Unit
from ddsdk.judging.scores import read_scores

FAST = ["--data", "digits", "--threads", "1"]
TINY = [*FAST, "--recipe", "dm", "--width", "4", "--steps", "2", "--real-batch", "4", "--augmentation", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set made by the command line."""
    folder = tmp_path_factory.mktemp("cli") / "set"
    assert main(["distill", *TINY, "--ipc", "1", "--out", str(folder)]) == 0
    return folder


def test_distill_saves_a_set_with_its_parameters(made):
    distilled = Distilled.load(made)
    assert distilled.images.shape == (10, 1, 8, 8)
    assert distilled.provenance["parameters"]["steps"] == 2
    assert not (made / "checkpoint.safetensors").exists()


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert f"ddsdk {dd.__version__}, torch {torch.__version__.split('+')[0]}" in said
    with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
        assert dd.__version__ == tomllib.load(file)["project"]["version"]


def test_distill_says_what_it_will_take(tmp_path, capsys):
    assert main(["distill", *TINY, "--ipc", "1", "--out", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "2 steps, about" in said
    assert "peak memory" in said
    assert "disk" in said


@pytest.mark.parametrize("baseline", ["random", "k-means", "k-center", "herding"])
def test_distill_takes_baselines(tmp_path, baseline):
    folder = tmp_path / "set"
    assert main(["distill", *FAST, "--recipe", baseline, "--ipc", "2", "--out", str(folder)]) == 0
    assert len(Distilled.load(folder)) == 20


def test_evaluate_prints_the_baselines_and_keeps_the_scores(made, capsys):
    args = ["evaluate", str(made), *FAST, "--networks", "convnet,mlp", "--repeats", "1", "--epochs", "2"]
    assert main([*args, "--width", "4"]) == 0
    said = capsys.readouterr().out
    for word in ("dm", "random", "herding", "k-means", "convnet (width 4)", "published, 2 epochs, width 4"):
        assert word in said
    assert "protocol published, 2 epochs, mlp, width 4" in " ".join(said.split())
    assert "cached" not in said
    assert not (made / "results").exists()
    files = sorted((made.parent / "set-results" / "results").glob("*.unit"))
    assert len(files) == 8
    before = [f.stat().st_mtime_ns for f in files]
    assert main([*args, "--width", "4"]) == 0
    assert capsys.readouterr().out.count("cached") == 8
    assert [f.stat().st_mtime_ns for f in files] == before
    assert main([*args, "--width", "4", "--fresh"]) == 0
    assert "cached" not in capsys.readouterr().out
    after = [f.stat().st_mtime_ns for f in files]
    assert all(a > b for a, b in zip(after, before, strict=True))


ONCE = ["--repeats", "1", "--epochs", "1"]


def said_once(capsys):
    return " ".join(capsys.readouterr().out.split())


def scored_digits(folder, **changes):
    """Save real digits with centred labels as a set of its own."""
    import dataclasses

    import ddsdk as dd
    from ddsdk.synthetic import centred_labels

    train, _ = dd.load_pair("digits")
    chosen = dd.distill(dd.BASELINES["random"](ipc=2), train, make_student=None, seed=0)
    rows = centred_labels(chosen.owner, 10)
    own = dataclasses.replace(chosen, labels=rows, label_space="scores", provenance={"recipe": "own"})
    dataclasses.replace(own, **changes).save(folder)
    return folder


def test_evaluate_shows_the_own_and_the_published_protocol_side_by_side(tmp_path, capsys):
    regression = {"protocol": "regression", "loss": "mse", "optimizer": "adam", "lr": 0.001}
    folder = scored_digits(tmp_path / "set", protocol=regression)
    args = ["evaluate", str(folder), *FAST, *ONCE, "--width", "4", "--baselines", "random"]
    assert main([*args, "--protocol", "both"]) == 0
    said = said_once(capsys)
    assert "1 networks, 1 epochs, loss mse" in said
    assert "1 networks, 1 epochs, loss cross-entropy" in said
    assert "digits, test accuracy, %" in said
    found = {
        (r["score"]["name"], r["score"]["labels"], r["score"]["loss"], r["score"]["protocol"].split(",")[0])
        for r in read_scores(tmp_path / "set-results")
    }
    assert found == {
        ("own", "scores", "mse", "regression"),
        ("random", "scores", "mse", "regression"),
        ("own", "scores as hard", "cross-entropy", "published"),
        ("random", "hard", "cross-entropy", "published"),
    }
    assert main(["report", str(folder), "--markdown", str(tmp_path / "table.md")]) == 0
    assert "| scores as hard, cross-entropy |" in (tmp_path / "table.md").read_text().replace("\\", "")


def test_evaluate_measures_what_other_labels_cost(tmp_path, capsys):
    folder = scored_digits(tmp_path / "set", protocol={"protocol": "own", "loss": "mse"})
    args = ["evaluate", str(folder), *FAST, *ONCE, "--width", "4", "--baselines", ""]
    assert main([*args, "--labels", "stored,probabilities,hard"]) == 0
    kinds = {r["score"]["labels"]: r["score"]["accuracies"] for r in read_scores(tmp_path / "set-results")}
    assert set(kinds) == {"scores", "scores as probabilities", "scores as hard"}
    assert kinds["scores as probabilities"] == kinds["scores as hard"]
    capsys.readouterr()
    assert main([*args, "--labels", "soft"]) == 2
    assert "labels must be one of ['stored', 'probabilities', 'hard', 'centred'], got 'soft'" in capsys.readouterr().err


def test_evaluate_judges_a_kernel_set_as_a_kernel_machine(tmp_path, capsys):
    protocol = {"protocol": "kernel", "learner": "kernel", "network": "fc-ntk"}
    folder = scored_digits(tmp_path / "set", protocol=protocol)
    args = ["evaluate", str(folder), *FAST, "--baselines", "random,herding"]
    assert main([*args, "--depth", "2"]) == 0
    said = said_once(capsys)
    assert "digits, fc-ntk kernel (depth 2), protocol kernel, depth 2" in said
    assert "kernel ridge regression, without training of networks" in said
    records = read_scores(tmp_path / "set-results")
    assert {(r["score"]["name"], r["score"]["labels"]) for r in records} == {
        ("own", "scores"),
        ("random", "scores"),
        ("herding", "scores"),
    }
    assert main([*args, "--width", "4"]) == 2
    assert "options of kernel 'fc-ntk' must be among" in capsys.readouterr().err
    assert main([*args, *ONCE, "--networks", "mlp", "--width", "4"]) == 0
    assert "digits, mlp (width 4), protocol kernel, 1 epochs, mlp, width 4" in said_once(capsys)
    assert main(["report", str(folder), "--markdown", str(tmp_path / "table.md")]) == 0
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert sum("scores, ridge | – | – |" in row for row in rows) == 3


def test_baselines_of_a_set_in_stored_order_are_shuffled(tmp_path):
    protocol = {"protocol": "dd", "order": "stored", "batch_size": 10, "epochs": 2}
    folder = scored_digits(tmp_path / "set", protocol=protocol, learned_lr=(0.01, 0.02, 0.03, 0.04))
    args = ["evaluate", str(folder), *FAST, "--repeats", "1", "--width", "4", "--baselines", "random"]
    assert main(args) == 0
    found = {r["score"]["name"]: r for r in read_scores(tmp_path / "set-results")}
    assert found["own"]["conditions"]["protocol"]["order"] == "stored"
    assert found["random"]["score"]["protocol"] == "dd, width 4, shuffled order"
    assert "order" not in found["random"]["conditions"]["protocol"]


def test_hostile_protocol_names_are_no_markup(tmp_path, capsys):
    folder = scored_digits(tmp_path / "set", protocol={"protocol": "[/red]\x1b[31m", "loss": "mse"})
    args = ["evaluate", str(folder), *FAST, *ONCE, "--width", "4", "--baselines", "", "--protocol", "both"]
    assert main(args) == 0
    assert "[/red]" in capsys.readouterr().out


def test_evaluate_passes_options_to_the_networks_that_take_them(made, tmp_path, capsys):
    args = ["evaluate", str(made), *FAST, *ONCE, "--baselines", "", "--results", str(tmp_path / "scores")]
    assert main([*args, "--networks", "convnet,mlp", "--width", "4", "--depth", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "digits, convnet (width 4, depth 1), protocol published, 1 epochs, width 4, depth 1" in said
    assert "digits, mlp (width 4), protocol published, 1 epochs, mlp, width 4" in said
    assert main([*args, "--networks", "mlp", "--depth", "1"]) == 2
    assert "depth must be left out for mlp, got 1" in capsys.readouterr().err


def test_distill_refuses_options_that_the_network_does_not_take(tmp_path, capsys):
    args = [
        "distill",
        *FAST,
        "--recipe",
        "dm",
        "--network",
        "mlp",
        "--depth",
        "2",
        "--ipc",
        "1",
        "--out",
        str(tmp_path / "s"),
    ]
    assert main(args) == 2
    assert "options of network 'mlp' must be among" in capsys.readouterr().err


def save_set(folder, **changes):
    """Save a set of two classes of grey 8x8 images that nobody distilled."""
    from ddsdk.data.preprocess import Preprocess

    values = {"class_names": ("a", "b"), "preprocess": Preprocess.unit(1), **changes}
    Distilled(torch.zeros(2, 1, 8, 8), torch.eye(2), **values).save(folder)
    return folder


def image_folder(root, classes=("a", "b"), size=(8, 8)):
    """Write a few grey pictures into a folder for each class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for c in classes:
        (root / c).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(root / c / f"{i}.png")
    return root


def test_a_recipe_name_from_a_stranger_stays_in_the_results_folder(tmp_path):
    folder = save_set(tmp_path / "set", provenance={"recipe": "../../../elsewhere/x"})
    train, test = image_folder(tmp_path / "train"), image_folder(tmp_path / "test")
    scores = tmp_path / "deep" / "scores"
    args = ["evaluate", str(folder), "--data", str(train), "--test", str(test), *ONCE, "--width", "4"]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert main([*args, "--baselines", "", "--results", str(scores)]) == 0
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.parent.parent for path in made} == {scores}
    assert len(list(scores.rglob("*.unit"))) == 1


def test_data_without_a_test_split_is_judged_on_other_data(tmp_path, capsys):
    folder = save_set(tmp_path / "set")
    train, test = image_folder(tmp_path / "train"), image_folder(tmp_path / "test", size=(20, 12))
    args = ["evaluate", str(folder), "--data", str(train), *ONCE, "--width", "4", "--baselines", "random"]
    assert main(args) == 2
    assert main([*args, "--test", str(test)]) == 2
    assert main([*args, "--test", str(test), "--resize", "8", "8"]) == 0
    assert "random" in capsys.readouterr().out


def test_a_set_is_not_judged_on_other_classes(tmp_path, capsys):
    folder = save_set(tmp_path / "set", class_names=("b", "a"))
    data = str(image_folder(tmp_path / "train"))
    args = ["evaluate", str(folder), "--data", data, "--test", data, *ONCE, "--width", "4"]
    assert main(args) == 2
    assert "class names of test must be those of the set, ['b', 'a'], got ['a', 'b']" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"network": 5}, {"augmentation": 5}, {"epochs": "3"}, {"lr": True}])
def test_a_manifest_with_a_senseless_evaluation_is_refused(tmp_path, capsys, wrong):
    folder = save_set(tmp_path / "set", protocol=wrong)
    data = str(image_folder(tmp_path / "train"))
    assert main(["evaluate", str(folder), "--data", data, "--test", data, *ONCE]) == 2
    assert "evaluation must be valid" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{}", "[]", "no", '{"score": {"name": "x"}}'])
def test_a_results_file_that_is_no_score_is_refused(made, tmp_path, capsys, content):
    Store(tmp_path).publish(Unit("score", {}, ("x",)), content.encode(), Timing(1.0, 1.0, "here"))
    args = ["report", str(made), "--markdown", str(tmp_path / "table.md"), "--results", str(tmp_path)]
    assert main(args) == 2
    assert "must hold a score" in capsys.readouterr().err


def test_report_takes_a_union_that_knows_no_time(made, tmp_path):
    both = tmp_path / "both"
    one = Distilled.load(made)
    one.concat(one).save(both)
    assert main(["evaluate", str(both), *FAST, *ONCE, "--width", "4", "--baselines", ""]) == 0
    assert main(["report", str(both), "--markdown", str(tmp_path / "table.md")]) == 0
    (row,) = [line for line in (tmp_path / "table.md").read_text().splitlines() if "| concat |" in line]
    assert row.endswith("| – |")


def test_only_listed_sets_and_baselines_stand_in_a_report(made, tmp_path):
    other, results = tmp_path / "other", tmp_path / "scores"
    assert main(["distill", *TINY, "--ipc", "2", "--out", str(other)]) == 0
    for folder in (made, other):
        args = ["evaluate", str(folder), *FAST, *ONCE, "--width", "4", "--baselines", "random"]
        assert main([*args, "--results", str(results)]) == 0
    table, page = tmp_path / "table.md", tmp_path / "page.html"
    args = ["report", str(made), "--markdown", str(table), "--html", str(page), "--results", str(results)]
    assert main(args) == 0
    rows = [line.split(" | ")[1:3] for line in table.read_text().splitlines()[2:]]
    assert sorted(rows) == [["1", "dm"], ["1", "random"], ["2", "random"]]
    assert '<th scope="row">dm</th>' not in page.read_text()


def test_report_puts_scores_beside_the_published_figures(made, tmp_path, capsys):
    main(["evaluate", str(made), *FAST, "--repeats", "1", "--epochs", "1", "--width", "4"])
    html, markdown = tmp_path / "page.html", tmp_path / "table.md"
    assert main(["report", str(made), "--html", str(html), "--markdown", str(markdown)]) == 0
    assert "data:image/png;base64" in html.read_text()
    lines = markdown.read_text().splitlines()
    assert "published" in lines[0]
    assert any("| dm |" in line for line in lines)


def test_baselines_store_as_much_as_a_set_that_decodes_to_more(tmp_path, capsys):
    path = tmp_path / "idm"
    tiny = "--steps 1 --real-batch 4 --queue 1 --student-steps 1 --student-batch 8 --width 4 --ipc 2"
    assert main(["distill", *FAST, "--recipe", "idm", *tiny.split(), "--out", str(path)]) == 0
    judged = "--repeats 1 --epochs 1 --baselines random --protocol quick --width 4"
    assert main(["evaluate", str(path), *FAST, *judged.split(), "--results", str(tmp_path / "scores")]) == 0
    assert "the distilled set has 8 images per class, each baseline has 2 (" in capsys.readouterr().out
    images = {r["score"]["name"]: (r["ipc"], r["score"]["images"]) for r in read_scores(tmp_path / "scores")}
    assert images == {"idm": (2, 80), "random": (2, 20)}


def test_report_needs_somewhere_to_write(made, capsys):
    assert main(["report", str(made)]) == 2
    assert "html must be given, or markdown" in capsys.readouterr().err


def test_inspect_and_show(made, tmp_path, capsys):
    assert main(["inspect", str(made)]) == 0
    said = capsys.readouterr().out
    assert "no formal privacy guarantee" in said
    assert "provenance.recipe" in said
    picture = tmp_path / "sheet.png"
    assert main(["show", str(made), "--out", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "set: hard labels, label space probabilities" in capsys.readouterr().out
    alone = picture.read_bytes()
    assert main(["show", str(made), str(made), "--out", str(picture)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.read_bytes() != alone
    assert main(["show", str(made), str(made)]) == 2
    assert "out must be given for several sets" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["npz", "parquet", "images"])
def test_export(made, tmp_path, form):
    assert main(["export", str(made), "--to", form, "--out", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported").exists()


def test_recipes_lists_every_method(capsys):
    from ddsdk.baselines import BASELINES
    from ddsdk.recipes import RECIPES

    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    for name in (*RECIPES, *BASELINES):
        assert name in said


BAD = {
    "unknown recipe": (["distill", *TINY, "--recipe", "dmm"], "did you mean 'dm'?"),
    "ipc 0": (["distill", *TINY, "--ipc", "0"], "ipc must be at least 1, got 0"),
    "ipc above a class": (["distill", *TINY, "--ipc", "4000"], "images of class"),
    "unknown data": (["distill", *TINY[2:], "--data", "digit"], "digits"),
    "unknown start": (["distill", *TINY, "--start", "kmeans"], "did you mean 'k-means'?"),
    "unknown augmentation": (["distill", *TINY[:-1], "flipp"], "did you mean 'flip'?"),
    "unknown network": (["distill", *TINY, "--network", "convnets"], "did you mean 'convnet'?"),
    "no steps": (["distill", *TINY, "--steps", "0"], "steps must be at least 1, got 0"),
    "unknown device": (["distill", *TINY, "--device", "foo"], "device must be cpu, or an"),
    "no threads": (["distill", *TINY, "--threads", "0"], "threads must be at least 1, got 0"),
}


@pytest.mark.parametrize("args, message", BAD.values(), ids=BAD)
def test_bad_input_is_named(tmp_path, capsys, args, message):
    folder = tmp_path / "set"
    assert main([*args, "--out", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "manifest.json").exists()


def test_a_file_where_a_folder_should_be_is_named(made, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    where = str(tmp_path / "file" / "scores")
    assert main(["evaluate", str(made), *FAST, *ONCE, "--width", "4", "--results", where]) == 2
    told = capsys.readouterr().err
    assert f"cannot make folder {where!r}: Not a directory" in told


def test_a_used_folder_is_refused_without_resume(made, capsys):
    assert main(["distill", *TINY, "--ipc", "1", "--out", str(made)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["distill", *TINY, "--ipc", "1", "--out", str(made), "--resume"]) == 0
    assert "already finished" in capsys.readouterr().out


def test_resume_under_another_configuration_names_the_keys(made, tmp_path, capsys):
    assert main(["distill", *TINY, "--ipc", "2", "--seed", "3", "--out", str(made), "--resume"]) == 2
    said = capsys.readouterr().err
    assert "ipc (was 1, now 2)" in said
    assert "seed (was 0, now 3)" in said


def test_evaluate_refuses_other_data(made, tmp_path, capsys):
    for split in ("train", "test"):
        image_folder(tmp_path / split, map(str, range(10)), (9, 9))
    args = ["evaluate", str(made), "--data", str(tmp_path), "--repeats", "1", "--epochs", "1"]
    assert main(args) == 2
    assert "test images must have the shape of the set's images, (1, 8, 8), got (1, 9, 9)" in capsys.readouterr().err


def test_hostile_class_names_reach_neither_terminal_nor_page(tmp_path, capsys):
    from ddsdk.data.preprocess import Preprocess

    folder = tmp_path / "set"
    Distilled(
        torch.zeros(2, 1, 4, 4),
        torch.eye(2),
        class_names=("<script>alert(1)</script>", "\x1b[31mred[/red]"),
        preprocess=Preprocess.unit(1),
        provenance={"recipe": "[bold]\x1b]0;title\x07"},
    ).save(folder)
    assert main(["inspect", str(folder)]) == 0
    assert "\x1b]0" not in capsys.readouterr().out
    assert main(["report", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_a_broken_set_is_refused_with_its_reason(made, tmp_path, capsys):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(made, broken)
    data = bytearray((broken / "set.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "set.safetensors").write_bytes(data)
    assert main(["inspect", str(broken)]) == 2
    assert "[hash]" in capsys.readouterr().err


def test_a_folder_without_a_test_split_can_be_distilled(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for c, count in (("a", 3), ("b", 5), ("c", 2)):
        (tmp_path / "images" / c).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (12, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / c / f"{i}.png")
    folder = tmp_path / "set"
    args = ["distill", "--data", str(tmp_path / "images"), *TINY[2:], "--ipc", "2", "--out", str(folder)]
    assert main(args) == 0
    distilled = Distilled.load(folder)
    assert (distilled.class_names, distilled.images.shape) == (("a", "b", "c"), (6, 3, 12, 20))
