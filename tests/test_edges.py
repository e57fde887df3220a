"""Sets with edges, joint decoders, penalties and weights of classes: what graphs ask of the engine."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import ddsdk as dd
from ddsdk.artefact.folder import pack_artifact, read_artifact
from ddsdk.artefact.manifest import build_manifest
from ddsdk.foundation.errors import ArtifactError
from ddsdk.objectives import ClassMatch, squared, weight_gradients
from ddsdk.students import AlternatingStudents, TrainOnSynthetic, prepare_student
from ddsdk.training.micro import micro_batch


def edged(**changes):
    values = {
        "images": torch.rand(3, 1, 2, 4, generator=dd.generator(0)),
        "labels": torch.eye(3),
        "class_names": ("a", "b", "c"),
        "preprocess": dd.Preprocess.unit(1),
        "edge_index": torch.tensor([[0, 5, 2], [5, 0, 3]]),
        "edge_weight": torch.tensor([0.5, 0.5, 1.0]),
    }
    values.update(changes)
    return dd.Distilled(**values)


def test_edges_travel_and_are_counted(tmp_path):
    found = edged()
    found.save(tmp_path)
    again = dd.Distilled.load(tmp_path)
    assert torch.equal(again.edge_index, found.edge_index)
    assert torch.equal(again.edge_weight, found.edge_weight)
    assert again.content_id == found.content_id != edged(edge_weight=torch.ones(3)).content_id
    assert (again.manifest.format, read_artifact(tmp_path).manifest.format) == (4, 4)
    assert again.manifest.storage.floats == 24 + 3 + 9
    card = (tmp_path / "README.md").read_text()
    assert "3 between the 6 rows of the images" in card
    assert "graph-ml" in card
    assert edged(edge_index=None, edge_weight=None).manifest.format == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"edge_weight": None}, ValueError, "must come together"),
        ({"edge_index": torch.tensor([[0, 1, 6], [1, 0, 2]])}, ValueError, r"lie in 0\.\.5, got 0\.\.6"),
        ({"edge_index": torch.tensor([[0, -1, 1], [1, 0, 2]])}, ValueError, r"got -1\.\.2"),
        ({"edge_index": torch.tensor([[0, 1], [1, 0]])}, ValueError, "have shape"),
        ({"edge_weight": torch.tensor([0.5, torch.inf, 1])}, ValueError, "edge_weight must be finite, got inf"),
        ({"edge_index": torch.zeros(2, 3)}, TypeError, "edge_index must be int64"),
        ({"edge_weight": torch.zeros(3, dtype=torch.float64)}, TypeError, "edge_weight must be float32"),
    ],
)
def test_bad_edges_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        edged(**changes)


def test_sets_with_edges_are_not_joined():
    with pytest.raises(ValueError, match="have no edges to be joined"):
        edged().concat(edged())


def test_a_file_with_an_edge_beyond_its_rows_does_not_open():
    found, bad = edged(), edged(images=torch.rand(3, 1, 4, 2, generator=dd.generator(0)))
    bad = dataclasses.replace(bad, edge_index=torch.tensor([[0, 11, 2], [11, 0, 3]]))
    arrays = {**bad.arrays(), "images": found.arrays()["images"]}
    manifest = build_manifest(
        arrays,
        class_names=bad.class_names,
        preprocess={"space": "unit", "mean": [0.0], "std": [1.0]},
        label_space="probabilities",
        protocol={},
        image_floats=24,
        provenance={},
        certificate=None,
    )
    with pytest.raises(ArtifactError, match=r"edge_index must lie in 0\.\.5"):
        pack_artifact(manifest, arrays)


def plan(tiny, make_student, **changes):
    recipe = dd.DM(ipc=1, steps=1, augmentation="")
    return dataclasses.replace(recipe.plan(tiny, make_student=make_student, rng=dd.generator(0)), **changes)


def test_a_penalty_adds_its_gradient_and_its_value(tiny, make_student):
    def one(**changes):
        made = plan(tiny, make_student, steps=1, **changes)
        made = dataclasses.replace(made, make_optimizer=lambda syn: torch.optim.SGD(syn.parameters(), lr=1.0))
        before = made.syn.parametrization.images.detach().clone()
        step = next(dd.Distillation(made, tiny, rng=dd.generator(1)))
        return step.loss, made.syn.parametrization.images.detach() - before

    loss, moved = one()
    punished, further = one(penalty=lambda syn: 3 * syn.parametrization.images.sum())
    total = 3 * float(plan(tiny, make_student).syn.parametrization.images.detach().sum())
    assert punished == pytest.approx(loss + total, rel=1e-4, abs=1e-3)
    torch.testing.assert_close(further, moved - 3, atol=1e-4, rtol=1e-4)


def test_classes_may_weigh_differently(tiny, make_student):
    student = prepare_student(make_student, tiny, dd.generator(0))
    syn = plan(tiny, make_student).syn

    def terms(weights):
        match = ClassMatch(byproduct=weight_gradients, distance=squared, weights=weights)
        return torch.stack([t.detach() for t in match(student, tiny, syn, dd.generator(1))])

    torch.testing.assert_close(terms((1.0, 0.5, 0.0)), terms(None) * torch.tensor([1.0, 0.5, 0.0]))
    with pytest.raises(ValueError, match="weights must hold one number for each of 3 classes"):
        terms((1.0,))


def test_students_take_another_optimizer(tiny, make_student):
    students = AlternatingStudents(
        make_student, TrainOnSynthetic(epochs=1), period=3, make_optimizer=lambda p: torch.optim.Adam(p, lr=0.1)
    )
    syn = plan(tiny, make_student).syn
    first = [p.detach().clone() for p in students.next(tiny, syn, dd.generator(0)).parameters()]
    second = students.next(tiny, syn, dd.generator(1)).parameters()
    # The first step of Adam moves every weight with a gradient by the rate.
    gaps = torch.cat([(b - a).abs().flatten() for a, b in zip(first, second, strict=True)])
    assert float(gaps.max().detach()) == pytest.approx(0.1, rel=1e-3)


def test_a_network_whose_rows_hang_together_sees_the_whole_batch():
    network = torch.nn.Linear(2, 2)
    assert micro_batch(network, torch.device("cpu"), 1000) < 1000
    network.whole_batch = True
    assert micro_batch(network, torch.device("cpu"), 1000) == 1000
