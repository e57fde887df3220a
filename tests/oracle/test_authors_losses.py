"""Steps of recipes whose loss is of features, beside their authors' formulas: NCFM, HaBa and IDM."""

from __future__ import annotations

import pytest
import torch
from plain_networks import (
    cross_entropy_mean,
    enlarged,
    gradients,
    maps_and_logits,
    moved,
    named,
    normalised,
    step_key,
    weights_of,
)

import ddsdk as dd
from ddsdk.foundation import derive

ROOT = dd.generator("authors")
ROWS = torch.eye(3)


@pytest.fixture
def make(tiny):
    return dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=2)


def within(canvases, real):
    """Canvases clamped to the values of the unit range."""
    low, high = real.preprocess(torch.zeros_like(canvases[0])), real.preprocess(torch.ones_like(canvases[0]))
    return torch.minimum(torch.maximum(canvases, low), high)


def check(found, wanted, start, tolerance=1e-3):
    """Compare the changes of two tensors since their start."""
    scale = float((wanted - start).abs().max())
    assert scale > 1e-4
    torch.testing.assert_close(found.detach() - start, wanted - start, rtol=tolerance, atol=tolerance * scale)


# NCFM


def characteristic_gap(ours, theirs, frequencies):
    """The mean over frequencies of the distance of two characteristic functions, as complex numbers."""
    functions = []
    # Angles of neighbouring functions differ by so little that 1 - cos needs double precision.
    for features in (ours.double(), theirs.double()):
        angles = features / features.square().sum(1, keepdim=True).sqrt() @ frequencies.double()
        functions.append(torch.exp(torch.complex(torch.zeros_like(angles), angles)).mean(0))
    p, q = functions
    amplitude = (p.abs() - q.abs()).square()
    phase = 2 * p.abs() * q.abs() * (1 - (p.angle() - q.angle()).cos())
    return (0.5 * amplitude + 0.5 * phase).sqrt().mean()


