"""Normalisation and whitening against slow float64 versions, and their way into a file and back."""

from __future__ import annotations

import json

import pytest
import torch

from ddsdk.data.preprocess import KNOWN_NORMALISATION, Preprocess
from ddsdk.foundation.rng import generator


def pictures(n: int = 60, shape: tuple[int, int, int] = (3, 4, 5)) -> torch.Tensor:
    noise = torch.rand(n, *shape, generator=generator("pictures", n))
    return 0.6 * noise + 0.4 * noise.flip(-1).mean(1, keepdim=True)


def dense_zca(images: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    flat = images.double().flatten(1)
    mean = flat.mean(0)
    covariance = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64)
    for row in flat:
        covariance += torch.outer(row - mean, row - mean)
    values, basis = torch.linalg.eigh(covariance / (len(flat) - 1))
    return mean, basis @ torch.diag((values + eps) ** -0.5) @ basis.T


ALL = {
    "unit": Preprocess.unit(3),
    "normalised": Preprocess.normalise((0.1, 0.5, 0.4), (0.2, 0.3, 0.7)),
    "fitted": Preprocess.fit_normalise(pictures()),
    "zca": Preprocess.fit_zca(pictures()),
    "standardised zca": Preprocess.fit_zca(pictures(), eps=0.01, standardise=True),
}


def test_spaces_are_named():
    assert [p.space for p in ALL.values()] == ["unit", "normalised", "normalised", "zca", "zca"]


def test_unit_is_the_identity():
    x = pictures()
    assert torch.equal(ALL["unit"](x), x) and torch.equal(ALL["unit"].inverse(x), x)


@pytest.mark.parametrize("uint8", [False, True])
def test_fitted_normalisation_has_mean_0_and_variance_1(uint8):
    x = pictures()
    if uint8:
        x = (x * 255).to(torch.uint8)
    fitted = Preprocess.fit_normalise(x)
    y = fitted(x.double() / 255 if uint8 else x.double())
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), unbiased=False), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("n", [60, 20])
@pytest.mark.parametrize("eps", [0.1, 0.001])
def test_zca_matches_the_dense_formula(n, eps):
    x = pictures(n)
    mean, w = dense_zca(x, eps)
    fresh = torch.rand(7, 3, 4, 5, generator=generator("fresh"))
    expected = ((fresh.double().flatten(1) - mean) @ w).reshape(fresh.shape).float()
    torch.testing.assert_close(Preprocess.fit_zca(x, eps)(fresh), expected, atol=2e-4, rtol=2e-4)


def test_standardised_zca_whitens_the_normalised_images():
    x = pictures()
    mean, w = dense_zca(Preprocess.fit_normalise(x)(x.double()), 0.01)
    y = (Preprocess.fit_normalise(x)(x.double()).flatten(1) - mean) @ w
    torch.testing.assert_close(ALL["standardised zca"](x).flatten(1), y.float(), atol=1e-4, rtol=1e-4)


