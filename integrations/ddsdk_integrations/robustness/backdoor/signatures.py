"""Traces of a trigger in a set: a dominant direction of its features, and influential squares of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.data import Preprocess
from ddsdk.foundation import require, require_count
from ddsdk.training import embeddings, probabilities

_LEAST_IMAGES = 3
"""Smallest number of images of a class: the centred features of 2 images always lie on one line."""


class Spectrum(NamedTuple):
    """Spectral signature of each class: variance of its features along their first principal direction.

    Attributes:
        shares: Share of the class's variance along its first principal direction, (K,); NaN for fewer than 3 images.
        scores: Squared component of each image along that direction, divided by the mean over its class, (M,).
    """

    shares: Tensor
    scores: Tensor


@torch.no_grad()
def spectral_signatures(networks: Sequence[nn.Module], x: Tensor, labels: Tensor, classes: int) -> Spectrum:
    """Return the share of the feature variance of each class along its first principal direction, mean over networks.

    Args:
        networks: Networks with `embed` that were trained on the set.
        x: Images of the set in the networks' value space, (M, C, H, W).
        labels: Class of each image, (M,) int64.
        classes: Number of classes K.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.robustness.backdoor import spectral_signatures
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> index = torch.arange(50)
        >>> spectral_signatures([network], real.batch(index).x, real.labels[index], 10).shares.shape
        torch.Size([10])

    References:
        Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, arXiv:1811.00636.
    """
    require(len(networks) > 0, "networks", "hold at least one network", len(networks))
    shares = x.new_full((len(networks), classes), torch.nan)
    scores = x.new_zeros(len(networks), len(x))
    for i, network in enumerate(networks):
        features = embeddings(network, x)
        for c in range(classes):
            in_class = labels == c
            if int(in_class.sum()) < _LEAST_IMAGES:
                continue
            centred = features[in_class] - features[in_class].mean(0)
            _, values, rows = torch.linalg.svd(centred, full_matrices=False)
            squares = values.square()
            shares[i, c] = squares[0] / squares.sum().clamp(min=1e-12)
            along = (centred @ rows[0]).square()
            scores[i, in_class] = along / along.mean().clamp(min=1e-12)
    return Spectrum(shares.mean(0), scores.mean(0))


@torch.no_grad()
def occlusion_drops(
    networks: Sequence[nn.Module], images: Tensor, labels: Tensor, preprocess: Preprocess, *, size: int = 2
) -> Tensor:
    """Return the drop of the log-probability of each image's class when a square of the image is covered.

    The result is a mean over networks for each position of the square, (M, H - size + 1, W - size + 1). The cover is
    the mean image of the set.

    Args:
        networks: Networks that were trained on the set.
        images: Images of the set, (M, C, H, W) in the unit range.
        labels: Class of each image, (M,) int64.
        preprocess: Map from the unit range to the networks' value space.
        size: Side of the square in pixels.

    Cost: one forward pass over M images for each position and network.
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
            covered, square = images.clone(), _square(top, left, size)
            covered[(slice(None), *square)] = cover[square]
            falls[:, top, left] = before - _log_probability(networks, preprocess(covered), labels)
    return falls


class Pasted(NamedTuple):
    """Effect of the most influential square of each class when it is pasted on images of other classes.

    Attributes:
        shares: Largest net share of images of other classes that a square of each class turns into it, (K,).
        places: Upper left corner (row, column) of that square, (K, 2) int64.
        sources: Position in the set of the image with that square, (K,) int64.
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
    """Return the effect of the most influential squares of each class, pasted on images of other classes.

    In a set that teaches a trigger, a square with the trigger turns other images into the class. The share of images
    that networks assign to the class without a square is subtracted.

    Args:
        networks: Networks that were trained on the set.
        cut: Images of the set (M, C, H, W) in the unit range, and the class of each, (M,) int64.
        onto: Images (N, C, H, W) in the unit range, and the class of each, (N,) int64.
        preprocess: Map from the unit range to the networks' value space.
        classes: Number of classes K.
        size: Side of a square in pixels.
        tries: Number of pasted squares for each class, those with the largest `occlusion_drops`.

    References:
        After Chou, Tramer and Pellegrino, "SentiNet", IEEE SPW 2020, who paste salient regions of *inputs*.

    Cost: that of `occlusion_drops`, and K * tries forward passes over N images for each network.
    """
    require_count("tries", tries)
    images, labels = cut
    falls = occlusion_drops(networks, images, labels, preprocess, size=size)
    shares = images.new_zeros(classes)
    places, sources = torch.zeros(classes, 2, dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    for c in torch.unique(labels).tolist():
        others = onto[0][onto[1] != c]
        plain = _share(networks, preprocess(others), c)
        effects = []
        for source, top, left in _largest(falls, labels == c, tries):
            stamped, square = others.clone(), _square(top, left, size)
            stamped[(slice(None), *square)] = images[source][square]
            effects.append((_share(networks, preprocess(stamped), c) - plain, source, top, left))
        share, source, top, left = max(effects)
        shares[c], sources[c], places[c] = share, source, torch.tensor([top, left])
    return Pasted(shares, places, sources)


def _largest(falls: Tensor, among: Tensor, count: int) -> list[tuple[int, int, int]]:
    """Return (image, row, column) of the largest values among the images of a mask."""
    flat = falls.masked_fill(~among[:, None, None], -torch.inf).flatten()
    largest = flat.topk(min(count, int(among.sum()) * falls[0].numel())).indices.cpu()
    return list(zip(*(axis.tolist() for axis in torch.unravel_index(largest, falls.shape)), strict=True))


def _square(top: int, left: int, size: int) -> tuple[slice, slice, slice]:
    return slice(None), slice(top, top + size), slice(left, left + size)


def _log_probability(networks: Sequence[nn.Module], x: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over networks of the log-probability of the label, (M,)."""
    rows = [probabilities(n, x).gather(1, labels[:, None])[:, 0].clamp(min=1e-12).log() for n in networks]
    return torch.stack(rows).mean(0)


def _share(networks: Sequence[nn.Module], x: Tensor, c: int) -> float:
    """Return the share of images that networks classify as class `c`, mean over networks."""
    return sum(float((probabilities(n, x).argmax(1) == c).float().mean()) for n in networks) / len(networks)