def ncfm_canvases(recipe, runs, network, real, canvases):
    """Yield the loss and the canvases after each step of NCFM."""
    first, second = torch.zeros_like(canvases), torch.zeros_like(canvases)
    judge, rate = named(runs.weights(0, 1), network), 1e-3 / 0.25
    for i in range(recipe.steps):
        key = step_key(ROOT, i, "students", "student", "init")
        member = int(torch.randint(recipe.pool, (), generator=derive(key, "run")))
        share = float(torch.rand((), generator=derive(key, "share")))
        student = named((1 - share) * runs.weights(member, 0) + share * runs.weights(member, 1), network)
        size = student["head.weight"].shape[1]
        key = step_key(ROOT, i, "objective", ("part", 0), "frequencies")
        frequencies = torch.randn(recipe.frequencies, size, generator=key).T
        leaf, loss = canvases.clone().requires_grad_(), 0.0
        for c in range(3):
            shown = enlarged(leaf[recipe.ipc * c : recipe.ipc * (c + 1)], 2)
            ours, theirs = (maps_and_logits(student, x)[1] for x in (shown, normalised(real, c)))
            loss = loss + 300 * characteristic_gap(ours, theirs.detach(), frequencies)
            loss = loss + cross_entropy_mean(maps_and_logits(judge, shown)[2], ROWS[c][None])
        (slope,) = torch.autograd.grad(loss, leaf)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope * slope
        upright = (second / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8
        canvases = canvases * (1 - rate * 5e-4) - rate * first / (1 - 0.9 ** (i + 1)) / upright
        canvases = within(canvases, real)
        yield float(loss.detach()), canvases


def test_canvases_of_ncfm_are_those_of_the_formulas(tiny, make):
    recipe = dd.NCFM(ipc=2, steps=3, real_batch=9, frequencies=16, pool=3, pool_epochs=2, augmentation="")
    plan = recipe.plan(tiny, make_student=make, rng=dd.generator("plan"))
    runs = recipe.runs(tiny, make_student=make, rng=dd.generator("plan"))
    stored, start = plan.syn.parametrization.canvases, plan.syn.parametrization.canvases.detach().clone()
    (group,) = plan.make_optimizer(plan.syn).param_groups
    # Too small an effect for the canvases of a few steps.
    assert group["weight_decay"] == 5e-4
    loop = ncfm_canvases(recipe, runs, make(dd.generator(0)), tiny, start)
    for step, (loss, canvases) in zip(dd.Distillation(plan, tiny, rng=ROOT), loop, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-5)
        check(stored, canvases, start)


# HaBa


def hallucinated(parts, slot, view):
    """The image of one basis under one hallucinator."""
    maps = torch.nn.functional.conv2d(parts["bases"][slot][None], parts["inward"][view], parts["inward_bias"][view])
    scaled = parts["scale"][view] * maps + parts["shift"][view]
    return torch.nn.functional.conv_transpose2d(scaled, parts["outward"][view], parts["outward_bias"][view])[0]


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def contrast(features, classes, temperature=0.1):
    """The supervised contrastive loss of images that all have another one of their class."""
    z, losses = [f / f.square().sum().sqrt() for f in features], []
    for i, class_of_i in enumerate(classes):
        others = [a for a in range(len(z)) if a != i]
        below = torch.stack([z[i] @ z[a] / temperature for a in others]).logsumexp(0)
        positives = [a for a in others if classes[a] == class_of_i]
        losses.append(-sum(z[i] @ z[p] / temperature - below for p in positives) / len(positives))
    return sum(losses) / len(losses)


def rival_step(rival, velocity, images, classes, pair, draw):
    """Train F: classification, equal features of two views of a basis, and contrast; SGD of rate .001, momentum .9."""
    slots = len(classes)
    x = draw(torch.stack([images[m][view] for view in pair for m in range(slots)]))
    _, features, logits = maps_and_logits(rival, x)
    far = sum((1 - cosine(features[m], features[slots + m])) / 2 for m in range(slots)) / slots
    loss = cross_entropy_mean(logits, ROWS[classes + classes])
    loss = loss + 0.1 * far + 0.1 * contrast(features, classes + classes)
    slopes = gradients(loss, rival)
    for name in velocity:
        velocity[name] = 0.9 * velocity[name] + slopes[name]
    return moved(rival, {name: -1e-3 * v for name, v in velocity.items()})


def haba_sets(recipe, runs, make, parts, *, augmentation):
    """Yield the loss, the parts of the set with the rate, and F after each step of HaBa."""
    views, classes = recipe.hallucinators, torch.arange(3).repeat_interleave(recipe.ipc).tolist()
    slots, network = range(len(classes)), make(dd.generator(0))
    parts = {**parts, "rate": torch.tensor(recipe.student_lr)}
    rates = {name: 1e-6 if name == "rate" else recipe.image_lr for name in parts}
    momenta = {name: torch.zeros_like(part) for name, part in parts.items()}
    rival = weights_of(make(step_key(ROOT, 0, "students", "rival", "init")))
    velocity = {name: torch.zeros_like(w) for name, w in rival.items()}
    for i in range(recipe.steps):
        images = [[hallucinated(parts, m, view) for view in range(views)] for m in slots]
        key = step_key(ROOT, i, "students", "lesson")
        order = torch.randperm(len(classes), generator=derive(key, "slots")).tolist()
        pair = torch.randperm(views, generator=derive(key, "views"))[:2].tolist()
        draw = augmentation.per_image(2 * len(order), derive(key, "augmentation"))
        shuffled = [images[m] for m in order], [classes[m] for m in order]
        rival = rival_step(rival, velocity, *shuffled, pair, draw)

        leaves = {name: part.detach().clone().requires_grad_() for name, part in parts.items()}
        images = [[hallucinated(leaves, m, view) for view in range(views)] for m in slots]
        key = step_key(ROOT, i, "students", "student")
        first = int(torch.randint(recipe.max_start, (), generator=derive(key, "start")))
        start, target = runs.weights(0, first), runs.weights(0, first + recipe.expert_span)
        student = named(start.clone().requires_grad_(), network)
        rows = ROWS[[c for c in classes for _ in range(views)]]
        for s in range(recipe.student_steps):
            key = step_key(ROOT, i, "objective", ("part", 0))
            order = torch.randperm(len(rows), generator=derive(key, "order", s))
            draw = augmentation.per_image(len(rows), derive(key, "augmentation", s))
            x = torch.stack([image for row in images for image in row])[order]
            loss = cross_entropy_mean(maps_and_logits(student, draw(x))[2], rows[order])
            slopes = gradients(loss, student, create_graph=True)
            student = {name: w - leaves["rate"] * slopes[name] for name, w in student.items()}
        end = torch.cat([w.flatten() for w in student.values()])
        loss = (end - target).square().sum() / (start - target).square().sum()
        fixed = {name: w.detach() for name, w in rival.items()}
        for c in range(3):
            key = step_key(ROOT, i, "objective", ("part", 1), ("class", c))
            a, b = torch.randperm(views, generator=derive(key, "views"))[:2].tolist()
            own = [image for m in slots if classes[m] == c for image in images[m]]
            draw = augmentation.per_image(len(own), derive(key, "augmentation"))
            features = maps_and_logits(fixed, draw(torch.stack(own)))[1].reshape(recipe.ipc, views, -1)
            alike = [(1 + cosine(features[m, a], features[m, b])) / 2 for m in range(recipe.ipc)]
            loss = loss + 0.1 * sum(alike) / len(classes)
        slopes = gradients(loss, leaves)
        for name, slope in slopes.items():
            momenta[name] = 0.95 * momenta[name] + slope
            parts[name] = parts[name] - rates[name] * momenta[name]
        parts["rate"] = parts["rate"].clamp(0.001, 1.0)
        yield float(loss.detach()), parts, rival


@pytest.mark.parametrize("augmentation", ["", "crop"])
def test_bases_hallucinators_and_rival_of_haba_are_those_of_the_formulas(tiny, make, augmentation):
    recipe = dd.HaBa(
        ipc=2,
        steps=2,
        student_steps=2,
        expert_span=1,
        max_start=2,
        experts=1,
        expert_epochs=2,
        hallucinators=3,
        fit_steps=0,
        image_lr=0.05,
        student_lr=0.02,
        rate_lr=1e-6,
        augmentation=augmentation,
    )
    plan = recipe.plan(tiny, make_student=make, rng=dd.generator("plan"))
    runs = recipe.runs(tiny, make_student=make, rng=dd.generator("plan"))
    stored = dict(plan.syn.parametrization.named_parameters())
    start = {name: p.detach().clone() for name, p in stored.items()}
    loop = haba_sets(recipe, runs, make, start, augmentation=dd.Augmentation(augmentation))
    untrained = weights_of(make(step_key(ROOT, 0, "students", "rival", "init")))
    for step, (loss, parts, rival) in zip(dd.Distillation(plan, tiny, rng=ROOT), loop, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-4)
        for name, p in stored.items():
            check(p, parts[name], start[name], tolerance=3e-3)
        assert plan.syn.rate.rates == pytest.approx(float(parts["rate"]), rel=1e-4)
        for name, p in plan.students.state_dict()["rival"].items():
            torch.testing.assert_close(p - untrained[name], rival[name] - untrained[name], rtol=3e-3, atol=1e-7)
    assert plan.syn.rate.rates != pytest.approx(0.02, rel=1e-2)


# IDM


def idm_canvases(recipe, supply, real, syn, canvases):
    """Yield the loss and the canvases after each step of IDM, under the networks of a supply."""
    momentum = torch.zeros_like(canvases)
    for i in range(recipe.steps):
        network, accuracy = supply.next(real, syn, step_key(ROOT, i, "students"))
        weights = weights_of(network)
        leaf, loss = canvases.clone().requires_grad_(), 0.0
        for c in range(3):
            shown = enlarged(leaf[recipe.ipc * c : recipe.ipc * (c + 1)], 2)
            _, ours, logits = maps_and_logits(weights, shown)
            _, theirs, _ = maps_and_logits(weights, normalised(real, c))
            loss = loss + (ours.mean(0) - theirs.detach().mean(0)).square().sum()
            # Half the accuracy in percent, for 2048 features.
            weight = 0.5 * (100 * accuracy) * ours.shape[1] / 2048
            loss = loss + weight * cross_entropy_mean(logits, ROWS[c][None])
        (slope,) = torch.autograd.grad(loss, leaf)
        momentum = 0.5 * momentum + slope
        canvases = within(canvases - 0.2 * momentum, real)
        yield float(loss.detach()), canvases, accuracy


def test_canvases_of_idm_are_those_of_the_formulas(tiny, make):
    recipe = dd.IDM(ipc=2, steps=5, real_batch=9, push_every=2, student_steps=4, student_lr=0.1, augmentation="")
    plan, other = (recipe.plan(tiny, make_student=make, rng=dd.generator("plan")) for _ in range(2))
    stored, start = plan.syn.parametrization.canvases, plan.syn.parametrization.canvases.detach().clone()
    loop = idm_canvases(recipe, other.students, tiny, other.syn, start)
    accuracies = []
    for step, (loss, canvases, accuracy) in zip(dd.Distillation(plan, tiny, rng=ROOT), loop, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-5)
        check(stored, canvases, start)
        accuracies.append(accuracy)
    assert accuracies[0] == 0
    assert max(accuracies) > 1 / 3
