"""Identity of a network as a function: a digest of its outputs on a fixed probe batch."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddsdk.foundation import generator, seeded_layers

_IMAGES = 2
"""Images of the probe batch: BatchNorm needs two."""

_BITS = {torch.float64: 20, torch.float32: 8}
"""Bits of an output, relative to the largest one, that count by type: far above the rounding errors of the type."""


def probe_batch(image_shape: Sequence[int], images: int = _IMAGES) -> Tensor:
    """Return a fixed batch of random images in [0, 1), (images, C, H, W) float32, equal on all machines."""
    return torch.rand(images, *image_shape, generator=generator("probe"))


def function_digest(network: nn.Module, image_shape: Sequence[int]) -> str:
    """Return a digest of what a network computes, which distinguishes networks of equal modules and weights.

    A copy in double precision is evaluated on `probe_batch`, in evaluation mode and in training mode. Outputs are
    rounded to about six significant digits, so that the number of threads and the linear-algebra library do not change
    the digest. A mode whose outputs are random, such as training with dropout, counts as random.

    Args:
        network: Network from images (B, C, H, W) to a tensor; it is not changed.
        image_shape: Shape of the images, (C, H, W).

    Examples:
        >>> import ddsdk
        >>> from ddsdk.networks import function_digest
        >>> make = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> one, two = (function_digest(make(ddsdk.generator(seed)), (1, 8, 8)) for seed in (0, 1))
        >>> one == two
        False
    """
    modes = (_outputs(network, image_shape, training) for training in (False, True))
    return hashlib.sha256(b"|".join(modes)).hexdigest()


@torch.no_grad()
def _outputs(network: nn.Module, image_shape: Sequence[int], training: bool) -> bytes:
    x, clone = probe_batch(image_shape), copy.deepcopy(network).cpu().train(training)
    with seeded_layers(generator("probe")):
        before = torch.default_generator.get_state()
        try:
            outputs: Tensor = clone.double()(x.double())
        except RuntimeError:
            # A forward pass with its own single-precision tensors does not run in double precision.
            outputs = copy.deepcopy(network).cpu().train(training)(x)
        if not torch.equal(torch.default_generator.get_state(), before):
            return b"random"
    largest = outputs.abs().nan_to_num(posinf=0.0).max()
    if not largest > 0:
        return bytes(outputs.sign().nan_to_num().to(torch.int64).numpy().tobytes())
    # The scale is a power of two, so that the division is exact.
    scale = torch.exp2(largest.log2().floor()) / 2 ** _BITS.get(outputs.dtype, 8)
    rounded = (outputs / scale).nan_to_num().round()
    return bytes(rounded.to(torch.int64).numpy().tobytes())
