"""Networks of one's own on the command line: names that are imported, networks of libraries, and options."""

from __future__ import annotations

import json

import pytest

from ddsdk.cli import main

NETWORKS = """
from torch import nn


class Small(nn.Module):
    def __init__(self, num_classes, width=2):
        super().__init__()
        self.conv, self.drop, self.out = nn.Conv2d(1, width, 3), nn.Dropout(0.1), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.out(self.drop(self.conv(x).relu().mean((2, 3))))
"""
DISTILL = ["distill", "--data", "digits", "--recipe", "dm", "--steps", "2", "--ipc", "1", "--real-batch", "4"]


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Return the name of a module of networks in the working folder, which no other test imports."""
    monkeypatch.chdir(tmp_path)
    name = f"networks_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    return name


def student(folder):
    return json.loads((folder / "manifest.json").read_text())["provenance"]["student"]


def test_a_class_of_the_working_folder_is_a_student(networks, tmp_path):
    assert main([*DISTILL, "--network", f"{networks}:Small", "--width", "3", "--out", "found"]) == 0
    assert student(tmp_path / "found") == {"network": f"{networks}:Small", "options": {"width": 3}}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("{}:Large", "network must name an object of an importable module, got '{}:Large'"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
        ("{}:nn", "must be a name, a class, a function or a torch module, got module"),
        ("torchvision:resnet81", "did you mean torchvision:resnet18?"),
        ("resnet8", "did you mean 'resnet18'?"),
        ("a b:c", "network must be a name of the catalogue, torchvision:NAME, timm:NAME or package.module:NAME"),
    ],
)
def test_a_network_that_is_none_is_refused_in_one_line(network, message, networks, capsys):
    assert main([*DISTILL, "--network", network.format(networks), "--out", "found"]) == 2
    assert message.format(networks) in capsys.readouterr().err


def test_options_that_no_builder_has_are_refused(networks, capsys):
    arguments = [*DISTILL, "--network", "torchvision:mobilenet_v3_small", "--width", "3", "--out", "found"]
    assert main(arguments) == 2
    assert "width must be left out for torchvision:mobilenet_v3_small, got 3" in capsys.readouterr().err


def test_tables_take_names_alone(networks, capsys):
    assert (
        main(
            [
                "bench",
                "--table",
                "survey-1",
                "--data",
                "digits",
                "--recipes",
                "dm",
                "--network",
                f"{networks}:Small",
                "--out",
                "t",
            ]
        )
        == 2
    )
    assert "network must be among convnet" in capsys.readouterr().err
