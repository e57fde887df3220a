"""A few steps of a recipe beside the loop of its authors, written out by hand: the sets are equal after each step."""

from __future__ import annotations

import pytest
import torch
from plain_networks import (
    Doubled,
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


def grey(tiny):
    """The images of `tiny` in one channel."""
    return dd.RealData(
        tiny.images.float().mean(1, keepdim=True),
        tiny.labels,
        class_names=tiny.class_names,
        preprocess=dd.Preprocess.normalise([0.4], [0.2]),
        name="grey",
    )


# IDC


def nearest_tiles(images, factor):
    """Canvases of images that are shrunk by leaving out rows and columns, tile after tile."""
    n, channels, height, width = images.shape
    canvases = torch.zeros(n // factor**2, channels, height, width, dtype=images.dtype)
    for k, image in enumerate(images):
        m, tile = divmod(k, factor**2)
        row, column = divmod(tile, factor)
        top, left = row * height // factor, column * width // factor
        small = image[:, ::factor, ::factor]
        canvases[m, :, top : top + height // factor, left : left + width // factor] = small
    return canvases


def idc_lesson(weights, velocity, real, key, *, steps, batch, augmentation, mix):
    """Train on real images: SGD of rate .01 with momentum .9 and weight decay 5e-4."""
    for s in range(steps):
        x, y = real.mixed(batch, derive(key, "real", s))
        draw = augmentation.per_image(len(x), derive(key, "augmentation", s))
        x, y = dd.data.cutmix(draw(x), y, mix, derive(key, "mix", s))
        slopes = gradients(cross_entropy_mean(maps_and_logits(weights, x)[2], y), weights)
        for name in velocity:
            velocity[name] = 0.9 * velocity[name] + slopes[name] + 5e-4 * weights[name].detach()
        weights = moved(weights, {name: -0.01 * v for name, v in velocity.items()})
    return weights


def idc_canvases(recipe, real, make, canvases, *, rate, squares):
    """Yield the loss and the canvases after each step of IDC."""
    k, source = real.num_classes, Doubled(real)
    low, high = real.preprocess(torch.zeros_like(canvases[0])), real.preprocess(torch.ones_like(canvases[0]))
    momentum = torch.zeros_like(canvases)
    matching = dd.Augmentation(recipe.augmentation)
    training = dd.Augmentation(recipe.augmentation.replace("+cutout", ""))
    for i in range(recipe.steps):
        sweep, c = divmod(i, k)
        if c == 0 and sweep % recipe.steps_per_student == 0:
            weights = weights_of(make(step_key(ROOT, i, "students", "init")))
            velocity = {name: torch.zeros_like(w) for name, w in weights.items()}
        elif c == 0:
            key, n = step_key(ROOT, i, "students", "lesson"), recipe.student_steps
            options = {"steps": n, "batch": recipe.real_batch, "augmentation": training, "mix": recipe.mix}
            weights = idc_lesson(weights, velocity, source, key, **options)
        filters = {name: w for name, w in weights.items() if name.startswith("body") and w.ndim == 4}
        key = step_key(ROOT, i, "objective", ("class", c))
        draw = matching.siamese(derive(key, "augmentation"))
        row = torch.eye(k, dtype=torch.float64)[c]
        leaf = canvases.clone().requires_grad_()
        shown = enlarged(leaf[recipe.ipc * c : recipe.ipc * (c + 1)], recipe.factor or 2)
        truth = source.of_class(c, recipe.real_batch, derive(key, "real")).x
        theirs, ours = (
            gradients(cross_entropy_mean(maps_and_logits(weights, draw(x))[2], row[None]), filters, create_graph=True)
            for x in (truth, shown)
        )
        loss = torch.zeros((), dtype=torch.float64)
        for name in filters:
            gap = ours[name] - theirs[name].detach()
            loss = loss + (gap * gap if squares else gap.abs()).sum()
        (slope,) = torch.autograd.grad(loss, leaf)
        momentum = 0.5 * momentum + slope
        canvases = torch.minimum(torch.maximum(canvases - rate * momentum, low), high)
        yield float(loss.detach()), canvases


IDC_CASES = {
    # The published rates: 1e-4 and 5e-3, by ipc / 10, by the pixels relative to 32 x 32, by 1 / std^2.
    "grey": ({"ipc": 2}, 1e-4 * 0.2 * (96 / 1024) / 0.2**2, False),
    "colour": ({"ipc": 2}, 5e-3 * 0.2 * (96 / 1024) / 0.25**2, True),
    "a new network after two sweeps": ({"ipc": 1, "steps_per_student": 2}, 5e-3 * 0.1 * (96 / 1024) / 0.25**2, True),
    "clamped": ({"ipc": 1, "image_lr": 0.05}, 0.05 / 0.25**2, True),
    "augmented": (
        {"ipc": 1, "image_lr": 0.01, "augmentation": "color+crop+cutout", "mix": 0.5, "real_batch": 4},
        0.01 / 0.25**2,
        True,
    ),
}


@pytest.mark.parametrize("case", IDC_CASES)
def test_canvases_of_idc_are_those_of_the_authors_loop(tiny, case):
    real = grey(tiny) if case == "grey" else tiny
    settings, rate, squares = IDC_CASES[case]
    options = {"augmentation": "", "mix": 0.0, "real_batch": 9, "steps_per_student": 3} | settings
    recipe = dd.IDC(steps=8, student_steps=2, **options)
    factory = dd.network_factory("convnet", real.image_shape, 3, width=4, depth=2)

    def make(rng):
        return factory(rng).double()

    plan = recipe.plan(real, make_student=make, rng=dd.generator("plan"))
    tiles = dd.recipes.cycled_images(real, recipe.ipc, 4 * recipe.ipc, "real", dd.generator("plan"))
    start = nearest_tiles(tiles.double(), 2)
    stored = plan.syn.double().parametrization.canvases
    torch.testing.assert_close(stored.detach(), start)
    run = dd.Distillation(plan, Doubled(real), rng=ROOT)
    loop = idc_canvases(recipe, real, make, start, rate=rate, squares=squares)
    count = 0
    for step, (loss, canvases) in zip(run, loop, strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-9)
        assert float((canvases - start).abs().max()) > 1e-5
        torch.testing.assert_close(stored.detach() - start, canvases - start, rtol=1e-6, atol=1e-9)
        count += 1
    assert count == 8
    if case == "clamped":
        ends = [float((stored == end).double().mean()) for end in (-2.0, 2.0)]
        assert all(0 < end < 0.9 for end in ends)


def test_the_rate_of_idc_for_fashion_mnist_is_published():
    real = dd.RealData(
        torch.zeros(20, 1, 28, 28, dtype=torch.uint8),
        torch.arange(20) % 10,
        class_names=tuple("abcdefghij"),
        preprocess=dd.Preprocess.normalise([0.286], [0.353]),
        name="fashion",
    )
    make = dd.network_factory("convnet", (1, 28, 28), 10, width=2)
    plan = dd.IDC(ipc=1).plan(real, make_student=make, rng=ROOT)
    (group,) = plan.make_optimizer(plan.syn).param_groups
    assert group["lr"] * 0.353**2 == pytest.approx(7.65625e-6)


# MTT


def expert_snapshots(weights, real, epochs):
    """The weights of an expert after each epoch of one batch: SGD of rate .01 without momentum."""
    x, y = torch.cat([normalised(real, c) for c in range(3)]), torch.eye(3)[real.labels.sort()[0]]
    weights = moved(weights, dict.fromkeys(weights, 0.0))
    snapshots = [weights]
    for _ in range(epochs):
        slopes = gradients(cross_entropy_mean(maps_and_logits(weights, x)[2], y), weights)
        weights = moved(weights, {name: -0.01 * slope for name, slope in slopes.items()})
        snapshots.append(weights)
    return snapshots


def mtt_sets(recipe, experts, images, *, rate_lr):
    """Yield the loss, the images and the learned rate after each step of MTT."""
    rate, pull = torch.tensor(recipe.student_lr), torch.zeros(())
    momentum, rows = torch.zeros_like(images), torch.eye(3).repeat_interleave(recipe.ipc, 0)
    for i in range(recipe.steps):
        key = step_key(ROOT, i, "students")
        expert = experts[int(torch.randint(len(experts), (), generator=derive(key, "run")))]
        first = int(torch.randint(recipe.max_start, (), generator=derive(key, "start")))
        start, target = expert[first], expert[first + recipe.expert_span]
        x, lr = images.clone().requires_grad_(), rate.clone().requires_grad_()
        student, order, epoch = dict(start), [], 0
        for _ in range(recipe.student_steps):
            if not order:
                key = step_key(ROOT, i, "objective")
                order = torch.randperm(len(x), generator=derive(key, "order", epoch)).tolist()
                epoch += 1
            part, order = order[: recipe.batch_size], order[recipe.batch_size :]
            loss = cross_entropy_mean(maps_and_logits(student, x[part])[2], rows[part])
            slopes = gradients(loss, student, create_graph=True)
            student = {name: w - lr * slopes[name] for name, w in student.items()}
        far, near = torch.zeros(()), torch.zeros(())
        for name, end in target.items():
            near = near + (student[name] - end.detach()).square().sum()
            far = far + (start[name].detach() - end.detach()).square().sum()
        distance = near / far
        slope, lr_slope = torch.autograd.grad(distance, [x, lr])
        momentum, pull = 0.5 * momentum + slope, 0.5 * pull + lr_slope
        images, rate = images - recipe.image_lr * momentum, (rate - rate_lr * pull).clamp(1e-4, 1.0)
        yield float(distance.detach()), images, rate


@pytest.mark.parametrize(("rate_lr", "bounded"), [(1e-5, False), (1e-2, True)])
def test_images_and_rate_of_mtt_are_those_of_the_authors_loop(tiny, rate_lr, bounded):
    recipe = dd.MTT(
        ipc=2,
        steps=3,
        student_steps=4,
        batch_size=4,
        expert_span=2,
        max_start=2,
        experts=2,
        expert_epochs=4,
        image_lr=5.0,
        student_lr=0.01,
        rate_lr=rate_lr,
        augmentation="",
    )
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=2)
    plan = recipe.plan(tiny, make_student=make, rng=dd.generator("plan"))
    runs, network = recipe.runs(tiny, make_student=make, rng=dd.generator("plan")), make(dd.generator(0))
    experts = [expert_snapshots(named(runs.weights(i, 0), network), tiny, 4) for i in range(2)]
    for i, snapshots in enumerate(experts):
        first = runs.weights(i, 0)
        for epoch, weights in enumerate(snapshots):
            path = torch.cat([w.detach().flatten() for w in weights.values()]) - first
            torch.testing.assert_close(runs.weights(i, epoch) - first, path, rtol=1e-3, atol=1e-6)
    assert float(path.abs().max()) > 1e-3
    stored, start = plan.syn.parametrization.images, plan.syn.parametrization.images.detach().clone()
    run = dd.Distillation(plan, tiny, rng=ROOT)
    rates = []
    for step, (loss, images, rate) in zip(run, mtt_sets(recipe, experts, start, rate_lr=rate_lr), strict=True):
        assert step.loss == pytest.approx(loss, rel=1e-4)
        scale = float((images - start).abs().max())
        assert scale > 1e-2
        torch.testing.assert_close(stored.detach() - start, images - start, rtol=1e-3, atol=1e-3 * scale)
        rates.append(float(plan.syn.rate.value.detach()))
        assert rates[-1] == pytest.approx(float(rate), rel=1e-4)
    # The bounds of the rate, 1e-4 and 1, are those of this library.
    assert (rates == pytest.approx([1e-4, 1e-4, 1.0])) == bounded
    assert bounded or 1e-4 < min(rates) < max(rates) < 0.01


# CAFE


class Script:
    """A check of the accuracy that reads noise around one half; its width changes with the number of calls."""

    def __init__(self):
        self.calls, self.asked = 0, []

    def accuracy(self):
        self.calls += 1
        width = 0.018 if self.calls < 120 else 0.026 if self.calls < 200 else 0.014
        return 0.5 + width * (float(torch.rand((), generator=dd.generator("accuracy", self.calls))) - 0.5) * 2

    def accuracy_on(self, images):
        self.asked.append(images)
        return lambda student, real, rng: self.accuracy()


def plateau(accuracies):
    """The range of the last ten accuracies; None for fewer."""
    return max(accuracies[-10:]) - min(accuracies[-10:]) if len(accuracies) >= 10 else None


def cafe_loss(weights, real, images, ipc):
    """The squares of the gaps of class means in all layers, and the discrimination of real images by class centres."""
    loss, centres, features = torch.zeros((), dtype=torch.float64), [], []
    for c in range(3):
        ours, embedded, _ = maps_and_logits(weights, images[ipc * c : ipc * (c + 1)])
        theirs, real_embedded, _ = maps_and_logits(weights, normalised(real, c).double())
        for layer, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            loss = loss + (0.1, 0.1, 1.0)[layer] * (a.mean(0) - b.detach().mean(0)).square().sum()
        # The released loss has the pooled map, and once more the features, which are this map.
        for _ in range(2):
            loss = loss + (embedded.mean(0) - real_embedded.detach().mean(0)).square().sum()
        centres.append(embedded.mean(0))
        features.append(real_embedded.detach())
    for c in range(3):
        logits = features[c] @ torch.stack(centres).T
        loss = loss + 0.01 * (logits.logsumexp(1) - logits[:, c]).sum()
    return loss


def cafe_images(recipe, real, make, images, script):
    """Yield the loss, the images and the epochs before each step of CAFE; 0 epochs for a new network."""
    rows, momentum, checks = torch.eye(3).double().repeat_interleave(recipe.ipc, 0), torch.zeros_like(images), []
    for i in range(recipe.steps):
        lessons = []
        settled = plateau(checks)
        if not checks or (settled is not None and settled < 0.04):
            weights = weights_of(make(step_key(ROOT, i, "students", "init")))
            checks = [script.accuracy()]
        else:
            while len(lessons) < recipe.student_epochs:
                slopes = gradients(cross_entropy_mean(maps_and_logits(weights, images)[2], rows), weights)
                weights = moved(weights, {name: -0.01 * slope for name, slope in slopes.items()})
                lessons.append(script.accuracy())
                change = plateau(lessons)
                if change is not None and change > 0.03:
                    break
            checks.append(lessons[-1])
        leaf = images.clone().requires_grad_()
        loss = cafe_loss(weights, real, leaf, recipe.ipc)
        (slope,) = torch.autograd.grad(loss, leaf)
        momentum = 0.5 * momentum + slope
        halvings = sum(i >= share * recipe.steps for share in (0.6, 0.8, 0.9))
        images = images - 0.1 * 0.5**halvings * momentum
        yield float(loss.detach()), images, len(lessons)


def test_images_of_cafe_are_those_of_the_authors_loop(tiny, monkeypatch):
    factory = dd.network_factory("convnet", tiny.image_shape, 3, width=3, depth=3)

    def make(rng):
        return factory(rng).double()

    script, again = Script(), Script()
    monkeypatch.setattr(dd.students, "accuracy_on", script.accuracy_on)
    recipe = dd.CAFE(ipc=2, steps=25, real_batch=9)
    plan = recipe.plan(tiny, make_student=make, rng=dd.generator("plan"))
    # The authors measure the accuracy on 128 images of each of ten classes.
    assert script.asked == [1280]
    stored = plan.syn.double().parametrization.images
    start = stored.detach().clone()
    run = dd.Distillation(plan, Doubled(tiny), rng=ROOT)
    epochs = []
    for step, (loss, images, lessons) in zip(run, cafe_images(recipe, tiny, make, start, again), strict=True):
        assert script.calls == again.calls
        assert step.loss == pytest.approx(loss, rel=1e-9)
        torch.testing.assert_close(stored.detach() - start, images - start, rtol=1e-6, atol=1e-9)
        epochs.append(lessons)
    # Networks settle after 10 and 14 steps; lessons end when the accuracy has moved or after the largest number.
    assert [i for i, count in enumerate(epochs) if count == 0] == [0, 10, 24]
    assert min(count for count in epochs if count) == 10
    assert max(epochs) == 20
    assert any(10 < count < 20 for count in epochs)
