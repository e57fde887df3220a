"""The object: what it refuses, its views, and unions."""

import pytest
import torch
from artefact_sets import CERTIFICATE, make_set

from ddsdk.artefact.certificate import NO_PRIVACY
from ddsdk.artefact.distilled import Distilled
from ddsdk.data.preprocess import Preprocess


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"images": torch.zeros(6, 3, 4, 5, dtype=torch.float64)}, TypeError, "float32"),
        ({"images": torch.zeros(6, 3, 4)}, ValueError, r"\(M, C, H, W\)"),
        ({"images": torch.zeros(0, 3, 4, 5)}, ValueError, "not empty"),
        ({"images": torch.zeros(6, 1, 4, 5)}, ValueError, "3 channels"),
        ({"images": torch.full((6, 3, 4, 5), torch.nan)}, ValueError, "image 0"),
        ({"labels": torch.eye(6)}, ValueError, r"\(6, 3\)"),
        ({"labels": torch.zeros(6, 3)}, ValueError, "row 0"),
        ({"labels": torch.zeros(6, 3, dtype=torch.int64)}, TypeError, "float32"),
        ({"class_names": ()}, ValueError, "at least one"),
        ({"label_space": "logits"}, ValueError, "label_space"),
        ({"learned_lr": float("inf")}, ValueError, "learned_lr must be positive and finite, got inf"),
        ({"learned_lr": -0.1}, ValueError, "learned_lr must be positive"),
        ({"learned_lr": 1e-60}, ValueError, "learned_lr must be positive"),
        ({"stored_floats": -1}, ValueError, "stored_floats"),
        ({"classes": torch.zeros(6)}, TypeError, "int64"),
        ({"classes": torch.zeros(5, dtype=torch.int64)}, ValueError, r"\(6,\)"),
        ({"classes": torch.full((6,), 3)}, ValueError, "below 3"),
        ({"provenance": {"a": object()}}, TypeError, "JSON"),
        ({"provenance": {1: "a"}}, TypeError, "strings"),
        ({"provenance": {"a": 1, "a\x07": 2}}, ValueError, "same"),
    ],
)
def test_bad_sets_are_named(change, kind, text):
    base = make_set()
    fields = {"images": base.images, "labels": base.labels, "class_names": base.class_names} | change
    with pytest.raises(kind, match=text):
        Distilled(fields.pop("images"), fields.pop("labels"), preprocess=base.preprocess, **fields)


def test_views_of_a_set():
    distilled = make_set(ipc=2)
    assert (len(distilled), distilled.num_classes, distilled.ipc) == (6, 3, 2)
    assert distilled.privacy == "no formal privacy guarantee"
    image, label = distilled.as_dataset()[3]
    assert torch.equal(image, distilled.images[3])
    assert label.tolist() == [0, 1, 0]
    unit = distilled.unit_images()
    assert 0 <= float(unit.min()) <= float(unit.max()) <= 1
    torch.testing.assert_close(distilled.preprocess(unit), distilled.images)
    loud = Distilled(
        distilled.images * 9, distilled.labels, class_names=distilled.class_names, preprocess=distilled.preprocess
    )
    assert float(loud.unit_images().max()) == 1


def test_gradients_stay_behind():
    base = make_set()
    images = base.images.clone().requires_grad_()
    distilled = Distilled(images, base.labels, class_names=base.class_names, preprocess=base.preprocess)
    assert not distilled.images.requires_grad


def test_a_promise_is_no_certificate():
    with pytest.raises(TypeError, match="certificate must be a Certificate or None, got str"):
        make_set(certificate="I promise")


def test_concat_keeps_parents():
    a, b = make_set(learned_lr=0.1), make_set(seed=1, ipc=1, learned_lr=0.1, certificate=CERTIFICATE)
    both = a.concat(b)
    assert len(both) == 9
    assert torch.equal(both.images, torch.cat([a.images, b.images]))
    assert both.provenance["parents"] == [a.content_id, b.content_id]
    assert both.stored_floats == a.stored_floats + b.stored_floats
    assert both.privacy == NO_PRIVACY
    assert both.learned_lr == a.learned_lr
    assert a.concat(make_set(seed=2)).learned_lr is None
    assert a.concat() is a


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (make_set(shape=(3, 5, 5)), "images"),
        (make_set(class_names=("a", "b", "c")), "class_names"),
        (make_set(preprocess=Preprocess.normalise([0.5] * 3, [0.5] * 3)), "preprocess"),
    ],
)
def test_concat_refuses_other_kinds(other, name):
    with pytest.raises(ValueError, match=name):
        make_set().concat(other)


def test_a_set_is_as_large_as_what_it_stores():
    """3 classes, 4 images of 60 pixels each: 720 floats as plain pixels."""
    assert make_set(ipc=4).stored_ipc == 4
    for floats, same in ((180, 1), (181, 2), (360, 2), (1, 1), (1000, 6)):
        decoded = make_set(ipc=4, stored_floats=floats)
        assert (decoded.ipc, decoded.stored_ipc) == (4, same)
