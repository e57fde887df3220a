"""Images on disk: batches, subsets and statistics are those of the same images in memory."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

import ddsdk as dd
from ddsdk.data import DiskImages, RealData
from ddsdk.data.preprocess import Whitening
from ddsdk.foundation import StorageError

SHAPE = (36, 3, 5, 4)


@pytest.fixture
def pair(tmp_path):
    """Return the same data in memory and on disk."""
    images = torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    (tmp_path / "images.u8").write_bytes(images.numpy().tobytes())
    labels = torch.arange(3).repeat(12)
    facts = {"class_names": ["a", "b", "c"], "preprocess": dd.Preprocess.fit_normalise(images), "mirror_safe": True}
    on_disk = DiskImages(tmp_path / "images.u8", SHAPE)
    return tuple(RealData(stored, labels, **facts) for stored in (images, on_disk))


def same(one, other):
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


def test_batches_subsets_and_splits_are_those_of_the_images_in_memory(pair):
    for memory, disk in [
        pair,
        [real.subset(torch.tensor([7, 6, 5, 33, 1, 2])) for real in pair],
        *zip(*(real.split(0.25, dd.generator(2)) for real in pair), strict=True),
        [
            real.to("cpu").with_mirror_safe(False).subset(torch.arange(3, 30)).subset(torch.arange(20, 2, -1))
            for real in pair
        ],
    ]:
        assert isinstance(disk.stored, DiskImages)
        assert (len(disk), disk.image_shape, disk.class_sizes) == (len(memory), memory.image_shape, memory.class_sizes)
        assert disk.mirror_safe == memory.mirror_safe
        assert disk.fingerprint == memory.fingerprint
        assert same(memory.batch(torch.arange(len(memory)).flip(0)), disk.batch(torch.arange(len(disk)).flip(0)))
        for seed in range(3):
            assert same(memory.of_class(1, 2, dd.generator(seed)), disk.of_class(1, 2, dd.generator(seed)))
            assert same(memory.mixed(4, dd.generator(seed)), disk.mixed(4, dd.generator(seed)))


def test_the_fingerprint_is_the_hash_of_all_bytes_and_is_stored_beside_the_images(pair, tmp_path):
    memory, disk = pair
    digest = hashlib.sha256(f"torch.uint8{SHAPE}".encode() + memory.images.numpy().tobytes())
    digest.update(b"torch.int64(36,)" + memory.labels.numpy().tobytes() + b"a\0b\0c")
    assert memory.fingerprint == disk.fingerprint == digest.hexdigest()
    (stored,) = tmp_path.glob("fingerprint-*.json")
    stored.write_text(json.dumps({"value": "known", "sha256": hashlib.sha256(b'"known"').hexdigest()}))
    assert disk.with_items(disk.stored, disk.labels).fingerprint == "known"
    assert disk.subset(torch.arange(3)).fingerprint != "known"
    whole = stored.read_bytes()
    for damaged in (b"{", b"5", b"{}", b'"known"', whole.replace(b"known", b"knowm"), b'{"sha256": 1, "value": 1}'):
        stored.write_bytes(damaged)  # it is computed again
        assert disk.with_items(disk.stored, disk.labels).fingerprint == memory.fingerprint


@pytest.mark.parametrize("chunk", [7, 40, 1 << 22])
def test_statistics_do_not_depend_on_the_place_of_the_images(pair, monkeypatch, chunk):
    memory, disk = (real.stored for real in pair)
    monkeypatch.setattr("ddsdk.data.preprocess._CHUNK_VALUES", chunk)
    found = dd.Preprocess.fit_normalise(disk)
    assert found == dd.Preprocess.fit_normalise(memory)
    with monkeypatch.context() as patch:
        patch.setattr("ddsdk.data.preprocess._moments", lambda _: pytest.fail("computed again"))
        assert dd.Preprocess.fit_normalise(disk) == found
    expected = memory.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(torch.tensor(found.mean).double(), expected.mean(1))
    torch.testing.assert_close(torch.tensor(found.std).double(), expected.std(1, correction=0))


@pytest.mark.parametrize("chunk", [5, 4096])
def test_whitening_does_not_depend_on_the_place_of_the_images(pair, monkeypatch, chunk):
    monkeypatch.setattr("ddsdk.data.preprocess._CHUNK_IMAGES", chunk)
    memory, disk = pair
    whitened = [real.with_preprocess(dd.Preprocess.fit_zca(real.stored, standardise=True)) for real in pair]
    index = torch.tensor([30, 2, 17])
    torch.testing.assert_close(whitened[1].batch(index).x, whitened[0].batch(index).x, rtol=1e-4, atol=1e-5)
    flat = memory.preprocess(memory.unit_images()).flatten(1).double()
    values = torch.linalg.eigvalsh(flat.T.cov()).clamp(min=0)
    fitted = Whitening.fit(disk.stored, 0.1, lambda part: memory.preprocess(part.float() / 255))
    torch.testing.assert_close(fitted.eigenvalues.double(), values, rtol=1e-4, atol=1e-5)


def test_the_whole_of_the_images_is_refused(pair):
    _, disk = pair
    for use in (lambda: disk.images, disk.unit_images, lambda: disk.replace_images_(torch.tensor([0]), torch.zeros(1))):
        with pytest.raises(ValueError, match="data must be in memory for this use, got images on disk"):
            use()


def test_a_file_of_another_size_is_refused(pair, tmp_path):
    path = tmp_path / "images.u8"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="2160 bytes expected, got 2159; delete the folder"):
        DiskImages(path, SHAPE)
    with pytest.raises(StorageError, match="the file is cut off"):
        pair[1].batch(torch.tensor([35]))
    path.unlink()
    with pytest.raises(StorageError, match=r"cannot read images in .*: No such file"):
        DiskImages(path, SHAPE)
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.35"):
        pair[1].stored[torch.tensor([36])]


def test_whitening_beyond_the_memory_is_refused_before_it_is_computed(monkeypatch):
    monkeypatch.setattr("ddsdk.data.preprocess.machine_memory", lambda: 2**30)
    monkeypatch.setattr("ddsdk.data.preprocess.Whitening.__post_init__", lambda self: pytest.fail("computed"))
    side = "the images to at most 1164 pixels, such as 34x34"
    message = (
        f"ZCA whitening must fit into half of this machine's memory, 512.0 MiB: leave out zca, or resize {side}, got"
    )
    with pytest.raises(ValueError, match=f"{message} '39.6 GiB .42518933424 bytes. for the covariance of 31086 pixel"):
        dd.Preprocess.fit_zca(torch.zeros(2, 3, 2, 5181))


def test_a_whitened_copy_beyond_the_memory_is_refused(pair, monkeypatch):
    whitening = dd.Preprocess.fit_zca(pair[0].images)
    monkeypatch.setattr("ddsdk.data.sources.machine_memory", lambda: 10_000)
    with pytest.raises(ValueError, match=r"whitened images must fit into half .* on_disk=True, got .*\(8640 bytes\)"):
        pair[0].with_preprocess(whitening)
    pair[1].with_preprocess(whitening)  # batch by batch


WHOLE_CLASSES = {
    "k-means": dd.baselines.KMeans(ipc=2),
    "herding by features": dd.baselines.Herding(ipc=2, student_epochs=1),
    "means": dd.baselines.Means(ipc=2),
    "el2n": dd.baselines.EL2N(ipc=2, students=1),
    "random": dd.baselines.Random(ipc=2),
    "dm": dd.DM(ipc=2, steps=2, real_batch=4, start="k-means"),
    "ncfm": dd.NCFM(ipc=1, steps=1, real_batch=4, frequencies=4, pool=1, pool_epochs=1),
    "rded": dd.RDED(ipc=1, images=6, teacher_epochs=1),
    "idm": dd.IDM(ipc=1, steps=2, real_batch=4, queue=2, student_steps=1),
    "krr": dd.KRR(ipc=1),
    "frepo": dd.FRePo(ipc=1, steps=2),
}


@pytest.mark.parametrize("name", WHOLE_CLASSES)
def test_methods_give_the_same_set_from_disk(pair, name, monkeypatch, tmp_path):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "runs"))
    make = dd.network_factory("convnet", SHAPE[1:], 3, width=4, depth=1)
    options = {} if name in ("k-means", "means", "random", "krr") else {"make_student": make}
    found = [dd.distill(WHOLE_CLASSES[name], real, seed=3, **options) for real in pair]
    assert torch.equal(found[0].images, found[1].images)
    assert torch.equal(found[0].labels, found[1].labels)
    assert found[0].provenance["data"] == found[1].provenance["data"]


def test_large_images_are_averaged_down_as_features(pair, monkeypatch):
    memory, disk = pair
    index = torch.arange(4, 20)
    exact = memory.batch(index).x
    for real in pair:
        assert torch.equal(dd.data.pixel_features(real, index), exact.flatten(1))
    # 16 images of 3 x 3 x 2 values, after averages over 2 x 2 pixels, of which the last row has half as many
    monkeypatch.setattr("ddsdk.data.rows.FEATURE_VALUES", 16 * 60 - 1)
    monkeypatch.setattr("ddsdk.data.rows.REDUCED_VALUES", 16 * 3 * 3 * 2)
    features = dd.data.pixel_features(disk, index).view(16, 3, 3, 2)
    torch.testing.assert_close(features[:, :, 0, 1], exact[:, :, :2, 2:].mean((2, 3)))
    torch.testing.assert_close(features[:, :, 2, 0], exact[:, :, 4, :2].mean(2))
    monkeypatch.setattr("ddsdk.data.rows.REDUCED_VALUES", 1)
    assert dd.data.pixel_features(disk, index).shape == (16, 3)


def test_means_of_large_images_are_those_of_their_pixels(pair, monkeypatch):
    monkeypatch.setattr("ddsdk.data.rows.FEATURE_VALUES", 12 * 60 - 1)
    monkeypatch.setattr("ddsdk.data.rows.REDUCED_VALUES", 12 * 3 * 3 * 2)
    monkeypatch.setattr("ddsdk.data.rows._PIECE_VALUES", 5 * 60)
    (memory, disk), rng = pair, dd.generator(0)
    found = dd.synthetic.STARTS["means"](disk, 1, rng)
    expected = torch.stack([memory.batch(memory.index_of_class(c)).x.mean(0) for c in range(3)])
    torch.testing.assert_close(found, expected)
    both = dd.synthetic.STARTS["means"](disk, 2, rng)
    assert not torch.allclose(both[0], both[1])
    owners = torch.cdist(memory.batch(memory.index_of_class(0)).x.flatten(1), both[:2].flatten(1)).argmin(1)
    assert 0 < int(owners.sum()) < 12
