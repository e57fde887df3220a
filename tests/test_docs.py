"""Every example and every snippet of README and docs runs."""

import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from ddsdk.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    """Return the Python and shell blocks of a page in their order, as pairs (language, text)."""
    return re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


# Libraries of some snippets that are no part of any extra: where one is missing, its snippets are left out.
LIBRARIES = ("lightning", "skorch")


def used_libraries(text):
    """Return those of `LIBRARIES` that a snippet imports."""
    return [name for name in LIBRARIES if re.search(rf"^(?:import|from) {name}\b", text, re.MULTILINE)]


SNIPPETS = {page.relative_to(ROOT).as_posix(): found for page in PAGES if (found := blocks(page))}


@pytest.mark.slow
@pytest.mark.parametrize("page", SNIPPETS)
def test_the_snippets_of_a_page_run_in_their_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absent = set()
    for language, text in SNIPPETS[page]:
        libraries = used_libraries(text)
        if missing := {name for name in libraries if importlib.util.find_spec(name) is None}:
            absent |= missing
            continue
        if language == "python":
            with warnings.catch_warnings():
                if libraries:  # they call deprecated functions of torch, and give advice as warnings
                    warnings.simplefilter("ignore")
                exec(compile(text, "snippet", "exec"), {})
            continue
        for line in filter(None, text.splitlines()):
            program, *args = shlex.split(line)
            assert program == "ddsdk"
            assert main(args) == 0, line
    if absent:
        pytest.skip(f"all snippets ran but those of {', '.join(sorted(absent))}, which are not installed")


def test_the_start_and_every_guide_and_integration_has_snippets():
    without = {"docs/guides/choose.md"}
    pages = {
        f"docs/{folder}/{p.name}"
        for folder in ("guides", "integrations")
        for p in (ROOT / "docs" / folder).glob("*.md")
    }
    assert (pages | {"README.md", "docs/start.md"}) - without <= set(SNIPPETS)


def test_links_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "distil_digits",
        "swap_one_part",
        "leaderboard",
        "own_data",
        "text",
        "continual_replay",
        "federated_sets",
        "private_release",
        "robust_set",
        "backdoor_scan",
        "graph_condensation",
        "explain_prediction",
        "recommend_users",
        "share_release",
        "tileable_texture",
        "finetune_backbone",
        "notebooks/photographs",
        "notebooks/train_elsewhere",
        "notebooks/compare_methods",
    ],
)
def test_examples_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_example_with_ray_runs(tmp_path):
    """In a process of its own, for Ray leaves open files in the one that starts it."""
    command = [sys.executable, str(ROOT / "examples" / "nas_ranking.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the same scores on Ray: True" in done.stdout


def _write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmentation", "mix"), [("", 0.0), ("color_crop_cutout_scale_rotate", 0.0), ("color+crop_rotate", 0.5)]
)
def test_the_script_without_ddsdk_reaches_the_accuracy_that_ddsdk_reports(tmp_path, augmentation, mix):
    import dataclasses

    import ddsdk

    train, test = ddsdk.load_pair("digits")
    protocol = ddsdk.TrainingProtocol(
        network_options={"width": 16}, networks=3, epochs=100, lr=0.05, augmentation=augmentation, mix=mix
    )
    chosen = ddsdk.distill(ddsdk.BASELINES["herding"](ipc=10), train, make_student=None, seed=ddsdk.generator(0))
    chosen = dataclasses.replace(chosen, protocol=protocol.to_dict())
    chosen.save(tmp_path / "set")
    images = (test.images * 255).round().to(torch.uint8)[:, 0].numpy()
    _write_idx(tmp_path / "images", images)
    _write_idx(tmp_path / "labels", test.labels.numpy())
    script = ROOT / "examples" / "train_without_ddsdk.py"
    assert "import ddsdk" not in script.read_text()
    command = [sys.executable, str(script), *(str(tmp_path / n) for n in ("set", "images", "labels"))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    theirs = float(done.stdout.split()[-2])
    ours = chosen.evaluate(test, protocol)
    assert 100 * ours.mean > 85
    assert abs(theirs - 100 * ours.mean) < 4
