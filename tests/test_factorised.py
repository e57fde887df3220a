"""Factorised sets: where they start, what they store, who trains against them, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.foundation.errors import DivergedError
from ddsdk.networks import initialise
from ddsdk.objectives import Inversion, ViewSimilarity
from ddsdk.recipes.parts import hard_label_set
from ddsdk.students import AdversarialStudents, FreshStudents, ViewContrastLoss
from ddsdk.synthetic import (
    STARTS,
    Codes,
    ConditionalGenerator,
    Hallucination,
    Latent,
    Pixels,
    class_slots,
    code_shape,
    hallucinator_floats,
    tiny_decoder,
    train_generator,
)
from ddsdk.synthetic.fitting import fit_


def images(real, count):
    return real.batch(torch.arange(count)).x


def gap(parametrization, wanted, slots):
    decoded, _ = parametrization.decode(torch.arange(slots), dd.generator(0))
    return float((decoded - wanted).detach().square().mean())


def make(name, real, m=4, fit=0):
    shape = real.image_shape
    if name == "hallucination":
        return Hallucination(images(real, m), 2, fit=fit, rng=dd.generator(0)), 2
    if name == "codes":
        codes = torch.randn(m, *code_shape(shape), generator=dd.generator(0))
        return Codes(codes, [tiny_decoder(shape, dd.generator(i)) for i in range(2)], fit=fit), 2
    made = initialise(ConditionalGenerator(shape, 3, dim=6, width=3), dd.generator(0))
    latents = torch.randn(m, 6, generator=dd.generator(1))
    return Latent(made, latents, torch.zeros(m).long(), learned=name == "learned", fit=fit), 1


@pytest.mark.parametrize("name", ["hallucination", "codes", "latent", "learned"])
def test_encoding_brings_the_images_near_and_is_the_same_every_time(tiny, name):
    found = {}
    for fit in (0, 60, 60):
        parametrization, views = make(name, tiny, fit=fit)
        wanted = images(tiny, 4).repeat_interleave(views, 0)
        parametrization.encode(wanted)
        assert all(p.grad is None for p in parametrization.parameters())
        value = gap(parametrization, wanted, 4)
        assert found.setdefault(fit, value) == value
    # What a generator that never saw an image can do is little.
    assert found[60] < (0.98 if name == "latent" else 0.7) * found[0]


@pytest.mark.parametrize("name", ["hallucination", "codes", "latent"])
def test_images_of_another_shape_are_refused(tiny, name):
    parametrization, views = make(name, tiny)
    with pytest.raises(ValueError, match="images must have shape"):
        parametrization.encode(images(tiny, 4 * views - 1))
    wrong = images(tiny, 4 * views)
    wrong[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="images must be finite"):
        parametrization.encode(wrong)


def test_a_fit_takes_its_steps_or_none(tiny):
    parametrization, _ = make("codes", tiny)
    before = copy.deepcopy(parametrization.state_dict())
    wanted = images(tiny, 4).repeat_interleave(2, 0)
    fit_(parametrization, wanted, slots=4, steps=0, lr=0.1)
    assert all(torch.equal(before[n], p) for n, p in parametrization.state_dict().items())
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        fit_(parametrization, wanted, slots=4, steps=-1, lr=0.1)
    whole, pieces = (copy.deepcopy(parametrization).double() for _ in range(2))
    for chunk, one in ((64, whole), (3, pieces)):
        fit_(one, wanted.double(), slots=4, steps=3, lr=0.01, chunk=chunk)
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_hallucinators_start_near_the_identity_and_differ(tiny):
    found = Hallucination(images(tiny, 4), 3, rng=dd.generator(0))
    decoded, _ = found.decode(torch.arange(4), dd.generator(0))
    views = decoded.view(4, 3, *tiny.image_shape)
    inner = (slice(None), slice(None), slice(None), slice(1, -1), slice(1, -1))
    wanted = images(tiny, 4)[:, None].expand_as(views)
    gap_inside = (views[inner] - wanted[inner]).detach().square().mean()
    assert float(gap_inside) < 0.3 * float(wanted.var())
    assert not torch.allclose(views[:, 0], views[:, 1])
    other = Hallucination(images(tiny, 4), 3, rng=dd.generator(1))
    assert not torch.equal(found.scale, other.scale)


def test_bases_without_colour_are_the_mean_of_the_channels(tiny):
    given = images(tiny, 4)
    found = Hallucination(given[:, :1], 2, channels=3, rng=dd.generator(0))
    found.encode(given.repeat_interleave(2, 0))
    torch.testing.assert_close(found.bases.detach(), given.mean(1, keepdim=True))
    assert found.decode(torch.arange(4), dd.generator(0))[0].shape == (8, *tiny.image_shape)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Hallucination(torch.zeros(2, 3, 8), rng=dd.generator(0)), "bases must have shape"),
        (lambda: Hallucination(torch.zeros(2, 1, 2, 8), rng=dd.generator(0)), "at least 3 pixels"),
        (lambda: Hallucination(torch.zeros(2, 1, 8, 8), 0, rng=dd.generator(0)), "hallucinators must be"),
        (
            lambda: Hallucination(torch.zeros(2, 2, 8, 8), channels=3, rng=dd.generator(0)),
            "bases must have 1 or 3 channels, got 2",
        ),
        (lambda: Codes(torch.zeros(2, 4, 2, 2), []), "decoders must hold at least one module"),
        (lambda: Codes(torch.full((2, 4), torch.inf), [nn.Identity()]), "codes must be finite"),
        (lambda: Latent(nn.Identity(), torch.full((2, 4), torch.nan)), "latents must be finite"),
        (lambda: Latent(nn.Identity(), torch.zeros(2, 4), torch.zeros(3)), "classes must have length 2, got 3"),
        (lambda: ConditionalGenerator((1, 8, 8), 3, dim=0), "dim must be at least 1, got 0"),
        (lambda: ConditionalGenerator((1, 8, 8), 3).after(3), "layer must be 1 or 2, got 3"),
        (lambda: ViewSimilarity(views=1), "views must be at least 2, got 1"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_caller_keeps_the_generator(tiny):
    made = initialise(ConditionalGenerator(tiny.image_shape, 3, dim=6, width=3), dd.generator(0))
    found = Latent(made, torch.zeros(2, 6), torch.zeros(2).long())
    assert all(p.requires_grad for p in made.parameters())
    assert not any(p.requires_grad for p in found.generator.parameters())
    assert made.training
    assert not found.generator.training
    floats = sum(p.numel() for p in made.parameters())
    assert found.stored_floats() == 2 * 6 + floats


def test_the_generator_learns_the_data_and_is_the_same_every_time(digits):
    train, _ = digits
    state = torch.get_rng_state()
    options = {"dim": 16, "width": 8, "steps": 150, "batch_size": 64}
    found = train_generator(train, **options, rng=dd.generator(0))
    again = train_generator(train, **options, rng=dd.generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(found, again, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    x, y = train.batch(torch.arange(100))
    made = found.generator(found.latents(x), y.argmax(1))
    assert float((made - x).square().mean()) < 0.8 * float((x - x.mean(0)).square().mean())
    assert not any(p.requires_grad for module in found for p in module.parameters())


def test_too_few_anchors_are_refused(tiny):
    syn = hard_label_set(tiny, 2, Pixels(images(tiny, 6)))
    with pytest.raises(ValueError, match="anchors must hold at least 6 images, got 5"):
        list(Inversion(images(tiny, 5))(None, tiny, syn, dd.generator(0)))


def test_similarity_refuses_what_it_cannot_compare(tiny, make_student):
    syn = hard_label_set(tiny, 2, Pixels(images(tiny, 6)))
    with pytest.raises(ValueError, match="views must divide the images of a class, got 3"):
        next(ViewSimilarity(views=3)(make_student(dd.generator(0)), tiny, syn, dd.generator(0)))
    with pytest.raises(TypeError, match="student must have a method embed"):
        next(ViewSimilarity(views=2)(nn.Identity(), tiny, syn, dd.generator(0)))


def test_rival_and_set_pull_in_opposite_directions(tiny, make_student):
    """The rival finds two views of a slot more alike with each step; the objective makes them less so."""
    start = images(tiny, 6)
    syn = hard_label_set(tiny, 2, Hallucination(start, 2, rng=dd.generator(0)))
    objective = ViewSimilarity(views=2)
    update = ViewContrastLoss(views=2, similarity=10.0, contrast=0.0)
    supply = AdversarialStudents(FreshStudents(make_student), make_student, update, partial(SGD, lr=0.05))

    def alike(network):
        return sum(float(t.detach()) for t in objective(network, tiny, syn, dd.generator("alike")))

    seen = [alike(supply.next(tiny, syn, derive(dd.generator("rival"), i)).adversary) for i in range(15)]
    assert seen[-1] > seen[0]
    adversary = supply.next(tiny, syn, dd.generator("last")).adversary
    before = alike(adversary)
    optimizer = torch.optim.SGD(syn.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        for term in objective(adversary, tiny, syn, dd.generator("alike")):
            term.backward()
        optimizer.step()
    assert alike(adversary) < before


def test_a_rival_is_kept_from_step_to_step_and_over_a_resume(tiny, make_student):
    syn = hard_label_set(tiny, 2, Hallucination(images(tiny, 6), 2, rng=dd.generator(0)))

    def supply():
        learning = partial(SGD, lr=1e-3, momentum=0.5)
        return AdversarialStudents(FreshStudents(make_student), make_student, ViewContrastLoss(views=2), learning)

    def step(students, i):
        return students.next(tiny, syn, derive(dd.generator("step"), i))

    straight = supply()
    first, adversary = step(straight, 0)
    assert type(first) is type(adversary)
    assert step(straight, 1).adversary is adversary
    broken, second = supply(), supply()
    assert second.state_dict() == {"students": {}, "rival": {}, "optimizer": {}}
    step(broken, 0)
    state = copy.deepcopy(broken.state_dict())
    second.load_state_dict(state)
    for part in ("rival", "optimizer"):
        assert second.state_dict()[part].keys() == state[part].keys()
    found = step(second, 1).adversary.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in adversary.state_dict().items())
    with pytest.raises(ValueError, match="views must be at least 2, got 1"):
        ViewContrastLoss(views=1)

    def featureless(rng):
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    plain = AdversarialStudents(
        FreshStudents(make_student), featureless, ViewContrastLoss(views=2), partial(SGD, lr=0.1)
    )
    with pytest.raises(TypeError, match=r"must have a method embed.*got Sequential"):
        step(plain, 0)


@pytest.mark.parametrize("ipc", [1, 3, 10])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 16, 24)])
def test_codes_and_decoders_fill_the_budget(ipc, shape):
    real = dd.RealData(
        torch.zeros(20, *shape),
        torch.arange(20) % 10,
        class_names=[str(i) for i in range(10)],
        preprocess=dd.Preprocess.unit(shape[0]),
    )
    recipe = dd.KFS(ipc=ipc, fit_steps=0, start="noise")
    found = recipe.parametrization(real, dd.generator(0))
    budget = 10 * ipc * math.prod(shape)
    one_more = 10 * math.prod(code_shape(shape))
    assert found.stored_floats() <= budget < found.stored_floats() + one_more
    assert len(found.codes) == 10 * recipe.codes_per_class(real)


def test_a_budget_that_the_decoders_eat_leaves_one_code(tiny):
    assert dd.KFS(ipc=1).codes_per_class(tiny) == 1


def test_bases_without_colour_are_three_times_as_many(tiny, make_student):
    recipe = dd.HaBa(ipc=1, hallucinators=2, fit_steps=0, experts=1, expert_epochs=3)
    for grey, each in ((False, 1), (True, 3)):
        changed = dataclasses.replace(recipe, grey_bases=grey)
        plan = changed.plan(tiny, make_student=make_student, rng=dd.generator(0))
        assert len(plan.syn) == 3 * each
        shared = 2 * hallucinator_floats(tiny.image_shape, 1 if grey else 3)
        stored = plan.syn.parametrization.stored_floats()
        assert stored == 3 * math.prod(tiny.image_shape) + shared


def test_hallucinators_may_have_a_rate_of_their_own(tiny, make_student):
    recipe = dd.HaBa(ipc=1, hallucinators=2, fit_steps=0, experts=1, expert_epochs=3, image_lr=7.0)
    for rate in (None, 3.0):
        changed = dataclasses.replace(recipe, hallucinator_lr=rate)
        plan = changed.plan(tiny, make_student=make_student, rng=dd.generator(0))
        groups = plan.make_optimizer(plan.syn).param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert len(rates) == len(list(plan.syn.parameters()))
        for name, p in plan.syn.parametrization.named_parameters():
            assert rates[id(p)] == (7.0 if name == "bases" or rate is None else rate)
        assert {group["momentum"] for group in groups} == {0.95}


def test_the_learned_rate_of_haba_does_not_fall_below_that_of_its_authors(tiny):
    rate = dd.HaBa(ipc=1, fit_steps=0).bases(tiny, dd.generator(0)).rate
    with torch.no_grad():
        rate.value.fill_(-1.0)
    rate.project_()
    assert rate().item() == pytest.approx(0.001)


@pytest.mark.parametrize("key", ["it-gan", "glad"])
def test_latents_stay_with_their_class_and_start_at_real_images(digits, key):
    train, _ = digits
    make_student = dd.network_factory("convnet", train.image_shape, 10, width=2, depth=1)
    options = {"generator_steps": 80, "generator_dim": 16, "generator_width": 8, "steps": 1, "real_batch": 8}
    recipe = dd.RECIPES[key](ipc=2, **options)
    syn = recipe.plan(train, make_student=make_student, rng=dd.generator(0)).syn
    batch = syn.detached(dd.generator(0))
    assert batch.y.argmax(1).tolist() == class_slots(10, 2).tolist()
    wanted = STARTS["real"](train, 2, derive(dd.generator(0), "start"))
    assert float((batch.x - wanted).square().mean()) < 0.5 * float(wanted.var())
    frozen = {n for n, p in syn.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(".generator." in n for n in frozen)


def test_a_generator_may_learn_with_its_latents(tiny, make_student):
    """One part swapped: the latents of IT-GAN with a generator that is not frozen."""
    options = {"generator_steps": 2, "inversion_steps": 0, "generator_dim": 4, "steps": 2, "real_batch": 4}
    plan = dd.ITGAN(ipc=1, **options).plan(tiny, make_student=make_student, rng=dd.generator(0))
    old = plan.syn.parametrization
    latent = Latent(old.generator, old.latents, old.classes, learned=True)
    plan = dataclasses.replace(plan, syn=hard_label_set(tiny, 1, latent))
    list(dd.Distillation(plan, tiny, rng=dd.generator(0)))
    moved = zip(latent.generator.parameters(), old.generator.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in moved)


def test_a_wild_rate_ends_with_a_finite_set(tiny, make_student):
    recipe = dd.KFS(ipc=1, steps=2, decoders=1, fit_steps=0, image_lr=1e30)
    with pytest.raises(DivergedError) as error:
        dd.distill(recipe, tiny, make_student=make_student, seed=0)
    assert error.value.syn.is_finite()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (dd.ITGAN, {"inversion": -1.0}, "inversion must be finite and not negative"),
        (dd.GLaD, {"layer": 3}, "layer must be 1 or 2, got 3"),
        (dd.HaBa, {"similarity": -1.0}, "similarity must be finite and not negative"),
        (dd.HaBa, {"hallucinators": 1}, "hallucinators must be at least 2, got 1"),
        (dd.KFS, {"decoders": 0}, "decoders must be at least 1, got 0"),
    ],
)
def test_recipes_refuse_what_no_data_could_make_right(kind, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        kind(**options)
