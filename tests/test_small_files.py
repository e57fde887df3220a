"""Small files that decode to gigabytes are refused before they fill the memory."""

from __future__ import annotations

import itertools
import shutil
import tracemalloc

import numpy as np
import pytest
from artefact_sets import make_set
from picture_files import encoded, write_folder, write_parquet

from ddsdk.artefact.distilled import Distilled
from ddsdk.data import load
from ddsdk.foundation import memory_limit, require_free_disk, require_memory
from ddsdk.foundation.errors import ArtifactError, StorageError

MIB = 1 << 20


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 64 MiB, half of which foreign data may take."""
    monkeypatch.setattr("ddsdk.foundation.memory.machine_memory", lambda: 64 * MIB)
    assert memory_limit() == 32 * MIB


def peak(call):
    tracemalloc.start()
    call()
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return highest


def arrow_peak(call):
    pa = pytest.importorskip("pyarrow")
    before = pa.total_allocated_bytes()
    pool = pa.system_memory_pool()
    pa.set_memory_pool(pool)
    call()
    return pool.max_memory() - before


def test_a_picture_cell_repeated_by_a_dictionary_is_refused(tmp_path, small_machine):
    cell = encoded(np.zeros((8, 8, 3), np.uint8)) + bytes(1 * MIB)
    file = write_parquet(tmp_path / "train.parquet", contents=[cell] * 200, labels=np.arange(200) % 3)
    assert file.stat().st_size < MIB // 4

    def refused():
        with pytest.raises(ValueError, match=r"column 'img' of .*train.parquet' must fit half of the machine's memory"):
            load(file)

    assert arrow_peak(refused) < 80 * MIB


def test_a_small_file_with_millions_of_rows_is_refused(tmp_path, small_machine):
    rows = 2_000_000
    file = write_parquet(tmp_path / "train.parquet", contents=[b""] * 1, labels=[0])
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = pa.array([b"x"]).dictionary_encode()
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), image.dictionary)
    pq.write_table(pa.table({"image": image.cast(pa.binary()), "label": np.zeros(rows, np.int64)}), file)
    assert file.stat().st_size < 100_000
    with pytest.raises(
        ValueError, match=rf"column 'label' of .* got 122.1 MiB \({64 * rows} bytes\), and the limit is 32"
    ):
        load(file)


def test_pictures_larger_than_the_limit_together_are_refused(tmp_path, small_machine):
    pictures = np.zeros((12, 1200, 1200, 3), np.uint8)
    pictures[:, :600] = 255
    home = write_folder(tmp_path / "zoo", pictures)
    assert sum(path.stat().st_size for path in home.rglob("*.png")) < 100_000

    def refused():
        with pytest.raises(ValueError, match=r"12 pictures of 1200 x 1200 pixels must fit .*pass a smaller resize"):
            load(home)

    assert peak(refused) < 32 * MIB
    assert len(load(home, resize=32)) == 12


def test_a_sparse_tensor_file_is_refused_before_it_is_read(tmp_path):
    make_set().save(tmp_path)
    with (tmp_path / "set.safetensors").open("r+b") as file:
        file.truncate(1 << 34)
    for max_bytes in (None, 1 << 40):

        def refused(max_bytes=max_bytes):
            with pytest.raises(ArtifactError) as error:
                Distilled.load(tmp_path, max_bytes=max_bytes)
            assert error.value.reason == "size"

        assert peak(refused) < 4 * MIB


def test_declared_shapes_bound_the_file(tmp_path):
    make_set().save(tmp_path)
    with (tmp_path / "set.safetensors").open("ab") as file:
        file.write(bytes(9 * MIB))
    with pytest.raises(ArtifactError, match="and its manifest describes") as error:
        Distilled.load(tmp_path)
    assert error.value.reason == "size"


def test_a_set_beyond_the_limit_has_a_way_out(tmp_path, monkeypatch):
    make_set().save(tmp_path)
    monkeypatch.setattr("ddsdk.foundation.memory.machine_memory", lambda: 1000)
    with pytest.raises(ArtifactError, match="cap is 500; pass a larger max_bytes"):
        Distilled.load(tmp_path)
    assert len(Distilled.load(tmp_path, max_bytes=10_000)) == 6


def test_short_texts_in_a_table_are_counted_as_matrices(tmp_path, small_machine):
    words = ["".join(pair) for pair in itertools.product("abcdefg", repeat=2)]
    rows = [f"{' '.join(words[i % 40 : i % 40 + 4])},{i % 2}\n" for i in range(9000)]
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(rows))
    with pytest.raises(ValueError, match="texts of train as matrices of word vectors must fit half of the machine's"):
        load(tmp_path / "texts.csv")


def test_a_list_of_strangers_and_their_items_is_no_matrix_of_gigabytes(tmp_path, small_machine):
    from ddsdk_integrations.recommend import Interactions

    rows = "".join(f"user {i},item {i},1\n" for i in range(3000))
    (tmp_path / "ratings.csv").write_text("user,item,rating\n" + rows)
    with pytest.raises(ValueError, match="the matrix of 3000 users and 3000 items must fit half of the machine's"):
        Interactions.from_csv(tmp_path / "ratings.csv")


def test_tags_of_a_graph_are_counted_as_one_hot_rows(tmp_path, small_machine):
    pytest.importorskip("torch_geometric")
    from ddsdk_integrations.graph import read_text_graphs

    (tmp_path / "graph.txt").write_text("1\n3000 0\n" + "".join(f"{i} 0\n" for i in range(3000)))
    with pytest.raises(ValueError, match="one-hot tags of 3000 nodes, 3000 different ones must fit half of"):
        read_text_graphs(tmp_path / "graph.txt")


def test_metadata_of_deep_json_names_no_classes(tmp_path):
    file = write_parquet(tmp_path / "train.parquet", names=["cat", "dog", "eel"])
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(file).replace_schema_metadata({"huggingface": "[" * 100_000 + "]" * 100_000})
    pq.write_table(table, file)
    assert load(file).num_classes == 3


def test_free_disk_is_checked_before_a_run(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_free_disk(tmp_path / "not" / "yet", 1, "the set")
    with pytest.raises(
        StorageError, match=rf"the set will take {free * 2 + (1 << 40)} bytes .* bytes free .*another disk"
    ):
        require_free_disk(tmp_path / "not" / "yet", free * 2 + (1 << 40), "the set")
    with pytest.raises(ValueError, match="the column must fit half of the machine's memory"):
        require_memory(1 << 60, "the column")


def test_an_archive_of_zeros_is_refused(tmp_path, small_machine):
    path = tmp_path / "train.npz"
    np.savez_compressed(path, images=np.zeros((60, 1000, 1000), np.uint8), labels=np.arange(60) % 3)
    assert path.stat().st_size < 200_000

    def refused():
        with pytest.raises(ValueError, match="array 'images' must fit half of the machine's memory"):
            load(path)

    assert peak(refused) < 8 * MIB
