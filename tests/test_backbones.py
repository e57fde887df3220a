"""Frozen backbones: their features, their identity, and where their weights come from."""

from __future__ import annotations

import hashlib
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate
from torchvision import models

from ddsdk.networks import Backbone, load_backbone, weights_sha256

GREY = {"mean": [0.4], "std": [0.3]}
COLOUR = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def small_network(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    layers = (nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    network = nn.Sequential(*layers)
    network(torch.rand(4, channels, 16, 16))
    return network


@pytest.mark.parametrize("side", [8, 10, 12, 32])
def test_features_are_those_of_the_module_on_resized_and_normalised_images(side):
    module, x = nn.Conv2d(3, 6, 3), torch.rand(2, 3, side, side)
    backbone = Backbone(module, **COLOUR, side=10)
    resized = interpolate(x, size=(10, 10), mode="bilinear", antialias=side > 10)
    if side > 10:
        assert not torch.equal(resized, interpolate(x, size=(10, 10), mode="bilinear"))
    expected = module(
        (resized - torch.tensor(COLOUR["mean"]).view(3, 1, 1)) / torch.tensor(COLOUR["std"]).view(3, 1, 1)
    )
    torch.testing.assert_close(backbone.embed(x), expected.mean((2, 3)))


def test_grey_images_are_repeated_and_other_channels_refused():
    backbone, grey = Backbone(nn.Conv2d(3, 6, 3), **COLOUR, side=8), torch.rand(2, 1, 8, 8)
    assert torch.equal(backbone.embed(grey), backbone.embed(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"images must have shape \(B, 1, H, W\) for Conv2d, got \(2, 3, 8, 8\)"):
        Backbone(nn.Conv2d(1, 6, 3), **GREY).embed(torch.rand(2, 3, 8, 8))


def test_a_backbone_is_frozen():
    module = small_network()
    backbone = Backbone(module, **COLOUR, side=16, name="small")
    x = torch.rand(3, 3, 16, 16, requires_grad=True)
    before = backbone.embed(x)
    with torch.no_grad():
        module[0].weight.zero_()
    module.train()
    after = backbone.embed(x)
    assert torch.equal(before, after)
    # Statistics of BatchNorm are those of the pretraining: an image has the same features in any batch.
    torch.testing.assert_close(backbone.embed(x[:1]), before[:1])
    (gradient,) = torch.autograd.grad(after.sum(), x)
    assert gradient.abs().sum() > 0
    assert not any(p.requires_grad for p in backbone._module.parameters())
    assert (backbone.features, backbone.name, backbone.side) == (5, "small", 16)


def test_a_method_embed_gives_the_features():
    class WithEmbed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def embed(self, x):
            return self.body(x).mean((2, 3))

        def forward(self, x):
            return self.head(self.embed(x))

    assert Backbone(WithEmbed(), **COLOUR).features == 4


def test_the_hash_is_that_of_weights_and_buffers():
    module = small_network()
    same, statistics, weights = small_network(), small_network(), small_network()
    with torch.no_grad():
        statistics[1].running_mean[0] += 1
        weights[0].bias[0] += 1
    digests = [weights_sha256(m) for m in (module, same, statistics, weights, small_network().half())]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    assert weights_sha256(nn.Linear(2, 6)) != weights_sha256(nn.Linear(6, 2))
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(0.0)
    # Little-endian bytes in the order of the names, computed by hand.
    stated = b"bias|torch.float32|(1,)|" + bytes(4) + b"weight|torch.float32|(1, 1)|" + bytes.fromhex("0000803f")
    assert weights_sha256(linear) == hashlib.sha256(stated).hexdigest()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "mean must be given for Conv2d, whose weights do not state their normalisation, got None"),
        ({"mean": [0.5] * 3}, "std must be given"),
        ({"mean": [0.5] * 3, "std": [0.5]}, "mean and std must have one number for each of 1 or 3 channels"),
        ({"mean": [0.5] * 3, "std": [0.0] * 3}, "std must be positive and finite"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3, "side": 0}, "side must be at least 1"),
    ],
)
def test_preprocessing_is_stated_and_never_guessed(facts, message):
    with pytest.raises(ValueError, match=message):
        load_backbone(nn.Conv2d(3, 6, 3), **facts)


def test_a_network_of_one_size_needs_that_side():
    flat = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    assert Backbone(flat, **COLOUR).features == 48
    backbone = Backbone(nn.Flatten(), **GREY)
    with pytest.raises(ValueError, match="side must be given, as Flatten has 1024 features at 32 pixels, got '64 feat"):
        backbone.embed(torch.rand(1, 1, 8, 8))
    with pytest.raises(TypeError, match=r"Identity must give features"):
        Backbone(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (1, 4, 4, -1)), nn.Identity()), **GREY, name="Identity")


