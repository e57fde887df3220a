"""Warm starts from what is remembered, and facts of the stream, in each way that a memory can distil."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from streams import SHAPE, dataset, stream
from wrapped_recipes import Noting, Undone

import ddsdk as dd
from ddsdk.foundation import DivergedError, ResumeError
from ddsdk.synthetic import MultiFormation, hard_labels
from ddsdk_integrations.continual import CombinationMatching, DistilledBuffer, Distiller, Streaming, Tiles, sample_bytes

DM = dd.DM(steps=1, real_batch=8)
MLP = {"network": "mlp", "network_options": {}}
STILL = dataclasses.replace(DM, image_lr=1e-12, augmentation="")
TILED = dd.M3D(steps=1, real_batch=8, image_lr=1e-12, augmentation="")


def real_data(num_classes=3, per_class=9):
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    images = torch.rand(len(labels), *SHAPE, generator=dd.generator("real"))
    names = [str(c) for c in range(num_classes)]
    return dd.RealData(images, labels, class_names=names, preprocess=dd.Preprocess.normalise((0.4,), (0.3,)))


def levels(*classes):
    """Return grey images of the unit range, each of a level of its own, with their classes."""
    grey = torch.linspace(0.2, 0.8, len(classes))
    return grey[:, None, None, None].expand(-1, *SHAPE).clone(), torch.tensor(classes)


@pytest.mark.parametrize("average", [None, 0.99])
@pytest.mark.parametrize("undone", [False, True])
def test_average_and_undo_go_back_to_the_warm_start(average, undone):
    recipe = Undone(inner=STILL, average=average) if undone else dataclasses.replace(STILL, average=average)
    images, classes = levels(0, 0, 1, 1, 2, 2)
    made = Distiller(recipe, **MLP)(real_data(), 2, rng=dd.generator("run"), start=(images, classes))
    assert torch.allclose(made.images, images, atol=1e-5)
    assert not undone or recipe.noted == ["poisoned"]


def test_a_run_that_diverges_leaves_the_warm_start():
    images, classes = levels(0, 1, 2)
    distiller = Distiller(Undone(inner=STILL, failures=99), **MLP)
    with pytest.raises(DivergedError) as caught:
        distiller(real_data(), 1, rng=dd.generator("run"), start=(images, classes))
    left = caught.value.syn.detached(dd.generator("decode")).x
    assert torch.allclose(left, real_data().preprocess(images), atol=1e-6)


@pytest.mark.parametrize("average", [None, 0.99])
@pytest.mark.parametrize("inner", [STILL, TILED], ids=["pixels", "tiles"])
def test_a_merging_memory_goes_on_from_what_it_remembers(inner, average):
    """The images of the second visit are those of the first: neither average nor undo loses them."""
    recipe = Undone(inner=inner, average=average)
    buffer = DistilledBuffer(8, Distiller(recipe, **MLP), merge=True, classes=2)
    first, second = stream([0, 1], [0, 1]).train_stream
    buffer.post_adapt(None, first)
    before = [part.packed for part in buffer.parts]
    buffer.post_adapt(None, second)
    assert [part.visit for part in buffer.parts] == [2, 2]
    assert recipe.noted == ["poisoned"] * 2
    assert {type(part.codec) for part in buffer.parts} == {Tiles} or inner is STILL
    for old, part in zip(before, buffer.parts, strict=True):
        for name, value in part.packed.items():
            assert torch.equal(value, old[name])


def test_a_start_goes_as_far_as_it_does():
    """Too few items leave the recipe's own start behind them, and too many are left out."""
    real, run = real_data(), dd.generator("run")
    distiller = Distiller(STILL, **MLP)
    own = distiller(real, 2, rng=run).images
    images, classes = levels(0, 2, 2, 2)
    made = distiller(real, 2, rng=run, start=(images, classes)).images
    assert torch.allclose(made[[0, 4, 5]], images[[0, 1, 2]], atol=1e-5)
    assert torch.equal(made[1:4], own[1:4])


def test_canvases_go_on_as_canvases():
    canvases = torch.rand(2, *SHAPE, generator=dd.generator("canvases"))
    real = real_data()
    classes = torch.tensor([1, 1])
    start = dd.SyntheticSet(MultiFormation(real.preprocess(canvases), 2), hard_labels(classes, 3), classes, 3)
    made = Distiller(TILED, **MLP)(real, 2, rng=dd.generator("run"), start=start)
    codec, packed = made.stored[1]
    assert codec == Tiles(2)
    assert (packed["canvases"].float() / 255 - canvases).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("recipe", [dd.BASELINES["random"](), CombinationMatching(matching=STILL)])
def test_recipes_whose_images_are_real_ones_pass_a_start_over(recipe):
    start = levels(0, 1, 2)
    with_start, without = (
        Distiller(recipe, **MLP)(real_data(), 1, rng=dd.generator("run"), start=given) for given in (start, None)
    )
    assert torch.equal(with_start.images, without.images)


PUBLISHED = "color_crop_cutout_flip_scale_rotate"
UNMIRRORED = PUBLISHED.replace("_flip", "")
FACTS = {
    "digits": ({}, (True, False, UNMIRRORED)),
    "clothes": ({"mirror_safe": True}, (True, True, PUBLISHED)),
    "text": ({"pictures": False, "mirror_safe": True}, (False, True, "")),
}
WAYS = {
    "experiences": ({}, ([0, 1], [2, 3])),
    "classes that come alone": ({}, ([0], [1])),
    "classes that come again": ({"merge": True}, ([0, 1], [0, 1])),
    "pieces": ({"streaming": Streaming(every=1, room=9)}, ([0, 1], [0, 1])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("facts", "wanted"), FACTS.values(), ids=FACTS)
def test_facts_of_the_stream_reach_the_recipe(facts, wanted, way):
    recipe = Noting(inner=DM)
    how, experiences = WAYS[way]
    buffer = DistilledBuffer(12, Distiller(recipe, **MLP), **facts, **how)
    for experience in stream(*experiences).train_stream:
        buffer.post_adapt(None, experience)
    assert recipe.noted == [wanted] * 2


def test_digits_are_not_mirrored_by_a_memory():
    """The facts are those of the data where they are taken from them."""
    digits = dd.load("digits")
    recipe = Noting(inner=DM)
    buffer = DistilledBuffer(10, Distiller(recipe, **MLP), pictures=digits.pictures, mirror_safe=digits.mirror_safe)
    data = dataset([0, 1])
    buffer.post_adapt(None, benchmark_from_datasets(train=[data], test=[data]).train_stream[0])
    assert recipe.noted == [(True, False, UNMIRRORED)]


@pytest.mark.parametrize("other", [{"mirror_safe": True}, {"pictures": False}])
def test_a_memory_of_other_facts_is_not_gone_on_with(other):
    (experience,) = stream([0, 1]).train_stream
    buffer = DistilledBuffer(4, Distiller(STILL, **MLP))
    buffer.post_adapt(None, experience)
    (name,) = other
    with pytest.raises(ResumeError, match=f"other settings: {name} was"):
        DistilledBuffer(4, Distiller(STILL, **MLP), **other).load_state(buffer.to_state())
    same = DistilledBuffer(4, Distiller(STILL, **MLP))
    same.load_state(buffer.to_state())
    assert same.nbytes == buffer.nbytes == 4 * sample_bytes(SHAPE)