def test_whitened_images_are_uncorrelated():
    x = pictures(400, (1, 3, 3))
    y = Preprocess.fit_zca(x, eps=1e-6)(x.double()).flatten(1)
    torch.testing.assert_close(y.T @ y / 399, torch.eye(9, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", sorted(ALL))
def test_inverse_undoes_and_does_not_clamp(name):
    p, x = ALL[name], pictures() * 3 - 1
    torch.testing.assert_close(p.inverse(p(x)), x, atol=1e-4, rtol=1e-4)
    assert p.inverse(p(x)).min() < -0.5


@pytest.mark.parametrize("name", sorted(ALL))
def test_leading_axes_gradients_and_dtype(name):
    p, x = ALL[name], pictures(4).double().requires_grad_()
    assert p(x[0]).shape == (3, 4, 5) and p(x[None]).shape == (1, 4, 3, 4, 5)
    assert p(x).dtype == torch.float64
    torch.testing.assert_close(p(x[0]), p(x)[0])
    p(x).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(ALL))
def test_state_round_trip_is_exact(name):
    p = ALL[name]
    numbers, tensors = p.to_state()
    back = Preprocess.from_state(json.loads(json.dumps(numbers)), tensors)
    assert back == p and hash(back) == hash(p) and torch.equal(back(pictures()), p(pictures()))
    assert sum(p == other for other in ALL.values()) == 1
    assert p != "unit" and p.to("cpu") == p


def test_published_constants():
    assert KNOWN_NORMALISATION["mnist"] == ((0.1307,), (0.3081,))
    for mean, std in KNOWN_NORMALISATION.values():
        assert Preprocess.normalise(mean, std).space == "normalised"


NUMBERS, TENSORS = ALL["zca"].to_state()
BAD_STATES = [
    ({"space": "unit"}, {}, "preprocess must have the entries"),
    ({"space": "unit", "mean": [0], "std": [1], "more": 1}, {}, "preprocess must have the entries"),
    ({"space": "unit", "mean": ["0"], "std": [1]}, {}, "mean must be a list of numbers"),
    ({"space": "unit", "mean": [True], "std": [1]}, {}, "mean must be a list of numbers"),
    ({"space": "unit", "mean": 0, "std": [1]}, {}, "mean must be a list of numbers"),
    ({"space": "unit", "mean": [0.5], "std": [1]}, {}, "space must be 'normalised'"),
    ({"space": "normalised", "mean": [0.5], "std": [0]}, {}, "std must be positive"),
    ({"space": "normalised", "mean": [float("nan")], "std": [1]}, {}, "mean must be finite"),
    ({"space": "normalised", "mean": [0.5], "std": [1, 1]}, {}, "one number for each channel"),
    ({"space": "normalised", "mean": [], "std": []}, {}, "one number for each channel"),
    (NUMBERS, {}, "come with the tensors of its whitening"),
    (NUMBERS, {**TENSORS, "zca_mean": torch.zeros(3)}, "hold tensors (D,), (D, D) and (D,)"),
    (NUMBERS, {**TENSORS, "zca_mean": TENSORS["zca_mean"] * float("nan")}, "mean must be finite"),
    (NUMBERS, {**TENSORS, "zca_eigenvalues": -1 - TENSORS["zca_eigenvalues"]}, "eigenvalues must be >= 0"),
    ({**NUMBERS, "eps": -1}, TENSORS, "eps must be positive"),
    ({**NUMBERS, "eps": None}, TENSORS, "eps must be a number"),
]


@pytest.mark.parametrize(("numbers", "tensors", "message"), BAD_STATES)
def test_bad_states_are_refused(numbers, tensors, message):
    with pytest.raises(ValueError) as raised:
        Preprocess.from_state(numbers, tensors)
    assert message in str(raised.value)


def test_bad_images_are_refused():
    with pytest.raises(TypeError, match="images must be floating point, got"):
        Preprocess.unit(3)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"images must have shape \(..., 3, H, W\), got \(2, 1, 4, 5\)"):
        Preprocess.unit(3)(torch.zeros(2, 1, 4, 5))
    with pytest.raises(ValueError, match="60 pixel values for this whitening"):
        ALL["zca"](torch.zeros(2, 3, 5, 5))
    with pytest.raises(ValueError, match="vary in every channel, got 'channel 1 constant'"):
        Preprocess.fit_normalise(torch.stack([torch.arange(8.0), torch.full((8,), 0.8)]).reshape(1, 2, 2, 4) / 8)
    with pytest.raises(ValueError, match="at least 2 to be whitened"):
        Preprocess.fit_zca(pictures()[:1])
    with pytest.raises(ValueError, match="eps must be positive"):
        Preprocess.fit_zca(pictures(), eps=0.0)
    with pytest.raises(ValueError, match="have shape"):
        Preprocess.fit_zca(pictures()[0])
