"""`python -m benchmarks.scale`: what it prints."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from benchmarks.scale.__main__ import main


def test_the_undo_table_times_a_shared_and_a_copied_queue(tmp_path, capsys):
    out = tmp_path / "undo.json"
    small = ["--width", "4", "--queue", "3", "--repeats", "1", "--out", str(out)]
    assert main(["--table", "undo", *small]) == 0
    ((row,),) = json.loads(out.read_text())["rows"].values()
    assert (row["queue"], float(row["ratio of medians"]) > 0) == (3, True)
    assert "full queue" in capsys.readouterr().out


def test_the_classes_table_times_groups_of_classes(tmp_path):
    out = tmp_path / "classes.json"
    small = ["--width", "2", "--classes", "6", "--classes-per-step", "2", "--real-batch", "2", "--repeats", "1"]
    assert main(["--table", "classes", *small, "--out", str(out)]) == 0
    (rows,) = json.loads(out.read_text())["rows"].values()
    assert [row["classes"] for row in rows] == ["2 classes", "2 of 6 classes", "6 classes"]


@pytest.mark.parametrize("option", ["width", "queue", "classes", "classes-per-step", "ipc", "real-batch", "repeats"])
def test_bad_options_are_named(capsys, option):
    assert main([f"--{option}", "0"]) == 2
    assert f"{option.replace('-', '_')} must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_memory_table_reads_and_judges_in_pieces(tmp_path):
    for c in range(2):
        (tmp_path / "pictures" / str(c)).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (224, 224), (c, i, 0)).save(tmp_path / "pictures" / str(c) / f"{i}.jpg")
    out = tmp_path / "memory.json"
    assert main(["--table", "memory", "--folder", str(tmp_path / "pictures"), "--out", str(out)]) == 0
    ((reading, judging),) = json.loads(out.read_text())["rows"].values()
    assert (reading["images"], reading["data, MiB"]) == (40, 6)
    assert (judging["data, MiB"], float(judging["ratio"]) < 1) == (40, True)
