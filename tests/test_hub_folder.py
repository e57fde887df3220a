"""The folder of a hub repository: what `datasets`, the hub's card classes and readers of Croissant find in it."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
import torch
import yaml
from artefact_sets import HOSTILE, make_set
from PIL import Image

import ddsdk as dd
from ddsdk.artefact.card import card_markdown
from ddsdk.artefact.croissant import croissant_json
from ddsdk.artefact.hub import PICTURES, hub_files, hub_folder
from ddsdk.artefact.sheet import to_pixels
from ddsdk.foundation.text import unique_names

pytest.importorskip("pyarrow")

SETS = {
    "hard": {},
    "soft": {"soft": True, "shape": (1, 4, 5)},
    "scores": {"label_space": "scores", "protocol": {"loss": "mse"}},
    "twins": {"class_names": ("cat", "cat", "dog")},
    "hostile": {"classes": len(HOSTILE), "class_names": HOSTILE},
}
# Entries that the specification requires of a data set, without those that a set alone does not have.
REQUIRED = {"@context", "@type", "conformsTo", "description", "name", "distribution"}
PUBLISHED = {"url", "creator", "license", "datePublished"}


def graph():
    return make_set(edge_index=torch.tensor([[0, 5], [5, 0]]), edge_weight=torch.ones(2))


def load_dataset(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("name", SETS)
def test_datasets_reads_pictures_labels_and_exact_label_rows(name, tmp_path):
    distilled = make_set(**SETS[name])
    hub_folder(distilled, tmp_path / "set")
    splits = load_dataset(tmp_path / "set", tmp_path)
    assert list(splits) == ["train"]
    rows = splits["train"]
    assert rows.column_names == ["image", "label", distilled.label_space]
    assert rows.features["label"].names == unique_names(distilled.class_names)
    assert rows["label"] == distilled.owner.tolist()
    assert np.array_equal(np.array(rows[distilled.label_space][:], np.float32), distilled.labels.numpy())
    pixels = to_pixels(distilled.unit_images())
    assert all(np.array_equal(np.asarray(row["image"]), pixels[i]) for i, row in enumerate(rows))
    train = dd.load(splits)
    assert torch.equal(train.labels, distilled.owner)


def test_a_short_parquet_file_is_refused(tmp_path):
    """The card states the number of rows."""
    hub_folder(make_set(), tmp_path / "set")
    dd.to_parquet(make_set(ipc=1), tmp_path / "set" / PICTURES)
    with pytest.raises(Exception, match="num_examples=6"):
        load_dataset(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("make", [make_set, graph])
def test_datasets_takes_no_manifest_for_a_row(make, tmp_path):
    make().save(tmp_path / "set")
    missing = "written-by-ddsdk-export-to-hub" if make is make_set else "this-set-has-no-pictures"
    with pytest.raises(FileNotFoundError, match=missing):
        load_dataset(tmp_path / "set", tmp_path)


def test_datasets_shows_no_pictures_of_a_set_that_was_replaced(tmp_path):
    hub_folder(make_set(), tmp_path / "set")
    make_set(seed=1).save(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="written-by-ddsdk-export-to-hub"):
        load_dataset(tmp_path / "set", tmp_path)


def test_a_graph_has_no_pictures_on_the_hub(tmp_path):
    files = hub_files(graph())
    assert PICTURES not in files
    assert json.loads(files["croissant.json"])["recordSet"] == []
    assert b"viewer: false" in files["README.md"]
    assert PICTURES not in hub_files(make_set(shape=(2, 4, 5)))


def head(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("pictures", [None, PICTURES])
def test_the_card_classes_of_the_hub_read_the_head(name, pictures):
    hub = pytest.importorskip("huggingface_hub")
    distilled = make_set(**SETS[name])
    text = card_markdown(distilled.manifest, pictures=pictures, licence="mit", repo="me/digits")
    card = hub.DatasetCard(text)
    assert card.text.strip() == text.split("---\n", 2)[2].strip()
    assert card.data.to_dict() == head(text)
    assert hub.DatasetCardData(**head(text)).to_dict() == head(text)
    # A card that the class writes anew says the same.
    assert hub.DatasetCard(f"---\n{card.data.to_yaml()}\n---\n").data.to_dict() == head(text)
    assert (card.data.license, card.data.pretty_name) == ("mit", "DM of digits")
    (config,) = card.data.configs
    assert (config["data_files"][0]["path"] == PICTURES) == (pictures is not None)
    if pictures:
        datasets = pytest.importorskip("datasets")
        found = datasets.DatasetInfo._from_yaml_dict(card.data.dataset_info)
        label = datasets.ClassLabel(names=unique_names(distilled.class_names))
        assert found.features["label"] == label
        assert found.splits["train"].num_examples == len(distilled)


def test_a_card_of_the_hub_says_where_the_exact_numbers_are():
    card = card_markdown(make_set().manifest, pictures=PICTURES, repo="me/digits")
    assert "The exact numbers are in `set.safetensors`." in card
    assert 'load_dataset("me/digits", split="train")' in card
    assert "viewer" not in card
    plain = card_markdown(make_set().manifest)
    assert "`ddsdk export --to hub` writes a folder with pictures" in plain
    assert head(plain)["viewer"] is False


def croissant_faults(document, files):
    """Rules of the specification 1.0: required entries, unique ids, references that lead to an id, hashes of files."""
    entries = document["distribution"] + document["recordSet"]
    fields = [field for entry in document["recordSet"] for field in entry["field"]]
    ids = [entry["@id"] for entry in entries + fields]
    faults = [f"{name} is required" for name in sorted(REQUIRED - set(document))]
    faults += [f"{name} is twice there" for name in sorted({i for i in ids if ids.count(i) > 1})]
    if document["conformsTo"] != "http://mlcommons.org/croissant/1.0" or document["@type"] != "sc:Dataset":
        faults.append("not of version 1.0")
    for entry in document["distribution"]:
        content = files[entry["@id"]]
        if entry["sha256"] != hashlib.sha256(content).hexdigest() or entry["contentSize"] != f"{len(content)} B":
            faults.append(f"{entry['@id']} has another content")
        if not entry["contentUrl"].endswith(entry["@id"]) or "/" not in entry["encodingFormat"]:
            faults.append(f"{entry['@id']} has no address or no type")
    for field in fields:
        used = [field["references"]["field"]["@id"]] if "references" in field else []
        used += [field["source"]["fileObject"]["@id"]] if "source" in field else []
        faults += [f"{field['@id']} refers to {name}" for name in used if name not in ids]
        if field["dataType"] not in ("sc:ImageObject", "sc:Integer", "sc:Float", "sc:Text"):
            faults.append(f"{field['@id']} has the type {field['dataType']}")
    return faults


@pytest.mark.parametrize("name", SETS)
def test_croissant_follows_the_specification(name):
    distilled = make_set(**SETS[name])
    files = hub_files(distilled)
    document = json.loads(files["croissant.json"])
    assert croissant_faults(document, files) == []
    assert not PUBLISHED & set(document)
    images = {field["source"]["extract"]["column"]: field for field in document["recordSet"][1]["field"]}
    assert list(images) == ["image", "label", distilled.label_space]
    assert [name for name, field in images.items() if field.get("repeated")] == [distilled.label_space]
    names = [row["classes/name"] for row in document["recordSet"][0]["data"]]
    assert names == unique_names(distilled.class_names)


def test_croissant_of_a_repository_states_where_it_is():
    page = "https://hub.example/datasets/me/digits"
    files = {"manifest.json": b"{}", "set.safetensors": b"1"}
    content = croissant_json(
        make_set().manifest, files, pictures=None, page=page, licence="mit", published="2026-01-31"
    )
    document = json.loads(content)
    assert set(document) >= PUBLISHED
    assert croissant_faults(document, files) == []
    assert document["creator"]["url"] == "https://hub.example/me"
    assert [entry["contentUrl"] for entry in document["distribution"]] == [
        f"{page}/resolve/main/{name}" for name in files
    ]


# mlcroissant calls deprecated functions of rdflib and pandas.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["hard", "soft", "scores"])
def test_a_reader_of_croissant_gives_the_rows(name, tmp_path):
    """With mlcroissant, where it is installed: the file has no error, and its records are the set."""
    reader = pytest.importorskip("mlcroissant")
    distilled = make_set(**SETS[name])
    hub_folder(distilled, tmp_path / "set")
    found = reader.Dataset(str(tmp_path / "set" / "croissant.json"))
    assert list(found.metadata.ctx.issues.errors) == []
    rows = list(found.records("images"))
    assert [row["images/label"] for row in rows] == distilled.owner.tolist()
    pixels = to_pixels(distilled.unit_images())
    for i, row in enumerate(rows):
        picture = row["images/image"]
        picture = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        assert np.array_equal(np.asarray(picture), pixels[i])
        assert np.array_equal(np.array(row[f"images/{distilled.label_space}"], np.float32), distilled.labels[i].numpy())
    assert [row["classes/id"] for row in found.records("classes")] == [0, 1, 2]
    (tmp_path / "set" / PICTURES).write_bytes((tmp_path / "set" / PICTURES).read_bytes() + b"x")
    with pytest.raises(Exception, match="Download"):
        list(reader.Dataset(str(tmp_path / "set" / "croissant.json")).records("images"))
