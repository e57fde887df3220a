"""What every class of labels promises, whatever is learned."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

import ddsdk as dd
from ddsdk.synthetic import FixedLabels, FreeLabels, LearnedLabels, Pixels, SimplexLabels, centred_labels, hard_labels
from ddsdk.synthetic import labels as module

CLASSES = torch.tensor([0, 1, 2, 0, 1])
SOFT = 0.7 * torch.eye(3)[CLASSES] + 0.1
LABELS = {
    "hard": lambda: hard_labels(CLASSES, 3),
    "fixed, soft": lambda: FixedLabels(SOFT),
    "fixed, scores": lambda: FixedLabels(centred_labels(CLASSES, 3), space="scores"),
    "learned": lambda: LearnedLabels(SOFT.log()),
    "free": lambda: FreeLabels(centred_labels(CLASSES, 3)),
    "free, bounded": lambda: FreeLabels(SOFT, low=0.0),
    "simplex": lambda: SimplexLabels(SOFT),
}


@pytest.fixture(params=LABELS)
def labels(request):
    return LABELS[request.param]()


def test_every_class_is_here():
    kinds = {c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, module.Labels)}
    assert {kind for kind in kinds if not kind.__subclasses__()} == {type(make()) for make in LABELS.values()}


def test_rows_are_those_of_the_slots(labels):
    every = labels.rows(torch.arange(5))
    assert every.shape == (5, 3)
    slots = torch.tensor([4, 0, 0])
    assert torch.equal(labels.rows(slots), every[slots])
    assert every.argmax(1).tolist() == CLASSES.tolist()


def in_space(rows, space):
    assert space in ("probabilities", "scores")
    assert bool(torch.isfinite(rows).all())
    if space == "probabilities":
        assert bool((rows >= 0).all())
        torch.testing.assert_close(rows.sum(1), torch.ones(5))


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_projection_brings_rows_back_to_their_space(labels, length):
    in_space(labels.rows(torch.arange(5)), labels.space)
    rng = dd.generator("step")
    with torch.no_grad():
        for p in labels.parameters():
            p.add_(length * torch.randn(p.shape, generator=rng))
    labels.project_()
    in_space(labels.rows(torch.arange(5)), labels.space)
    once = copy.deepcopy(labels.state_dict())
    labels.project_()
    for name, value in labels.state_dict().items():
        torch.testing.assert_close(value, once[name])


def test_projection_leaves_admissible_rows_alone(labels):
    before = labels.rows(torch.arange(5)).detach().clone()
    labels.project_()
    torch.testing.assert_close(labels.rows(torch.arange(5)), before)


def test_gradients_reach_what_is_learned(labels):
    weights = torch.randn(5, 3, generator=dd.generator("weights"))
    learned = list(labels.parameters())
    rows = labels.rows(torch.arange(5))
    assert rows.requires_grad == bool(learned)
    if learned:
        grads = torch.autograd.grad((weights * rows).sum(), learned)
        assert all(bool((g != 0).any()) for g in grads)


def test_a_set_projects_its_labels(labels):
    syn = dd.SyntheticSet(Pixels(torch.zeros(5, 1, 2, 2)), labels, CLASSES, 3)
    with torch.no_grad():
        for p in labels.parameters():
            p.sub_(5.0)
    syn.project_()
    in_space(syn.labels.rows(torch.arange(5)), labels.space)


def test_an_artefact_takes_every_class(labels, tmp_path):
    rows = labels.rows(torch.arange(5)).detach()
    made = dd.Distilled(
        torch.zeros(5, 1, 2, 2),
        rows,
        class_names=("a", "b", "c"),
        preprocess=dd.Preprocess.unit(1),
        label_space=labels.space,
    )
    made.save(tmp_path / "set")
    found = dd.Distilled.load(tmp_path / "set")
    assert (found.label_space, found.content_id) == (labels.space, made.content_id)
    for reading in ("probabilities", "hard"):
        in_space(found.as_dataset(reading).tensors[1], "probabilities")


def test_a_row_without_mass_becomes_uniform():
    labels = SimplexLabels(SOFT)
    with torch.no_grad():
        labels.values[1] = -1.0
        labels.values[2] = torch.tensor([0.5, 3.0, -1.0])
    labels.project_()
    rows = labels.rows(torch.arange(5))
    torch.testing.assert_close(rows[1], torch.full((3,), 1 / 3))
    torch.testing.assert_close(rows[2], torch.tensor([1 / 3, 2 / 3, 0.0]))


def test_a_bound_holds_from_below_only():
    labels = FreeLabels(SOFT, low=0.0)
    with torch.no_grad():
        labels.values[0] = torch.tensor([-2.0, 0.5, 7.0])
    labels.project_()
    assert labels.rows(torch.tensor([0])).tolist() == [[0.0, 0.5, 7.0]]


def test_centred_rows_have_mean_zero():
    rows = centred_labels(CLASSES, 3, scale=2.0)
    torch.testing.assert_close(rows.sum(1), torch.zeros(5))
    torch.testing.assert_close(rows[0], torch.tensor([4 / 3, -2 / 3, -2 / 3]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda bad: FreeLabels(bad), "labels row 1 must be finite"),
        (lambda bad: FixedLabels(bad, space="scores"), "labels row 1 must be finite"),
        (lambda bad: SimplexLabels(bad), "labels row 1 must be probabilities"),
        (lambda bad: SimplexLabels(SOFT - 0.2), "labels row 0 must be probabilities"),
    ],
)
def test_bad_rows_are_named(make, text):
    bad = SOFT.clone()
    bad[1, 1] = torch.nan
    with pytest.raises(ValueError, match=text):
        make(bad)
