"""Preprocessing of images: normalisation and ZCA whitening, with their inverses.

The unit range is [0, 1]. The value space is the range of the student networks' inputs, after preprocessing. Distilled
images are stored in the value space, and a distilled set therefore stores its preprocessing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ddsdk.data.on_disk import DiskImages, Images, unit_range
from ddsdk.foundation import machine_memory, readable_bytes, require

KNOWN_NORMALISATION: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Channel means and standard deviations that the papers use, by the name of the data set."""

_CHUNK_VALUES, _CHUNK_IMAGES, _FLOAT_VALUES = 1 << 22, 4096, 1 << 24

WHITENING_SHARE = 0.5
"""Largest share of the machine's memory that the fit of a whitening takes."""

_BYTES_PER_ENTRY = 44
"""Peak bytes for each entry of the covariance: the matrix in float64, its eigenvectors, the working space of LAPACK,
and the eigenvectors in float32."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """Zero-phase component analysis (ZCA) whitening of flattened images with the matrix W = U (S + eps)^-1/2 U^T.

    Attributes:
        mean: Mean image, (D,) with D = C*H*W.
        basis: Eigenvectors U of the covariance matrix as columns, (D, D).
        eigenvalues: Eigenvalues S of the covariance matrix, (D,), not negative.
        eps: Regularisation > 0 that is added to each eigenvalue.

    Examples:
        >>> import ddsdk
        >>> ddsdk.load("digits", zca=True).preprocess.whitening.basis.shape
        torch.Size([64, 64])

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
            tensor = getattr(self, name)
            require(tensor.is_floating_point(), name, "be floating point", tensor.dtype)
            require(bool(torch.isfinite(tensor).all()), name, "be finite", "NaN or infinity")
        require(bool((self.eigenvalues >= 0).all()), "eigenvalues", "be >= 0", float(self.eigenvalues.min()))
        require(math.isfinite(self.eps) and self.eps > 0, "eps", "be positive and finite", self.eps)

    @classmethod
    def fit(cls, images: Images, eps: float, before: Callable[[Tensor], Tensor] = unit_range) -> Whitening:
        """Return the whitening for the mean and the covariance, divided by N - 1 in float64, of images (N, C, H, W).

        Fewer than 2 images, and a whitening that takes more than half of the memory, are a ValueError.

        Args:
            images: Images in memory or on disk, of which a few thousand are in memory as floats at a time.
            eps: Regularisation > 0 that is added to each eigenvalue.
            before: Preprocessing of the images before the whitening.
        """
        n, d = len(images), math.prod(images.shape[1:])
        require(n >= 2, "images", "be at least 2 to be whitened", n)
        _require_memory(d, images.shape)
        parts = [slice(i, i + chunk_size(d)) for i in range(0, n, chunk_size(d))]
        sums = (before(images[part]).flatten(1).sum(0, dtype=torch.float64) for part in parts)
        mean = sum(sums, torch.zeros(d, dtype=torch.float64, device=images.device)) / n
        covariance = torch.zeros(d, d, dtype=torch.float64, device=images.device)
        for part in parts:
            centred = before(images[part]).flatten(1).double() - mean
            covariance.addmm_(centred.T, centred)
        values, basis = torch.linalg.eigh(covariance.div_(n - 1))
        return cls(mean.float().cpu(), basis.float().cpu(), values.clamp(min=0).float().cpu(), float(eps))

    def __call__(self, images: Tensor) -> Tensor:
        """Return whitened images (..., C, H, W)."""
        flat = images.flatten(-3) - self.mean.to(images)
        return self._scale(flat, (self.eigenvalues + self.eps).rsqrt()).reshape(images.shape)

    def inverse(self, images: Tensor) -> Tensor:
        """Return the original images of whitened images (..., C, H, W)."""
        flat = self._scale(images.flatten(-3), (self.eigenvalues + self.eps).sqrt())
        return (flat + self.mean.to(images)).reshape(images.shape)

    def _scale(self, flat: Tensor, factors: Tensor) -> Tensor:
        # Two products with a batch cost less than to compute W, a 3072 x 3072 matrix for 32x32 colour images.
        basis = self.basis.to(flat)
        return (flat @ basis) * factors.to(flat) @ basis.T


