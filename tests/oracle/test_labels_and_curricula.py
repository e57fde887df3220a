"""LD's and GTN's gradients in float64: finite differences, and the same number written out another way."""

from __future__ import annotations

import pytest
import torch
from plain_networks import Doubled
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.networks import Network, initialise
from ddsdk.synthetic.set import LeafView
from ddsdk.training import weight_vector
from ddsdk.training.flat import FlatNetwork

STEP = 1e-6


@pytest.fixture
def real():
    rng = dd.generator("real")
    labels = torch.arange(3).repeat(4)
    return dd.RealData(
        torch.rand(12, 1, 4, 4, generator=rng), labels, class_names=("a", "b", "c"), preprocess=dd.Preprocess.unit(1)
    )


def smooth(rng):
    """A network whose loss has derivatives everywhere."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return Network(initialise(network[:3], rng), initialise(network[3], rng)).double()


def run(plan, syn, real, student):
    (term,) = plan.objective_at(0)(student, Doubled(real), LeafView(syn), dd.generator("objective"))
    return term


def gradients(plan, syn, real, student):
    leaves = LeafView(syn)
    syn.zero_grad()
    for term in plan.objective_at(0)(student, Doubled(real), leaves, dd.generator("objective")):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    return {name: p.grad for name, p in syn.named_parameters() if p.requires_grad}


def check_by_differences(plan, syn, real, student):
    found = gradients(plan, syn, real, student)
    for i, (name, p) in enumerate((n, p) for n, p in syn.named_parameters() if p.requires_grad):
        way = torch.randn(p.shape, generator=dd.generator("way", i), dtype=torch.float64)
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                p += sign * STEP * way
                values.append(float(run(plan, syn, real, student)))
                p -= sign * STEP * way
        wanted = (values[0] - values[1]) / (2 * STEP)
        assert abs(wanted) > 1e-7, name
        assert float((found[name] * way).sum()) == pytest.approx(wanted, rel=1e-4, abs=1e-9), name


def plan_of(recipe, real):
    plan = recipe.plan(real, make_student=lambda rng: smooth(rng).float(), rng=dd.generator("plan"))
    return plan, plan.syn.double()


@pytest.mark.parametrize("ridge", [None, 1.0])
def test_the_label_gradient(real, ridge):
    plan, syn = plan_of(dd.LD(ipc=2, inner_lr=0.5, real_batch=8, ridge=ridge, start="real"), real)
    with torch.no_grad():
        # Uniform rows predict the same of every class, whatever they are multiplied by.
        syn.labels.values.copy_(torch.rand(6, 3, generator=dd.generator("y"), dtype=torch.float64))
    check_by_differences(plan, syn, real, smooth(dd.generator("student")))


def test_one_step_is_written_out(real):
    """The unrolled step of LD, by hand: -inner_lr grad_T . d/dY grad_S."""
    recipe = dd.LD(ipc=2, inner_lr=0.5, student_batch=6, real_batch=12, start="real")
    plan, syn = plan_of(recipe, real)
    student = smooth(dd.generator("student"))
    (found,) = gradients(plan, syn, real, student).values()
    flat, w = FlatNetwork(student), weight_vector(student).requires_grad_()
    x, _ = syn.detached(dd.generator("x"))
    y = syn.labels.values.detach().requires_grad_()
    (inner,) = torch.autograd.grad(cross_entropy(flat(w, x), y), w, create_graph=True)
    after = (w - 0.5 * inner).detach().requires_grad_()
    data = Doubled(real).mixed(12, dd.generator("any"))
    (outer,) = torch.autograd.grad(cross_entropy(flat(after, data.x), data.y), after)
    (wanted,) = torch.autograd.grad(-0.5 * inner @ outer, y)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_ridge_variant_is_ridge_on_features_with_a_constant(real):
    plan, syn = plan_of(dd.LD(ipc=2, real_batch=12, ridge=0.7, start="real"), real)
    student = smooth(dd.generator("student"))
    with torch.no_grad():
        syn.labels.values.copy_(torch.rand(6, 3, generator=dd.generator("y"), dtype=torch.float64))
    loss = float(run(plan, syn, real, student).detach())

    def features(x):
        f = student.embed(x).detach()
        return torch.cat([f, torch.ones(len(f), 1, dtype=torch.float64)], 1)

    f, y = features(syn.detached(dd.generator("x")).x), syn.labels.values.detach()
    head = torch.linalg.solve(f.T @ f + 0.7 * torch.eye(6, dtype=torch.float64), f.T @ y)
    x, truth = Doubled(real).mixed(12, dd.generator("any"))
    assert loss == pytest.approx(float(cross_entropy(features(x) @ head, truth)), rel=1e-9)


def gtn(every):
    return dd.GTN(ipc=3, real_batch=8, generator_dim=3, generator_width=2, checkpoint_every=every)


def test_the_gradient_of_a_curriculum(real):
    """Generator, latents, rates and momenta, through all steps and tests."""
    plan, syn = plan_of(gtn(1), real)
    assert {n.split(".")[0] for n, p in syn.named_parameters() if p.requires_grad} == {"parametrization", "rate"}
    check_by_differences(plan, syn, real, smooth(dd.generator("student")))


def test_checkpoints_change_no_gradient(real):
    found = []
    for every in (1, 2, 7):
        plan, syn = plan_of(gtn(every), real)
        found.append(gradients(plan, syn, real, smooth(dd.generator("student"))))
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-10, atol=1e-14)
