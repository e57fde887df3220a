"""Any network as a student: classes, functions, modules and names; features by hook; initial values; refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from own_networks import REPEATED, Plain
from torch import nn

import ddsdk as dd
from ddsdk.foundation import generator
from ddsdk.networks import classifier, embedding, features_and_logits, initialise, stored_network_factory
from ddsdk.objectives import body_gradients
from ddsdk.training import FlatNetwork, weight_vector


class Sized(nn.Module):
    """A class that wants facts of the data and an option."""

    def __init__(self, in_channels, num_classes=1000, *, width):
        super().__init__()
        self.stem, self.out = nn.Conv2d(in_channels, width, 3), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.out(self.stem(x).mean((2, 3)))


def without_generator():
    return Sized(3, 3, width=2)


def with_generator(key):
    torch.manual_seed(key.initial_seed() % 2**31)
    return Sized(3, 3, width=2)


FORMS = {
    "class": (Sized, {"width": 2}),
    "function": (without_generator, {}),
    "function of a generator": (with_generator, {}),
    "module": (Sized(3, 3, width=2), {}),
    "torchvision": ("torchvision:mobilenet_v3_small", {}),
    "timm": ("timm:resnet10t", {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_network_gives_equal_weights_for_equal_generators(form):
    if form == "timm":
        pytest.importorskip("timm")
    spec, options = FORMS[form]
    make = dd.network_factory(spec, (3, 32, 32), 3, **options)
    state = torch.get_rng_state()
    networks = [make(generator(key)) for key in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    one, two, other = (torch.cat([p.detach().flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert networks[0](torch.rand(2, 3, 32, 32)).shape == (2, 3)
    again = pickle.loads(pickle.dumps(make))  # noqa: S301
    assert again.name == make.name
    assert all(map(torch.equal, again(generator(0)).parameters(), networks[0].parameters()))


def test_names_say_what_the_network_is():
    assert dd.network_factory(Sized, (3, 8, 8), 3, width=2).name == "test_network_forms.Sized"
    assert dd.network_factory(Sized, (3, 8, 8), 3, width=2).options == {"width": 2}
    assert dd.network_factory(Sized(3, 3, width=2), (3, 8, 8), 3).name == "test_network_forms.Sized (drawn anew)"
    assert dd.network_factory("torchvision:resnet18", (1, 32, 32), 3).name == "torchvision:resnet18"


def test_a_module_is_copied_and_drawn_anew_with_a_note(caplog):
    caplog.set_level("INFO", "ddsdk")
    given = Sized(3, 3, width=2)
    with torch.no_grad():
        given.out.bias.fill_(7.0)
    network = dd.network_factory(given, (3, 8, 8), 3)(generator(0))
    assert float(network.out.bias.detach().abs().max()) < 1
    assert float(given.out.bias.detach().min()) == 7
    assert "the weights of Sized are drawn anew from the seed" in caplog.text


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


VISION = "must be a classifier of torchvision"
REFUSED = {
    "no value": (Sized, {}, TypeError, r"test_network_forms\.Sized must get values for width"),
    "other outputs": (wide, {}, ValueError, r"logits \(B, 3\).*\(2, 4\)"),
    "several outputs": (lambda: Pair(), {}, ValueError, "return one tensor of logits .*got 'tuple from"),
    "too small": ("torchvision:alexnet", {}, ValueError, r"take images \(B, 3, 8, 8\), got torchvision:alexnet"),
    "lazy": (lazy, {}, TypeError, "without lazy layers, got '1.weight'"),
    "no network": (lambda: 3, {}, TypeError, r"must return a torch\.nn\.Module, got int"),
    "no source": (3, {}, TypeError, "must be a name, a class, a function or a torch module, got int"),
    "unknown": ("torchvision:resnet81", {}, ValueError, f"{VISION}.*did you mean torchvision:resnet18"),
    "detector": ("torchvision:fasterrcnn_resnet50_fpn", {}, ValueError, VISION),
    "download": ("torchvision:resnet18", {"weights": "DEFAULT"}, ValueError, "load no weights.*got 'weights'"),
    "code": ("os:system", {}, ValueError, r"or timm:NAME, got 'os:system'; pass the class or function itself"),
    "options of a module": (Plain(), {"width": 3}, ValueError, "options must be left out for a module, Plain"),
}


class Pair(Plain):
    def forward(self, x):
        return x.mean((2, 3)), x


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_student_is_refused_by_name(case):
    spec, options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        dd.network_factory(spec, (3, 8, 8), 3, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("os:system", {}),
        ("test_own_networks:Plain", {}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("timm:resnet18", {"checkpoint_path": "weights.pkl"}),
        ("timm:resnet18", {"drop_rate": "1e9"}),
    ],
)
def test_a_file_names_no_code_and_reads_no_weights(name, options, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda *_: pytest.fail("imported"))
    with pytest.raises(ValueError, match=r"network of a protocol must be one of|in a file"):
        stored_network_factory(name, (3, 32, 32), 3, **options)


# Features


class Attention(nn.Module):
    """Attention, LayerNorm, a class token, an embedding, tied weights and a classifier in a wrapper."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.token = scale, nn.Parameter(torch.randn(1, 1, 8))
        self.patches, self.positions = nn.Conv2d(3, 8, 4, 4), nn.Embedding(7, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.top = nn.ModuleDict({"classifier": nn.Sequential(nn.Identity(), nn.Linear(8, 3))})

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions.weight
        tokens = self.second(self.first(self.attention(tokens, tokens, tokens)[0]))
        return self.scale * self.top["classifier"](self.norm(tokens)[:, 0])


def test_features_are_the_input_of_the_layer_that_gives_the_logits():
    network, x = Attention(), torch.rand(4, 3, 8, 12, generator=generator("x"))
    features, logits = features_and_logits(network, x)
    assert torch.equal(embedding(network)(x), features)
    head = classifier(network, x)
    assert head is network.top["classifier"][1]
    assert torch.equal(head(features), logits) and torch.equal(logits, network(x))
    assert not any(layer._forward_hooks for layer in network.modules())
    again = copy.deepcopy(network)
    assert torch.equal(embedding(again)(x), features)
    # The flat function and gradients through it are those of the network.
    weights = weight_vector(network)
    torch.testing.assert_close(FlatNetwork(again)(weights, x), logits)


def test_a_layer_after_the_last_linear_one_leaves_features_without_a_classifier():
    network, x = Attention(scale=2.0), torch.rand(2, 3, 8, 12, generator=generator("x"))
    assert embedding(network)(x).shape == (2, 8)
    with pytest.raises(TypeError, match=r"must end in the linear layer .*differs from that of top\.classifier\.1"):
        classifier(network, x)


def test_two_classifiers_that_are_averaged_are_refused():
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(12, 3), nn.Linear(12, 3)

        def forward(self, x):
            return (self.a(x.flatten(1)) + self.b(x.flatten(1))) / 2

    with pytest.raises(TypeError, match=r"whose logits .* come from a and b"):
        embedding(Averaged())(torch.rand(2, 3, 2, 2))


def test_a_layer_named_embed_is_no_method():
    class Patches(Attention):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, 4)

    assert embedding(Patches())(torch.rand(2, 3, 8, 12)).shape == (2, 8)


