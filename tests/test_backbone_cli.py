"""`ddsdk distill --backbone` and `ddsdk evaluate --backbone`: a set for a frozen backbone, from the run to its row."""

from __future__ import annotations

import pytest

import ddsdk as dd
from ddsdk.cli import main

BACKBONES = """
import torch
from torch import nn
from torchvision import models
from ddsdk.networks import Backbone


def features(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, width, 5), nn.ReLU())


def one():
    return Backbone(features(1, 6), mean=[0.3], std=[0.4], side=12, name="one")


def two():
    return Backbone(features(2, 9), mean=[0.3], std=[0.4], side=12, name="two")


def module():
    return features(1, 6)


def torchvision_network():
    torch.manual_seed(3)
    network = models.resnet18(weights=None)
    network.fc = nn.Identity()
    return network
"""
DISTILL = ["distill", "--data", "digits", "--threads", "1", "--ipc", "1", "--recipe", "dm", "--steps", "2"]
DISTILL += ["--real-batch", "4"]
EVALUATE = ["evaluate", "--data", "digits", "--threads", "1", "--baselines", "random"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_backbones.py").write_text(BACKBONES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_set_is_distilled_for_a_backbone_and_probed_with_it(folder, capsys):
    args = [*DISTILL, "--backbone", "my_backbones:one", "--out", "set"]
    assert main(args) == 0
    found = dd.Distilled.load("set")
    assert found.protocol["learner"] == "probe"
    assert found.provenance["student"]["network"] == "one"
    assert main([*args, "--resume"]) == 0
    other = [name.replace(":one", ":two") for name in args]
    assert main([*other, "--resume"]) == 2
    capsys.readouterr()

    assert main([*EVALUATE, "set"]) == 2
    refused = capsys.readouterr().err
    assert found.protocol["probe"]["sha256"] in refused
    assert "--backbone SPEC" in refused
    assert main([*EVALUATE, "set", "--backbone", "my_backbones:one"]) == 0
    shown = capsys.readouterr().out
    assert "probe on one, protocol probe" in shown
    assert "random" in shown
    assert "without training of networks" in shown
    assert main([*EVALUATE, "set", "--backbone", "my_backbones:two"]) == 0
    assert "probe on two, protocol probe, transfer from one" in capsys.readouterr().out


def test_a_module_needs_its_normalisation(folder, capsys):
    args = [*DISTILL, "--backbone", "my_backbones:module", "--out", "set"]
    assert main(args) == 2
    assert "mean must be given for my_backbones:module" in capsys.readouterr().err
    facts = ["--backbone-mean", "0.3", "--backbone-std", "0.4", "--backbone-side", "12"]
    assert main([*args, *facts]) == 0
    assert main([*args[:-2], *facts[:1], "x", "--out", "other"]) == 2
    assert "backbone_mean must be numbers separated by commas, got 'x'" in capsys.readouterr().err
    # The same weights as those of `one`, whose preprocessing the protocol states.
    assert main([*EVALUATE, "set", "--backbone", "my_backbones:one"]) == 0


def test_a_network_of_torchvision_comes_from_a_function(folder):
    facts = ["--backbone-mean", "0.5,0.5,0.5", "--backbone-std", "0.25,0.25,0.25", "--backbone-side", "32"]
    args = [*DISTILL, "--backbone", "my_backbones:torchvision_network", *facts, "--out", "set"]
    assert main(args) == 0
    assert dd.Distilled.load("set").protocol["probe"]["features"] == 512


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*DISTILL, "--network", "mlp", "--out", "set"], "network must be left out with --backbone, got 'mlp'"),
        ([*DISTILL, "--width", "8", "--out", "set"], "width must be left out with --backbone, got 8"),
        (
            ["distill", "--data", "digits", "--recipe", "auto", "--out", "set"],
            "recipe must be the name of a method with --backbone, got 'auto'",
        ),
        ([*EVALUATE, "means", "--networks", "mlp"], "networks must be left out with --backbone"),
        ([*EVALUATE, "means", "--epochs", "3"], "epochs must be left out with --backbone"),
        ([*EVALUATE, "means", "--protocol", "quick"], "protocol must be left out with --backbone"),
        ([*EVALUATE, "means", "--compare"], "compare must be left out with --backbone"),
    ],
)
def test_options_of_networks_are_refused_beside_a_backbone(folder, capsys, args, message):
    dd.distill(dd.BASELINES["means"](ipc=1), dd.load("digits")).save("means")
    assert main([*args, "--backbone", "my_backbones:one"]) == 2
    assert message in capsys.readouterr().err


def test_preprocessing_comes_with_a_backbone(folder, capsys):
    assert main([*DISTILL, "--backbone-side", "8", "--out", "set"]) == 2
    assert "must come with --backbone" in capsys.readouterr().err


def test_a_comparison_of_a_set_for_a_backbone_is_refused_and_trains_no_network_in_its_place(folder, capsys):
    assert main([*DISTILL, "--backbone", "my_backbones:one", "--out", "set"]) == 0
    assert main([*EVALUATE, "set", "--compare"]) == 2
    assert "own protocol must train networks or a kernel" in capsys.readouterr().err
