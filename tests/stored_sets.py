"""What tests ask of any synthetic set, whatever it stores."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.synthetic import Pixels

HUGE = 1e30


def stored(syn: dd.SyntheticSet) -> dict[str, Tensor]:
    """Return copies of everything that the set stores."""
    return {name: value.detach().clone() for name, value in syn.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether two states are the same bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def bounded(syn: dd.SyntheticSet) -> bool:
    """Tell whether projection brings every stored number back from anywhere."""
    trial = copy.deepcopy(syn)
    with torch.no_grad():
        for p in trial.parametrization.parameters():
            p.fill_(HUGE)
    trial.project_()
    return all(bool((p.abs() < HUGE).all()) for p in trial.parametrization.parameters())


def one_image_a_slot(syn: dd.SyntheticSet) -> bool:
    """Tell whether the images themselves are what is stored."""
    return isinstance(syn.parametrization, Pixels)
