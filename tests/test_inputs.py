"""Each form of data of the table in the docs is read as the table has it, or refused with its words."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from input_table import BY_CLASS, IN_TURN, INPUTS, LABELS, PIXELS, RGB, UNIT, Items, markdown, write_folder

import ddsdk as dd
from ddsdk.data import ClassChoice, RealData, Resize, load, load_pair
from ddsdk.judging import TrainingSet, network_accuracy

PAGE = Path(__file__).parent.parent / "docs" / "guides" / "own-data.md"


@pytest.mark.parametrize("entry", INPUTS, ids=lambda entry: f"{entry.group}: {entry.form}")
def test_each_form_of_data(entry, tmp_path, caplog):
    data = entry.make(tmp_path)
    caplog.clear()
    caplog.set_level(logging.INFO, "ddsdk")
    if entry.refusal:
        with pytest.raises((ValueError, TypeError)) as raised:
            load(data, **entry.options)
        assert entry.refusal in str(raised.value)
        return
    real = load(data, **entry.options)
    assert real.image_shape == entry.shape
    assert real.class_names == entry.classes
    assert real.labels.tolist() == entry.labels
    if entry.shape == RGB and entry.labels in (IN_TURN, BY_CLASS) and "distilled" not in entry.note:
        order = torch.arange(12) if entry.labels == IN_TURN else torch.tensor(LABELS).argsort(stable=True)
        torch.testing.assert_close(real.unit_images(), torch.tensor(UNIT).permute(0, 3, 1, 2)[order], atol=1e-6, rtol=0)
    # The last note is the summary; each conversion has one note.
    *notes, summary = [record.getMessage() for record in caplog.records if record.name == "ddsdk"]
    items = f"{len(real)} {'images' if real.pictures else 'items'} {'x'.join(map(str, entry.shape))}"
    assert summary.startswith(f"train: {items} of {len(entry.classes)} classes")
    assert len(notes) == bool(entry.note) + notes_of_files(entry) and entry.note in "\n".join(notes)


def notes_of_files(entry):
    """Number of notes beyond the first: a left out picture is named in a line of its own."""
    return int("unreadable and left out" in entry.note) + int(entry.group == "text")


def test_the_table_is_large_and_stands_in_the_docs():
    assert len(INPUTS) >= 40
    assert markdown() in PAGE.read_text()


# ---- both splits


@pytest.fixture
def notes(caplog):
    caplog.set_level(logging.INFO, "ddsdk")
    return lambda: "\n".join(record.getMessage() for record in caplog.records if record.name == "ddsdk")


@pytest.mark.parametrize(
    ("train", "test", "ids"),
    [
        # Labels of the test split: as they are given, and as positions in the classes of the train split.
        (LABELS + 1, [3, 1, 1], [2, 0, 0]),
        (LABELS * 5, [10, 10, 5], [2, 2, 1]),
        ([f"class {c}" for c in LABELS], ["class 2", "class 0", "class 0"], [2, 0, 0]),
        (LABELS, [2, 0, 2], [2, 0, 2]),
        (np.eye(3)[LABELS], [2, 0, 2], [2, 0, 2]),
    ],
    ids=["1..K", "gaps", "names", "ids", "rows"],
)
def test_test_labels_have_the_meaning_of_train_labels(train, test, ids, notes):
    _, held_out = load_pair((PIXELS, train), (PIXELS[:3], test))
    assert held_out.labels.tolist() == ids and held_out.num_classes == 3 and 0 in held_out.class_sizes
    assert "test has no images of 1 classes: " in notes()


def test_labels_of_another_meaning_are_refused():
    names = ["3", "1", "2"]
    with pytest.raises(ValueError, match=r"labels of test must be the names .* of train, got 1"):
        load_pair((PIXELS, [names[c] for c in LABELS]), (PIXELS[:3], [1, 2, 2]))
    with pytest.raises(ValueError, match=r"classes of test must be among those of train.*'4' in item 1"):
        load_pair((PIXELS, LABELS + 1), (PIXELS[:3], [1, 4, 2]))
    with pytest.raises(ValueError, match=r"labels of test must lie in 0\.\.2.*got \(0, 3\)"):
        load_pair((PIXELS, [f"class {c}" for c in LABELS]), (PIXELS[:3], [0, 3, 2]))


def test_folders_of_a_test_split_may_lack_classes_and_messages_name_the_split(tmp_path, notes):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", PIXELS[:6], classes=("cat", "eel"))
    train, test = load_pair(tmp_path)
    assert test.class_names == train.class_names and test.class_sizes == (3, 0, 3) and test.held_out
    assert torch.equal(test.labels, load(tmp_path, split="test").labels)
    assert "test has no images of 1 classes: dog" in notes() and "train: 12 images" in notes()
    (tmp_path / "test" / "eel" / "torn.png").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"all items of test must .* 1 of 7 unreadable"):
        load_pair(tmp_path)


def test_a_class_that_train_lacks_names_the_way_out():
    items = Items([(PIXELS[i], int(c)) for i, c in enumerate(LABELS)], ["cat", "dog", "eel", "fox"])
    with pytest.raises(ValueError, match=r"choose the others by classes=.* got no image of class 3 \('fox'\)"):
        load(items)
    assert load(items, classes=["eel", "cat"]).class_sizes == (4, 4)


def test_texts_of_both_splits_have_the_vocabulary_of_train(tmp_path):
    words = [["good", "fine", "great"], ["bad", "awful", "poor"]]
    for split, extra in (("train", "film"), ("test", "film unseen")):
        rows = [f"{words[i % 2][i % 3]} {words[i % 2][(i + 1) % 3]} {extra},{'ab'[i % 2]}" for i in range(12)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    train, test = load_pair(tmp_path, text_column="text")
    assert torch.equal(train.images, test.images) and not train.pictures and test.class_names == ("a", "b")
    assert train.reading == test.reading and train.reading["vocabulary"]["words"] == 7
    assert torch.equal(load_pair(tmp_path / "train.csv", tmp_path / "test.csv")[1].images, test.images)


# ---- what a set remembers


def test_the_reading_survives_copies_and_is_read_back(tmp_path):
    home = write_folder(tmp_path / "zoo")
    real = load(home, resize=Resize(4, 8, "pad"), classes={"land": ["cat", "dog"], "sea": ["eel"]})
    copies = (real, real.subset(torch.arange(12)), real.to("cpu"), real.with_mirror_safe(True))
    for copy in (*copies, *real.split(0.5, torch.Generator())):
        assert Resize.from_state(copy.description["resize"]) == Resize(4, 8, "pad")
        assert ClassChoice.from_state(copy.description["classes"]).names == ("land", "sea")
    assert real.name == "zoo (2 chosen classes)" and load(home).reading == {}


@pytest.mark.parametrize(
    "value", [[], ["a"], ["a", "a"], "a", "a,a", "x=a,b;y=b", "x=;y=b", "=a;b", {"x": [], "y": ["a"]}], ids=str
)
def test_choices_of_classes_are_checked(value):
    with pytest.raises(ValueError, match="classes must"):
        ClassChoice.of(value)


@pytest.mark.parametrize("state", [None, {}, "ab", ["a", "b"], [["a", "b"], ["c", "d"]], [["a", [1]], ["b", ["c"]]]])
def test_states_of_choices_are_checked(state):
    with pytest.raises(ValueError, match=re.escape("classes must be a list of pairs")):
        ClassChoice.from_state(state)


def test_train_data_have_every_class():
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 0])
    options = {"class_names": ("a", "b"), "preprocess": load("digits").preprocess}
    with pytest.raises(ValueError, match="no image of class 1"):
        RealData(images, labels, **options)
    held_out = RealData(images, labels, **options, held_out=True)
    assert held_out.to("cpu").class_sizes == (2, 0) and len(held_out.of_class(1, 5, torch.Generator()).x) == 0


def test_judges_take_test_data_without_a_class():
    train, test = load_pair((PIXELS, LABELS), (PIXELS[:2], LABELS[:2]))
    protocol = dd.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
    batch = train.mixed(12, dd.generator(0))
    assert test.class_sizes == (1, 1, 0)
    assert 0 <= network_accuracy(TrainingSet(batch, protocol), test, 0, rng=dd.generator(1)) <= 1
