"""The page of a folder of sets: accuracies beside real images, commands, filters, and what a browser shows of it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import torch

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.experiments import read_sets, repeat_commands, sets_page
from ddsdk.experiments.set_scores import set_accuracies


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """A folder with a scored set, one without scores, one of other code, and a damaged one."""
    folder = tmp_path_factory.mktemp("board")
    real = dd.load("digits")
    command = ["distill", "--data", "digits", "--recipe", "dm", "--ipc", "1", "--steps", "2", "--real-batch", "4"]
    command += ["--width", "4", "--image-lr", "0.5", "--anneal", "--seed", "3"]
    assert main([*command, "--out", str(folder / "dm-1")]) == 0
    judge = ["--repeats", "2", "--epochs", "3", "--width", "4", "--baselines", "random,k-means", "--protocol", "both"]
    assert main(["evaluate", str(folder / "dm-1"), "--data", "digits", *judge]) == 0
    made = dd.distill(dd.BASELINES["random"](ipc=2), real)
    made.save(folder / "inner" / "random-2")
    dd.to_npz(made, folder / "other.npz")
    damaged = folder / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    return folder


def test_sets_are_found_with_their_scores_and_real_images(board, capsys):
    entries = {entry.path.name: entry for entry in read_sets(board)}
    assert set(entries) == {"dm-1", "random-2"}
    assert {record["score"]["name"] for record in entries["dm-1"].baselines} == {"random", "k-means"}
    assert not entries["random-2"].scores


def test_the_gain_is_over_random_images_under_the_same_protocol(board):
    entries = read_sets(board)
    (entry,) = (entry for entry in entries if entry.path.name == "dm-1")
    page = sets_page([entry])
    means = {}
    for record in (*entry.scores, *entry.baselines):
        if record["score"]["protocol"].startswith("published"):
            means[record["score"]["name"]] = 100 * sum(record["score"]["accuracies"]) / 2
    values = [float(v) for v in re.findall(r'class="number[^"]*" data-value="([-\d.]+)"', page)]
    hard, gain, best, *_ = values
    assert hard == pytest.approx(means["dm"])
    assert gain == pytest.approx(means["dm"] - means["random"])
    assert best == pytest.approx(max(means["random"], means["k-means"]))


def test_the_command_of_a_row_makes_the_same_set(board, tmp_path, monkeypatch):
    entries = read_sets(board)
    (entry,) = (entry for entry in entries if entry.path.name == "dm-1")
    make, evaluate = repeat_commands(entry)
    scoring = "--epochs 3 --repeats 2 --width 4 --baselines random,k-means"
    assert evaluate == f"ddsdk evaluate dm-1 --data digits --protocol both {scoring}"
    monkeypatch.chdir(tmp_path)
    assert main(make.split()[1:]) == 0
    assert dd.Distilled.load(tmp_path / "dm-1").content_id == entry.distilled.content_id
    assert main(evaluate.split()[1:]) == 0
    (again,) = read_sets(tmp_path)
    assert set_accuracies([again]) == set_accuracies([entry])
    unscored = next(entry for entry in entries if entry.path.name == "random-2")
    assert repeat_commands(unscored)[1].endswith("--protocol both")


def test_the_command_of_an_imported_set_makes_the_same_set(tmp_path, monkeypatch):
    real = dd.load("digits")
    chosen = dd.distill(dd.BASELINES["random"](ipc=1), real)
    monkeypatch.chdir(tmp_path)
    torch.save({"data": [[chosen.images, chosen.owner], [0 * chosen.images, chosen.owner]]}, "res_DM_x.pt")
    options = ["--experiment", "0", "--method", "mtt", "--learned-lr", "0.03", "--labels", "class-major"]
    assert main(["import", "res_DM_x.pt", "--data", "digits", *options, "--out", "sets/one"]) == 0
    (entry,) = read_sets(tmp_path / "sets")
    assert main(repeat_commands(entry)[0].split()[1:]) == 0
    assert dd.Distilled.load("one").content_id == entry.distilled.content_id


def test_sets_of_the_same_data_stand_under_the_protocol_that_most_of_them_share(tmp_path):
    train, test = dd.load_pair("digits")
    short = lambda lr, epochs=1: dd.TrainingProtocol(  # noqa: E731
        name="published, short", epochs=epochs, networks=1, lr=lr, network_options={"width": 4}
    )
    for name, rates in {"random": (0.01, 0.5), "k-means": (0.01,), "herding": (0.5, 0.02), "means": (0.01,)}.items():
        made = dd.distill(dd.BASELINES[name](ipc=1), train)
        made.save(tmp_path / name)
        for lr in rates:
            dd.evaluate(made, test, short(lr), results=tmp_path / f"{name}-results")
    # Three sets share the rate 0.01, and two the rate 0.5; a longer training of one set counts for nothing.
    dd.evaluate(made, test, short(0.01, 2), results=tmp_path / "means-results")
    found = dict(zip(("herding", "k-means", "means", "random"), set_accuracies(read_sets(tmp_path)), strict=True))
    assert {name: (one.common, one.protocol.lr) for name, one in found.items()} == {
        "herding": (False, 0.5),
        "k-means": (True, 0.01),
        "means": (True, 0.01),
        "random": (True, 0.01),
    }
    page = sets_page(read_sets(tmp_path))
    assert page.count("convnet (width 4), 1 epochs, rate 0.5, no augmentation") == 1


def test_the_page_loads_nothing_and_allows_its_own_script_alone(board):
    page = sets_page(read_sets(board), title="<script>x</script>")
    assert "<script>x" not in page
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_the_command_writes_the_page(board, tmp_path, capsys):
    assert main(["leaderboard", str(board), "--html", str(tmp_path / "page.html")]) == 0
    assert "2 sets, 1 of them with scores" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["leaderboard", str(tmp_path / "empty"), "--html", str(tmp_path / "none.html")]) == 2
    assert "folder must hold distilled sets" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_runs_the_script_and_shows_all_rows(board, tmp_path, width):
    page = tmp_path / "page.html"
    page.write_text(sets_page(read_sets(board)))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout
    assert ">2 of 2 sets<" in dom
