"""Preprocessing: the map from the unit range to the value space of the students, and back.

A distilled set means nothing without the space of its images, so the map travels with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ddsdk.foundation import require

KNOWN_NORMALISATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Channel means and standard deviations with which the field publishes its numbers, by data set name."""

_CHUNK, _ROWS = 1 << 22, 4096


@dataclass(frozen=True, eq=False)
class Whitening:
    """ZCA whitening, zero-phase component analysis: W = U (S + eps)^-1/2 U^T, of flattened images.

    Attributes:
        mean: Mean image, (D,) with D = C*H*W.
        basis: Eigenvectors U of the covariance in columns, (D, D).
        eigenvalues: Eigenvalues S, (D,), never negative.
        eps: Number > 0 that is added to every eigenvalue.

    References:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009, appendix A.
    """

    mean: Tensor
    basis: Tensor
    eigenvalues: Tensor
    eps: float

    def __post_init__(self) -> None:
        d = self.mean.numel()
        shapes = tuple(self.mean.shape), tuple(self.basis.shape), tuple(self.eigenvalues.shape)
        require(shapes == ((d,), (d, d), (d,)), "whitening", "hold tensors (D,), (D, D) and (D,)", shapes)
        for name in ("mean", "basis", "eigenvalues"):
            t = getattr(self, name)
            require(t.is_floating_point(), name, "be floating point", t.dtype)
            require(bool(torch.isfinite(t).all()), name, "be finite", "NaN or infinity")
        require(bool((self.eigenvalues >= 0).all()), "eigenvalues", "be >= 0", float(self.eigenvalues.min()))
        require(math.isfinite(self.eps) and self.eps > 0, "eps", "be positive and finite", self.eps)

    @classmethod
    def fit(cls, images: Tensor, eps: float) -> Whitening:
        """Fit mean and covariance (divided by N - 1) of `images`, (N, C, H, W), in float64."""
        require(len(images) >= 2, "images", "be at least 2 to be whitened", len(images))
        flat = images.flatten(1)
        mean = flat.mean(0, dtype=torch.float64)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=flat.device)
        for rows in torch.split(flat, _ROWS):
            centred = rows.double() - mean
            covariance.addmm_(centred.T, centred)
        values, basis = torch.linalg.eigh(covariance / (len(flat) - 1))
        return cls(mean.float().cpu(), basis.float().cpu(), values.clamp(min=0).float().cpu(), float(eps))

    def __call__(self, images: Tensor) -> Tensor:
        """Whiten images (..., C, H, W)."""
        flat = images.flatten(-3) - self.mean.to(images)
        return self._scale(flat, (self.eigenvalues + self.eps).rsqrt()).reshape(images.shape)

    def inverse(self, images: Tensor) -> Tensor:
        """Undo the whitening of images (..., C, H, W)."""
        flat = self._scale(images.flatten(-3), (self.eigenvalues + self.eps).sqrt())
        return (flat + self.mean.to(images)).reshape(images.shape)

    def _scale(self, flat: Tensor, factors: Tensor) -> Tensor:
        # Two thin products cost less than forming W, whose side is 3072 for 32x32 colour images.
        basis = self.basis.to(flat)
        return (flat @ basis) * factors.to(flat) @ basis.T


