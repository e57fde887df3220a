"""Codecs: what comes out is what went in, to their precision, and takes the bytes that they say."""

from __future__ import annotations

import pytest
import torch

import ddsdk as dd
from ddsdk.artefact.codec_table import CODECS, codec_from, codec_state
from ddsdk.artefact.codecs import Components, Half, LowRank, Tiles, Uint8
from ddsdk.artefact.cosine import Cosine
from ddsdk.synthetic import MultiFormation

SHAPE = (3, 8, 6)


def random_items(n=4):
    return torch.rand(n, *SHAPE, generator=dd.generator("items"))


@pytest.mark.parametrize(
    ("codec", "error"),
    [(Uint8(), 0.5 / 255), (Half(), 5e-4), (LowRank(6), 2e-3)],
    ids=lambda value: getattr(value, "name", None),
)
def test_images_come_back_to_the_precision_of_the_codec(codec, error):
    items = random_items()
    packed = codec.pack(items)
    assert (codec.unpack(packed) - items).abs().max() <= error + 1e-7
    assert sum(t.nbytes for t in packed.values()) == len(items) * codec.item_bytes(SHAPE)
    assert codec.count(packed) == len(items)
    two = codec.at(packed, torch.tensor([3, 1]))
    assert torch.equal(codec.unpack(two), codec.unpack(packed)[[3, 1]])


def test_low_rank_keeps_the_best_approximation_of_its_rank():
    items = random_items()
    found = LowRank(2).unpack(LowRank(2).pack(items))
    u, s, v = torch.linalg.svd(items.double(), full_matrices=False)
    best = (u[..., :2] * s[..., None, :2]) @ v[..., :2, :]
    assert (found - best).abs().max() < 2e-3
    assert LowRank(4).item_bytes((1, 28, 28)) == 448


def test_tiles_hold_as_many_smaller_images_as_a_multiformation():
    canvases = random_items(2)
    tiles = Tiles(2)
    packed = tiles.pack(canvases)
    rounded = packed["canvases"].float() / 255
    wanted, _ = MultiFormation(rounded, 2).decode(torch.arange(2), dd.generator("decode"))
    assert torch.equal(tiles.unpack(packed), wanted.detach())
    assert tiles.images_per_item == 4 and len(wanted) == 8
    assert sum(t.nbytes for t in packed.values()) == 2 * tiles.item_bytes(SHAPE)


def test_components_are_shared_and_images_are_sigmoids_of_their_sums():
    rng = dd.generator("components")
    components, weights = torch.randn(2, *SHAPE, generator=rng), torch.randn(5, 2, generator=rng)
    packed = Components().pack_parts(components, weights)
    wanted = torch.sigmoid(torch.einsum("mn,nchw->mchw", weights, components))
    assert (Components().unpack(packed) - wanted).abs().max() < 0.02
    assert Components().count(packed) == 5
    last = Components().at(packed, torch.tensor([4]))
    assert (Components().unpack(last) - wanted[4:]).abs().max() < 0.02
    with pytest.raises(ValueError, match="items must be components with weights, got 4 images"):
        Components().pack(random_items())


@pytest.mark.parametrize(
    "codec", [*(kind() for kind in CODECS.values() if kind is not Cosine), Cosine(height=8, width=6, kept=9)]
)
def test_a_codec_goes_through_plain_values(codec):
    assert codec_from(codec_state(codec)) == codec


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"name": "jpeg"}, "codec must be one of uint8, half, low-rank, .*, palette, cosine, got 'jpeg'"),
        ({"name": "uint8", "rank": 3}, r"codec must have the values \[\], got \['rank'\]"),
        ({"name": "low-rank", "rank": 0}, "rank must be at least 1, got 0"),
    ],
)
def test_a_codec_that_does_not_exist_is_refused(state, message):
    with pytest.raises(ValueError, match=message):
        codec_from(state)


def test_a_rank_beyond_the_sides_is_refused():
    with pytest.raises(ValueError, match="rank must not exceed the sides 8x6, got 7"):
        LowRank(7).item_bytes(SHAPE)
