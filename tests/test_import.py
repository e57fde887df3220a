"""Sets of other code: each layout, written by its own rules, becomes the set that was saved."""

from __future__ import annotations

import pickle
import zipfile

import msgspec
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, one_hot

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.foundation import ArtifactError
from ddsdk.importing import child, import_set, read_trees, space_fits
from ddsdk.importing.decoders import decoded_tiles, hallucinated_images
from ddsdk.judging import stored_protocol

K, IPC = 10, 2


@pytest.fixture
def in_process(monkeypatch):
    """The reading without a child process, which takes seconds to start."""
    monkeypatch.setattr(child, "limit_memory", lambda nbytes: None)
    read = lambda paths, folder, memory, seconds: child.main(paths, folder, memory)  # noqa: E731
    monkeypatch.setattr("ddsdk.importing.restricted._read_in_child", read)


@pytest.fixture(scope="module")
def real():
    return dd.load("digits")


@pytest.fixture(scope="module")
def items(real):
    """Two images of each class in the unit range, class by class, with their ids."""
    index = torch.cat([(real.labels == c).nonzero().flatten()[:IPC] for c in range(K)])
    return real.unit_images(index), real.labels[index]


def array(values):
    """A tensor in the MessagePack form of flax."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    packed = msgspec.msgpack.encode((values.shape, "float32", values.tobytes()))
    return msgspec.msgpack.Ext(1, packed)


def proto(real, images, labels):
    """The set of a checkpoint of flax."""
    values = real.preprocess(images).permute(0, 2, 3, 1)
    return {"x_proto": array(values), "y_proto": array(one_hot(labels, K) - 0.1)}


class Layouts:
    """Writers of each layout: path, options of the import, and what the artefact must hold."""

    def dc(self, folder, real, images, labels):
        wrong = [torch.zeros_like(images), labels]
        accuracies = {"ConvNet": [np.float64(0.5), np.float32(0.25)]}
        path = folder / "res_DSA_digits_ConvNet_2ipc.pt"
        torch.save({"data": [wrong, [real.preprocess(images), labels]], "accs_all_exps": accuracies}, path)
        return path, {}, "dsa", None

    def datadam(self, folder, real, images, labels):
        path = folder / "syn_data_digits_ipc_2.pt"
        torch.save({"data": [real.preprocess(images).requires_grad_(), labels.int()]}, path)
        return path, {"method": "datadam"}, "datadam", None

    def mtt(self, folder, real, images, labels):
        torch.save(real.preprocess(images), folder / "images_best.pt")
        torch.save(torch.zeros_like(images), folder / "images_100.pt")
        torch.save(labels, folder / "labels_best.pt")
        torch.save(torch.tensor(0.0125), folder / "lr_best.pt")
        return folder, {"space": "normalised"}, "mtt", 0.0125

    def haba(self, folder, real, images, labels):
        # Two styles that give the images and their negatives from bases of half the contrast.
        bases = 0.5 * real.preprocess(images)
        one = torch.zeros(1, 1, 3, 3)
        one[..., 1, 1] = 1
        state = {}
        for s, factor in enumerate((2.0, -2.0)):
            enc, dec = nn.Conv2d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3)
            style = nn.ParameterDict({"scale": torch.full((1, 1, 6, 6), factor), "shift": torch.zeros(1, 1, 6, 6)})
            for layer in (enc, dec):
                layer.weight.data, layer.bias.data = one.clone(), torch.zeros(1)
            parts = {"enc": enc.state_dict(), "dec": dec.state_dict()}
            state |= {f"{s}.{part}.{n}": v for part, values in parts.items() for n, v in values.items()}
            state |= {f"{s}.{name}": value for name, value in style.items()}
        torch.save(bases, folder / "images_best.pt")
        torch.save(state, folder / "weights_best.pt")
        return folder, {"space": "normalised"}, "haba", None

    def idc(self, folder, real, images, labels):
        inner = folder / "digits_factor2_ipc1"
        inner.mkdir()
        # Four tiles of half the side, of which two are the images and two are copies.
        small = interpolate(images, scale_factor=0.5).view(K, IPC, 1, 4, 4)
        rows = [torch.cat([small[:, i], small[:, i]], 3) for i in range(IPC)]
        torch.save([torch.cat(rows, 2), torch.arange(K)], inner / "data.pt")
        return inner, {}, "idc", None

    def rfad(self, folder, real, images, labels):
        rows = one_hot(labels, K).float() - 0.1
        np.savez(folder / "best.npz", images=real.preprocess(images), labels=rows, k=np.float32(3.7), jit=5e-3)
        return folder / "best.npz", {}, "rfad", None

    def frepo_npz(self, folder, real, images, labels):
        rows = one_hot(labels, K).float() - 0.1
        np.savez(folder / "step500000.npz", image=real.preprocess(images).permute(0, 2, 3, 1), label=rows)
        return folder / "step500000.npz", {}, "frepo", None

    def frepo(self, folder, real, images, labels):
        part = {
            "x_proto": array(real.preprocess(images).permute(0, 2, 3, 1)),
            "y_proto": array(one_hot(labels, K) - 0.1),
        }
        (folder / "checkpoint_5").write_bytes(msgspec.msgpack.encode({"params": part, "step": 5}))
        return folder, {}, "frepo", None

    def rcig(self, folder, real, images, labels):
        part = {
            "x_proto": array(real.preprocess(images).permute(0, 2, 3, 1)),
            "y_proto": array(one_hot(labels, K) - 0.1),
        }
        last = {name: array(np.zeros((1, 8, 8, 1))) for name in part}
        path = folder / "checkpoint_7"
        path.write_bytes(msgspec.msgpack.encode({"params": last, "ema_average": part}))
        return path, {}, "rcig", None

    def tensors(self, folder, real, images, labels):
        torch.save({"images": real.preprocess(images), "labels": labels}, folder / "own.pt")
        return folder / "own.pt", {"space": "normalised"}, "dsa", None


NAMES = [name for name in vars(Layouts) if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_set_of_each_layout_is_the_one_that_was_saved(name, in_process, real, items, tmp_path):
    images, labels = items
    path, options, method, rate = getattr(Layouts(), name)(tmp_path, real, images, labels)
    distilled = import_set(path, real, **options)
    assert (distilled.provenance["recipe"], distilled.learned_lr) == (method, rate and pytest.approx(rate))
    if name == "idc":
        small = interpolate(images, scale_factor=0.5)
        tiles = interpolate(small, (8, 8), mode="bilinear")
        assert (len(distilled), distilled.stored_floats) == (40, 640)
        for c in range(K):
            stored = real.preprocess.inverse(distilled.images[distilled.owner == c])
            torch.testing.assert_close(stored[[0, 2]], tiles[labels == c])
            torch.testing.assert_close(stored[[1, 3]], tiles[labels == c])
        return
    if name == "haba":
        # The 3 x 3 kernels of the styles leave a border of one pixel, where the valid convolution has no output.
        inner = real.preprocess(images)[..., 1:-1, 1:-1]
        for style, sign in enumerate((1, -1)):
            part = distilled.images[style * len(images) : (style + 1) * len(images)]
            torch.testing.assert_close(part[..., 1:-1, 1:-1], sign * inner)
        assert torch.equal(distilled.owner, labels.repeat(2))
        assert distilled.stored_floats == images.numel() + 2 * (9 + 1 + 36 + 36 + 9 + 1)
        return
    torch.testing.assert_close(real.preprocess.inverse(distilled.images), images, rtol=1e-4, atol=1e-5)
    assert torch.equal(distilled.owner, labels)
    assert distilled.label_space == ("scores" if method in ("rfad", "frepo", "rcig") else "probabilities")
    assert stored_protocol(distilled) == dd.RECIPES[method](ipc=IPC).protocol(real)
    files = distilled.provenance["imported"]["files"]
    assert all(len(file["sha256"]) == 64 for file in files)
    assert dd.Distilled.from_bytes(distilled.to_bytes()).content_id == distilled.content_id


def test_one_of_several_experiments_is_chosen(in_process, real, items, tmp_path):
    path, *_ = Layouts().dc(tmp_path, real, *items)
    first = import_set(path, real, experiment=0, space="normalised")
    assert float(first.images.abs().max()) == 0
    assert first.provenance["imported"]["experiments"] == 2
    with pytest.raises(ValueError, match=r"experiment must lie in 0..1, got 2"):
        import_set(path, real, experiment=2)


def test_labels_of_datm_are_logits_and_those_of_tesla_are_probabilities(in_process, real, items, tmp_path):
    images, labels = items
    torch.save(real.preprocess(images), tmp_path / "images_best.pt")
    logits = 3 * one_hot(labels, K).float() - 1
    for rows, method in ((logits, "datm"), (logits.softmax(1), "tesla")):
        torch.save(rows.clone().requires_grad_(), tmp_path / "labels_best.pt")
        distilled = import_set(tmp_path, real, space="normalised")
        assert distilled.provenance["recipe"] == method
        torch.testing.assert_close(distilled.labels, logits.softmax(1))
    rows = logits.detach().clone()
    rows[3] = float("nan")
    torch.save(rows, tmp_path / "labels_best.pt")
    with pytest.raises(ArtifactError, match="NaN or infinity in row 3"):
        import_set(tmp_path, real, space="normalised")


def test_missing_labels_are_asked_for(in_process, real, items, tmp_path):
    torch.save(real.preprocess(items[0]), tmp_path / "images_best.pt")
    with pytest.raises(ArtifactError, match="labels must be 'class-major' for files without labels"):
        import_set(tmp_path, real, space="normalised")
    assert torch.equal(import_set(tmp_path, real, space="normalised", labels="class-major").owner, items[1])


def test_the_value_space_is_recognised_or_asked_for(in_process, real, tmp_path):
    index = torch.arange(200)
    spaces = {
        "unit": dd.Preprocess.unit(1),
        "normalised": real.preprocess,
        "zca": dd.Preprocess.fit_zca(real.unit_images()),
    }
    for name, preprocess in spaces.items():
        fits = space_fits(preprocess(real.unit_images(index)), real, "mtt", list(spaces))
        assert [fit.name for fit in fits if fit.fits] == [name], list(map(str, fits))
    images, labels = real.unit_images(index), real.labels[index]
    torch.save({"images": images, "labels": labels}, tmp_path / "own.pt")
    with pytest.raises(ArtifactError, match="space must be named for the layout tensors"):
        import_set(tmp_path / "own.pt", real)
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    with pytest.raises(ArtifactError, match="no space fits the statistics of the set"):
        import_set(tmp_path / "images_best.pt", real)


def test_whitenings_of_regression_codes_have_their_formulas(real):
    flat = real.preprocess(real.unit_images()).flatten(1).double()
    for name, centred in (("zca-standardised", True), ("zca-uncentred", False)):
        (fit,) = space_fits(flat.float().view(-1, 1, 8, 8)[:5], real, "frepo", [name])
        rows = flat - flat.mean(0) if centred else flat
        moments = rows.T @ rows / len(rows)
        values, basis = torch.linalg.eigh(moments)
        whitened = rows @ basis @ torch.diag((values + 0.1 * values.mean()).rsqrt()) @ basis.T
        torch.testing.assert_close(
            fit.preprocess(real.unit_images()).flatten(1).double(), whitened, rtol=0.01, atol=2e-3
        )


def test_tiles_of_a_side_that_the_factor_does_not_divide_are_padded_with_grey():
    image = torch.zeros(1, 1, 5, 5)
    tiles = decoded_tiles(image, 2)
    assert tuple(tiles.shape) == (4, 1, 5, 5)
    assert float(tiles[0].max()) == 0
    assert float(tiles[3].max()) == 0.5


def test_styles_decode_by_the_authors_formula_and_others_are_refused():
    rng = dd.generator("styles")
    draw = lambda *shape: torch.randn(shape, generator=rng)  # noqa: E731
    enc, dec = nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 3, 3)
    scale, shift, bases = draw(1, 4, 6, 6), draw(1, 4, 6, 6), draw(5, 1, 8, 8)
    layers = {f"0.{n}.{k}": v for n, part in (("enc", enc), ("dec", dec)) for k, v in part.state_dict().items()}
    state = {**layers, "0.scale": scale, "0.shift": shift}
    images, styles = hallucinated_images(bases, state)
    assert (styles, tuple(images.shape)) == (1, (5, 3, 8, 8))
    torch.testing.assert_close(images, dec(scale * enc(bases) + shift).detach())
    with pytest.raises(ArtifactError, match=r"styles must have enc\.weight"):
        hallucinated_images(bases, layers)
    with pytest.raises(ArtifactError, match="styles must have 6 tensors each, got 7 for 1"):
        hallucinated_images(bases, {**state, "more": scale})
    with pytest.raises(ArtifactError, match="styles must fit bases"):
        hallucinated_images(draw(5, 2, 8, 8), state)


def test_exports_of_ddsdk_come_back(in_process, real, tmp_path):
    distilled = dd.distill(dd.BASELINES["random"](ipc=IPC), real)
    dd.to_npz(distilled, tmp_path / "set.npz")
    assert import_set(tmp_path / "set.npz", real).content_id == distilled.content_id
    dd.to_image_folder(distilled, tmp_path / "pictures")
    dd.to_parquet(distilled, tmp_path / "set.parquet")
    for path in (tmp_path / "pictures", tmp_path / "set.parquet"):
        found = import_set(path, real)
        order = found.owner.argsort(stable=True)
        torch.testing.assert_close(
            found.images[order], distilled.images[distilled.owner.argsort(stable=True)], atol=0.02, rtol=0
        )
    with zipfile.ZipFile(tmp_path / "set.npz") as archive:
        arrays = {name.removesuffix(".npy"): np.load(archive.open(name)) for name in archive.namelist()}
    arrays["images"][0] += 1
    np.savez(tmp_path / "changed.npz", **arrays)
    with pytest.raises(ArtifactError):
        import_set(tmp_path / "changed.npz", real)


def test_the_command_writes_an_artefact(real, items, tmp_path, capsys):
    path, *_ = Layouts().dc(tmp_path, real, *items)
    assert main(["import", str(path), "--data", "digits", "--out", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "layout dc, value space normalised: that of the layout" in said
    assert len(dd.Distilled.load(tmp_path / "set")) == 20
    assert main(["import", str(tmp_path / "none.pt"), "--data", "digits", "--out", str(tmp_path / "other")]) == 2
    assert "path must be a file or folder that exists" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


class Program:
    """An object whose unpickling writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def hostile_files(folder):
    """Files that must be refused, by what they do."""
    trap = folder / "ran"
    torch.save({"data": [Program(trap)]}, folder / "program.pt")
    (folder / "raw.pkl").write_bytes(pickle.dumps((np.zeros(3), Program(trap))))
    np.savez(folder / "object.npz", images=np.array([Program(trap)], dtype=object))
    torch.save(torch.zeros(1).expand(2**40), folder / "endless.pt")
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824,), }"
        archive.writestr("images.npy", header.ljust(127) + b"\n" + bytes(2**32 - 1))
    (folder / "text.pt").write_bytes(b"images")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "deep").write_bytes(b"\x81\xa1a" * 50 + b"\x01")
    (folder / "extension").write_bytes(msgspec.msgpack.encode({"params": msgspec.msgpack.Ext(2, b"")}))
    (folder / "object").write_bytes(
        msgspec.msgpack.encode({"p": msgspec.msgpack.Ext(1, msgspec.msgpack.encode(((1,), "O", b"12345678")))})
    )
    return trap


