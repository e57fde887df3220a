"""Synthetic users that are nearly binary: a sum of Gumbel draws over items, with a backward pass that draws again."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.synthetic import Parametrization


def _draw(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """Return softmax((logits + Gumbel noise) / temperature) of each row."""
    uniform = torch.rand(logits.shape, generator=rng, dtype=logits.dtype)
    tiny = torch.finfo(logits.dtype).tiny
    noise = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    return ((logits + noise.to(logits.device)) / temperature).softmax(1)


class _SumOfDraws(torch.autograd.Function):
    """clamp(sum of draws, 0, 1): memory for one draw, in the forward pass and in the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, draws: int, temperature: float, rng: torch.Generator) -> Tensor:  # noqa: ANN401
        total = torch.zeros_like(logits)
        for i in range(draws):
            total += _draw(logits, temperature, derive(rng, i))
        ctx.save_for_backward(logits, total < 1)
        ctx.how = draws, temperature, rng
        return total.clamp_max(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        # Draw again, and push the gradient through each softmax: p (g - <p, g>) / temperature.
        logits, open_ = ctx.saved_tensors
        draws, temperature, rng = ctx.how
        slope, found = grads[0] * open_, torch.zeros_like(logits)
        for i in range(draws):
            p = _draw(logits, temperature, derive(rng, i))
            found += p * (slope - (p * slope).sum(1, keepdim=True))
        return found / temperature, None, None, None


@final
class GumbelUsers(Parametrization):
    """A user for each slot: logits over items, which decode to clamp(sum of draws, 0, 1).

    Each draw is a softmax of logits with Gumbel noise: nearly one item. As many draws as a user may have items, added
    up and capped at one, make nearly a set of items.

    Args:
        logits: Logits at the start, (M, I), copied.
        draws: Number of draws that are added. With few, distilling makes users worse.
        temperature: Temperature of the softmax, > 0; small for draws of one item each.

    Cost: a softmax of M x I for each draw in the forward pass, and again in the backward pass; memory for one.
    """

    def __init__(self, logits: Tensor, *, draws: int = 200, temperature: float = 3.0) -> None:
        super().__init__()
        require(logits.ndim == 2, "logits", "have shape (M, I)", tuple(logits.shape))
        require(bool(torch.isfinite(logits).all()), "logits", "be finite", "NaN or infinity")
        require_count("draws", draws)
        require_rate("temperature", temperature)
        self.logits = nn.Parameter(logits.detach().clone(memory_format=torch.contiguous_format))
        self._draws, self._temperature = draws, temperature

    def encode(self, images: Tensor) -> None:
        """Set logits so that draws fall among the items of users, (M, 1, 1, I) of zeros and ones: log(user + 1e-4)."""
        wanted = (len(self.logits), 1, 1, self.logits.shape[1])
        require(tuple(images.shape) == wanted, "images", f"have shape {wanted}", tuple(images.shape))
        with torch.no_grad():
            self.logits.copy_((images[:, 0, 0].clamp(0, 1) + 1e-4).log())

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the users of `slots`, (B, 1, 1, I), by new draws."""
        found: Tensor = _SumOfDraws.apply(self.logits[slots], self._draws, self._temperature, rng)
        return found[:, None, None], slots

    def project_(self) -> None:
        """Leave everything as it is: all logits are admissible."""

    def stored_floats(self) -> int:
        """Return M*I; an export can be sparse, see `sampled_users`."""
        return self.logits.numel()
