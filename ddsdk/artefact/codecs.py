"""Codecs of stored or sent images: bytes, half floats, low-rank factors, small tiles, or mixtures of components.

A budget is in bytes: it counts what a codec packs, and what it unpacks is made anew at each look.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from ddsdk.foundation import Checked, PositiveInt, generator, require
from ddsdk.synthetic import MultiFormation

LABEL_BYTES = 2
"""Bytes of a class id, for real and for synthetic images."""

Packed = dict[str, Tensor]
"""Tensors by name, whose rows are items where nothing is shared."""


class Codec(ABC):
    """Packs stored items, (M, C, H, W) in the unit range, and unpacks images from them. A frozen dataclass.

    Attributes:
        name: Name in a file.
        shares: Whether items share something, so that fewer of them do not take fewer bytes in proportion.
    """

    name: ClassVar[str]
    shares: ClassVar[bool] = False

    @property
    def images_per_item(self) -> int:
        """Images that one stored item unpacks to."""
        return 1

    @abstractmethod
    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return the bytes of one item of an image shape (C, H, W)."""

    @abstractmethod
    def pack(self, items: Tensor) -> Packed:
        """Return tensors with M rows each; their bytes are what the budget counts."""

    @abstractmethod
    def unpack(self, packed: Packed) -> Tensor:
        """Return (M * images_per_item, C, H, W) float32 in the unit range, item by item."""

    def count(self, packed: Packed) -> int:
        """Return M."""
        return len(next(iter(packed.values())))

    def at(self, packed: Packed, index: Tensor) -> Packed:
        """Return the items at `index`, (M',) int64, in memory of their own."""
        return {name: tensor[index].clone() for name, tensor in packed.items()}


class RowCodec(Codec):
    """A codec whose items share nothing, so that they can be sent and checked one by one."""

    @abstractmethod
    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return dtype and shape of one item's row in each tensor, for an image shape (C, H, W)."""

    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return the bytes of one item of an image shape (C, H, W)."""
        return sum(dtype.itemsize * math.prod(row) for dtype, row in self.layout(shape).values())


def to_bytes(items: Tensor) -> Tensor:
    """Return values of the unit range as bytes, those beyond it as its ends."""
    return (items.clamp(0, 1) * 255).round().to(torch.uint8)


@final
@dataclass(frozen=True)
class Uint8(RowCodec):
    """A byte for each channel of a pixel, as real images have."""

    name: ClassVar[str] = "uint8"

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return a byte for each channel of a pixel."""
        return {"images": (torch.uint8, shape)}

    def pack(self, items: Tensor) -> Packed:
        """Round to the nearest of 256 values."""
        return {"images": to_bytes(items)}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the images."""
        return packed["images"].float() / 255


@final
@dataclass(frozen=True)
class Half(RowCodec):
    """A half float for each channel of a pixel, which is finer than bytes and takes twice as many."""

    name: ClassVar[str] = "half"

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return a half float for each channel of a pixel."""
        return {"images": (torch.float16, shape)}

    def pack(self, items: Tensor) -> Packed:
        """Round to half floats; values beyond the unit range stay."""
        return {"images": items.half()}

    def unpack(self, packed: Packed) -> Tensor:
        """Return the images."""
        return packed["images"].float()