@pytest.mark.slow
def test_hostile_files_are_refused_and_run_nothing(tmp_path):
    trap = hostile_files(tmp_path)
    for path in sorted(p for p in tmp_path.iterdir() if p.is_file()):
        with pytest.raises(ArtifactError, match="cannot be read without running its code"):
            read_trees([path])
    assert not trap.exists()


def test_modules_of_the_present_folder_are_not_imported(tmp_path, monkeypatch):
    torch.save(torch.ones(1), tmp_path / "x.pt")
    (tmp_path / "torch.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(read_trees([tmp_path / "x.pt"])[0], torch.ones(1))


def test_an_endless_reading_ends(tmp_path):
    torch.save(torch.zeros(1), tmp_path / "x.pt")
    with pytest.raises(ArtifactError, match=r"was not read within 0.01 s"):
        read_trees([tmp_path / "x.pt"], seconds=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(20, 1, 9, 9)}, "images must have the shape"),
        ({"images": torch.zeros(20, 8, 8)}, "must be .M, C, H, W. floating point"),
        ({"images": torch.zeros(20, 8, 8, 1)}, "must have 1 or 3 channels"),
        ({"labels": torch.arange(20)}, "labels must be class ids below 10"),
        ({"labels": torch.zeros(19)}, "labels must be as many as the 20 images"),
        ({"images": torch.full((20, 1, 8, 8), float("inf"))}, "images must be finite"),
    ],
)
def test_a_set_that_does_not_fit_the_data_is_refused(in_process, real, items, tmp_path, changes, message):
    content = {"images": real.preprocess(items[0]), "labels": items[1], **changes}
    torch.save({"data": [[content["images"], content["labels"]]]}, tmp_path / "res_DM_x.pt")
    with pytest.raises(ArtifactError, match=message):
        import_set(tmp_path / "res_DM_x.pt", real)
