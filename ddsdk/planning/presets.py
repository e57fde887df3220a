"""Settings of each recipe for a small machine, for curves, tables and the choice of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EXPERTS = {"experts": 4, "expert_epochs": 4, "expert_images": 2000, "student_steps": 20, "student_lr": 0.02}
_EXPERTS |= {"rate_lr": 1e-5}
_TEACHER = {"teacher_epochs": 4, "teacher_images": 1000}
_CLASSES = {"real_batch": 64, "image_lr": 1.0}
_STUDENTS = {"student_epochs": 5, "student_lr": 0.1}
_ALIGNED = {"real_batch": 64, "start": "real", "image_lr": 0.5, "early_weight": 0.0, "discrimination": 0.1}
_UNROLLED = {"start": "k-means", "augmentation": "", "real_batch": 500, "image_lr": 5e-3}

_ADDRESSED: dict[str, Any] = {
    "bases": 24,
    "most": 13,
    "start": "k-means",
    "optimizer": "adam",
    "image_lr": 0.02,
    "augmentation": "",
    "student_steps": 60,
    "window": 10,
    "student_batch": 5,
    "student_lr": 0.02,
    "real_batch": 26,
}
_POOLED: dict[str, Any] = {
    "pool": 8,
    "student_steps": 60,
    "real_batch": 400,
    "start": "k-means",
    "image_lr": 5e-3,
    "label_lr": 5e-3,
    "loss": "cross-entropy",
    "augmentation": "",
}
SMALL: Mapping[str, Mapping[int, Mapping[str, Any]]] = {
    "dc": {1: _CLASSES, 2: {**_CLASSES, **_STUDENTS, "start": "real"}},
    "dsa": {1: {**_CLASSES, "image_lr": 0.2}, 2: {**_CLASSES, **_STUDENTS}},
    "dcc": {1: _CLASSES},
    "jiang": {1: _CLASSES},
    "idc": {1: {"image_lr": 2e-3}},
    "dream": {1: {"image_lr": 2e-3}},
    "acc-dd": {1: {"image_lr": 1e-3, "pool": 2}},
    "dm": {1: {"real_batch": 64}},
    "cafe": {1: {**_ALIGNED, "student_lr": 0.02, "student_epochs": 2, "steps_per_student": 10}},
    "idm": {1: {"real_batch": 128, "queue": 10, "student_batch": 128, "student_steps": 2}},
    "datadam": {1: {"real_batch": 64}},
    "m3d": {1: {"real_batch": 64}},
    "ncfm": {1: {"real_batch": 128, "frequencies": 1024, "pool": 2, "pool_epochs": 4, "pool_images": 1000}},
    "sre2l": {1: _TEACHER},
    "rded": {1: _TEACHER},
    **{name: {1: {**_EXPERTS, "image_lr": 1000.0}} for name in ("mtt", "ftd", "tesla", "datm")},
    "haba": {1: {**_EXPERTS, "image_lr": 1.0, "image_momentum": 0.5}},
    "kfs": {1: {"real_batch": 64}},
    "it-gan": {1: {"real_batch": 64, "generator_steps": 500}},
    "glad": {1: {"real_batch": 64, "generator_steps": 500}},
    "dd": {1: {"real_batch": 256, "start": "real"}},
    "ld": {1: {"real_batch": 256}},
    "sldd": {1: {"real_batch": 256, "start": "real"}},
    "rtp": {1: _ADDRESSED},
    "rat-bptt": {1: {**_UNROLLED, "student_steps": 40, "window": 10}},
    "kip": {1: {"real_batch": 1000}},
    "rfad": {1: {"steps": 2200, "anneal": True}},
    "frepo": {1: {**_POOLED, "steps": 2500, "anneal": True}},
    "rcig": {1: {}},
    "krr": {1: {}},
    "random": {1: {}},
    "herding": {1: {}},
}
"""Method to settings from so many images per class on; what is not named stays as the paper has it.

The values of dc, dsa, dm, idc, idm, cafe, mtt, rtp, rat-bptt, rfad and frepo come from what docs/results.md measured on
FashionMNIST. The others cut what a paper spends on pools, teachers, real batches and unrolled steps, and take the rates
of their next relative or those of their paper. gtn is left out: it makes a curriculum of many images, whatever ipc is.
"""

FAMILIES: Mapping[str, frozenset[str]] = {
    "meta-learning": frozenset(("dd", "ld", "sldd", "gtn", "rtp", "rat-bptt", "kip", "rfad", "frepo", "rcig", "krr")),
    "selection": frozenset(("random", "herding", "k-center", "k-means", "means", "grand", "el2n", "rded")),
}
"""Family to methods: unrolled training and kernel regression, and choice of real images. The others match."""


def small(name: str, ipc: int) -> dict[str, Any]:
    """Return the settings of a method on a small machine; none for a method that is not in the table."""
    table = SMALL.get(name, {})
    reached = [least for least in table if least <= ipc]
    return dict(table[max(reached)]) if reached else {}


def family(name: str) -> str:
    """Return the family of a method: matching, meta-learning or selection."""
    return next((key for key, names in FAMILIES.items() if name in names), "matching")
