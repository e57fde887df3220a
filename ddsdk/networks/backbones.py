"""Frozen pretrained backbones: feature extractors with their own resolution and normalisation, named and hashed."""

from __future__ import annotations

import copy
import hashlib
import math
import sys
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ddsdk.foundation import NAME_LIMIT, clean, require, require_count
from ddsdk.networks.features import own_embed

_SIDE_WITHOUT_OWN = 32
"""Side in pixels of the image that measures the features of a backbone without an input resolution."""


@final
class Backbone:
    """A frozen pretrained feature extractor: a value that names its weights and its preprocessing.

    The module is copied, stays in evaluation mode, and its weights get no gradients; gradients reach the images. The
    features are the output of the module's method `embed` if it has one, else that of a call, averaged over the
    positions of a feature map. A classifier therefore gives its logits, and `load_backbone` removes the last linear
    layer of a classifier of torchvision or timm.

    Attributes:
        name: Name in tables and files.
        sha256: SHA-256 of all parameters and buffers, of their names, types and shapes; the code of the module is no
            part of it.
        features: Number of features F, measured on one image.
        side: Input resolution in pixels, to which images are resized; None keeps the size of the images.
        mean: Mean of each channel in the unit range that the module's own normalisation subtracts.
        std: Standard deviation > 0 of each channel in the unit range by which it divides.

    Args:
        module: Pretrained module from images (B, C, H, W) to features (B, F) or (B, F, h, w).
        mean: Mean of each of the C channels in the unit range; one number for a module of grey images.
        std: Standard deviation of each channel in the unit range, > 0.
        side: Input resolution in pixels, at least 1; None keeps the size of the images, of which the number of features
            must not depend.
        name: Name in tables and files; empty for the name of the module's class.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ddsdk.networks import Backbone
        >>> backbone = Backbone(nn.Conv2d(3, 16, 3), mean=(0.5,) * 3, std=(0.25,) * 3, side=16, name="small")
        >>> backbone.features, backbone.embed(torch.rand(2, 1, 8, 8)).shape
        (16, torch.Size([2, 16]))
    """

    def __init__(
        self, module: nn.Module, *, mean: Sequence[float], std: Sequence[float], side: int | None = None, name: str = ""
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch module, got {type(module).__name__}")
        if side is not None:
            require_count("side", side)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        channels = len(self.mean) == len(self.std) and len(self.mean) in (1, 3)
        require(channels, "mean and std", "have one number for each of 1 or 3 channels", (self.mean, self.std))
        require(all(map(math.isfinite, self.mean)), "mean", "be finite", self.mean)
        require(all(math.isfinite(s) and s > 0 for s in self.std), "std", "be positive and finite", self.std)
        self.side = side
        self.name = clean(name or type(module).__name__, NAME_LIMIT)
        self._module = copy.deepcopy(module).eval().requires_grad_(False)
        self.sha256 = weights_sha256(self._module)
        tensors = [*self._module.parameters(), *self._module.buffers()]
        self._device = tensors[0].device if tensors else torch.device("cpu")
        self._copies = {self._device: self._module}
        self.features = self._measured()

    def embed(self, unit_images: Tensor) -> Tensor:
        """Return the features, (B, F), of images of the unit range, differentiably.

        Images are resized to the side bilinearly, with a low-pass filter if they become smaller; other proportions are
        stretched. Grey images are repeated to three channels. The backbone's own normalisation follows.

        Args:
            unit_images: Images (B, C, H, W) in the unit range, of one channel or as many as the backbone has; values
                outside 0..1 are not clamped.
        """
        fits = unit_images.ndim == 4 and unit_images.shape[1] in (1, len(self.mean))
        require(fits, "images", f"have shape (B, {len(self.mean)}, H, W) for {self.name}", tuple(unit_images.shape))
        features = self._features(unit_images)
        if features.shape[1] != self.features:
            side = unit_images.shape[-1] if self.side is None else self.side
            rule = f"be given, as {self.name} has {self.features} features at {_SIDE_WITHOUT_OWN} pixels"
            require(False, "side", rule, f"{features.shape[1]} features at {side}")
        return features

    def with_preprocessing(self, *, mean: Sequence[float], std: Sequence[float], side: int | None) -> Backbone:
        """Return the same module with another normalisation and resolution.

        Args:
            mean: Mean of each of the C channels in the unit range.
            std: Standard deviation of each channel in the unit range, > 0.
            side: Input resolution in pixels; None keeps the size of the images.
        """
        return Backbone(self._module, mean=mean, std=std, side=side, name=self.name)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Normalisation and resolution, as the arguments of `with_preprocessing`."""
        return {"mean": self.mean, "std": self.std, "side": self.side}

    def __repr__(self) -> str:
        """Return the name, the number of features, the resolution and the first digits of the hash."""
        return f"Backbone({self.name!r}, features={self.features}, side={self.side}, sha256={self.sha256[:12]})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """Return the backbone itself, which does not change."""
        return self

    def _features(self, images: Tensor) -> Tensor:
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            smaller = self.side < max(images.shape[-2:])
            size = (self.side, self.side)
            images = interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=smaller)
        images = images.expand(-1, len(self.mean), -1, -1)
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        module = self._on(images.device)
        features: object = (own_embed(module) or module)((images - mean) / std)
        if not isinstance(features, Tensor) or features.ndim not in (2, 4) or len(features) != len(images):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"{self.name} must give features (B, F) or (B, F, h, w), got {shape} for {len(images)}")
        return features if features.ndim == 2 else features.mean((2, 3))

    def _on(self, device: torch.device) -> nn.Module:
        if device not in self._copies:
            self._copies[device] = copy.deepcopy(self._module).to(device)
        return self._copies[device]

    @torch.no_grad()
    def _measured(self) -> int:
        side = self.side or _SIDE_WITHOUT_OWN
        return self._features(torch.zeros(1, len(self.mean), side, side, device=self._device)).shape[1]


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of the parameters and buffers of a module, independent of device and byte order.

    The tensors follow one another in the order of their names, each after its name, type and shape.

    Examples:
        >>> from torch import nn
        >>> from ddsdk.networks import weights_sha256
        >>> weights_sha256(nn.ReLU())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
        # numpy has no bfloat16, so the bytes are read as integers of the same width.
        items = plain.reshape(-1).view(torch.uint8).numpy()
        width = plain.element_size() // (2 if plain.is_complex() else 1)
        little = sys.byteorder == "little" or width == 1
        digest.update((items if little else np.flip(items.reshape(-1, width), 1)).tobytes())
    return digest.hexdigest()