def chunk_size(values: int) -> int:
    """Return the number of images of `values` pixel values each that are in memory as floats at a time."""
    return max(1, min(_CHUNK_IMAGES, _FLOAT_VALUES // values))


def _require_memory(d: int, shape: Sequence[int]) -> None:
    memory = machine_memory()
    if memory is None:
        return
    limit, needed = WHITENING_SHARE * memory, _BYTES_PER_ENTRY * d**2
    pixels = math.isqrt(int(limit / _BYTES_PER_ENTRY)) // shape[1]
    rule = (
        f"fit into half of this machine's memory, {readable_bytes(limit)}: leave out zca, or resize the images to at "
        f"most {pixels} pixels, such as {math.isqrt(pixels)}x{math.isqrt(pixels)}"
    )
    got = f"{readable_bytes(needed)} ({needed} bytes) for the covariance of {d} pixel values and its eigenvectors"
    require(needed <= limit, "ZCA whitening", rule, got)


def _moments(images: Images) -> list[tuple[float, float]]:
    """Return mean and standard deviation of the values of each channel, in float64."""
    shape = images.shape
    plane = shape[2] * shape[3]
    n = shape[0] * plane

    def chunks() -> Iterator[tuple[int, Tensor]]:
        # A float64 copy of uint8 images is eight times as large, so it is made of a chunk of one channel at a time.
        for start in range(0, n, _CHUNK_VALUES):
            stop = min(start + _CHUNK_VALUES, n)
            first = start // plane
            part = images[first : -(-stop // plane)]
            for c in range(shape[1]):
                yield c, part[:, c].flatten()[start - first * plane : stop - first * plane].double()

    sums, squares = [0.0] * shape[1], [0.0] * shape[1]
    for c, values in chunks():
        sums[c] += float(values.sum())
    means = [value / n for value in sums]
    for c, values in chunks():
        squares[c] += float(values.sub_(means[c]).square_().sum())
    return [(mean, math.sqrt(value / n)) for mean, value in zip(means, squares, strict=True)]


@dataclass(frozen=True, eq=False)
class Preprocess:
    """Preprocessing of images: normalisation of each channel, optionally followed by ZCA whitening.

    It maps the unit range [0, 1] to the value space of the student networks.

    Attributes:
        mean: Mean of each of the C channels, in the unit range, which is subtracted.
        std: Standard deviation > 0 of each channel, by which it is divided.
        whitening: Whitening after the normalisation; None means none.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> prep = ddsdk.Preprocess.normalise([0.5], [0.25])
        >>> prep(torch.ones(1, 2, 2)).tolist()
        [[[2.0, 2.0], [2.0, 2.0]]]
        >>> prep.space
        'normalised'
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        valid = len(self.mean) == len(self.std) >= 1
        require(valid, "mean and std", "have one number for each channel", (self.mean, self.std))
        require(all(map(math.isfinite, self.mean)), "mean", "be finite", self.mean)
        require(all(math.isfinite(s) and s > 0 for s in self.std), "std", "be positive and finite", self.std)

    @classmethod
    def unit(cls, channels: int) -> Preprocess:
        """Return the identity, with the unit range as the value space."""
        return cls((0.0,) * channels, (1.0,) * channels)

    @classmethod
    def normalise(cls, mean: Sequence[float], std: Sequence[float]) -> Preprocess:
        """Return the normalisation (x - mean) / std, with one mean and one std in the unit range for each channel."""
        return cls(tuple(map(float, mean)), tuple(map(float, std)))

    @classmethod
    def fit_normalise(cls, images: Images) -> Preprocess:
        """Return the normalisation after which each channel of images has mean 0 and variance 1.

        Args:
            images: Images (N, C, H, W), float in the unit range or uint8 in 0..255, without a constant channel.
        """
        require(images.ndim == 4 and len(images) > 0, "images", "have shape (N, C, H, W)", tuple(images.shape))
        scale = 1.0 if images.is_floating_point() else 255.0
        # Two passes over images on disk take minutes, so that their result is stored beside them.
        if isinstance(images, DiskImages):
            moments = images.remembered("moments", b"", lambda: _moments(images))
        else:
            moments = _moments(images)
        mean, std = [m for m, _ in moments], [s for _, s in moments]
        # The deviation of a constant channel is not exactly 0, because of rounding.
        require(min(std) > 1e-7 * scale, "images", "vary in every channel", f"channel {std.index(min(std))} constant")
        return cls.normalise([m / scale for m in mean], [s / scale for s in std])

    @classmethod
    def fit_zca(cls, images: Images, eps: float = 0.1, *, standardise: bool = False) -> Preprocess:
        """Return the preprocessing with the ZCA whitening of images.

        Args:
            images: Images (N, C, H, W), N >= 2, float in the unit range or uint8 in 0..255.
            eps: Regularisation > 0 that is added to the eigenvalues of the covariance; 0.1 in trajectory matching.
            standardise: True to normalise each channel first, as in kernel methods but not in trajectory matching.

        Cost: O(N D^2 + D^3) time and 44 D^2 bytes of memory, with D = C*H*W; more than half of the machine's memory is
        a ValueError.
        """
        require(images.ndim == 4, "images", "have shape (N, C, H, W)", tuple(images.shape))
        normalisation = cls.fit_normalise(images) if standardise else cls.unit(images.shape[1])
        return replace(
            normalisation, whitening=Whitening.fit(images, eps, lambda part: normalisation(unit_range(part)))
        )

    @property
    def space(self) -> Literal["unit", "normalised", "zca"]:
        """Type of the value space: "unit", "normalised" or "zca"."""
        if self.whitening is not None:
            return "zca"
        return "unit" if self._is_identity else "normalised"

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Return float images (..., C, H, W) of the unit range in the value space, differentiably."""
        self._check(images)
        if not self._is_identity:
            images = (images - self._column(self.mean, images)) / self._column(self.std, images)
        return images if self.whitening is None else self.whitening(images)

    def inverse(self, images: Tensor) -> Tensor:
        """Return images (..., C, H, W) of the value space in the unit range, without clamping to [0, 1]."""
        self._check(images)
        if self.whitening is not None:
            images = self.whitening.inverse(images)
        if self._is_identity:
            return images
        return images * self._column(self.std, images) + self._column(self.mean, images)

    def to(self, device: torch.device | str) -> Preprocess:
        """Return the preprocessing with its tensors on `device`, which avoids a copy at each call."""
        if self.whitening is None:
            return self
        old = self.whitening
        mean, basis, eigenvalues = (t.to(device) for t in (old.mean, old.basis, old.eigenvalues))
        return replace(self, whitening=replace(old, mean=mean, basis=basis, eigenvalues=eigenvalues))

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state as a dict of JSON values, and a dict of tensors, which is empty without whitening."""
        json: dict[str, Any] = {"space": self.space, "mean": list(self.mean), "std": list(self.std)}
        if self.whitening is None:
            return json, {}
        zca = self.whitening
        json["eps"] = zca.eps
        tensors = {"zca_mean": zca.mean, "zca_basis": zca.basis, "zca_eigenvalues": zca.eigenvalues}
        return json, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def from_state(cls, json: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Preprocess:
        """Return the preprocessing of a state of `to_state`, which may come from an untrusted file.

        ValueError is raised if an entry is missing, unknown or invalid.
        """
        required = {"space", "mean", "std"} | ({"eps"} if json.get("space") == "zca" else set())
        require(set(json) == required, "preprocess", f"have the entries {sorted(required)}", sorted(json))
        whitening = None
        if json["space"] == "zca":
            missing = {"zca_mean", "zca_basis", "zca_eigenvalues"} - set(tensors)
            require(not missing, "preprocess", "come with the tensors of its whitening", sorted(tensors))
            parts = tensors["zca_mean"], tensors["zca_basis"], tensors["zca_eigenvalues"]
            require(_is_number(json["eps"]), "eps", "be a number", json["eps"])
            whitening = Whitening(*parts, eps=float(json["eps"]))
        prep = cls(_numbers("mean", json["mean"]), _numbers("std", json["std"]), whitening)
        require(prep.space == json["space"], "space", f"be {prep.space!r} for this mean and std", json["space"])
        return prep

    def __eq__(self, other: object) -> bool:
        """Return whether both have equal numbers and tensors."""
        if not isinstance(other, Preprocess):
            return NotImplemented
        (json, tensors), (other_json, other_tensors) = self.to_state(), other.to_state()
        return json == other_json and all(torch.equal(t, other_tensors[name]) for name, t in tensors.items())

    def __hash__(self) -> int:
        """Return a hash of the channel constants, which does not depend on the tensors of the whitening."""
        return hash((self.space, self.mean, self.std))

    def _check(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point, got {images.dtype}")
        shape = tuple(images.shape)
        valid = len(shape) >= 3 and shape[-3] == self.channels
        require(valid, "images", f"have shape (..., {self.channels}, H, W)", shape)
        if self.whitening is not None:
            d = self.whitening.mean.numel()
            require(math.prod(shape[-3:]) == d, "images", f"have {d} pixel values for this whitening", shape)

    @property
    def _is_identity(self) -> bool:
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @staticmethod
    def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)  # bool is a subclass of int, and not a number in JSON


def _numbers(name: str, values: object) -> tuple[float, ...]:
    valid = isinstance(values, list) and all(map(_is_number, values))
    require(valid, name, "be a list of numbers", values)
    return tuple(float(v) for v in values)  # type: ignore[attr-defined]
