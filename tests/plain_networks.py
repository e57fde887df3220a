"""A ConvNet from elementary tensor operations, and the random keys of a run, for loops that are written out by hand."""

from __future__ import annotations

import torch
from torch.nn.functional import conv2d, interpolate

import ddsdk as dd
from ddsdk.foundation import derive


class Doubled:
    """A source of real images in double precision."""

    def __init__(self, source):
        self._source = source
        self.num_classes, self.device = source.num_classes, source.device

    def of_class(self, c, n, rng):
        return dd.Batch(*(t.double() for t in self._source.of_class(c, n, rng)))

    def mixed(self, n, rng):
        return dd.Batch(*(t.double() for t in self._source.mixed(n, rng)))


def weights_of(network):
    """Return copies of the parameters of a network by their names."""
    return {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}


def maps_and_logits(weights, x):
    """Return the maps of the blocks of a ConvNet before their pooling, the features and the logits."""
    maps, level = [], 0
    while f"body.{level}.0.weight" in weights:
        conv, norm = f"body.{level}.0.", f"body.{level}.1."
        x = conv2d(x, weights[conv + "weight"], weights[conv + "bias"], padding=1)
        centred = x - x.mean((2, 3), keepdim=True)
        x = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        x = x * weights[norm + "weight"][:, None, None] + weights[norm + "bias"][:, None, None]
        x = x * (x > 0)
        maps.append(x)
        n, c, h, w = x.shape
        x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        level += 1
    features = x.flatten(1)
    return maps, features, features @ weights["head.weight"].T + weights["head.bias"]


def cross_entropy_mean(logits, rows):
    """Return the mean over a batch of -sum_k y_k log softmax_k."""
    return -(rows * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()


def gradients(loss, weights, **options):
    """Return the gradients of a loss by the names of the weights."""
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), **options), strict=True))


def moved(weights, steps):
    """Return the weights after they were moved by `steps`, as new leaves."""
    return {name: (w.detach() + steps[name]).requires_grad_() for name, w in weights.items()}


def nested(rng, *keys):
    """Return the generator that is derived key by key; a key of several parts is a tuple."""
    for key in keys:
        rng = derive(rng, *(key if isinstance(key, tuple) else (key,)))
    return rng


def step_key(root, i, *keys):
    """Return the generator of a purpose in step `i` of a distillation."""
    return nested(derive(root), ("step", i), *keys)


def normalised(real, c):
    """Return all images of a class, normalised."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (real.preprocess.mean, real.preprocess.std))
    return (real.images[real.labels == c].float() - mean) / std


def enlarged(canvases, factor):
    """Return the images of all tiles of canvases, enlarged to the size of a canvas."""
    height, width = canvases.shape[2:]
    h, w = height // factor, width // factor
    corners = [(row * h, column * w) for row in range(factor) for column in range(factor)]
    tiles = [canvas[None, :, top : top + h, left : left + w] for canvas in canvases for top, left in corners]
    return torch.cat([interpolate(tile, (height, width), mode="bilinear") for tile in tiles])


def named(vector, network):
    """Return the weights of a network by their names, cut from one vector."""
    parts = torch.split(vector, [p.numel() for p in network.parameters()])
    shapes = ((name, p.shape) for name, p in network.named_parameters())
    return {name: part.reshape(shape) for part, (name, shape) in zip(parts, shapes, strict=True)}
