"""Files that earlier versions wrote: they open as what they were, and the same set still gives the same bytes.

The files are never written again. A change of the layout adds a folder and a number.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from artefact_sets import same

import ddsdk as dd
from ddsdk.foundation.unit import open_result

GOLDEN = Path(__file__).parent / "golden"
IDS = {
    "format-1": "8c075a1febe190381da262a055124528f3899b3c19f88562e52b894ade33b050",
    "format-2": "ec7940b851ac3a4f28add7a1a4157279c6c5ebc9a8e68f170f9e4d242fb0ba37",
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


@pytest.mark.parametrize("name", IDS)
def test_the_same_set_still_gives_the_same_bytes(name, tmp_path):
    found = dd.Distilled.load(GOLDEN / name)
    found.save(tmp_path / "again")
    for file in ("set.safetensors", "manifest.json"):
        assert (tmp_path / "again" / file).read_bytes() == (GOLDEN / name / file).read_bytes()
    same(dd.Distilled.from_bytes(found.to_bytes()), found)


def test_an_old_result_of_a_unit_opens():
    unit, result = open_result("79b07c3810ed50a00e4c9c2fdfad0c5e", (GOLDEN / "result.unit").read_bytes())
    assert (unit.kind, unit.config["name"], result) == ("echo", "golden", b"what came out")
