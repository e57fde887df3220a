"""Codecs of stored or sent images: bytes, half floats, low-rank factors, tiles, or mixtures of components.

A storage budget in bytes counts the packed tensors. Unpacked images are recomputed for each use and are not stored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, PositiveInt, generator, require
from ddsdk.synthetic import MultiFormation

LABEL_BYTES = 2
"""Bytes of a class id, for real and for synthetic images."""

Packed = dict[str, Tensor]
"""Packed tensors by name, with one row for each item unless items share tensors."""


class Codec(ABC):
    """Base class of lossy codecs: frozen dataclasses that pack items (M, C, H, W) in the unit range and unpack images.

    Attributes:
        name: Name of the codec in files.
        shares: Whether items share tensors, so that the bytes are not proportional to the number of items.
    """

    name: ClassVar[str]
    shares: ClassVar[bool] = False

    @property
    def images_per_item(self) -> int:
        """Number of images that one item unpacks to."""
        return 1

    @abstractmethod
    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return the number of bytes of one packed item for an image shape (C, H, W)."""

    @abstractmethod
    def pack(self, items: Tensor) -> Packed:
        """Return the packed tensors of M items; the storage budget counts their bytes."""

    @abstractmethod
    def unpack(self, packed: Packed) -> Tensor:
        """Return images (M * images_per_item, C, H, W), float32 in the unit range, item by item."""

    def packed_shapes(self, count: int, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return dtype and shape of each packed tensor of M = `count` items, for an image shape (C, H, W).

        Raises:
            ValueError: If the shapes do not follow from the number of items.
        """
        raise ValueError(f"codec must have packed tensors of known shapes, got {self.name} for {count} of {shape}")

    def count(self, packed: Packed) -> int:
        """Return the number of items M."""
        return len(next(iter(packed.values())))

    def at(self, packed: Packed, index: Tensor) -> Packed:
        """Return copies of the items at `index`, (M',) int64."""
        return {name: tensor[index].clone() for name, tensor in packed.items()}


class RowCodec(Codec):
    """Base class of codecs whose items share no tensors, so that items can be sent and checked one by one."""

    @abstractmethod
    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return dtype and shape of the row of one item in each packed tensor, for an image shape (C, H, W)."""

    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return the number of bytes of one packed item for an image shape (C, H, W)."""
        return sum(dtype.itemsize * math.prod(row) for dtype, row in self.layout(shape).values())

    def packed_shapes(self, count: int, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return dtype and shape of each packed tensor of M = `count` items, for an image shape (C, H, W)."""
        return {name: (dtype, (count, *row)) for name, (dtype, row) in self.layout(shape).items()}


def to_bytes(items: Tensor) -> Tensor:
    """Return values of the unit range, clamped to [0, 1], as bytes 0..255.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import to_bytes
        >>> to_bytes(torch.tensor([0.0, 1.0, 1.5])).tolist()
        [0, 255, 255]
    """
    return (items.clamp(0, 1) * 255).round().to(torch.uint8)


@final
@dataclass(frozen=True)
class Uint8(RowCodec):
    """One byte for each channel of a pixel, as in real images.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import Uint8
        >>> packed = Uint8().pack(torch.rand(4, 1, 8, 8))
        >>> Uint8().item_bytes((1, 8, 8)), tuple(Uint8().unpack(packed).shape)
        (64, (4, 1, 8, 8))
    """

    name: ClassVar[str] = "uint8"

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return one row of bytes with the shape of an image."""
        return {"images": (torch.uint8, shape)}

    def pack(self, items: Tensor) -> Packed:
        """Return the images, rounded to the nearest of 256 values."""
        return {"images": to_bytes(items)}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the images of the bytes."""
        return packed["images"].float() / 255


@final
@dataclass(frozen=True)
class Half(RowCodec):
    """One half float for each channel of a pixel: finer than bytes, and twice as large.

    Examples:
        >>> from ddsdk.artefact import Half
        >>> Half().item_bytes((1, 8, 8))
        128
    """

    name: ClassVar[str] = "half"

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return one row of half floats with the shape of an image."""
        return {"images": (torch.float16, shape)}

    def pack(self, items: Tensor) -> Packed:
        """Return the images as half floats; values outside the unit range are not clamped."""
        return {"images": items.half()}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the images of the half floats."""
        return packed["images"].float()


@final
@dataclass(frozen=True)
class LowRank(CheckedDataclass, RowCodec):
    """A low-rank factorisation of each channel: a product of two thin matrices of half floats.

    Attributes:
        rank: Rank of the product, at most the shorter side. A 28x28 channel takes 448 bytes at rank 4, and 784 bytes
            with one byte for each pixel.

    Differences from the published method: images are truncated to the rank after distillation. The paper optimises the
    factors.

    Examples:
        >>> from ddsdk.artefact import LowRank
        >>> LowRank(rank=2).item_bytes((1, 8, 8))
        64

    References:
        Yang et al., "An Efficient Dataset Condensation Plugin and Its Application to Continual Learning",
        NeurIPS 2023.
    """

    rank: PositiveInt = 4
    name: ClassVar[str] = "low-rank"

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return the rows of both factors: rank*(H+W) half floats for each channel. A rank above a side is refused."""
        channels, height, width = shape
        require(self.rank <= min(height, width), "rank", f"not exceed the sides {height}x{width}", self.rank)
        half = torch.float16
        return {"left": (half, (channels, height, self.rank)), "right": (half, (channels, self.rank, width))}

    def pack(self, items: Tensor) -> Packed:
        """Return the leading singular vectors, each scaled by the square root of its singular value."""
        u, values, v = torch.linalg.svd(items, full_matrices=False)
        root = values[..., : self.rank].sqrt()
        left = u[..., : self.rank] * root[..., None, :]
        right = v[..., : self.rank, :] * root[..., :, None]
        return {"left": left.half(), "right": right.half()}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the products of the factors."""
        return packed["left"].float() @ packed["right"].float()


@final
@dataclass(frozen=True)
class Tiles(CheckedDataclass, RowCodec):
    """Canvases of bytes that hold factor x factor images at a lower resolution, see `ddsdk.synthetic.MultiFormation`.

    Attributes:
        factor: Number of tiles along each side of a canvas.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import Tiles
        >>> codec = Tiles(factor=2)
        >>> tuple(codec.unpack(codec.pack(torch.rand(3, 1, 8, 8))).shape)
        (12, 1, 8, 8)
    """

    factor: PositiveInt = 2
    name: ClassVar[str] = "tiles"

    @property
    def images_per_item(self) -> int:
        """Square of the factor."""
        return self.factor**2

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return one row of bytes with the shape of a canvas."""
        return {"canvases": (torch.uint8, shape)}

    def pack(self, items: Tensor) -> Packed:
        """Return the canvases, rounded to the nearest of 256 values."""
        return {"canvases": to_bytes(items)}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the tiles of all canvases, enlarged to the size of a canvas."""
        canvases = packed["canvases"].float() / 255
        tiles = MultiFormation(canvases, self.factor)
        with torch.no_grad():
            # Decoding tiles draws no random numbers; the generator is required by the interface alone.
            images, _ = tiles.decode(torch.arange(len(canvases)), generator("tiles"))
        return images


@final
@dataclass(frozen=True)
class Components(Codec):
    """Images as sigmoids of weighted sums of components that the images of a class share.

    Components are stored as bytes between their minimum and maximum, weights as half floats. Images cannot be packed:
    components and weights come from a parametrization that optimises them.

    Examples:
        >>> import torch
        >>> from ddsdk.artefact import Components
        >>> packed = Components().pack_parts(torch.randn(3, 1, 8, 8), torch.rand(5, 3))
        >>> tuple(Components().unpack(packed).shape)
        (5, 1, 8, 8)

    References:
        Wiewel and Yang, "Condensed Composite Memory Continual Learning", IJCNN 2021, arXiv:2102.09890.
    """

    name: ClassVar[str] = "components"
    shares: ClassVar[bool] = True

    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return C*H*W, the number of bytes of one component without its weights."""
        return math.prod(shape)

    def pack(self, items: Tensor) -> Packed:
        """Refuse images.

        Raises:
            ValueError: Always, because images have no components; `pack_parts` packs components.
        """
        raise ValueError(f"items must be components with weights, got {len(items)} images; use pack_parts")

    def pack_parts(self, components: Tensor, weights: Tensor) -> Packed:
        """Return the packed tensors of n components (n, C, H, W), in logits, and weights (M, n) of M images."""
        low, high = components.min(), components.max()
        levels = (components - low) / (high - low).clamp_min(1e-12) * 255
        return {
            "components": levels.round().to(torch.uint8),
            "range": torch.stack([low, high]),
            "weights": weights.half(),
        }

    def unpack(self, packed: Packed) -> Tensor:
        """Return the sigmoids of the weighted sums."""
        low, high = packed["range"]
        components = packed["components"].float() / 255 * (high - low) + low
        return torch.sigmoid(torch.einsum("mn,nchw->mchw", packed["weights"].float(), components))

    def count(self, packed: Packed) -> int:
        """Return the number of images M."""
        return len(packed["weights"])

    def at(self, packed: Packed, index: Tensor) -> Packed:
        """Return all components with copies of the weights of the images at `index`."""
        return {**packed, "weights": packed["weights"][index].clone()}
