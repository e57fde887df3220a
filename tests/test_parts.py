"""Unions and parts of sets, and datasets of their items."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

import ddsdk as dd
from ddsdk.cli import main


@pytest.fixture(scope="module")
def distilled():
    return dd.distill(dd.BASELINES["random"](ipc=3), dd.load("digits"))


def test_a_part_has_the_chosen_items_in_their_order(distilled):
    part = distilled.select([7, 2, 7])
    assert torch.equal(part.images, distilled.images[[7, 2, 7]])
    assert torch.equal(part.owner, distilled.owner[[7, 2, 7]])
    assert part.stored_floats == 3 * 64
    assert distilled.select(torch.arange(30)).content_id == distilled.content_id


@pytest.mark.parametrize("index", [[], [30], [-1], [[0, 1]]])
def test_positions_outside_of_the_set_are_refused(distilled, index):
    with pytest.raises(ValueError, match=r"index must hold positions in 0..29"):
        distilled.select(index)


def test_a_dataset_has_class_ids_and_a_transform(distilled):
    items = distilled.as_dataset("ids", transform=lambda image: image + 1)
    images, ids = next(iter(DataLoader(items, batch_size=30)))
    assert ids.dtype == torch.int64
    assert torch.equal(ids, distilled.owner)
    assert torch.equal(images, distilled.images + 1)
    assert torch.equal(distilled.as_dataset("hard")[4][1], torch.eye(10)[distilled.owner[4]])


def test_sets_are_merged_selected_and_continued(distilled, tmp_path, capsys):
    one, two, union, part = (str(tmp_path / name) for name in ("one", "two", "union", "part"))
    distilled.save(one)
    distilled.select(range(10)).save(two)
    assert main(["merge", one, two, "--out", union]) == 0
    assert len(dd.Distilled.load(union)) == 40
    assert main(["select", union, "--per-class", "2", "--out", part]) == 0
    assert dd.Distilled.load(part).owner.bincount().tolist() == [2] * 10
    command = ["distill", "--data", "digits", "--recipe", "dm", "--ipc", "1", "--steps", "1", "--real-batch", "4"]
    assert main([*command, "--width", "4", "--start-from", part, "--out", str(tmp_path / "more")]) == 0
    capsys.readouterr()
    assert main(["merge", one, "--out", union]) == 2
    assert "sets must be two or more folders" in capsys.readouterr().err
    assert main(["select", one, "--per-class", "0", "--out", part]) == 2
    assert "per_class must be at least 1" in capsys.readouterr().err
