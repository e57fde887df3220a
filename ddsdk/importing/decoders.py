"""Decoders of released sets: images from tiles (IDC), and from bases and styles (HaBa)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, pad

from ddsdk.foundation import require
from ddsdk.importing.restricted import refuse

_PARTS = ("enc.weight", "enc.bias", "scale", "shift", "dec.weight", "dec.bias")


def decoded_tiles(images: Tensor, factor: int) -> Tensor:
    """Return the images of IDC from stored ones: each is cut into factor x factor tiles, which are enlarged.

    Sides that the factor does not divide are padded with grey. The first tile of all images comes first.

    Args:
        images: Stored images, (M, C, H, W), in the unit range.
        factor: Tiles along each side.
    """
    require(1 <= factor <= min(images.shape[2:]), "factor", "lie in 1..the side of an image", factor)
    size = tuple(images.shape[2:])
    rows, columns = (-side % factor for side in size)
    padded = pad(images, (0, columns, 0, rows), value=0.5)
    height, width = padded.shape[2] // factor, padded.shape[3] // factor
    tiles = [
        padded[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
        for i in range(factor)
        for j in range(factor)
    ]
    return torch.cat([interpolate(tile, size, mode="bilinear") for tile in tiles])


def hallucinated_images(bases: Tensor, state: Mapping[str, Any]) -> tuple[Tensor, int]:
    """Return the images of HaBa, all bases in the first style first, and the number of styles.

    A style is y = convT(scale * conv(x) + shift) with a convolution of 3 x 3 without padding, and its transpose. An
    `ArtifactError` is raised for weights that are no styles or do not fit the bases.

    Args:
        bases: Stored bases, (M, B, H, W).
        state: Tensors of all styles by name: STYLE.enc.weight, STYLE.scale, STYLE.dec.bias and so on.
    """
    heads = [name.removesuffix(".scale") for name in state if name.endswith(".scale")]
    tensors = [[state.get(f"{head}.{part}") for part in _PARTS] for head in heads]
    if not heads or not all(isinstance(value, Tensor) for style in tensors for value in style):
        refuse("layout", f"styles must have {', '.join(_PARTS)}, got {', '.join(list(state)[:6])}")
    if len(_PARTS) * len(heads) != len(state):
        refuse("layout", f"styles must have {len(_PARTS)} tensors each, got {len(state)} for {len(heads)}")
    try:
        with torch.no_grad():
            images = [_in_style(bases, *(value.float() for value in style)) for style in tensors]  # type: ignore[union-attr]
    except RuntimeError as error:
        refuse("shape", f"styles must fit bases of shape {tuple(bases.shape)}: {error}")
    return torch.cat(images), len(heads)


def _in_style(
    bases: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, back: Tensor, back_bias: Tensor
) -> Tensor:
    return conv_transpose2d(scale * conv2d(bases, weight, bias) + shift, back, back_bias)
