"""Traces that a trigger may leave in a set itself: in its features, and in single places of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.data import Preprocess
from ddsdk.foundation import require, require_count
from ddsdk.training import embeddings, probabilities

_LEAST = 3
"""Images of a class of which a leading direction can be told from the rest."""


class Spectrum(NamedTuple):
    """The leading direction of the features of each class.

    Attributes:
        shares: Share of the class's variance that lies along it, (K,); NaN for fewer than 3 images.
        scores: Squared part of each image along its class's direction over the mean of its class, (M,).
    """

    shares: Tensor
    scores: Tensor


@torch.no_grad()
def spectral_signatures(networks: Sequence[nn.Module], x: Tensor, labels: Tensor, classes: int) -> Spectrum:
    """Return the spread of the features of each class along one direction; means over networks.

    Args:
        networks: Networks of the catalogue that were trained on the set: they have `embed`.
        x: Images of the set in the networks' value space, (M, C, H, W).
        labels: Class of each image, (M,) int64.
        classes: Number of classes K.

    References:
        Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, arXiv:1811.00636.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    shares = x.new_full((len(networks), classes), torch.nan)
    scores = x.new_zeros(len(networks), len(x))
    for i, network in enumerate(networks):
        features = embeddings(network, x)
        for c in range(classes):
            own = labels == c
            if int(own.sum()) < _LEAST:
                continue
            centred = features[own] - features[own].mean(0)
            _, values, rows = torch.linalg.svd(centred, full_matrices=False)
            squares = values.square()
            shares[i, c] = squares[0] / squares.sum().clamp(min=1e-12)
            along = (centred @ rows[0]).square()
            scores[i, own] = along / along.mean().clamp(min=1e-12)
    return Spectrum(shares.mean(0), scores.mean(0))


@torch.no_grad()
def occlusion_falls(
    networks: Sequence[nn.Module], images: Tensor, labels: Tensor, preprocess: Preprocess, *, size: int = 2
) -> Tensor:
    """Return the fall of the log-probability of each image's class when a square of the image is covered.

    It is the mean over networks, (M, H - size + 1, W - size + 1); the cover is the mean image of the set.

    Args:
        networks: Networks that were trained on the set.
        images: Images of the set, (M, C, H, W) in the unit range.
        labels: Class of each image, (M,) int64.
        preprocess: Map from the unit range to the networks' value space.
        size: Side of the square in pixels.

    Cost: one forward pass over M images for each place and network.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    require_count("size", size)
    require(size <= min(images.shape[2:]), "size", f"fit into {tuple(images.shape[2:])} pixels", size)
    cover = images.mean(0)
    before = _log_probability(networks, preprocess(images), labels)
    rows, columns = (side - size + 1 for side in images.shape[2:])
    falls = images.new_zeros(len(images), rows, columns)
    for top in range(rows):
        for left in range(columns):
            hidden, place = images.clone(), _place(top, left, size)
            hidden[(slice(None), *place)] = cover[place]
            falls[:, top, left] = before - _log_probability(networks, preprocess(hidden), labels)
    return falls


class Pasted(NamedTuple):
    """Effect of squares of a set on images of other classes.

    Attributes:
        shares: Largest net share of images of other classes that a square of each class turns into it, (K,).
        places: Upper left corner (row, column) of that square, (K, 2) int64.
        sources: Position of the image of the set from which it was cut, (K,) int64.
    """

    shares: Tensor
    places: Tensor
    sources: Tensor


@torch.no_grad()
def pasted_regions(
    networks: Sequence[nn.Module],
    cut: tuple[Tensor, Tensor],
    onto: tuple[Tensor, Tensor],
    preprocess: Preprocess,
    classes: int,
    *,
    size: int = 2,
    tries: int = 10,
) -> Pasted:
    """Cut out the squares that matter most to a class, and paste them, at their place, onto images of other classes.

    If a set teaches a trigger by showing it, a square of it does to others what the trigger does. The share of others
    that a class gets without a square is subtracted.

    Args:
        networks: Networks that were trained on the set.
        cut: Images of the set (M, C, H, W) in the unit range, and the class of each, (M,) int64.
        onto: Images (N, C, H, W) in the unit range, and the class of each, (N,) int64.
        preprocess: Map from the unit range to the networks' value space.
        classes: Number of classes K.
        size: Side of a square in pixels.
        tries: Number of squares of each class that are pasted: those with the largest `occlusion_falls`.

    References:
        After Chou, Tramer and Pellegrino, "SentiNet", IEEE SPW 2020, who paste salient regions of *inputs*.

    Cost: that of `occlusion_falls`, and K * tries forward passes over N images for each network.
    """
    require_count("tries", tries)
    images, labels = cut
    falls = occlusion_falls(networks, images, labels, preprocess, size=size)
    shares = images.new_zeros(classes)
    places, sources = torch.zeros(classes, 2, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    for c in torch.unique(labels).tolist():
        others = onto[0][onto[1] != c]
        plain = _share(networks, preprocess(others), c)
        found = []
        for source, top, left in _largest(falls, labels == c, tries):
            shown, place = others.clone(), _place(top, left, size)
            shown[(slice(None), *place)] = images[source][place]
            found.append((_share(networks, preprocess(shown), c) - plain, source, top, left))
        share, source, top, left = max(found)
        shares[c], sources[c], places[c] = share, source, torch.tensor([top, left])
    return Pasted(shares, places, sources)


def _largest(falls: Tensor, among: Tensor, count: int) -> list[tuple[int, int, int]]:
    """Return (image, row, column) of the largest falls of the images in a mask."""
    flat = falls.masked_fill(~among[:, None, None], -torch.inf).flatten()
    best = flat.topk(min(count, int(among.sum()) * falls[0].numel())).indices.cpu()
    return list(zip(*(places.tolist() for places in torch.unravel_index(best, falls.shape)), strict=True))


def _place(top: int, left: int, size: int) -> tuple[slice, slice, slice]:
    return slice(None), slice(top, top + size), slice(left, left + size)


def _log_probability(networks: Sequence[nn.Module], x: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over networks of log p(label), (M,)."""
    rows = [probabilities(n, x).gather(1, labels[:, None])[:, 0].clamp(min=1e-12).log() for n in networks]
    return torch.stack(rows).mean(0)


def _share(networks: Sequence[nn.Module], x: Tensor, c: int) -> float:
    """Return the share of images that networks take for class `c`."""
    return sum(float((probabilities(n, x).argmax(1) == c).float().mean()) for n in networks) / len(networks)
