"""The objective of the kernel regression family against explicit regression on features and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import log_softmax

import ddsdk as dd
from ddsdk.data.sources import Batch
from ddsdk.objectives import ByFeatures, FitAndTest, by_kernel
from ddsdk.synthetic.set import LeafView
from ddsdk.training import FullyConnectedNTK, LinearKernel, Ridge

DOUBLE = torch.float64
SHAPE = (1, 4, 6)


def normal(*shape, key="x"):
    return torch.randn(*shape, generator=dd.generator(key), dtype=DOUBLE)


class Whole:
    """A set of given leaves."""

    num_classes = 3

    def __init__(self, x, y, scale=None):
        self.x, self.y = x, y
        if scale is not None:
            self.scale = scale

    def whole(self, rng):
        return Batch(self.x, self.y)


class Real:
    """The same real batch whatever is asked for."""

    num_classes = 3

    def mixed(self, n, rng):
        return Batch(normal(n, *SHAPE, key="real"), torch.eye(3, dtype=DOUBLE)[torch.arange(n) % 3])

    def of_class(self, c, n, rng):
        return Batch(normal(n, *SHAPE, key=f"real {c}"), torch.eye(3, dtype=DOUBLE)[[c] * n])


@pytest.fixture
def networks():
    make = dd.network_factory("convnet", SHAPE, 3, width=3, depth=1, norm="none", activation="sigmoid")
    return [make(dd.generator("student", i)).double().requires_grad_(False) for i in range(2)]


def inputs(n=4):
    return (
        normal(n, *SHAPE).requires_grad_(),
        normal(n, 3, key="y").requires_grad_(),
        torch.tensor(1.3, dtype=DOUBLE, requires_grad=True),
    )


def loss_of(objective, student, x, y, scale=None):
    (term,) = objective(student, Real(), Whole(x, y, scale), dd.generator("step"))
    return term


def by_hand(networks, x, y, new, *, slope, bias, ridge):
    """Regression on the features of all networks side by side, with a constant one."""
    rows = []
    for images in (x, new):
        parts = [n.embed(images) * math.sqrt(slope / n.embed(images).shape[1] / len(networks)) for n in networks]
        rows.append(torch.cat([*parts, torch.full((len(images), 1), math.sqrt(bias), dtype=DOUBLE)], 1))
    mine, theirs = rows
    amount = ridge * (mine @ mine.T).diagonal().mean()
    weights = torch.linalg.inv(mine.T @ mine + amount * torch.eye(mine.shape[1], dtype=DOUBLE)) @ mine.T @ y
    return theirs @ weights


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_loss_is_that_of_regression_on_features(networks, loss, count):
    used = networks[:count]
    x, y, scale = inputs()
    objective = FitAndTest(
        compare=ByFeatures(slope=2.0, bias=0.01), ridge=Ridge(strength=5e-3), real_batch=5, loss=loss
    )
    new, truth = Real().mixed(5, None)
    x, y, scale = (t.detach() for t in (x, y, scale))
    found = by_hand(used, x, y, new, slope=2.0, bias=0.01, ridge=5e-3)
    if loss == "mse":
        exact = sum(0.5 * float((f - (t - 1 / 3)).square().sum()) for f, t in zip(found, truth, strict=True)) / 5
    else:
        exact = -float((truth * log_softmax(scale * found, 1)).sum()) / 5
    for student in (used, tuple(used), *(used if count == 1 else ())):
        assert float(loss_of(objective, student, x, y, scale)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"loss": "cross-entropy"}, {"mirrored": True, "margin": 0.4}])
def test_meta_gradients_are_finite_differences(networks, options):
    objective = FitAndTest(
        compare=ByFeatures(slope=2.0, bias=0.01), ridge=Ridge(strength=0.01), real_batch=5, **options
    )
    known = inputs() if "loss" in options else inputs()[:2]
    assert gradcheck(lambda *given: loss_of(objective, networks, *given), known)


def test_meta_gradients_through_a_kernel_are_finite_differences():
    objective = FitAndTest(compare=by_kernel, ridge=Ridge(strength=1e-3), real_batch=4, balanced=True)
    kernel = FullyConnectedNTK(depth=2)
    assert gradcheck(lambda *given: loss_of(objective, kernel, *given), inputs()[:2])


def test_real_images_have_a_graph_only_where_they_ask_for_one(networks):
    images, new = inputs()[0].detach(), normal(5, *SHAPE, key="n")
    for asked in (False, True):
        compared = ByFeatures()(networks, images, new.clone().requires_grad_(asked))
        assert not compared.gram.requires_grad
        assert compared.cross.requires_grad is asked


def test_a_mirrored_set_is_one_of_twice_as_many_images(networks):
    x, y, _ = inputs()
    settings = {"compare": ByFeatures(), "ridge": Ridge(strength=0.01), "real_batch": 5}
    one = loss_of(FitAndTest(**settings, mirrored=True), networks, x, y)
    two = loss_of(FitAndTest(**settings), networks, torch.cat([x, x.flip(3)]), torch.cat([y, y]))
    torch.testing.assert_close(one, two)


def test_the_margin_is_that_of_the_labels(networks):
    x, _, _ = inputs()
    y = torch.tensor([[1.0, 0.0, 0.9], [2.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.3, 0.0]], dtype=DOUBLE)
    settings = {"compare": ByFeatures(), "ridge": Ridge(strength=0.01), "real_batch": 5}
    plain = loss_of(FitAndTest(**settings), networks, x, y)
    with_margin = loss_of(FitAndTest(**settings, margin=0.25), networks, x, y)
    assert float((plain - with_margin).detach()) == pytest.approx((0.1 + 0.25 + 0.0 + 0.25) / 4)


def test_the_label_scale_is_that_of_the_targets(networks):
    x, y, _ = inputs()
    settings = {"compare": ByFeatures(), "ridge": Ridge(strength=0.01), "real_batch": 5}
    one = loss_of(FitAndTest(**settings, label_scale=3.0), networks, x, 3 * y)
    torch.testing.assert_close(one, 9 * loss_of(FitAndTest(**settings), networks, x, y))


def test_a_balanced_batch_has_as_many_of_each_class(tiny):
    seen = []

    def compare(student, images, new):
        seen.append(new)
        return by_kernel(student, images, new)

    syn = dd.RFAD(ipc=1).scored_set(tiny, dd.generator(0))
    objective = FitAndTest(compare=compare, ridge=Ridge(), real_batch=10, balanced=True)
    list(objective(LinearKernel(), tiny, LeafView(syn), dd.generator(1)))
    assert len(seen[0]) == 12
    where = [int((tiny.batch(torch.arange(20)).x == x).flatten(1).all(1).nonzero()) for x in seen[0]]
    assert tiny.labels[where].bincount().tolist() == [4, 4, 4]


def test_students_and_sets_that_do_not_fit_are_refused(tiny, make_student):
    syn = dd.RFAD(ipc=1).scored_set(tiny, dd.generator(0))
    network = make_student(dd.generator(0))
    features = FitAndTest(compare=ByFeatures(), ridge=Ridge(), real_batch=4)
    kernel = FitAndTest(compare=by_kernel, ridge=Ridge(), real_batch=4)
    sure = FitAndTest(compare=ByFeatures(), ridge=Ridge(), real_batch=4, loss="cross-entropy")
    cases = [
        (features, LinearKernel(), LeafView(syn), TypeError, "student must be a network with a method embed"),
        (kernel, network, LeafView(syn), TypeError, "student must be a kernel, got Network"),
        (sure, network, LeafView(syn), ValueError, "scale must be learned with the set"),
    ]
    for objective, student, source, error, message in cases:
        with pytest.raises(error, match=f"^{message}"):
            list(objective(student, tiny, source, dd.generator(0)))
    with pytest.raises(ValueError, match=r"^loss must be one of"):
        FitAndTest(compare=ByFeatures(), ridge=Ridge(), real_batch=4, loss="l1")
    with pytest.raises(ValueError, match=r"^margin must be finite and not negative"):
        FitAndTest(compare=ByFeatures(), ridge=Ridge(), real_batch=4, margin=-1.0)
    with pytest.raises(ValueError, match=r"^bias must be finite and not negative"):
        ByFeatures(bias=-1.0)