@dataclass(frozen=True, eq=False)
class Preprocess:
    """A map from the unit range [0, 1] to the value space: per-channel normalisation, then maybe whitening.

    Attributes:
        mean: Numbers in the unit range that are subtracted, one for each of C channels.
        std: Numbers > 0 that divide, one for each channel.
        whitening: Whitening behind the normalisation, or None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        ok = len(self.mean) == len(self.std) >= 1
        require(ok, "mean and std", "have one number for each channel", (self.mean, self.std))
        require(all(map(math.isfinite, self.mean)), "mean", "be finite", self.mean)
        require(all(math.isfinite(s) and s > 0 for s in self.std), "std", "be positive and finite", self.std)

    @classmethod
    def unit(cls, channels: int) -> Preprocess:
        """Return the identity: students see the unit range itself."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def normalise(cls, mean: Sequence[float], std: Sequence[float]) -> Preprocess:
        """Return x -> (x - mean) / std with one number for each channel, in the unit range."""
        return cls(tuple(map(float, mean)), tuple(map(float, std)))

    @classmethod
    def fit_normalise(cls, images: Tensor) -> Preprocess:
        """Fit the normalisation that gives every channel mean 0 and variance 1.

        Args:
            images: Images (N, C, H, W), float in the unit range or uint8 in 0..255. No channel may be constant.
        """
        require(images.ndim == 4 and len(images) > 0, "images", "have shape (N, C, H, W)", tuple(images.shape))
        scale = 1.0 if images.is_floating_point() else 255.0
        channels = images.transpose(0, 1).flatten(1)
        # One channel and chunk at a time: a float64 copy of a whole data set would be eight times its size.
        total = [sum(float(c.double().sum()) for c in torch.split(row, _CHUNK)) for row in channels]
        mean = [value / channels.shape[1] for value in total]
        squares = [
            sum(float((c.double() - m).square().sum()) for c in torch.split(row, _CHUNK))
            for row, m in zip(channels, mean, strict=True)
        ]
        std = [math.sqrt(value / channels.shape[1]) for value in squares]
        # A constant channel leaves only rounding behind.
        require(min(std) > 1e-7 * scale, "images", "vary in every channel", f"channel {std.index(min(std))} constant")
        return cls.normalise([m / scale for m in mean], [s / scale for s in std])

    @classmethod
    def fit_zca(cls, images: Tensor, eps: float = 0.1, *, standardise: bool = False) -> Preprocess:
        """Fit a ZCA whitening of `images`.

        Args:
            images: Two or more images (N, C, H, W), float in the unit range or uint8 in 0..255.
            eps: Number > 0 that is added to the eigenvalues of the covariance. Trajectory matching: 0.1.
            standardise: Whether each channel is normalised first, as in kernel methods; not in trajectory matching.

        Cost: O(N D^2 + D^3) time and O(D^2) memory in float64, with D = C*H*W.
        """
        require(images.ndim == 4, "images", "have shape (N, C, H, W)", tuple(images.shape))
        first = cls.fit_normalise(images) if standardise else cls.unit(images.shape[1])
        unit = images if images.is_floating_point() else images.float() / 255
        return replace(first, whitening=Whitening.fit(first(unit), eps))

    @property
    def space(self) -> Literal["unit", "normalised", "zca"]:
        """Name of the value space."""
        if self.whitening is not None:
            return "zca"
        return "unit" if self._keeps_values else "normalised"

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Map floating-point images (..., C, H, W) from the unit range to the value space, with gradients."""
        self._check(images)
        if not self._keeps_values:
            images = (images - self._column(self.mean, images)) / self._column(self.std, images)
        return images if self.whitening is None else self.whitening(images)

    def inverse(self, images: Tensor) -> Tensor:
        """Map images (..., C, H, W) from the value space to the unit range, without clamping."""
        self._check(images)
        if self.whitening is not None:
            images = self.whitening.inverse(images)
        if self._keeps_values:
            return images
        return images * self._column(self.std, images) + self._column(self.mean, images)

    def to(self, device: torch.device | str) -> Preprocess:
        """Return the same map with its tensors on `device`, to spare a copy at each call."""
        if self.whitening is None:
            return self
        w = self.whitening
        moved = replace(w, mean=w.mean.to(device), basis=w.basis.to(device), eigenvalues=w.eigenvalues.to(device))
        return replace(self, whitening=moved)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the map as a dict of JSON values, and tensors by name (empty without ZCA)."""
        json: dict[str, Any] = {"space": self.space, "mean": list(self.mean), "std": list(self.std)}
        if self.whitening is None:
            return json, {}
        w = self.whitening
        json["eps"] = w.eps
        tensors = {"zca_mean": w.mean, "zca_basis": w.basis, "zca_eigenvalues": w.eigenvalues}
        return json, {name: t.cpu().contiguous() for name, t in tensors.items()}

    @classmethod
    def from_state(cls, json: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocess:
        """Rebuild a map from `to_state`, or from a file, every entry of which is checked."""
        required = {"space", "mean", "std"} | ({"eps"} if json.get("space") == "zca" else set())
        require(set(json) == required, "preprocess", f"have the entries {sorted(required)}", sorted(json))
        whitening = None
        if json["space"] == "zca":
            missing = {"zca_mean", "zca_basis", "zca_eigenvalues"} - set(tensors)
            require(not missing, "preprocess", "come with the tensors of its whitening", sorted(tensors))
            parts = tensors["zca_mean"], tensors["zca_basis"], tensors["zca_eigenvalues"]
            whitening = Whitening(*parts, eps=_numbers("eps", [json["eps"]])[0])
        found = cls(_numbers("mean", json["mean"]), _numbers("std", json["std"]), whitening)
        require(found.space == json["space"], "space", f"be {found.space!r} for this mean and std", json["space"])
        return found

    def __eq__(self, other: object) -> bool:
        """Tell whether both hold the same numbers."""
        if not isinstance(other, Preprocess):
            return NotImplemented
        (mine, tensors), (theirs, others) = self.to_state(), other.to_state()
        return mine == theirs and all(torch.equal(t, others[name]) for name, t in tensors.items())

    def __hash__(self) -> int:
        """Hash the channel constants; maps that differ only in whitening tensors collide."""
        return hash((self.space, self.mean, self.std))

    def _check(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point, got {images.dtype}")
        shape = tuple(images.shape)
        ok = len(shape) >= 3 and shape[-3] == self.channels
        require(ok, "images", f"have shape (..., {self.channels}, H, W)", shape)
        if self.whitening is not None:
            d = self.whitening.mean.numel()
            require(math.prod(shape[-3:]) == d, "images", f"have {d} pixel values for this whitening", shape)

    @property
    def _keeps_values(self) -> bool:
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _numbers(name: str, values: object) -> tuple[float, ...]:
    ok = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    require(ok, name, "be a list of numbers", values)
    return tuple(float(v) for v in values)  # type: ignore[attr-defined]
