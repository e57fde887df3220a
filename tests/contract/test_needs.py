"""Every method with networks that are none of the catalogue: it runs, or says first what it needs."""

from __future__ import annotations

import pytest
import torch
from every_method import METHODS, TINY
from torch import nn

import ddsdk as dd
from ddsdk.networks import NEEDS
from ddsdk.running import Run


class Hooked(nn.Module):
    """A network without `embed` and `body`, whose classifier is made first and sits in a wrapper."""

    def __init__(self):
        super().__init__()
        self.top = nn.Sequential(nn.Flatten(), nn.Linear(24, 3))
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3, stride=4), nn.GroupNorm(4, 4), nn.ReLU()

    def forward(self, x):
        return self.top(self.act(self.norm(self.conv(x))))


class Featureless(nn.Module):
    """A network that ends in a convolution and a mean, without activation layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, stride=4), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        return self.out(torch.tanh(self.conv(x))).mean((2, 3))


LACKS = {Hooked: {"stages", "body", "BatchNorm"}, Featureless: {*NEEDS} - {"second derivatives", "no random layers"}}


@pytest.mark.parametrize("kind", LACKS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_or_says_first_what_it_needs(name, kind, tiny):
    method = METHODS[name](ipc=2, **TINY[name])
    lacking = [need for need in method.needs if need in LACKS[kind]]
    if not lacking:
        if name in ("herding", "k-center", "moderate") and kind is Featureless:
            # They need features of a trained network alone, which their settings turn on here.
            with pytest.raises(TypeError, match=r"student must have a method embed\(x\) -> \(B, F\)"):
                dd.distill(method, tiny, make_student=kind, seed=0)
            return
        found = dd.distill(method, tiny, make_student=kind, seed=0)
        assert torch.isfinite(found.images).all()
        assert found.provenance["student"]["network"].endswith(kind.__name__)
        return
    with pytest.raises((ValueError, TypeError)) as refusal:
        Run(method, tiny, make_student=kind, seed=0)
    text = str(refusal.value)
    assert NEEDS[lacking[0]] in text
    assert f"for {name}, got " in text and kind.__name__ in text and "choose another network or method" in text


def test_every_need_is_one_of_the_list_and_every_one_of_the_list_is_needed():
    assert {need for method in METHODS.values() for need in method.needs} == set(NEEDS)


def test_a_random_layer_and_a_gradient_that_cannot_be_differentiated_are_found(tiny):
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(288, 3)

        def forward(self, x):
            return self.out(x.detach().flatten(1))

    def dropped():
        return dd.networks.Network(nn.Sequential(nn.Flatten(), nn.Dropout()), nn.Linear(288, 3))

    with pytest.raises(ValueError, match=r"no random layers such as dropout.*for rcig, got .*draws random numbers"):
        Run(dd.RCIG(ipc=1, **TINY["rcig"]), tiny, make_student=dropped)
    with pytest.raises(ValueError, match=r"second derivatives: .*for dc, got .*do not depend on the images"):
        Run(dd.DC(ipc=1, **TINY["dc"]), tiny, make_student=Cut)


def test_networks_of_the_catalogue_are_checked_too():
    """GELU layers are no activation layers of DataDAM: said before the run, and not at its first step."""
    rule = r"make_student must give networks with activation layers: .* for datadam, got vit-tiny: it has none"
    with pytest.raises(ValueError, match=rule):
        dd.distill(dd.DataDAM(ipc=1, steps=1), dd.load("digits"), make_student="vit-tiny", seed=0)
