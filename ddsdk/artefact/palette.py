"""Codec of images with few colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ddsdk.artefact.codecs import Codec, Packed
from ddsdk.foundation import CheckedDataclass, PositiveInt, generator, require

_SAMPLE = 20_000
"""Largest number of pixels from which the colours are chosen."""


@final
@dataclass(frozen=True)
class Palette(CheckedDataclass, Codec):
    """Pixels as numbers of a few colours that all images share, chosen by k-means.

    Attributes:
        colours: Number of colours, in 2..256. Each takes two bytes for each channel, and each pixel one byte, of which
            the entropy coding of a packed set leaves about ``log2(colours)`` bits.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import Palette
        >>> packed = Palette(colours=4).pack(torch.rand(3, 1, 8, 8))
        >>> tuple(packed["colours"].shape), tuple(Palette(colours=4).unpack(packed).shape)
        ((4, 1), (3, 1, 8, 8))
    """

    colours: PositiveInt = 16
    name: ClassVar[str] = "palette"
    shares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.colours <= 256, "colours", "lie in 2..256", self.colours)

    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return H*W, the number of bytes of one image without the colours."""
        return math.prod(shape[1:])

    def packed_shapes(self, count: int, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return dtype and shape of the colours and of the numbers of the pixels."""
        channels, *sides = shape
        return {"colours": (torch.float16, (self.colours, channels)), "pixels": (torch.uint8, (count, *sides))}

    def pack(self, items: Tensor) -> Packed:
        """Return the colours, by increasing brightness, and the number of the nearest colour of each pixel.

        Images with fewer different pixels than colours give a ValueError.
        """
        pixels = items.movedim(1, -1).flatten(0, -2)
        sample = pixels[torch.randperm(len(pixels), generator=generator("palette"))[:_SAMPLE]]
        different = len(torch.unique(sample, dim=0))
        require(different >= self.colours, "items", f"have at least {self.colours} different pixels", different)
        found = KMeans(self.colours, n_init=1, random_state=0).fit(sample.double().numpy())
        colours = torch.from_numpy(found.cluster_centers_).half()
        colours = colours[colours.float().sum(1).argsort(stable=True)]
        nearest = torch.cat(
            [torch.cdist(part, colours.float()).argmin(1) for part in torch.split(pixels.float(), _SAMPLE)]
        )
        return {"colours": colours, "pixels": nearest.to(torch.uint8).reshape(len(items), *items.shape[2:])}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the colours of all pixels; a number without a colour gives a ValueError."""
        numbers = packed["pixels"].long()
        require(int(numbers.max()) < self.colours, "pixels", f"be numbers below {self.colours}", int(numbers.max()))
        return packed["colours"].float()[numbers].movedim(-1, 1).contiguous()

    def count(self, packed: Packed) -> int:
        """Return the number of images M."""
        return len(packed["pixels"])

    def at(self, packed: Packed, index: Tensor) -> Packed:
        """Return all colours with copies of the numbers of the images at `index`."""
        return {**packed, "pixels": packed["pixels"][index].clone()}
