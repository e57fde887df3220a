"""Every parametrization works with every objective under every supply of students that makes sense."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from stored_sets import equal, stored

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import (
    ByFeatures,
    ClassMatch,
    CollectiveMatch,
    CrossEntropy,
    FitAndTest,
    MatchTrajectory,
    SetTraining,
    TrainAndTest,
    WeightedSum,
    cosine,
    filter_cosine,
    mean_embedding,
    squared,
    weight_gradients,
)
from ddsdk.recipes.parts import hard_label_set, sgd_on_images
from ddsdk.students import (
    AlternatingStudents,
    ExpertStudents,
    FreshStudents,
    InterpolatedExperts,
    TrainedPool,
    TrainedRuns,
    Training,
    TrainOnReal,
    TrainOnSynthetic,
)
from ddsdk.synthetic import (
    AddressedBases,
    Autoencoder,
    Codes,
    Frequencies,
    Hallucination,
    Latent,
    LearnedRate,
    MultiFormation,
    Pixels,
    TileableCanvas,
    class_slots,
    code_shape,
    tiny_decoder,
    train_generator,
)
from ddsdk.synthetic.set import LeafView
from ddsdk.training import Ridge

IPC = 2
AUTOENCODERS: dict[str, Autoencoder] = {}


def start(real, count=IPC):
    """The first images of each class, again and again."""
    index = torch.cat([real.index_of_class(c)[torch.arange(count) % real.class_sizes[c]] for c in range(3)])
    return real.batch(index).x


def hallucination(real, **options):
    found = Hallucination(start(real), 2, rng=dd.generator("h"), **options)
    found.encode(start(real).repeat_interleave(1 if found.sampled else 2, 0))
    return found


def codes(real):
    rng = dd.generator("codes")
    decoders = [tiny_decoder(real.image_shape, derive(rng, i)) for i in range(2)]
    latents = torch.randn(3 * IPC, *code_shape(real.image_shape), generator=rng)
    found = Codes(latents, decoders, fit=2)
    found.encode(start(real).repeat_interleave(2, 0))
    return found


def autoencoder(real):
    if real.fingerprint not in AUTOENCODERS:
        found = train_generator(real, dim=4, width=2, steps=2, rng=dd.generator("g"))
        AUTOENCODERS[real.fingerprint] = found
    return AUTOENCODERS[real.fingerprint]


def latent(real, learned):
    both = autoencoder(real)
    classes = class_slots(3, IPC)
    found = Latent(both.generator, both.latents(start(real)), classes, learned=learned, fit=2)
    found.encode(start(real))
    return found


def addressed_bases(real):
    found = AddressedBases(3 * IPC, real.image_shape, bases=4, factor=2, rng=dd.generator("b"))
    found.encode(start(real))
    return found


def canvas(real):
    c, h, w = real.image_shape
    found = TileableCanvas(torch.zeros(3 * IPC, c, h + 3, 2 * w), (h, w), windows=2)
    found.encode(start(real).repeat_interleave(2, 0))
    return found


PARAMETRIZATIONS = {
    "pixels": lambda real: Pixels(start(real)),
    "multi-formation": lambda real: MultiFormation(start(real), 2),
    "hallucination": hallucination,
    "hallucination, sampled": partial(hallucination, sampled=True),
    "codes": codes,
    "latent": partial(latent, learned=False),
    "latent, learned": partial(latent, learned=True),
    "addressed bases": addressed_bases,
    "frequencies": lambda real: Frequencies(start(real), class_slots(3, IPC), 20),
    "frequencies, low": lambda real: Frequencies(start(real), class_slots(3, IPC), 20, "low"),
    "tileable canvas": canvas,
}

DM = ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=4)
DC = ClassMatch(byproduct=weight_gradients, distance=filter_cosine, real_batch=4)
AUGMENTED = dataclasses.replace(DM, augmentation=dd.Augmentation("crop_flip"))
OF_NETWORKS = {
    "class match, embeddings": DM,
    "class match, gradients": DC,
    "collective match": CollectiveMatch(byproduct=weight_gradients, distance=cosine, real_batch=4),
    "cross-entropy": CrossEntropy(),
    "train and test": TrainAndTest(steps=3, window=2, lr=0.05, real_batch=4, training=SetTraining(batch_size=4)),
    "ridge regression": FitAndTest(compare=ByFeatures(), ridge=Ridge(), real_batch=4),
    "total": WeightedSum(((1.0, AUGMENTED), (0.5, CrossEntropy(batch=1)))),
}
OF_SPANS = {"trajectory": MatchTrajectory(steps=2, batch_size=4)}

TRAINING = Training(epochs=2, lr=0.05, batch_size=8)


def alternating(update):
    return lambda real, make: AlternatingStudents(make, update, period=3, lr=0.05)


def experts(real, make):
    return ExpertStudents(runs(real, make), span=1, last=2)


def runs(real, make):
    return TrainedRuns(real, make, TRAINING, count=2, seed=0)


NETWORKS = {
    "fresh": lambda real, make: FreshStudents(make),
    "on synthetic": alternating(TrainOnSynthetic(epochs=1, batch_size=4)),
    "on real": alternating(TrainOnReal(steps=1, batch_size=4)),
    "pool on synthetic": lambda real, make: TrainedPool(make, pool=2, longest=2, batch_size=4),
    "pool": lambda real, make: FreshStudents(InterpolatedExperts(runs=runs(real, make))),
}
SPANS = {"experts": experts}

GRID = [*((s, o) for s in NETWORKS for o in OF_NETWORKS), *((s, o) for s in SPANS for o in OF_SPANS)]
MEANINGLESS = [*((s, o) for s in NETWORKS for o in OF_SPANS), *((s, o) for s in SPANS for o in OF_NETWORKS)]


def make_set(real, parametrization, rate=None):
    return hard_label_set(real, IPC, PARAMETRIZATIONS[parametrization](real), rate)


def make_plan(real, make_student, parametrization, students, objective):
    """A whole new plan: nothing is shared between two of them."""
    rate = LearnedRate(0.05) if objective in OF_SPANS else None
    return dd.Plan(
        syn=make_set(real, parametrization, rate),
        objective={**OF_NETWORKS, **OF_SPANS}[objective],
        students={**NETWORKS, **SPANS}[students](real, make_student),
        make_optimizer=partial(sgd_on_images, lr=0.05, momentum=0.5),
        steps=2,
    )


@pytest.mark.parametrize(("students", "objective"), GRID)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_any_parametrization_works_with_any_objective(tiny, make_student, parametrization, students, objective):
    def begin():
        plan = make_plan(tiny, make_student, parametrization, students, objective)
        return dd.Distillation(plan, tiny, rng=dd.generator("run"))

    fingerprint = tiny.fingerprint
    straight = begin()
    before = stored(straight.plan.syn)
    losses = [step.loss for step in straight]
    assert (straight.index, straight.rate_reductions) == (2, 0)
    assert straight.plan.syn.is_finite()
    for name, p in straight.plan.syn.named_parameters():
        assert torch.equal(p, before[name]) == (not p.requires_grad), name
    assert tiny.fingerprint == fingerprint

    first = begin()
    next(first)
    second = begin()
    second.load_state_dict(first.state_dict())
    assert [step.loss for step in second] == losses[1:]
    assert equal(stored(second.plan.syn), stored(straight.plan.syn))


@pytest.mark.parametrize(("students", "objective"), MEANINGLESS)
def test_what_has_no_meaning_is_refused(tiny, make_student, students, objective):
    plan = make_plan(tiny, make_student, "pixels", students, objective)
    run = dd.Distillation(plan, tiny, rng=dd.generator("run"))
    rule = "a segment of an expert trajectory" if objective in OF_SPANS else "a network|a method embed"
    with pytest.raises(TypeError, match=rf"^student must (be|have) ({rule}).*, got "):
        next(run)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_trajectories_need_a_rate(tiny, make_student, parametrization):
    plan = make_plan(tiny, make_student, parametrization, "experts", "trajectory")
    plan = dataclasses.replace(plan, syn=make_set(tiny, parametrization))
    with pytest.raises(ValueError, match="rate must be learned with the set"):
        next(dd.Distillation(plan, tiny, rng=dd.generator("run")))


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_the_floats_that_are_counted_are_those_of_a_file(tiny, parametrization):
    found = PARAMETRIZATIONS[parametrization](tiny)
    tensors = found.state_dict().values()
    assert found.stored_floats() == sum(t.numel() for t in tensors if t.is_floating_point())


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_what_is_stored_is_all_that_decoding_needs(tiny, parametrization):
    """The state of one set in a set that started elsewhere gives the same images."""
    found = PARAMETRIZATIONS[parametrization](tiny)
    other = PARAMETRIZATIONS[parametrization](tiny)
    for p in other.parameters():
        p.data.fill_(0.5)
    other.load_state_dict(found.state_dict())
    slots = torch.tensor([4, 0, 0, 5])
    one, two = (p.decode(slots, dd.generator("d")) for p in (found, other))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert one[0].shape[1:] == tiny.image_shape
    assert len(one[0]) == len(one[1])


@pytest.mark.parametrize(
    "parametrization", sorted(set(PARAMETRIZATIONS) - {"hallucination, sampled", "tileable canvas"})
)
def test_slots_decode_alone_as_in_company(tiny, parametrization):
    found = PARAMETRIZATIONS[parametrization](tiny).double()
    whole, owners = found.decode(torch.arange(3 * IPC), dd.generator("d"))
    for slot in range(3 * IPC):
        alone, owner = found.decode(torch.tensor([slot]), dd.generator("d"))
        torch.testing.assert_close(alone, whole[owners == slot], rtol=1e-12, atol=1e-12)
        assert bool((owner == slot).all())
    assert bool((owners.diff() >= 0).all()), "decode order is that of the slots"


@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_chunked_pull_back_is_one_backward_through_the_decoder(tiny, parametrization, chunk):
    syn = make_set(tiny, parametrization).double()
    leaves = LeafView(syn, chunk)
    x, _ = leaves.whole(dd.generator("draw"))
    torch.autograd.backward((x.sin() * x).sum() * x.mean(), inputs=leaves.inputs)
    leaves.pull_back()
    found = {name: p.grad for name, p in syn.named_parameters()}

    syn.zero_grad()
    images = []
    for i, part in enumerate(torch.split(torch.arange(len(syn)), chunk)):
        key = derive(dd.generator("draw"), "decode", 1, i)
        images.append(syn.parametrization.decode(part, derive(key))[0])
    x = torch.cat(images)
    ((x.sin() * x).sum() * x.mean()).backward()
    for name, p in syn.named_parameters():
        assert (p.grad is None) == (found[name] is None) == (not p.requires_grad)
        if p.requires_grad:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("students", "objective"), GRID)
def test_pixels_are_multi_formation_with_one_tile(tiny, make_student, monkeypatch, students, objective):
    found = []
    for build in (Pixels, partial(MultiFormation, factor=1)):
        monkeypatch.setitem(PARAMETRIZATIONS, "tested", lambda real, build=build: build(start(real)))
        plan = make_plan(tiny, make_student, "tested", students, objective)
        losses = [step.loss for step in dd.Distillation(plan, tiny, rng=dd.generator("run"))]
        found.append((losses, plan.syn.detached(dd.generator("d")).x))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
