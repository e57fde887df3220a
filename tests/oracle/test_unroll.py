"""Differentiable training: the constant-memory gradient against the plain one, and optimizers against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.training.flat import FlatNetwork, weight_vector
from ddsdk.training.optimizers import InnerAdam, InnerSGD, PerStepSGD
from ddsdk.training.unroll import StepReplay, checkpointed, constant_memory, full_graph, truncated

STEPS = 5
OPTIMIZERS = {"sgd": InnerSGD(), "momentum": InnerSGD(momentum=0.9), "adam": InnerAdam()}
REPLAYED, REPLAYED_TRUNCATED = StepReplay(graph_bytes=0), StepReplay(exact=False, graph_bytes=0)
RATES = {"shared": torch.tensor(0.05), "per step": torch.linspace(0.02, 0.08, STEPS)}


@pytest.fixture
def problem():
    """A student, six images with soft labels, and a loss that takes another batch and augmentation at each step."""
    rng = dd.generator("unroll")
    make = dd.network_factory("convnet", (2, 8, 8), 3, width=3, depth=2, norm="none", activation="sigmoid")
    network = make(dd.generator("student")).double()
    flat = FlatNetwork(network)
    images = torch.randn(6, 2, 8, 8, generator=rng, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(6, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    augmentation = dd.Augmentation("color_crop_scale")

    def loss(k, weights, inputs):
        x, y = inputs
        part = torch.randperm(6, generator=dd.generator("order", k))[:4]
        draw = augmentation.per_image(4, dd.generator("draw", k))
        return cross_entropy(flat(weights, draw(x[part])), y[part].softmax(1))

    start = weight_vector(network).requires_grad_()
    return loss, start, (images, logits)


def gradients(unroll, problem, optimizer, rate, target):
    loss, start, inputs = problem
    rate = rate.double().clone().requires_grad_()
    *_, end = unroll(loss, start, inputs, rate, steps=STEPS, optimizer=optimizer)
    far = (end - target).square().sum()
    return end.detach(), torch.autograd.grad(far, [start, rate, *inputs])


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_the_replayed_gradient_is_that_of_the_full_graph(problem, optimizer, rate):
    target = torch.randn(problem[1].shape, generator=dd.generator("target"), dtype=torch.float64)
    end, exact = gradients(full_graph, problem, optimizer, rate, target)
    same, replayed = gradients(REPLAYED, problem, optimizer, rate, target)
    torch.testing.assert_close(same, end, rtol=1e-12, atol=1e-12)
    for a, b in zip(exact, replayed, strict=True):
        assert float(a.abs().max()) > 0
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-8 * float(a.abs().max()))


def path_gradients(unroll, problem, optimizer, rate, **options):
    """Differentiate a sum over all rows of the path, each with another adjoint and one with none."""
    loss, start, inputs = problem
    rate = rate.double().clone().requires_grad_()
    path = unroll(loss, start, inputs, rate, steps=STEPS, optimizer=optimizer, **options)
    assert len(path) == STEPS
    rng = dd.generator("adjoints")
    weights = [torch.randn(w.shape, generator=rng, dtype=w.dtype) for w in path]
    total = sum((w * a).sum() * a.mean() + w.square().sum() for w, a in zip(path, weights, strict=True))
    return torch.stack([w.detach() for w in path]), torch.autograd.grad(
        total - path[1].square().sum() - (path[1] * weights[1]).sum() * weights[1].mean(),
        [start, rate, *inputs],
        allow_unused=True,
    )


def same(found, wanted):
    for a, b in zip(wanted, found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert float(a.abs().max()) > 0
            torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10 * float(a.abs().max()))


@pytest.mark.parametrize("every", [1, 2, 3, STEPS, 9])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_row_of_the_path_has_a_gradient(problem, optimizer, every):
    unroll = StepReplay(every=every, graph_bytes=0)
    path, exact = path_gradients(full_graph, problem, optimizer, RATES["per step"])
    again, found = path_gradients(unroll, problem, optimizer, RATES["per step"])
    torch.testing.assert_close(again, path, rtol=1e-13, atol=1e-13)
    same(found, exact)


@pytest.mark.parametrize("unroll", [full_graph, REPLAYED, constant_memory, StepReplay(every=2, graph_bytes=0)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_window_starts_where_its_burn_in_ended(problem, optimizer, unroll):
    """A run of 8 steps of which 5 are tracked, against one whose first 3 steps are taken by hand."""
    rate = torch.linspace(0.02, 0.08, STEPS + 3)
    path, found = path_gradients(unroll, problem, optimizer, rate, burn_in=3)
    loss, start, inputs = problem
    state = optimizer.start(start.detach())
    for k in range(3):
        weights = state[0].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(k, weights, inputs), weights)
        state = tuple(t.detach() for t in optimizer.step(state, gradient, rate[k].double()))

    class Continued:
        def start(self, weights):
            return (weights, *state[1:])

        def step(self, *args):
            return optimizer.step(*args)

    def later(k, weights, inputs):
        return loss(k + 3, weights, inputs)

    by_hand = (later, state[0].requires_grad_(), inputs)
    again, (_, of_rate, *others) = path_gradients(full_graph, by_hand, Continued(), rate[3:])
    torch.testing.assert_close(again, path, rtol=1e-13, atol=1e-13)
    assert found[0] is None
    assert not found[1][:3].any()
    same((found[1][3:], *found[2:]), (of_rate, *others))


def stored_bytes(path, known):
    """Count the tensors in the graph of `path`, node by node, without the storages of `known`."""
    shared = {t.untyped_storage().data_ptr() for t in known}
    nodes, seen, storages = [t.grad_fn for t in path], set(), {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        # The replayed steps hold states alone.
        tensors = (
            []
            if node.name().startswith("_Replayed")
            else [getattr(node, name) for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
        )
        for saved in tensors:
            for t in saved if isinstance(saved, tuple) else [saved]:
                if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in shared:
                    storages[t.untyped_storage().data_ptr()] = t.untyped_storage()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kept", range(STEPS + 1))
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_kept_graphs_have_the_gradient_of_replayed_ones_and_fit_their_bytes(problem, optimizer, kept, every, exact):
    loss, start, inputs = problem
    rate = RATES["per step"].double().requires_grad_()
    known = (start, rate, *inputs)
    whole = StepReplay(exact=exact)
    one = stored_bytes(whole(loss, start, inputs, rate[:1], steps=1, optimizer=optimizer), known)
    # Weights, gradients and moments that the optimizer stores differ among steps by a few vectors.
    budget = kept * one + one // 2
    calls = []

    def counted(k, weights, inputs):
        calls.append(k)
        return loss(k, weights, inputs)

    unroll = StepReplay(every=every, exact=exact, graph_bytes=budget)
    path = unroll(counted, start, inputs, rate, steps=STEPS, optimizer=optimizer)
    assert calls == list(range(STEPS))
    assert kept * one / 2 <= stored_bytes(path, known) <= budget
    sum(w.square().sum() for w in path).backward(inputs=known)
    assert sorted(calls[STEPS:]) == list(range(STEPS - kept))
    reference = whole if exact is False else full_graph
    again, expected = path_gradients(reference, problem, optimizer, RATES["per step"])
    replayed, found = path_gradients(unroll, problem, optimizer, RATES["per step"])
    torch.testing.assert_close(replayed, again, rtol=1e-13, atol=1e-13)
    same(found, expected)


@pytest.mark.parametrize("unroll", [REPLAYED, constant_memory, truncated])
def test_a_path_without_gradient_has_no_graph(problem, unroll):
    loss, start, inputs = problem
    constants = [t.detach() for t in inputs]
    path = unroll(loss, start.detach(), constants, torch.tensor(0.05), steps=2, optimizer=InnerAdam())
    with torch.no_grad():
        other = unroll(loss, start, inputs, torch.tensor(0.05), steps=2, optimizer=InnerAdam())
    assert not any(t.requires_grad for t in (*path, *other))
    assert torch.equal(torch.stack(path), torch.stack(other))


def test_a_loss_may_take_gradients_of_its_own(problem):
    """Transforms of torch.func refuse hooks on stored tensors, with which the graph of a step is measured."""
    _, start, inputs = problem

    def penalty(weights):
        return (weights[:4] * inputs[0][0, 0, 0, :4]).sin().sum()

    def loss(k, weights, inputs):
        return torch.func.grad(penalty)(weights).square().sum() + (weights[0] * inputs[1]).square().sum()

    found = []
    for unroll in (full_graph, REPLAYED, constant_memory):
        *_, end = unroll(loss, start, inputs, torch.tensor(0.05), steps=3, optimizer=InnerSGD())
        found.append(torch.autograd.grad(end.square().sum(), inputs[1]))
    same(found[1], found[0])
    same(found[2], found[0])


def test_a_learned_momentum_of_one_size_is_a_fixed_one(problem):
    pairs = torch.stack([RATES["per step"], torch.full((STEPS,), 0.9)], 1)
    path, exact = path_gradients(full_graph, problem, InnerSGD(momentum=0.9), RATES["per step"])
    for unroll in (full_graph, constant_memory, REPLAYED):
        again, found = path_gradients(unroll, problem, PerStepSGD(), pairs)
        torch.testing.assert_close(again, path, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found[1][:, 0], exact[1], rtol=1e-5, atol=1e-7)
    loss, start, inputs = problem

    def far(pairs):
        return REPLAYED(loss, start, inputs, pairs, steps=STEPS, optimizer=PerStepSGD())[-1].square().sum()

    assert torch.autograd.gradcheck(far, pairs.double().requires_grad_(), eps=1e-6, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="rate must be a pair of rate and momentum"):
        full_graph(loss, start, inputs, RATES["per step"], steps=STEPS, optimizer=PerStepSGD())


def test_what_needs_no_gradient_gets_none(problem):
    """Frozen images, as of a method that learns labels alone, are constants: nobody pays for their gradient."""
    loss, start, (images, logits) = problem
    frozen = (images.detach(), logits)
    found = []
    for unroll in (full_graph, constant_memory, REPLAYED):
        *_, end = unroll(loss, start, frozen, torch.tensor(0.05), steps=STEPS, optimizer=InnerSGD())
        found.append(torch.autograd.grad(end.square().sum(), logits))
    same(found[1], found[0])
    same(found[2], found[0])


def test_the_gradient_is_that_of_finite_differences(problem):
    loss, start, (images, logits) = problem
    direction = torch.randn(images.shape, generator=dd.generator("direction"), dtype=torch.float64)

    def far(shift, rate):
        moved = (images + shift * direction, logits)
        *_, end = REPLAYED(loss, start, moved, rate, steps=STEPS, optimizer=InnerAdam())
        return end.square().sum()

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(far, (shift, rate), eps=1e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", [truncated, REPLAYED_TRUNCATED])
def test_the_truncated_gradient_takes_weights_for_constants(problem, way):
    """Each step's part is -rate d<gradient, adjoint>/dx with the adjoint of the end; printed: how far that is off."""
    loss, start, inputs = problem
    rate = torch.tensor(0.5, dtype=torch.float64)
    target = torch.zeros_like(start)
    end, short = gradients(way, problem, InnerSGD(), rate, target)
    _, exact = gradients(constant_memory, problem, InnerSGD(), rate, target)
    by_hand, weights = torch.zeros_like(inputs[0]), start.detach()
    for k in range(STEPS):
        weights = weights.detach().requires_grad_()
        (step,) = torch.autograd.grad(loss(k, weights, inputs), weights, create_graph=True)
        (part,) = torch.autograd.grad((step * 2 * (end - target)).sum(), inputs[0])
        by_hand -= rate * part
        weights = weights - rate * step
    torch.testing.assert_close(short[2], by_hand)
    near = torch.cosine_similarity(short[2].flatten(), exact[2].flatten(), dim=0)
    print(f"cosine of the truncated with the exact gradient, {STEPS} steps: {float(near):.4f}")  # noqa: T201
    assert 0.5 < near < 1 - 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_steps_are_those_of_torch(problem, name):
    loss, start, inputs = problem
    weights = start.detach().clone().requires_grad_()
    theirs = {
        "sgd": torch.optim.SGD([weights], lr=0.05),
        "momentum": torch.optim.SGD([weights], lr=0.05, momentum=0.9),
        "adam": torch.optim.Adam([weights], lr=0.05, eps=1e-14),
    }[name]
    mine = InnerAdam(eps=1e-14) if name == "adam" else OPTIMIZERS[name]
    for k in range(STEPS):
        theirs.zero_grad()
        loss(k, weights, inputs).backward()
        theirs.step()
    rate = torch.tensor(0.05, dtype=torch.float64)
    *_, ours = constant_memory(loss, start, inputs, rate, steps=STEPS, optimizer=mine)
    torch.testing.assert_close(ours.detach(), weights.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("unroll", [constant_memory, REPLAYED])
def test_a_weight_without_gradient_has_a_finite_derivative_under_adam(unroll):
    images = torch.ones(3, dtype=torch.float64, requires_grad=True)
    start = torch.ones(2, dtype=torch.float64)

    def loss(k, weights, inputs):
        return (weights[0] * inputs[0]).sum() + 0 * weights[1]

    *_, end = unroll(loss, start, (images,), torch.tensor(0.1), steps=3, optimizer=InnerAdam())
    (found,) = torch.autograd.grad(end.sum(), images)
    assert torch.isfinite(found).all()


def test_a_flat_network_is_the_network(make_student):
    network = make_student(dd.generator(1))
    flat = FlatNetwork(make_student(dd.generator(2)))
    x = torch.randn(4, 3, 8, 12, generator=dd.generator("x"))
    weights = weight_vector(network)
    assert flat.size == len(weights)
    assert torch.equal(flat(weights, x), network(x))
    assert torch.equal(flat.load_(weights)(x), network(x))


@pytest.mark.parametrize("unroll", [full_graph, constant_memory, truncated, checkpointed(2)])
def test_impossible_runs_are_refused(problem, unroll):
    loss, start, inputs = problem
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        unroll(loss, start, inputs, torch.tensor(0.1), steps=0, optimizer=InnerSGD())
    with pytest.raises(ValueError, match=r"rate must have shape \(\), \(5,\) or \(5, 2\), got \(2,\)"):
        unroll(loss, start, inputs, torch.zeros(2), steps=5, optimizer=InnerSGD())
    with pytest.raises(ValueError, match="burn_in must be at least 0, got -1"):
        unroll(loss, start, inputs, torch.tensor(0.1), steps=1, optimizer=InnerSGD(), burn_in=-1)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        checkpointed(0)
    with pytest.raises(ValueError, match="momentum must lie in"):
        InnerSGD(momentum=1.0)
    with pytest.raises(ValueError, match="betas must"):
        InnerAdam(betas=(0.9, 1.0))