def test_torchvision_weights_come_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    torch.manual_seed(0)
    network = models.resnet18().eval()
    (tmp_path / "checkpoints").mkdir()
    torch.save(network.state_dict(), tmp_path / "checkpoints" / name)
    backbone = load_backbone("torchvision:resnet18")
    assert (backbone.features, backbone.side, backbone.name) == (512, 224, "torchvision:resnet18")
    assert backbone.mean == (0.485, 0.456, 0.406)
    network.fc = nn.Identity()
    x = torch.rand(1, 3, 64, 64)
    small = load_backbone("torchvision:resnet18", side=64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (small.mean, small.std))
    torch.testing.assert_close(small.embed(x), network((x - mean) / std))


def test_missing_weights_are_announced_and_refused_with_a_way_out(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")

    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"backbone must have readable weights, got .*no network.*FILE.safetensors@"):
        load_backbone("torchvision:resnet18")
    assert "are downloaded from https://" in caplog.text


class _Payload:
    def __reduce__(self):
        return (print, ("code of a file was run",))


def test_a_pickle_in_the_cache_runs_no_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save({"fc.weight": _Payload()}, tmp_path / "checkpoints" / name)
    with pytest.raises(ValueError, match="backbone must have readable weights"):
        load_backbone("torchvision:resnet18")
    assert "code of a file" not in capsys.readouterr().out


def test_weights_of_a_file_need_a_network_and_a_normalisation(tmp_path):
    torch.manual_seed(0)
    network, path = models.resnet18(num_classes=7).eval(), tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    backbone = load_backbone(f"{path}@torchvision:resnet18", **COLOUR, side=32)
    network.fc = nn.Identity()
    assert backbone.sha256 == weights_sha256(network)
    for spec, message in {
        str(path): "backbone must name the network of a file",
        f"{path}@resnet18": "backbone must be FILE.safetensors@torchvision:NAME",
        f"{path}@torchvision:resnet34": "backbone must have the weights of torchvision:resnet34",
        f"{path}@torchvision:resnet18": "mean must be given",
        f"{tmp_path}/none.safetensors@torchvision:resnet18": "backbone must have readable weights",
        f"{tmp_path}/weights.pt@torchvision:resnet18": "backbone must have its weights in a .safetensors file",
        "torchvision:resnet81": r"did you mean torchvision:resnet",
        "resnet18": "backbone must be torchvision:NAME, timm:NAME or package.module:NAME",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_backbone(spec)


def test_a_factory_gives_a_module_or_a_backbone(tmp_path, monkeypatch):
    text = """
from torch import nn
from ddsdk.networks import Backbone

def module():
    return nn.Conv2d(3, 6, 3)

def backbone():
    return Backbone(nn.Conv2d(1, 6, 3), mean=[0.5], std=[0.2], side=9, name="mine")

def number():
    return 3
"""
    (tmp_path / "own_backbones.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert load_backbone("own_backbones:module", **COLOUR).name == "own_backbones:module"
    with pytest.raises(ValueError, match="mean must be given for own_backbones:module"):
        load_backbone("own_backbones:module")
    found = load_backbone("own_backbones:backbone")
    assert (found.name, found.side, found.mean) == ("mine", 9, (0.5,))
    assert load_backbone("own_backbones:backbone", side=20).side == 20
    with pytest.raises(TypeError, match="backbone must be a module or a Backbone, or name one, got int"):
        load_backbone("own_backbones:number")


def test_timm_weights_are_read_by_timm(monkeypatch, caplog):
    timm = pytest.importorskip("timm")
    caplog.set_level("INFO")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    backbone = load_backbone("timm:resnet18.a1_in1k")
    assert (backbone.features, backbone.side, backbone.mean) == (512, 224, (0.485, 0.456, 0.406))
    assert "timm reads the weights of timm:resnet18.a1_in1k from its cache" in caplog.text

    def offline(*_, **__):
        raise RuntimeError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match="backbone must have readable weights, got no network"):
        load_backbone("timm:resnet18")
    with pytest.raises(ValueError, match="did you mean timm:resnet"):
        load_backbone("timm:resnet81")


def test_a_timm_file_is_read_without_its_classifier(tmp_path):
    timm = pytest.importorskip("timm")
    network, path = timm.create_model("resnet18", num_classes=3), tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    network.fc = nn.Identity()
    assert load_backbone(f"{path}@timm:resnet18", **COLOUR).sha256 == weights_sha256(network)
