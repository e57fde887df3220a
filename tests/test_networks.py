"""The catalogue of networks: one contract for every name, published sizes, and refusals."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from ddsdk.foundation.rng import generator
from ddsdk.networks.catalog import NETWORKS, network_factory
from ddsdk.networks.deep import resnet18, resnet152
from ddsdk.networks.initialise import draw_weights_, initialise
from ddsdk.networks.network import Network
from ddsdk.networks.norms import calibrate_batch_norm_, has_batch_norm, norm_layer


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_meta(name: str, shape: tuple[int, int, int], classes: int, **options: object) -> Network:
    with torch.device("meta"):
        return NETWORKS[name](shape, classes, **options)


def same_bits(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("convnet", (3, 32, 32), 320_010),
        ("convnet", (1, 28, 28), 317_706),
        ("mlp", (1, 28, 28), 784 * 128 + 128 + 128 * 128 + 128 + 1290),
        ("lenet", (1, 28, 28), 61_706),
        ("resnet18", (3, 32, 32), 11_173_962),
        ("resnet50", (3, 32, 32), 23_520_842),
        ("vgg16", (3, 32, 32), 14_728_266),
        ("vit-tiny", (3, 32, 32), 5_362_762),
    ],
)
def test_sizes_are_those_of_the_papers(name, shape, count):
    assert parameters(on_meta(name, shape, 10)) == count


def test_deep_bodies_keep_torchvisions_parameters():
    from torchvision import models

    # What the stem for small images takes away; the 7x7 stem with 64 filters over 3 channels became 3x3.
    stems = {"resnet50": 64 * 3 * (49 - 9), "resnet152": 64 * 3 * (49 - 9), "densenet121": 64 * 3 * (49 - 9)}
    stems |= {"mobilenet_v2": 0, "efficientnet_b0": 0, "convnext_tiny": 96 * 3 * (16 - 4)}
    ours = {"mobilenet_v2": "mobilenet", "efficientnet_b0": "efficientnet-b0", "convnext_tiny": "convnext-tiny"}
    for name, less in stems.items():
        with torch.device("meta"):
            published = models.get_model(name, weights=None, num_classes=10)
        assert parameters(on_meta(ours.get(name, name), (3, 32, 32), 10)) == parameters(published) - less


@pytest.mark.parametrize("name", ["convnet", "alexnet"])
def test_grey_28_gives_the_map_of_32(name):
    grey, colour = on_meta(name, (1, 28, 28), 10), on_meta(name, (3, 32, 32), 10)
    assert grey.head.in_features == colour.head.in_features
    assert on_meta("convnet", (1, 28, 28), 10).head.in_features == 2048


# The very deep ones are walked on the meta device only, below.
CONTRACT = [
    (name, shape)
    for name in NETWORKS
    if name not in ("resnet152", "densenet121")
    for shape in ((1, 28, 28), (3, 32, 32), (3, 28, 36))
    if name != "vit-tiny" or shape[1] == shape[2]
]


@pytest.mark.parametrize(("name", "shape"), CONTRACT, ids=str)
def test_contract(name, shape):
    make_student = network_factory(name, shape, 7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    network = make_student(generator(3, name))
    assert torch.equal(torch.get_rng_state(), before), "the global random state moved"
    torch.manual_seed(2)
    assert same_bits(network, make_student(generator(3, name)))
    assert not same_bits(network, make_student(generator(4, name)))

    x = torch.rand(2, *shape, generator=generator("x")).requires_grad_()
    features = network.embed(x)
    assert features.shape == (2, network.head.in_features)
    logits = network(x)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits, network.head(features))
    logits.logsumexp(1).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    for path, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), path


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (2, 33, 47)], ids=str)
def test_every_name_takes_small_and_uneven_images(name, shape):
    if name == "vit-tiny" and shape[1] != shape[2]:
        with pytest.raises(ValueError, match=r"image_shape must be square for ViT-Ti, got \(2, 33, 47\)"):
            on_meta(name, shape, 2)
        return
    network = on_meta(name, shape, 2)
    assert network(torch.rand(2, *shape, device="meta")).shape == (2, 2)


@pytest.mark.parametrize("name", ["resnet152", "densenet121"])
def test_very_deep_networks_have_equal_bits(name):
    make_student = network_factory(name, (1, 16, 8), 2)
    network = make_student(generator(0))
    assert same_bits(network, make_student(generator(0)))
    assert torch.isfinite(network(torch.rand(1, 1, 16, 8, generator=generator("x")))).all()


@pytest.mark.parametrize("name", ["resnet10", "densenet121"])
def test_deep_networks_take_digits_with_batch_norm(name):
    network = network_factory(name, (1, 8, 8), 10, norm="batch")(generator(0))
    features = network.embed(torch.rand(4, 1, 8, 8, generator=generator("x")))
    assert features.std(0).max() > 0


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "group", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
@pytest.mark.parametrize("activation", ["relu", "leaky-relu", "sigmoid"])
def test_convnet_options_cross(norm, pooling, activation):
    options = {"norm": norm, "pooling": pooling, "activation": activation, "width": 8, "depth": 2}
    network = network_factory("convnet", (3, 9, 12), 4, **options)(generator(0))
    assert network(torch.rand(3, 3, 9, 12, generator=generator("x"))).shape == (3, 4)
    assert network.head.in_features == 8 * (9 * 12 if pooling == "none" else 2 * 3)


def test_convnet_takes_digits():
    assert on_meta("convnet", (1, 8, 8), 10).head.in_features == 512
    assert on_meta("convnet", (1, 8, 8), 10, depth=3).head.in_features == 128


def test_convnet_matches_a_written_out_forward():
    network = network_factory("convnet", (1, 28, 28), 10, width=4, depth=1)(generator(0))
    conv, norm = network.body[0][0], network.body[0][1]
    x = torch.rand(2, 1, 28, 28, generator=generator("x"))
    z = torch.conv2d(x, conv.weight, conv.bias, padding=3)
    mean, var = z.mean((2, 3), keepdim=True), z.var((2, 3), keepdim=True, unbiased=False)
    z = ((z - mean) / (var + norm.eps).sqrt()).relu()
    z = z.reshape(2, 4, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(network(x), z.flatten(1) @ network.head.weight.T + network.head.bias)


def test_factories_travel_between_processes():
    make_student = pickle.loads(pickle.dumps(network_factory("convnet", (1, 8, 8), 3, width=4)))  # noqa: S301
    assert make_student(generator(0)).head.out_features == 3


def test_torchvision_is_imported_for_deep_networks_only():
    code = (
        "import sys; from ddsdk.networks.catalog import network_factory as f; f('convnet', (1, 8, 8), 2);"
        "assert 'torchvision' not in sys.modules; f('resnet10', (1, 28, 28), 2);"
        "assert 'torchvision' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


REFUSALS = [
    ("convnett", (3, 32, 32), 10, {}, ValueError, "did you mean 'convnet'"),
    ("ResNet18", (3, 32, 32), 10, {}, ValueError, "did you mean 'resnet18'"),
    ("???", (3, 32, 32), 10, {}, ValueError, "network must be one of convnet, mlp"),
    ("convnet", (3, 32, 32), 1, {}, ValueError, "num_classes must be at least 2, got 1"),
    ("convnet", (32, 32), 10, {}, ValueError, "image_shape must be"),
    ("convnet", (3, 0, 32), 10, {}, ValueError, "image_shape must be"),
    ("convnet", (1, 8, 8), 10, {"depth": 4}, ValueError, "ConvNet of depth 4, got 8x8"),
    ("convnet", (1, 8, 8), 10, {"depth": 0}, ValueError, "depth must be at least 1, got 0"),
    ("convnet", (1, 8, 8), 10, {"width": 0}, ValueError, "width must be at least 1, got 0"),
    ("convnet", (1, 8, 8), 10, {"width": 6, "norm": "group"}, ValueError, "multiple of 4"),
    ("convnet", (1, 8, 8), 10, {"norm": "weight"}, ValueError, "norm must be one of instance"),
    ("convnet", (1, 8, 8), 10, {"pooling": "mean"}, ValueError, "pooling must be one of avg, max, none"),
    ("convnet", (1, 8, 8), 10, {"activation": "gelu"}, ValueError, "activation must be one of relu"),
    ("convnet", (1, 8, 8), 10, {"dept": 2}, TypeError, "options of network 'convnet' must be among"),
    ("mlp", (1, 8, 8), 10, {"width": 0}, ValueError, "width must be at least 1"),
    ("lenet", (3, 12, 40), 10, {}, ValueError, "LeNet, got 12x40"),
    ("alexnet", (3, 7, 32), 10, {}, ValueError, "AlexNet, got 7x32"),
    ("vgg11", (3, 27, 32), 10, {}, ValueError, "28x28 pixels for VGG-11, got '27x32'"),
    ("resnet18", (3, 8, 8), 10, {}, ValueError, "use norm='batch'"),
    ("resnet18", (3, 32, 32), 10, {"norm": "group"}, ValueError, "norm must be one of instance, batch"),
    ("densenet121", (3, 7, 32), 10, {}, ValueError, "8x8 pixels for DenseNet-121, got '7x32'"),
]


@pytest.mark.parametrize(("name", "shape", "classes", "options", "error", "message"), REFUSALS, ids=str)
def test_refusals_come_from_the_factory(name, shape, classes, options, error, message):
    with pytest.raises(error) as raised:
        network_factory(name, shape, classes, **options)
    assert message in str(raised.value)


def test_initialise_has_pytorchs_bounds_and_resets():
    module = nn.Sequential(nn.Conv2d(3, 50, 3), nn.BatchNorm2d(50), nn.Linear(40, 90))
    module[1].running_mean.fill_(5.0)
    module[1].num_batches_tracked.fill_(9)
    module[1].weight.data.fill_(7.0)
    initialise(module, generator(0))
    for layer, fan_in in ((module[0], 27), (module[2], 40)):
        for parameter in layer.parameters():
            bound = 1 / math.sqrt(fan_in)
            assert parameter.abs().max() <= bound
            assert parameter.abs().max() > 0.9 * bound
    assert abs(module[2].weight.std().item() * math.sqrt(3 * 40) - 1) < 0.05
    assert (module[1].weight == 1).all() and (module[1].bias == 0).all()
    assert (module[1].running_mean == 0).all() and (module[1].running_var == 1).all()
    assert module[1].num_batches_tracked == 0


def test_initialise_draws_as_xavier_has_it_where_it_is_asked_to():
    module = nn.Sequential(nn.Conv2d(8, 32, 5), nn.Flatten(), nn.Linear(400, 300), nn.GroupNorm(1, 4))
    initialise(module, generator(0), "xavier-normal")
    conv, _, linear, _ = module
    for layer, fans in ((conv, (8 + 32) * 25), (linear, 400 + 300)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fans) ** 0.5, rel=0.05)
        assert abs(float(layer.weight.detach().mean())) < 0.01
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    make = network_factory("lenet", (1, 28, 28), 10, init="xavier-normal")
    assert make.options["init"] == "xavier-normal"
    first, second = make(generator(1)), make(generator(1))
    assert same_bits(first, second)
    assert torch.equal(first.head.bias, torch.zeros(10))
    assert "init" not in network_factory("lenet", (1, 28, 28), 10).options
    for refused in (
        lambda: network_factory("lenet", (1, 28, 28), 10, init="zeros"),
        lambda: initialise(module, generator(0), "zeros"),
    ):
        with pytest.raises(ValueError, match=r"init must be one of \['pytorch', 'xavier-normal', .*\], got 'zeros'"):
            refused()


@pytest.mark.parametrize(
    ("init", "gain", "bias"), [("lecun-normal", 1, 0.0), ("he-normal", 2, 0.0), ("he-normal-biased", 2, 0.1)]
)
def test_initialise_draws_normal_weights_by_their_fan_in(init, gain, bias):
    module = nn.Sequential(nn.Conv2d(8, 64, 5), nn.Flatten(), nn.Linear(400, 300))
    module[0].bias.data.fill_(9.0)
    initialise(module, generator(0), init)
    for layer, fan_in in ((module[0], 8 * 25), (module[2], 400)):
        std = (gain / fan_in) ** 0.5
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.03)
        assert abs(float(layer.weight.detach().mean())) < 0.03 * std
        assert float(layer.bias.detach().square().mean().sqrt()) == pytest.approx(bias, rel=0.2)
        # Flax truncates at two standard deviations of the distribution before the truncation.
        truncated = float(layer.weight.detach().abs().max()) <= 2 * std / 0.8796256610342398 + 1e-6
        assert truncated == (init == "lecun-normal")


def test_drawn_weights_leave_other_layers_alone():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    module[1].weight.data.fill_(7.0)
    state = torch.get_rng_state()
    draw_weights_(module, generator(0), "lecun-normal")
    assert torch.equal(torch.get_rng_state(), state)
    assert (module[1].weight == 7).all()
    assert torch.equal(module[0].weight, initialise(nn.Linear(4, 3), generator(0), "lecun-normal").weight)


def test_the_widths_of_a_convnet_may_double():
    factory = network_factory("convnet", (1, 28, 28), 10, width=8, doubling=True, norm="none")
    network = factory(generator(0))
    assert [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [8, 16, 32]
    assert [layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)] == [1, 8, 16]
    assert network.head.in_features == 32 * 4 * 4
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_initialise_fills_meta_and_existing_modules_alike():
    with torch.device("meta"):
        meta = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    real = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    assert same_bits(initialise(meta, generator(1)), initialise(real, generator(1)))


def test_initialise_keeps_constant_buffers():
    module = nn.Sequential(nn.Linear(2, 2))
    module.register_buffer("scale", torch.tensor(3.0))
    assert initialise(module, generator(0)).scale == 3


def test_initialise_refuses_unknown_layers_and_changes_nothing():
    module = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"memory": nn.ParameterList([torch.ones(2)])}))
    before = module[0].weight.clone()
    with pytest.raises(TypeError, match=r"got ParameterList at '1.memory' \(0\): .*make_student"):
        initialise(module, generator(0))
    assert torch.equal(module[0].weight, before)
    with pytest.raises(TypeError, match="LazyLinear"):
        initialise(nn.LazyLinear(3), generator(0))


def test_batch_norm_is_found():
    assert not has_batch_norm(norm_layer("instance", 4))
    assert has_batch_norm(on_meta("convnet", (1, 8, 8), 2, norm="batch"))
    with torch.device("meta"):
        assert has_batch_norm(resnet18((3, 32, 32), 2, norm="batch"))
        assert not has_batch_norm(resnet152((3, 32, 32), 2))
    assert not has_batch_norm(on_meta("densenet121", (3, 32, 32), 2))


def test_calibration_freezes_the_statistics_of_the_batch():
    network = network_factory("convnet", (1, 8, 8), 2, norm="batch", width=4, depth=2)(generator(0))
    x = torch.rand(32, 1, 8, 8, generator=generator("x"))
    conv, norm = network.body[0][0], network.body[0][1]
    assert calibrate_batch_norm_(network, x) is network
    z = conv(x)
    torch.testing.assert_close(norm.running_mean, z.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, z.var((0, 2, 3)))
    assert norm.momentum == 0.1 and not norm.training and network.training
    together, alone = network(x[:4]), torch.cat([network(image[None]) for image in x[:4]])
    torch.testing.assert_close(together, alone)
    with pytest.raises(ValueError, match="x must hold at least 2 images"):
        calibrate_batch_norm_(network, x[:1])


def test_calibration_leaves_other_networks_alone():
    network = network_factory("mlp", (1, 8, 8), 2)(generator(0))
    assert calibrate_batch_norm_(network, torch.empty(0)) is network
