"""Presets: parameters of each recipe for a small machine, for curves, tables and the choice of a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_EXPERTS = {"experts": 4, "expert_epochs": 4, "expert_images": 2000, "student_steps": 20, "student_lr": 0.02}
_EXPERTS |= {"rate_lr": 1e-5}
_TEACHER = {"teacher_epochs": 4, "teacher_images": 1000}
_GRADIENT_MATCHING = {"real_batch": 64, "image_lr": 1.0}
_LONG_TRAINING = {"student_epochs": 5, "student_lr": 0.1}
_CAFE = {"real_batch": 64, "start": "real", "image_lr": 0.5, "early_weight": 0.0, "discrimination": 0.1}
_RAT_BPTT = {"start": "k-means", "augmentation": "", "real_batch": 500, "image_lr": 5e-3}

_RTP: dict[str, Any] = {
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
_FREPO: dict[str, Any] = {
    "pool": 8,
    "student_steps": 60,
    "real_batch": 400,
    "start": "k-means",
    "image_lr": 5e-3,
    "label_lr": 5e-3,
    "loss": "cross-entropy",
    "augmentation": "",
}
_NCFM = {"image_lr": 0.01, "real_batch": 128, "frequencies": 1024, "pool": 2, "pool_epochs": 4, "pool_images": 1000}
PRESETS: Mapping[str, Mapping[int, Mapping[str, Any]]] = {
    "dc": {1: _GRADIENT_MATCHING, 2: {**_GRADIENT_MATCHING, **_LONG_TRAINING, "start": "real"}},
    "dsa": {1: {**_GRADIENT_MATCHING, "image_lr": 0.2}, 2: {**_GRADIENT_MATCHING, **_LONG_TRAINING}},
    "dcc": {1: _GRADIENT_MATCHING},
    "jiang": {1: _GRADIENT_MATCHING},
    "idc": {1: {"image_lr": 2e-3, "steps_per_student": 5}},
    "dream": {1: {"image_lr": 2e-3, "steps_per_student": 5}},
    "acc-dd": {1: {"image_lr": 1e-3, "pool": 2}},
    "dm": {1: {"real_batch": 64}},
    "cafe": {1: {**_CAFE, "student_lr": 0.02, "student_epochs": 2, "steps_per_student": 10}},
    "idm": {1: {"real_batch": 128, "queue": 10, "student_batch": 128, "student_steps": 2}},
    "datadam": {1: {"real_batch": 64}},
    "m3d": {1: {"real_batch": 64}},
    "ncfm": {1: _NCFM},
    "sre2l": {1: _TEACHER},
    "rded": {1: _TEACHER},
    **{name: {1: {**_EXPERTS, "image_lr": 1000.0}} for name in ("mtt", "ftd", "tesla", "datm")},
    "haba": {1: {**_EXPERTS, "image_lr": 1.0, "image_momentum": 0.5}},
    "kfs": {1: {"real_batch": 64}},
    "fred": {1: {**_EXPERTS, "image_lr": 10.0}},
    "fred-dm": {1: {"real_batch": 64, "image_lr": 30.0}},
    "it-gan": {1: {"real_batch": 64, "generator_steps": 500}},
    "glad": {1: {"real_batch": 64, "generator_steps": 500}},
    "dd": {1: {"real_batch": 256, "start": "real"}},
    "ld": {1: {"real_batch": 256}},
    "sldd": {1: {"real_batch": 256, "start": "real"}},
    "rtp": {1: _RTP},
    "rat-bptt": {1: {**_RAT_BPTT, "student_steps": 40, "window": 10}},
    "kip": {1: {"real_batch": 1000}},
    "rfad": {1: {"steps": 2200, "anneal": True}},
    "frepo": {1: {**_FREPO, "steps": 2500, "anneal": True}},
    "rcig": {1: {"image_lr": 0.02, "label_lr": 0.02}},
    "krr": {1: {}},
    "random": {1: {}},
    "herding": {1: {}},
}
"""Presets by method, and by the number of images per class from which on they apply.

Parameters that are not listed have the values of the paper. The values of dc, dsa, dm, idc, idm, cafe, mtt, rtp,
rat-bptt, rfad and frepo are based on the measurements in docs/results/fashion-mnist.md. The other presets reduce the
numbers of pool students, teachers, real images and unrolled steps of the paper, and take the learning rates of a
related method or of the paper. gtn has no preset, because it generates a curriculum of many images at every ipc.
"""

FAMILIES: Mapping[str, frozenset[str]] = {
    "meta-learning": frozenset(("dd", "ld", "sldd", "gtn", "rtp", "rat-bptt", "kip", "rfad", "frepo", "rcig", "krr")),
    "selection": frozenset(("random", "herding", "k-center", "k-means", "moderate", "means", "grand", "el2n", "rded")),
}
"""Methods of each family. Meta-learning includes kernel regression. All other methods belong to "matching"."""


def preset(name: str, ipc: int) -> dict[str, Any]:
    """Return the parameters of a method on a small machine; an empty dict if the method has no preset.

    Examples:
        >>> from ddsdk.planning import preset
        >>> preset("dm", ipc=10)
        {'real_batch': 64}
    """
    presets_by_ipc = PRESETS.get(name, {})
    thresholds = [min_ipc for min_ipc in presets_by_ipc if min_ipc <= ipc]
    return dict(presets_by_ipc[max(thresholds)]) if thresholds else {}


def short_start(name: str) -> dict[str, Any]:
    """Return the start and the schedule of a method under a time budget: k-means images, and annealed rates.

    A short run from noise ends below its best start. Methods without these parameters have an empty dict.

    Examples:
        >>> from ddsdk.planning import short_start
        >>> short_start("dc")
        {'start': 'k-means', 'anneal': True}
    """
    from ddsdk.recipes import RECIPES

    parameters = {f.name for f in dataclasses.fields(RECIPES[name])} if name in RECIPES else set()
    return {key: value for key, value in (("start", "k-means"), ("anneal", True)) if key in parameters}


def family(name: str) -> str:
    """Return the family of a method: "matching", "meta-learning" or "selection".

    Examples:
        >>> from ddsdk.planning import family
        >>> family("dm"), family("herding")
        ('matching', 'selection')
    """
    return next((key for key, names in FAMILIES.items() if name in names), "matching")
