"""The smallest settings of every recipe and baseline: two steps on tiny data."""

from __future__ import annotations

from typing import Any

RECIPE_SETTINGS: dict[str, dict[str, Any]] = {
    "dc": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "dsa": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "dm": {"steps": 2, "real_batch": 4},
    "cafe": {"steps": 2, "real_batch": 4, "student_epochs": 2, "steps_per_student": 3},
    "idm": {
        "steps": 2,
        "real_batch": 4,
        "queue": 4,
        "push_every": 2,
        "student_steps": 1,
        "student_batch": 4,
    },
    "datadam": {"steps": 2, "real_batch": 4},
    "m3d": {"steps": 2, "real_batch": 4, "steps_per_student": 2},
    "ncfm": {"steps": 2, "real_batch": 4, "frequencies": 8, "pool": 2, "pool_epochs": 1},
    "dcc": {
        "students": 1,
        "steps_per_student": 2,
        "student_epochs": 1,
        "real_batch": 4,
        "warm_up": 1,
        "warm_up_steps": 1,
    },
    "jiang": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "idc": {"steps": 2, "steps_per_student": 2, "student_steps": 1, "real_batch": 4},
    "dream": {"steps": 2, "steps_per_student": 1, "real_batch": 3, "candidates": 5},
    "acc-dd": {"steps": 2, "steps_per_student": 1, "real_batch": 4, "pool": 2, "pool_epochs": 1},
    "sre2l": {"steps": 2, "teacher_epochs": 1},
    "rded": {"images": 4, "crops": 2, "temperature": None, "teacher_epochs": 1},
    "haba": {
        "steps": 2,
        "experts": 2,
        "expert_epochs": 2,
        "expert_span": 1,
        "student_steps": 2,
        "hallucinators": 2,
        "fit_steps": 2,
    },
    "kfs": {"steps": 2, "real_batch": 4, "decoders": 2, "fit_steps": 2},
    "it-gan": {
        "steps": 2,
        "real_batch": 4,
        "generator_dim": 4,
        "generator_width": 2,
        "generator_steps": 2,
        "inversion_steps": 2,
    },
    "glad": {
        "steps": 2,
        "real_batch": 4,
        "generator_dim": 4,
        "generator_width": 2,
        "generator_steps": 2,
        "inversion_steps": 2,
    },
    "mtt": {"steps": 2, "student_steps": 2, "experts": 2, "expert_epochs": 3},
    "ftd": {"steps": 2, "student_steps": 2, "experts": 2, "expert_epochs": 3},
    "tesla": {"steps": 2, "student_steps": 2, "experts": 2, "expert_epochs": 3},
    "datm": {"steps": 2, "student_steps": 2, "experts": 2, "expert_epochs": 3, "skip_above": 100.0},
}

BASELINE_SETTINGS: dict[str, dict[str, Any]] = {
    "random": {},
    "herding": {"student_epochs": 1},
    "k-center": {"student_epochs": 1},
    "k-means": {},
    "grand": {"students": 2},
    "el2n": {"students": 2},
}