def test_gradients_of_the_body_leave_the_classifier_out_wherever_it_is(tiny):
    class First(Plain):
        def __init__(self):
            super().__init__()
            del self.conv
            self.conv = nn.Conv2d(3, 4, 3, stride=4)

    network = First()
    assert [name for name, p in network.named_parameters() if p.ndim > 1] == ["out.weight", "conv.weight"]
    (gradient,) = body_gradients(network, tiny.batch(torch.arange(4)), graph=False)
    assert gradient.shape == network.conv.weight.shape


@pytest.mark.parametrize("name", ["dm", "dc", "mtt"])
def test_attention_is_distilled_by_features_gradients_and_trajectories(name, tiny):
    settings = {"dm": {"steps": 1, "real_batch": 4}, **REPEATED}[name]
    found = dd.distill(dd.RECIPES[name](ipc=1, **settings), tiny, make_student=Attention)
    assert torch.isfinite(found.images).all()


def test_own_initial_values_are_those_of_the_layers():
    module = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(64, 2), "names": nn.Embedding(500, 40), "norm": nn.LayerNorm(3)}
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9.0)
    initialise(module, generator(0))
    attention = module["attention"]
    bound = (6 / (64 + 192)) ** 0.5
    assert 0.95 * bound < float(attention.in_proj_weight.detach().abs().max()) <= bound
    assert not attention.in_proj_bias.any() and not attention.out_proj.bias.any()
    assert float(module["names"].weight.detach().std()) == pytest.approx(1, abs=0.03)
    assert torch.equal(module["norm"].weight, torch.ones(3))
    again = copy.deepcopy(module)
    assert all(map(torch.equal, initialise(again, generator(0)).parameters(), module.parameters()))
    assert not torch.equal(initialise(again, generator(1))["names"].weight, module["names"].weight)


def test_what_cannot_be_drawn_anew_is_refused_by_name():
    with pytest.raises(TypeError, match=r"got Attention at '\(the module itself\)' \(token\): pass the class"):
        dd.network_factory(Attention(), (3, 8, 12), 3)
    tied = nn.ModuleDict({"names": nn.Embedding(4, 4), "out": nn.Linear(4, 4)})
    tied["out"].weight = tied["names"].weight
    with pytest.raises(TypeError, match=r"got Linear at 'out' .*shares a parameter with Embedding at 'names'"):
        initialise(tied, generator(0))

    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(2))

        def reset_parameters(self):
            pass

    with pytest.raises(TypeError, match=r"reset_parameters\(\) leaves gain as it is"):
        initialise(nn.Sequential(Kept()), generator(0))


# As student and as judge


# Gradients under ShuffleNet with frozen BatchNorm and random weights are not finite.
@pytest.mark.parametrize(
    ("network", "recipes"), [("torchvision:shufflenet_v2_x0_5", ("dm", "mtt")), ("timm:test_vit", ("dm", "dc", "mtt"))]
)
@pytest.mark.slow
def test_a_network_of_a_library_is_student_and_judge(network, recipes, digits):
    if network.startswith("timm"):
        pytest.importorskip("timm")
    train, test = (part.subset(torch.arange(200)) for part in digits)
    large = [
        dd.RealData(
            nn.functional.interpolate(part.images.float() / 255, size=(32, 32)).clamp(0, 1),
            part.labels,
            class_names=part.class_names,
            preprocess=part.preprocess,
        )
        for part in (train, test)
    ]
    settings = {"dm": {"steps": 2, "real_batch": 16}, "dc": REPEATED["dc"], "mtt": REPEATED["mtt"]}
    for name in recipes:
        recipe = dd.RECIPES[name](ipc=1, augmentation="", **settings[name])
        first, second = (dd.distill(recipe, large[0], make_student=network, seed=0) for _ in range(2))
        assert torch.equal(first.images, second.images)
        assert first.provenance["student"] == {"network": network, "options": {}}
    protocol = dd.TrainingProtocol(name="short", epochs=1, networks=1).changed(network=network)
    assert len(dd.evaluate((first.images, first.labels), large[1], protocol).accuracies) == 1
