"""A short fit of a parametrization to the images that it should decode to."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.foundation import generator, require_count, require_rate
from ddsdk.synthetic.base import Parametrization


def fit_(
    parametrization: Parametrization, images: Tensor, *, slots: int, steps: int, lr: float, chunk: int = 64
) -> None:
    """Fit everything that a parametrization learns to `images`, in place: Adam on the mean squared difference.

    Each step takes all slots, some at a time; the draws of a stochastic decoder are the same in every fit.

    Args:
        parametrization: Parametrization that is fitted.
        images: Wanted images of all slots, in their order.
        slots: Number of slots.
        steps: Adam steps; 0 leaves everything as it is.
        lr: Learning rate of Adam.
        chunk: Slots that are decoded at once.
    """
    require_count("steps", steps, least=0)
    require_rate("lr", lr)
    if steps == 0:
        return
    learned = [p for p in parametrization.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=lr)
    wanted = images.to(learned[0]).view(slots, -1, *images.shape[1:])
    with torch.enable_grad():
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            for i, part in enumerate(torch.split(torch.arange(slots, device=wanted.device), chunk)):
                decoded, _ = parametrization.decode(part, generator("fit", step, i))
                gap = decoded - wanted[part].flatten(0, 1)
                torch.autograd.backward(gap.square().sum() / images.numel(), inputs=learned)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
