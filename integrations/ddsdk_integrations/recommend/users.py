"""Parametrization of nearly binary synthetic users: capped sums of Gumbel-softmax samples over items."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.foundation import derive, require, require_count, require_positive
from ddsdk.synthetic import Parametrization


def _draw(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """Return softmax((logits + Gumbel noise) / temperature) of each row."""
    uniform = torch.rand(logits.shape, generator=rng, dtype=logits.dtype)
    tiny = torch.finfo(logits.dtype).tiny
    noise = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    return ((logits + noise.to(logits.device)) / temperature).softmax(1)


class _SumOfDraws(torch.autograd.Function):
    """The capped sum of Gumbel-softmax samples; the backward pass samples again, so memory is that of one sample."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, draws: int, temperature: float, rng: torch.Generator) -> Tensor:  # noqa: ANN401
        total = torch.zeros_like(logits)
        for i in range(draws):
            total += _draw(logits, temperature, derive(rng, i))
        ctx.save_for_backward(logits, total < 1)
        ctx.sampling = draws, temperature, rng
        return total.clamp_max(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        # The cap at 1 has no gradient; the Jacobian of a softmax p gives p (g - <p, g>) / temperature.
        logits, below_cap = ctx.saved_tensors
        draws, temperature, rng = ctx.sampling
        upstream, gradient = grads[0] * below_cap, torch.zeros_like(logits)
        for i in range(draws):
            p = _draw(logits, temperature, derive(rng, i))
            gradient += p * (upstream - (p * upstream).sum(1, keepdim=True))
        return gradient / temperature, None, None, None


@final
class GumbelUsers(Parametrization):
    """Synthetic users as logits over items; a slot is a user and decodes to clamp(sum of Gumbel-softmax samples, 0, 1).

    At a low temperature a sample is nearly one item, and the capped sum is nearly a set of items. The number of samples
    bounds the number of items of a user.

    Args:
        logits: Initial logits, (M, I), which are copied.
        draws: Number of samples in the sum; with few, distillation makes users worse.
        temperature: Temperature of the Gumbel softmax, > 0; low for samples of nearly one item.

    Cost: a softmax of M x I for each sample in the forward pass, and again in the backward pass; memory for one.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.recommend import GumbelUsers
        >>> GumbelUsers(torch.zeros(5, 40), draws=20).decode(torch.arange(3), ddsdk.generator(0))[0].shape
        torch.Size([3, 1, 1, 40])
    """

    def __init__(self, logits: Tensor, *, draws: int = 200, temperature: float = 3.0) -> None:
        super().__init__()
        require(logits.ndim == 2, "logits", "have shape (M, I)", tuple(logits.shape))
        require(bool(torch.isfinite(logits).all()), "logits", "be finite", "NaN or infinity")
        require_count("draws", draws)
        require_positive("temperature", temperature)
        self.logits = nn.Parameter(logits.detach().clone(memory_format=torch.contiguous_format))
        self._draws, self._temperature = draws, temperature

    def encode(self, images: Tensor) -> None:
        """Set the logits to log(user + 1e-4) for binary users, (M, 1, 1, I): samples are then items of these users."""
        shape = (len(self.logits), 1, 1, self.logits.shape[1])
        require(tuple(images.shape) == shape, "images", f"have shape {shape}", tuple(images.shape))
        with torch.no_grad():
            self.logits.copy_((images[:, 0, 0].clamp(0, 1) + 1e-4).log())

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the users of `slots` by new samples, (B, 1, 1, I), and the slots themselves."""
        users: Tensor = _SumOfDraws.apply(self.logits[slots], self._draws, self._temperature, rng)
        return users[:, None, None], slots

    def project_(self) -> None:
        """Do nothing: logits have no range."""

    def stored_floats(self) -> int:
        """Return M I; an export can be sparse, see `sampled_users`."""
        return self.logits.numel()
