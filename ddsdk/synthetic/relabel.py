"""Soft labels that a teacher gives to a finished set."""

from __future__ import annotations

import torch
from torch import nn

from ddsdk.synthetic.labels import FixedLabels
from ddsdk.synthetic.set import SyntheticSet
from ddsdk.training import probabilities


@torch.no_grad()
def relabelled(
    syn: SyntheticSet, teacher: nn.Module, rng: torch.Generator, *, temperature: float = 1.0
) -> SyntheticSet:
    """Return the set with stored teacher labels: softmax(teacher(x) / temperature), one row for each slot.

    These are labels of the images as they are stored. Rows for each augmented view (FKD), and a teacher that labels
    every batch while a network trains, are not offered. A slot with several images has the mean of their rows.

    Args:
        syn: Any set; its images, class slots and learned rate are shared with the new one, its labels are not read.
        teacher: Maps (B, C, H, W) to logits (B, K).
        rng: For stochastic decoders.
        temperature: Above 1 for softer labels.

    Cost: one forward pass over the images; memory for all of them.
    """
    images, owners = syn.parametrization.decode(torch.arange(len(syn)).to(syn.device), rng)
    rows = probabilities(teacher, images, temperature)
    total = rows.new_zeros(len(syn), rows.shape[1]).index_add_(0, owners, rows)
    labels = FixedLabels(total / torch.bincount(owners, minlength=len(syn))[:, None])
    return SyntheticSet(syn.parametrization, labels, syn.classes, syn.num_classes, syn.rate)
