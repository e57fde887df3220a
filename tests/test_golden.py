"""Files that earlier versions wrote: they open as what they were, and the same set still gives the same bytes.

The files are never written again, but for the cards, which no hash covers: they are those that this version writes. A
change of the layout adds a folder and a number.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from artefact_sets import CERTIFICATE, same

import ddsdk as dd
from ddsdk.foundation.unit import open_result
from ddsdk.running import read_checkpoint

GOLDEN = Path(__file__).parent / "golden"
IDS = {
    "format-1": "8c075a1febe190381da262a055124528f3899b3c19f88562e52b894ade33b050",
    "format-2": "ec7940b851ac3a4f28add7a1a4157279c6c5ebc9a8e68f170f9e4d242fb0ba37",
    "format-3": "74be70a8459265bef8c108130040529b28957fd3103cb98e3884e0805dd8e7be",
    "format-4": "37df22650f080ee902efd48a6cd7d451c8a763d13047e071d4e75ffb03458a41",
}


@pytest.mark.parametrize("name", IDS)
def test_an_old_set_opens_as_what_it_was(name):
    found = dd.Distilled.load(GOLDEN / name)
    assert found.content_id == IDS[name]
    assert found.manifest.format == int(name[-1])
    assert tuple(found.images.shape) == (3, 3, 4, 5)
    assert found.class_names == ("class 0", "class 1", "class 2")
    assert float(found.unit_images().min()) >= 0
    if name == "format-2":
        assert (found.label_space, found.learned_lr, found.learned_momentum) == ("scores", (0.5, 0.25), (0.0, 0.5))
        assert found.preprocess.to_state()[0]["space"] == "zca"
        assert torch.equal(found.owner, torch.arange(3))
    assert (found.certificate == CERTIFICATE) == (name == "format-3")
    if name == "format-4":
        assert found.edge_index.tolist() == [[0, 5, 2], [5, 0, 3]]
        assert found.edge_weight.tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("name", IDS)
def test_the_same_set_still_gives_the_same_bytes(name, tmp_path):
    found = dd.Distilled.load(GOLDEN / name)
    found.save(tmp_path / "again")
    for file in ("set.safetensors", "manifest.json", "README.md"):
        assert (tmp_path / "again" / file).read_bytes() == (GOLDEN / name / file).read_bytes()
    same(dd.Distilled.from_bytes(found.to_bytes()), found)


def test_an_old_result_of_a_unit_opens():
    unit, result = open_result("79b07c3810ed50a00e4c9c2fdfad0c5e", (GOLDEN / "result.unit").read_bytes())
    assert (unit.kind, unit.config["name"], result) == ("echo", "golden", b"what came out")


def test_an_old_checkpoint_opens():
    state = read_checkpoint(GOLDEN / "checkpoint-2.safetensors", {"recipe": "dm", "ipc": 1})
    assert torch.equal(state.pop("image"), torch.linspace(0, 1, 6).view(2, 3))
    assert state == {"index": 7, "list": [None, 0.5, "text", (1, True)]}
