"""A short fit of a parametrization to the images that it should decode to."""

from __future__ import annotations

import torch
from torch import Tensor

from ddsdk.foundation import generator, require_count, require_positive
from ddsdk.synthetic.base import Parametrization


def fit_(
    parametrization: Parametrization, images: Tensor, *, slots: int, steps: int, lr: float, chunk: int = 64
) -> None:
    """Fit all trainable parameters of a parametrization to `images`, in place, by Adam on the mean squared error.

    Each step takes all slots, `chunk` at a time. A stochastic decoder has the same random numbers in every fit.

    Args:
        parametrization: Parametrization to fit, which is changed in place.
        images: Target images of all slots in their order, (M', C, H, W).
        slots: Number of slots, M, which divides M'.
        steps: Number of Adam steps; 0 changes nothing.
        lr: Learning rate of Adam.
        chunk: Slots that are decoded at once, which bounds the memory.
    """
    require_count("steps", steps, least=0)
    require_positive("lr", lr)
    if steps == 0:
        return
    learned = [p for p in parametrization.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=lr)
    targets = images.to(learned[0]).view(slots, -1, *images.shape[1:])
    with torch.enable_grad():
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            for i, part in enumerate(torch.split(torch.arange(slots, device=targets.device), chunk)):
                decoded, _ = parametrization.decode(part, generator("fit", step, i))
                error = decoded - targets[part].flatten(0, 1)
                torch.autograd.backward(error.square().sum() / images.numel(), inputs=learned)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
