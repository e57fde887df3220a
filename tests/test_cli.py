"""The command line, run in this process on scikit-learn's digits and on small arrays."""

import json

import numpy as np
import pytest
import torch

from ddsdk.cli import main
from ddsdk.distilled import Distilled

FAST = ["--data", "digits", "--threads", "1"]
TINY = [*FAST, "--width", "4", "--steps", "2", "--real-batch", "4", "--augmentation", ""]


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
    for word in ("dm", "random", "herding", "k-means", "convnet (width 4)", "mlp", "published, 2 epochs"):
        assert word in said
    files = sorted((made / "results").glob("*.json"))
    assert len(files) == 8
    before = [f.stat().st_mtime_ns for f in files]
    assert main([*args, "--width", "4"]) == 0
    assert [f.stat().st_mtime_ns for f in files] == before


def test_report_puts_scores_beside_the_published_figures(made, tmp_path, capsys):
    main(["evaluate", str(made), *FAST, "--repeats", "1", "--epochs", "1", "--width", "4"])
    html, markdown = tmp_path / "page.html", tmp_path / "table.md"
    assert main(["report", str(made), "--html", str(html), "--markdown", str(markdown)]) == 0
    assert "data:image/png;base64" in html.read_text()
    lines = markdown.read_text().splitlines()
    assert "published" in lines[0]
    assert any("| dm |" in line for line in lines)


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


def test_demo_shows_everything(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "demo"), "--steps", "3"]) == 0
    said = capsys.readouterr().out
    for word in ("dm", "random", "herding", "k-means", "full training set", "sheet.png", "report.html"):
        assert word in said
    assert "ddsdk.Distilled.load(" in said
    assert (tmp_path / "demo" / "report.html").exists()


def test_bench_prints_the_speed_table(tmp_path, capsys):
    out = tmp_path / "speed.json"
    small = ["--widths", "4", "--real-batch", "8", "--ipc", "1", "--repeats", "1", "--recipes", "dm"]
    assert main(["bench", "--table", "speed", *small, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {row["step"] for row in found["steps"]} == {"dm", "dc"}
    assert found["memory"][0]["recipe"] == "dm"
    assert "matching steps" in capsys.readouterr().out


BAD = {
    "unknown recipe": (["distill", *TINY, "--recipe", "dmm"], "did you mean 'dm'?"),
    "ipc 0": (["distill", *TINY, "--ipc", "0"], "ipc must be at least 1, got 0"),
    "ipc above a class": (["distill", *TINY, "--ipc", "4000"], "images of class"),
    "unknown data": (["distill", *TINY[2:], "--data", "digit"], "digits"),
    "unknown start": (["distill", *TINY, "--start", "kmeans"], "did you mean 'k-means'?"),
    "unknown augmentation": (["distill", *TINY[:-1], "flipp"], "did you mean 'flip'?"),
    "unknown network": (["distill", *TINY, "--network", "convnets"], "did you mean 'convnet'?"),
    "no steps": (["distill", *TINY, "--steps", "0"], "steps must be at least 1, got 0"),
    "no threads": (["distill", *TINY, "--threads", "0"], "threads must be at least 1, got 0"),
}


@pytest.mark.parametrize("args, message", BAD.values(), ids=BAD)
def test_bad_input_is_named(tmp_path, capsys, args, message):
    folder = tmp_path / "set"
    assert main([*args, "--out", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "manifest.json").exists()


def test_a_used_folder_is_refused_without_resume(made, capsys):
    assert main(["distill", *TINY, "--ipc", "1", "--out", str(made)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["distill", *TINY, "--ipc", "1", "--out", str(made), "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out


def test_resume_under_another_configuration_names_the_keys(made, tmp_path, capsys):
    assert main(["distill", *TINY, "--ipc", "2", "--seed", "3", "--out", str(made), "--resume"]) == 2
    said = capsys.readouterr().err
    assert "ipc (was 1, now 2)" in said
    assert "seed (was 0, now 3)" in said


def test_evaluate_refuses_other_data(made, tmp_path, capsys):
    rng = np.random.default_rng(0)
    from PIL import Image

    for split in ("train", "test"):
        for c in "ab":
            (tmp_path / split / c).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 255, (9, 9), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / c / f"{i}.png")
    args = ["evaluate", str(made), "--data", str(tmp_path), "--repeats", "1", "--epochs", "1"]
    assert main(args) == 2
    assert "must have" in capsys.readouterr().err


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
    assert distilled.class_names == ("a", "b", "c")
    assert distilled.images.shape == (6, 3, 12, 20)
