"""Geometry to which pictures of different sizes are brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, final, get_args

from PIL import Image, ImageOps

from ddsdk.foundation import require

Fit: TypeAlias = Literal["stretch", "crop", "pad"]
_LARGEST = 65_536


@final
@dataclass(frozen=True)
class Resize:
    """Size to which pictures are resampled, bilinearly with antialiasing, and the treatment of other proportions.

    Attributes:
        height: Height of the result in pixels, 1 to 65536.
        width: Width of the result in pixels, 1 to 65536.
        fit: "stretch" changes the proportions. "crop" scales the picture until it covers the size, and takes the
            centre. "pad" scales the picture until it lies within the size, and adds black borders of equal width.

    Examples:
        >>> import ddsdk
        >>> ddsdk.data.Resize.of(32) == ddsdk.data.Resize(32, 32)
        True
    """

    height: int
    width: int
    fit: Fit = "stretch"

    def __post_init__(self) -> None:
        sides = (self.height, self.width)
        # bool is a subclass of int in Python, but True is not a size.
        valid = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= _LARGEST for n in sides)
        rule = "be one side or (height, width) in whole pixels from 1 on, such as 32 or (32, 48)"
        require(valid, "resize", rule, sides)
        require(self.fit in get_args(Fit), "fit", f"be one of {', '.join(get_args(Fit))}", self.fit)

    @classmethod
    def of(cls, value: Resize | int | tuple[int, int] | None, fit: Fit = "stretch") -> Resize | None:
        """Return the geometry for the side of a square, a pair (height, width) or a `Resize`; None gives None."""
        if value is None or isinstance(value, Resize):
            return value
        sides = (value, value) if isinstance(value, int) else tuple(value)
        rule = "be one side or (height, width) in whole pixels, such as 32 or (32, 48)"
        require(len(sides) == 2, "resize", rule, value)
        return cls(sides[0], sides[1], fit)

    @classmethod
    def from_state(cls, state: object) -> Resize:
        """Return the geometry that `state` describes, which may come from an untrusted file.

        Args:
            state: JSON object with exactly the keys "height", "width" and "fit"; others are a ValueError.
        """
        fields = {"height", "width", "fit"}
        is_state = isinstance(state, Mapping) and set(state) == fields
        require(is_state, "resize", f"be an object with the keys {sorted(fields)}", state)
        return cls(**cast("dict[str, Any]", state))

    @property
    def state(self) -> dict[str, Any]:
        """Height, width and fit as a JSON object, which `from_state` reads."""
        return {"height": self.height, "width": self.width, "fit": self.fit}

    def __str__(self) -> str:
        """Return size and fit, such as "32x48 (crop)"."""
        return f"{self.height}x{self.width} ({self.fit})"

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Return a picture in this geometry."""
        size, method = (self.width, self.height), Image.Resampling.BILINEAR
        if self.fit == "crop":
            return ImageOps.fit(picture, size, method)
        if self.fit == "pad":
            return ImageOps.pad(picture, size, method)
        return picture.resize(size, method)
