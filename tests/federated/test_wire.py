"""Whatever a client sends, a round goes on: random damage is refused, or is a set within the contract."""

from __future__ import annotations

import contextlib

import torch
from federation import TASK
from flwr.app import Array
from hypothesis import given, settings
from hypothesis import strategies as st
from test_payload import local, made, reply

from ddsdk.artefact.codecs import Half, LowRank, Uint8
from ddsdk_integrations.federated import Packing, ReplyLimits, ReplySpec, inspect_replies
from ddsdk_integrations.federated.payload import content_digest, pack

DATA = local()
NODE = 7
CONTRACT = ReplySpec(
    task=TASK,
    round_number=1,
    allowed={NODE: frozenset(DATA.classes)},
    limits=ReplyLimits(images=8, max_bytes=1 << 20, soft=True),
)
scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.lists(st.integers(-5, 10**6), max_size=12),
)
dimensions = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
codecs = st.sampled_from([Uint8(), Half(), LowRank(2)])
texts = st.one_of(
    st.sampled_from(
        [
            '{"name": "tiles", "factor": 2}',
            '{"name": "low-rank", "rank": -1}',
            '{"name": "low-rank", "rank": true}',
            '{"name": "components"}',
            '{"name": ["half"]}',
            "[1]",
            "null",
            '{"name": "half", "name": "half"}',
            "{" * 2000,
        ]
    ),
    st.text(max_size=40),
)


def sent(codec):
    return pack(made(DATA, soft=True), DATA, Packing(codec=codec, soft=True), round_number=1)


def judged(content):
    # What is no JSON cannot be sealed, and is refused for that.
    with contextlib.suppress(TypeError, ValueError):
        content["meta"]["digest"] = content_digest(content["syn"], content["meta"])
    sets, refused = inspect_replies([reply(content, NODE)], CONTRACT)
    assert len(sets) + len(refused) == 1
    for one in sets:
        assert torch.isfinite(one.images).all()
        low, high = CONTRACT.limits.bounds
        assert low <= one.images.min() and one.images.max() <= high
        assert set(one.classes.tolist()) <= set(DATA.classes)
        assert len(one.images) == len(one.labels) == len(one.classes)
        assert torch.bincount(one.classes).max() <= CONTRACT.limits.images
        assert one.labels.min() >= 0
        assert (one.labels.sum(1) - 1).abs().max() < 0.02
        assert 1 <= one.examples <= CONTRACT.limits.max_examples
    return sets


@settings(max_examples=150)
@given(codec=codecs, data=st.data())
def test_damaged_bytes_of_an_array(codec, data):
    content = sent(codec)
    name = data.draw(st.sampled_from(sorted(content["syn"])))
    array = content["syn"][name]
    raw = bytearray(array.data)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    content["syn"][name] = Array(array.dtype, array.shape, array.stype, bytes(raw[: cut or None]))
    judged(content)


@settings(max_examples=150)
@given(codec=codecs, shape=dimensions, dtype=st.sampled_from(["uint8", "float16", "float32", "int16", "O", "U9", ""]))
def test_other_declarations(codec, shape, dtype):
    for name in list((content := sent(codec))["syn"]):
        array = content["syn"][name]
        content["syn"][name] = Array(dtype, shape, array.stype, array.data)
        judged(content)
        content["syn"][name] = array


@settings(max_examples=150)
@given(codec=codecs, data=st.data(), value=scalars)
def test_other_values_of_meta_and_metrics(codec, data, value):
    content = sent(codec)
    record = content[data.draw(st.sampled_from(["meta", "metrics"]))]
    name = data.draw(st.sampled_from(sorted(record)))
    try:
        record[name] = value
    except (TypeError, ValueError):
        return  # Flower itself does not carry it
    judged(content)


@settings(max_examples=60)
@given(codec=codecs, text=texts)
def test_other_codecs(codec, text):
    content = sent(codec)
    content["meta"]["codec"] = text
    judged(content)


def test_what_is_sound_passes():
    for codec in (Uint8(), Half(), LowRank(2)):
        assert len(judged(sent(codec))) == 1
