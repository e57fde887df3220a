"""Checkpoints: what goes in comes out, and what cannot is refused."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import math
import random

import numpy as np
import pytest
import torch
from failing_calls import fail_at
from hypothesis import given, settings
from hypothesis import strategies as st

from ddsdk.foundation.errors import ResumeError, StorageError
from ddsdk.running.checkpoint import pack, previous_checkpoint, read_checkpoint, read_config, unpack, write_checkpoint

CONFIG = {"recipe": "dm", "ipc": 1, "lr": 0.1}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)

tensors = st.builds(
    lambda shape, dtype, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(
    plain | tensors,
    lambda child: (
        st.lists(child, max_size=4)
        | st.lists(child, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), child, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@given(trees)
@settings(max_examples=100)
def test_a_state_survives_packing_and_the_disk(tmp_path_factory, tree):
    packed, found = pack(tree)
    assert same(unpack(json.loads(json.dumps(packed)), found), tree)
    path = tmp_path_factory.getbasetemp() / "property.safetensors"
    write_checkpoint(path, CONFIG, tree)
    assert same(read_checkpoint(path, CONFIG), tree)


def test_a_packed_tensor_is_a_copy():
    tensor = torch.zeros(2)
    tree, found = pack({"a": tensor, "b": tensor, "c": tensor[:1], "d": torch.zeros(2, 3).T})
    tensor.add_(1)
    back = unpack(tree, found)
    assert torch.equal(back["a"], torch.zeros(2))
    assert back["a"] is not back["b"]
    assert back["d"].shape == (3, 2)


def test_subclasses_come_back_as_what_they_hold():
    pair = collections.namedtuple("pair", "a b")
    state = {
        "pair": pair(1, torch.ones(1)),
        "size": torch.Size([2, 3]),
        "ordered": collections.OrderedDict(x=1),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    back = unpack(*pack(state))
    assert same(back["pair"], (1, torch.ones(1)))
    assert back["size"] == (2, 3)
    assert back["ordered"] == {"x": 1}
    assert not back["parameter"].requires_grad


@pytest.mark.parametrize("wrong", [{1, 2}, object(), np.zeros(2), b"bytes", 1j, np.int64(1)])
def test_other_kinds_are_refused(wrong):
    with pytest.raises(TypeError, match="state must hold tensors and plain values, got"):
        pack({"deep": [wrong]})


@pytest.mark.parametrize("key", [(1, 2), 1.5, None])
def test_other_keys_are_refused(key):
    with pytest.raises(TypeError, match="keys of a state must be strings or integers"):
        pack({key: 1})


def test_an_optimizer_state_survives(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    path = tmp_path / "c"
    write_checkpoint(path, CONFIG, optimizer.state_dict())
    assert same(read_checkpoint(path, CONFIG), optimizer.state_dict())


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ResumeError, match=r"nothing to resume: .*none does not exist"):
        read_checkpoint(tmp_path / "none", CONFIG)


def test_another_configuration_is_refused_and_the_keys_are_named(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, CONFIG, {})
    with pytest.raises(ResumeError) as error:
        read_checkpoint(path, {"recipe": "dm", "ipc": 10, "seed": 3})
    message = str(error.value)
    for part in ("ipc (was 1, now 10)", "lr (was 0.1, now None)", "seed (was None, now 3)"):
        assert part in message
    assert "recipe" not in message


def test_a_configuration_may_hold_tuples(tmp_path):
    path, config = tmp_path / "c", {"layers": (1, 2), "nested": {"a": (3,)}}
    write_checkpoint(path, config, {"x": 1})
    assert read_checkpoint(path, config) == {"x": 1}


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, CONFIG, {"x": torch.arange(50)})
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ResumeError, match="cannot be read"):
            read_checkpoint(path, CONFIG)
    for damaged in (whole + b"x", b"\xff" * 200, b"{}" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ResumeError, match="cannot be read"):
            read_checkpoint(path, CONFIG)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    for metadata in (None, {"ddsdk": "{}"}, {"other": "x"}, {"ddsdk": "[1]"}):
        save_file({"x": torch.ones(1)}, tmp_path / "c", metadata=metadata)
        with pytest.raises(ResumeError, match="cannot be read"):
            read_checkpoint(tmp_path / "c", CONFIG)


def test_a_checkpoint_whose_tree_is_broken_is_refused(tmp_path):
    from safetensors.torch import save_file

    for tree in ({"tensor": "5"}, {}, 3, {"dict": [[1]]}, {"a": 1, "b": 2}):
        note = json.dumps({"format": 1, "config": CONFIG, "tree": tree})
        save_file({"0": torch.ones(1)}, tmp_path / "c", metadata={"ddsdk": note})
        with pytest.raises(ResumeError, match="cannot be read"):
            read_checkpoint(tmp_path / "c", CONFIG)


STATE = {"x": torch.linspace(0, 1, 300), "step": 7, "names": ["a", "b"]}


def test_each_of_200_random_bit_flips_is_found(tmp_path):
    path, rng = tmp_path / "c", random.Random(0)
    write_checkpoint(path, CONFIG, STATE)
    whole = path.read_bytes()
    for _ in range(200):
        damaged, bit = bytearray(whole), rng.randrange(8 * len(whole))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ResumeError, match="cannot be read"):
            read_checkpoint(path, CONFIG)
    path.write_bytes(whole)
    assert same(read_checkpoint(path, CONFIG), STATE)


def test_nan_is_refused_and_infinity_is_kept(tmp_path):
    write_checkpoint(tmp_path / "c", CONFIG, {"x": torch.tensor([1.0, math.nan])})
    with pytest.raises(ResumeError, match="cannot be read: tensor 0 holds NaN"):
        read_checkpoint(tmp_path / "c", CONFIG)
    write_checkpoint(tmp_path / "d", CONFIG, {"mask": torch.tensor([0.0, -math.inf])})
    assert read_checkpoint(tmp_path / "d", CONFIG)["mask"].tolist() == [0, -math.inf]


@pytest.mark.parametrize("fault", ["cut", "flipped", "missing", "NaN"])
def test_the_checkpoint_before_a_damaged_one_is_read_and_named(tmp_path, caplog, fault):
    caplog.set_level(logging.INFO, "ddsdk")
    path = tmp_path / "checkpoint.safetensors"
    for step in range(3):
        write_checkpoint(
            path, CONFIG, {"step": step, "x": torch.full((9,), math.nan if fault == "NaN" and step == 2 else 1.0)}
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.previous.safetensors", "checkpoint.safetensors"]
    whole = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault != "NaN":
        path.write_bytes(whole[:-3] if fault == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    assert read_checkpoint(path, CONFIG)["step"] == 1
    assert "going on with the checkpoint before it, checkpoint.previous.safetensors" in caplog.text
    assert read_config(path) == CONFIG
    # The damaged file does not take the place of the good one for longer than a moment.
    write_checkpoint(path, CONFIG, {"step": 8})
    assert read_checkpoint(path, CONFIG) == {"step": 8}


def test_two_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, CONFIG, {})
    write_checkpoint(path, CONFIG, {})
    path.write_bytes(b"torn")
    previous_checkpoint(path).write_bytes(b"torn too")
    with pytest.raises(ResumeError, match="c cannot be read: it has no checksum"):
        read_checkpoint(path, CONFIG)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_failed_write_leaves_a_good_checkpoint(tmp_path, monkeypatch, call, n):
    path = tmp_path / "c"
    for step in range(2):
        write_checkpoint(path, CONFIG, {"step": step})
    fail_at(monkeypatch, call, n)
    with contextlib.suppress(StorageError):
        write_checkpoint(path, CONFIG, {"step": 2})
    monkeypatch.undo()
    assert read_checkpoint(path, CONFIG)["step"] in (1, 2)