@final
@dataclass(frozen=True)
class LowRank(Checked, RowCodec):
    """Each channel as a product of two thin matrices of half floats: its leading singular vectors.

    Attributes:
        rank: Rank of the product. At 28x28, 4 takes 448 bytes where a byte for each pixel takes 784.

    Differences from the published method: an image is cut to its rank after distillation, and not optimised there.

    References:
        Yang et al., "An Efficient Dataset Condensation Plugin and Its Application to Continual Learning",
        NeurIPS 2023.
    """

    rank: PositiveInt = 4
    name: ClassVar[str] = "low-rank"

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return both factors of each channel: rank*(H+W) half floats."""
        channels, height, width = shape
        require(self.rank <= min(height, width), "rank", f"not exceed the sides {height}x{width}", self.rank)
        half = torch.float16
        return {"left": (half, (channels, height, self.rank)), "right": (half, (channels, self.rank, width))}

    def pack(self, items: Tensor) -> Packed:
        """Keep the leading singular vectors, the root of each value on both sides."""
        u, values, v = torch.linalg.svd(items, full_matrices=False)
        root = values[..., : self.rank].sqrt()
        left = u[..., : self.rank] * root[..., None, :]
        right = v[..., : self.rank, :] * root[..., :, None]
        return {"left": left.half(), "right": right.half()}

    def unpack(self, packed: Packed) -> Tensor:
        """Multiply."""
        return packed["left"].float() @ packed["right"].float()


@final
@dataclass(frozen=True)
class Tiles(Checked, RowCodec):
    """Canvases of bytes that hold factor x factor images of a lower resolution each; see `MultiFormation`.

    Attributes:
        factor: Tiles along each side.
    """

    factor: PositiveInt = 2
    name: ClassVar[str] = "tiles"

    @property
    def images_per_item(self) -> int:
        """Square of the factor."""
        return self.factor**2

    def layout(self, shape: tuple[int, int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return a byte for each channel of a pixel of a canvas."""
        return {"canvases": (torch.uint8, shape)}

    def pack(self, items: Tensor) -> Packed:
        """Round canvases to the nearest of 256 values."""
        return {"canvases": to_bytes(items)}

    def unpack(self, packed: Packed) -> Tensor:
        """Cut and enlarge."""
        canvases = packed["canvases"].float() / 255
        tiles = MultiFormation(canvases, self.factor)
        with torch.no_grad():
            images, _ = tiles.decode(torch.arange(len(canvases)), generator("tiles"))
        return images


@final
@dataclass(frozen=True)
class Components(Codec):
    """Images as sigmoids of weighted sums of components that a class shares; see `Composites`.

    Components are bytes between their least and their most, weights half floats. A recipe of composites makes both.
    """

    name: ClassVar[str] = "components"
    shares: ClassVar[bool] = True

    def item_bytes(self, shape: tuple[int, int, int]) -> int:
        """Return C*H*W, the bytes of a component; weights are counted once they are there."""
        return math.prod(shape)

    def pack(self, items: Tensor) -> Packed:
        """Raise ValueError: images are no components."""
        raise ValueError(f"items must be components with weights, got {len(items)} images")

    def pack_parts(self, components: Tensor, weights: Tensor) -> Packed:
        """Pack n components, (n, C, H, W) logits, and (M, n) weights."""
        low, high = components.min(), components.max()
        levels = (components - low) / (high - low).clamp_min(1e-12) * 255
        return {
            "components": levels.round().to(torch.uint8),
            "range": torch.stack([low, high]),
            "weights": weights.half(),
        }

    def unpack(self, packed: Packed) -> Tensor:
        """Sum, and take the sigmoid."""
        low, high = packed["range"]
        components = packed["components"].float() / 255 * (high - low) + low
        return torch.sigmoid(torch.einsum("mn,nchw->mchw", packed["weights"].float(), components))

    def count(self, packed: Packed) -> int:
        """Return the number of images."""
        return len(packed["weights"])

    def at(self, packed: Packed, index: Tensor) -> Packed:
        """Return the weights at `index` with all components."""
        return {**packed, "weights": packed["weights"][index].clone()}


CODECS: dict[str, type[Codec]] = {kind.name: kind for kind in (Uint8, Half, LowRank, Tiles, Components)}
"""Name in a file to codec."""


def codec_state(codec: Codec) -> dict[str, Any]:
    """Return a codec as JSON values."""
    return {"name": codec.name, **dataclasses.asdict(codec)}  # type: ignore[call-overload]


def codec_from(state: Mapping[str, Any]) -> Codec:
    """Return the codec that `codec_state` described; an unknown name or value raises ValueError."""
    values = dict(state)
    name = values.pop("name", None)
    require(name in CODECS, "codec", f"be one of {', '.join(CODECS)}", name)
    kind: Any = CODECS[str(name)]
    known = {f.name for f in dataclasses.fields(kind)}
    require(set(values) == known, "codec", f"have the values {sorted(known)}", sorted(values))
    found: Codec = kind(**values)
    return found
