"""Packed sets: bytes that decode to the set, are counted as they are, and are refused when they lie."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re

import numpy as np
import pytest
import scipy.fft
import torch
from artefact_sets import CERTIFICATE, make_set
from hypothesis import given, settings
from hypothesis import strategies as st

import ddsdk as dd
from ddsdk.artefact import Cosine, Half, LowRank, PackedStorage, Palette, Tiles, Uint8, cosine, main_facts, packed_set
from ddsdk.artefact.entropy import entropy_coded, entropy_decoded
from ddsdk.artefact.manifest import decode_manifest, encode_manifest
from ddsdk.cli import main
from ddsdk.foundation import ArtifactError, canonical_json
from ddsdk.judging import compression_steps
from ddsdk.synthetic import lowest_frequencies

CODECS = (
    Uint8(),
    Half(),
    LowRank(rank=2),
    Palette(colours=4),
    Palette(colours=256),
    Cosine(height=8, width=6, kept=48, step=0.01),
    Cosine(height=8, width=6, kept=10, step=0.1),
)


def set_of(**options):
    return make_set(classes=3, ipc=4, shape=(3, 8, 6), **options)


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("form", [{}, {"soft": True}, {"zca": True}], ids=str)
def test_a_packed_set_opens_as_it_was_packed(codec, form, tmp_path):
    packed = packed_set(set_of(**form), codec)
    packed.save(tmp_path / "set")
    for again in (dd.Distilled.load(tmp_path / "set"), dd.Distilled.from_bytes(packed.to_bytes())):
        assert again.content_id == packed.content_id
        assert torch.equal(again.images, packed.images)
        assert torch.equal(again.labels, packed.labels)
    in_file = {name: entry.shape for name, entry in packed.manifest.tensors.items() if not name.startswith("zca")}
    assert set(in_file) == {"packed_images", "packed_labels"}
    assert packed.manifest.storage.bytes == sum(math.prod(shape) for shape in in_file.values())
    assert packed.manifest.format == 5


@pytest.mark.parametrize(
    ("codec", "error"),
    [(Uint8(), 0.5 / 255), (Half(), 5e-4), (Cosine(height=8, width=6, kept=48, step=0.02), 0.02 * 144**0.5 * 0.65)],
    ids=str,
)
def test_images_are_those_of_the_set_to_the_precision_of_the_codec(codec, error):
    plain = set_of()
    packed = packed_set(plain, codec)
    assert (packed.unit_images() - plain.unit_images()).abs().max() <= error + 1e-5
    assert torch.equal(packed.labels, plain.labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_coefficients_are_those_of_the_cosine_transform(channels):
    images = torch.rand(2, channels, 8, 6, generator=dd.generator("images")) * 3 - 1
    codec = Cosine(height=8, width=6, kept=48, step=0.03)
    wanted = scipy.fft.dctn(images.double().numpy() - 0.5, axes=(1, 2, 3), norm="ortho")
    by_order = wanted.reshape(2, channels, 48)[:, :, lowest_frequencies(8, 6)]
    coefficients = codec.pack(images)["coefficients"].numpy() * 0.03
    assert np.abs(coefficients - by_order).max() <= 0.65 * 0.03 + 1e-5
    kept = torch.from_numpy(wanted).reshape(2, channels, 48).clone()
    kept[:, :, lowest_frequencies(8, 6)[10:]] = 0
    smooth = scipy.fft.idctn(kept.reshape(2, channels, 8, 6).numpy(), axes=(1, 2, 3), norm="ortho") + 0.5
    few = Cosine(height=8, width=6, kept=10, step=0.03)
    # Ten coefficients of each channel, each wrong by at most 0.65 steps, add up to a pixel.
    assert np.abs(few.unpack(few.pack(images)).numpy() - smooth).max() <= 0.65 * 0.03 * (10 * channels) ** 0.5 + 1e-5


def test_large_coefficients_are_clipped_and_not_wrapped():
    codec = Cosine(height=8, width=6, kept=48, step=0.001)
    assert codec.pack(torch.ones(1, 1, 8, 6))["coefficients"].max() == 127
    assert codec.pack(torch.zeros(1, 1, 8, 6))["coefficients"].min() == -127


def test_pixels_have_the_number_of_their_nearest_colour():
    images = torch.rand(3, 3, 8, 6, generator=dd.generator("images"))
    packed = Palette(colours=5).pack(images)
    colours = packed["colours"].double()
    brightness = colours.sum(1).tolist()
    assert brightness == sorted(brightness)
    for image, numbers in zip(images.double(), packed["pixels"], strict=True):
        for row in range(8):
            for column in range(6):
                distances = ((colours - image[:, row, column]) ** 2).sum(1)
                assert distances[int(numbers[row, column])] <= distances.min() + 1e-6
    with pytest.raises(ValueError, match="items must have at least 5 different pixels, got 1"):
        Palette(colours=5).pack(torch.zeros(3, 1, 8, 6))
    with pytest.raises(ValueError, match=r"colours must lie in 2\.\.256, got 257"):
        Palette(colours=257)


@pytest.mark.parametrize("classes", [4, 300])
@pytest.mark.parametrize("kept", [1, 2, 4])
def test_the_largest_entries_of_a_label_are_kept_and_the_rest_is_shared(classes, kept):
    generator = dd.generator("labels")
    labels = torch.rand(6, classes, generator=generator).pow(8)
    labels /= labels.sum(1, keepdim=True)
    plain = dd.Distilled(
        torch.rand(6, 1, 8, 6, generator=generator),
        labels,
        class_names=tuple(map(str, range(classes))),
        preprocess=dd.Preprocess.unit(channels=1),
    )
    rows = packed_set(plain, Uint8(), kept).labels
    assert (rows.sum(1) - 1).abs().max() < 1e-5
    for row, label in zip(rows, labels, strict=True):
        largest = label.topk(kept).indices
        assert (row[largest] - label[largest]).abs().max() < 0.02
        others = torch.ones(classes, dtype=torch.bool).index_fill(0, largest, value=False)
        if others.any() and kept < classes:
            assert row[others].unique().numel() == 1
            assert abs(float(row[others].sum()) - float(label[others].sum())) < 0.004 * classes
    assert torch.equal(packed_set(plain, Uint8(), 0).labels.argmax(1), labels.argmax(1))


def test_scores_are_kept_with_their_signs():
    scores = torch.randn(12, 3, generator=dd.generator("scores")) * 4
    plain = dataclasses.replace(set_of(), labels=scores, label_space="scores")
    whole, part = packed_set(plain, Uint8()), packed_set(plain, Uint8(), 1)
    span = float(scores.max() - scores.min())
    assert (whole.labels - scores).abs().max() <= span / 255 / 2 + 1e-5
    assert torch.equal(part.labels.argmax(1), scores.argmax(1))
    means = (scores.sum(1) - scores.max(1).values) / 2
    assert (part.labels.min(1).values - means).abs().max() <= span / 255 / 2 + 1e-5


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=400), st.integers(-3, 3))
def test_entropy_coding_is_lossless_and_bounded(raw, change):
    coded = entropy_coded(raw)
    assert entropy_decoded(coded, len(raw)) == raw
    assert len(coded) <= len(raw) + 1
    if change:
        with pytest.raises(ArtifactError, match=r"coded string must hold"):
            entropy_decoded(coded, max(0, len(raw) + change) if len(raw) + change >= 0 else len(raw) + 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_of_the_streams_is_refused_or_decodes_to_a_set(position, change):
    packed = packed_set(set_of(), Cosine(height=8, width=6, kept=10, step=0.1))
    images = packed.packing.images.clone()
    images[position % len(images)] ^= change
    try:
        decoded = dataclasses.replace(packed.packing, images=images).unit_images()
    except ArtifactError as error:
        assert error.reason == "packing"
    else:
        assert decoded.shape == packed.images.shape


def changed(packed, edit):
    body = json.loads(encode_manifest(packed.manifest))
    edit(body)
    part = {k: v for k, v in body.items() if k not in ("id", "seal", "provenance")}
    body["id"] = hashlib.sha256(canonical_json(part)).hexdigest()
    body["seal"] = hashlib.sha256(canonical_json({k: v for k, v in body.items() if k != "seal"})).hexdigest()
    return canonical_json(body)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda body: body["packing"].update(images=[0, 3, 8, 6]), "images must not be empty"),
        (lambda body: body["packing"].update(kept_labels=4), r"kept_labels must lie in 0..3, got 4"),
        (lambda body: body["packing"].update(kept_labels=1), "labels must be soft with 1 stored entries"),
        (lambda body: body["storage"].update(image_floats=1), "image_floats must be a quarter of"),
        (lambda body: body.pop("packing"), "unexpected tensor names"),
        (lambda body: body["tensors"].update(images=body["tensors"]["packed_images"]), "unexpected tensor names"),
        (lambda body: body["storage"].update(bytes=10), "storage must state bytes"),
        (lambda body: body.update(format=4), "format must be 5"),
    ],
)
def test_a_manifest_that_lies_about_its_packing_is_refused(edit, message):
    packed = packed_set(set_of(), Cosine(height=8, width=6, kept=10, step=0.1))
    with pytest.raises(ArtifactError, match=message):
        decode_manifest(changed(packed, edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda body: body["packing"].update(images=[1 << 30, 3, 1 << 14, 6]), "decoded images take .*above half"),
        (lambda body: body["packing"].update(images=[12, 3, 6, 8]), "shape must end in 8, 6"),
        (lambda body: body["packing"].update(images=[13, 3, 8, 6]), "coded string must hold 390 bytes"),
        (lambda body: body["packing"].update(images=[12, 1, 8, 6]), "coded string must hold 120 bytes"),
        (lambda body: body["packing"]["codec"].update(name="zip"), "codec must be one of"),
        (lambda body: body["packing"]["codec"].update(kept=10**9), "kept must not exceed the number of pixels"),
        (lambda body: body["packing"]["codec"].update(step=0), "step must be positive"),
        (lambda body: body["packing"].update(codec={"name": "components"}), "packed tensors of known shapes"),
        (lambda body: body["packing"].update(codec={"name": "tiles", "factor": 2}), "coded string must hold"),
    ],
)
def test_a_packing_that_does_not_fit_its_bytes_is_refused(edit, message):
    packed = packed_set(set_of(), Cosine(height=8, width=6, kept=10, step=0.1))
    data = packed.to_bytes()
    head = int.from_bytes(data[:8], "little")
    manifest = changed(packed, edit)
    # The tensor file states the id of its manifest.
    old, new = packed.content_id.encode(), json.loads(manifest)["id"].encode()
    forged = len(manifest).to_bytes(8, "little") + manifest + data[8 + head :].replace(old, new)
    with pytest.raises(ArtifactError, match=message):
        dd.Distilled.from_bytes(forged)


def test_other_images_than_those_of_the_packing_are_refused():
    packed = packed_set(set_of(), Uint8())
    with pytest.raises(ValueError, match="images must be those of packing, got others; pass packing=None"):
        dataclasses.replace(packed, images=packed.images + 0.1)
    with pytest.raises(ValueError, match="labels must be those of packing"):
        dataclasses.replace(packed, labels=packed.labels.flip(1))


def test_a_set_is_unpacked_for_exports_and_unions(tmp_path):
    packed = packed_set(set_of(), Uint8())
    plain = packed.unpacked()
    assert plain.packing is None
    assert torch.equal(plain.images, packed.images)
    assert plain.manifest.format == 1
    assert plain.unpacked() is plain
    dd.to_npz(packed, tmp_path / "set.npz")
    assert np.array_equal(np.load(tmp_path / "set.npz")["images"], packed.images.numpy())
    both = packed.concat(packed)
    assert len(both) == 24
    assert both.stored_floats == both.images.numel()
    with pytest.raises(ValueError, match="distilled must be stored as pixels"):
        packed.select([0])
    assert len(plain.select([0])) == 1


def test_the_budget_of_baselines_counts_bytes():
    plain = set_of()  # 3 classes of 4 images, 144 bytes each as real images
    # 12 images of 288 bytes, of which deflate saves a tenth, are worth more than 7 real images of each class.
    assert packed_set(plain, Half()).stored_ipc in (7, 8)
    assert packed_set(plain, Cosine(height=8, width=6, kept=10, step=0.5)).stored_ipc == 1


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="codec must store one image in each item, got 'tiles'"):
        packed_set(set_of(), Tiles(factor=2))
    with pytest.raises(ValueError, match=r"kept_labels must lie in 0\.\.3, got 4"):
        packed_set(set_of(), Uint8(), 4)
    edges = {"edge_index": torch.tensor([[0], [1]]), "edge_weight": torch.ones(1)}
    with pytest.raises(ValueError, match="distilled must have no edges"):
        packed_set(set_of(**edges), Uint8())


def test_packing_keeps_a_certificate_because_it_reads_no_real_data():
    packed = packed_set(set_of(certificate=CERTIFICATE), Uint8())
    assert packed.certificate == CERTIFICATE
    assert dd.Distilled.from_bytes(packed.to_bytes()).certificate == CERTIFICATE


def test_the_card_states_the_codec():
    facts = dict(main_facts(packed_set(set_of(), Cosine(height=8, width=6, kept=10, step=0.5)).manifest))
    assert facts["packed as"] == "cosine, height 8, kept 10, step 0.5, width 6; class ids"
    assert facts["storage"].endswith(" bytes")
    assert "stored floats" not in facts


def digits():
    train, held = dd.load("digits").split(0.2, dd.generator(0))
    return dd.distill(dd.BASELINES["random"](ipc=4), train), held


def trials(distilled, budget, held, **options):
    protocol = dd.TrainingProtocol(epochs=2, networks=1).changed(options={"width": 4})
    return list(compression_steps(distilled, budget, held, protocol=protocol, **options))


def test_a_compression_keeps_its_budget_and_tries_each_codec():
    distilled, held = digits()
    found = trials(distilled, 600, held)
    assert {trial.codec.split(",")[0] for trial in found} >= {"cosine", "palette", "uint8", "low-rank"}
    assert all(trial.distilled.manifest.storage.bytes <= 600 for trial in found)
    assert {len(trial.distilled) for trial in found} == {40, 30, 20, 10}
    errors = {(trial.codec.split(",")[0], len(trial.distilled)): trial.error for trial in found}
    assert errors["cosine", 10] < errors["cosine", 40]
    assert all(0 <= trial.accuracy <= 1 for trial in found)
    assert trials(distilled, 600, held)[0].accuracy == found[0].accuracy


def test_the_finest_step_within_the_budget_is_taken():
    distilled, held = digits()
    (found,) = (t for t in trials(distilled, 900, held, families=["cosine"]) if len(t.distilled) == 40)
    codec = found.distilled.packing.codec
    finer = packed_set(distilled, dataclasses.replace(codec, step=codec.step / 1.1))
    assert finer.manifest.storage.bytes > 900


def test_labels_are_pruned_if_the_budget_is_small():
    distilled, held = digits()
    soft = dataclasses.replace(distilled, labels=(distilled.labels * 3 + torch.rand(40, 10)).softmax(1))
    kept = {t.distilled.packing.kept_labels for t in trials(soft, 900, held, families=["cosine"])}
    assert kept == {0, 5, 10}


def test_a_validated_choice_drops_the_certificate():
    distilled, held = digits()
    certified = dataclasses.replace(distilled, certificate=CERTIFICATE)
    assert all(t.distilled.certificate is None for t in trials(certified, 600, held, families=["uint8"]))


def test_a_budget_below_the_smallest_form_is_refused():
    distilled, held = digits()
    with pytest.raises(ValueError, match=r"budget must be at least \d+ bytes, the smallest form of this set, got 4"):
        trials(distilled, 4, held)
    with pytest.raises(ValueError, match=r"families must be among cosine, .*got 'jpeg'"):
        trials(distilled, 600, held, families=["jpeg"])


def test_the_command_saves_the_best_form(tmp_path, capsys):
    distilled, _ = digits()
    distilled.save(tmp_path / "set")
    words = ["compress", str(tmp_path / "set"), "--data", "digits", "--bytes", "500", "--out", str(tmp_path / "small")]
    assert main([*words, "--codecs", "cosine,uint8", "--epochs", "2", "--width", "4"]) == 0
    assert dd.Distilled.load(tmp_path / "small").manifest.storage.bytes <= 500
    printed = capsys.readouterr().out
    assert "bytes in place of 10400" in printed
    assert "held-out accuracy" in printed


def test_an_evaluation_states_the_bytes(tmp_path, capsys):
    distilled, _ = digits()
    packed_set(distilled, Cosine(height=8, width=8, kept=20, step=0.3)).save(tmp_path / "set")
    words = ["evaluate", str(tmp_path / "set"), "--data", "digits", "--epochs", "1", "--repeats", "1", "--width", "4"]
    assert main([*words, "--baselines", "random"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"the set is packed into \d+ bytes; baselines count a byte", printed)
    assert "each baseline has 1 (equal storage budget)" in printed
    assert "cannot prove" not in printed


def test_rounding_towards_zero_has_the_smaller_error_at_equal_bytes(monkeypatch):
    images = dd.load("digits").images[:400]
    errors = {}
    for rounding in (0.35, 0.5):
        monkeypatch.setattr(cosine, "_ROUNDING", rounding)
        packed = [
            PackedStorage.of(images, torch.eye(2).repeat(200, 1), Cosine(height=8, width=8, kept=64, step=step), 0)
            for step in (0.2 * 1.01**i for i in range(120))
        ]
        best = next(p for p in packed if p.nbytes <= 4000)
        errors[rounding] = float((best.unit_images() - images).square().mean())
    assert errors[0.35] < errors[0.5]
