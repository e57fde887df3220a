"""The smallest settings of every recipe and baseline: two steps on tiny data."""

from __future__ import annotations

from typing import Any

RECIPE_SETTINGS: dict[str, dict[str, Any]] = {
    "dc": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "dsa": {"students": 1, "steps_per_student": 2, "student_epochs": 1, "real_batch": 4},
    "dm": {"steps": 2, "real_batch": 4},
}

BASELINE_SETTINGS: dict[str, dict[str, Any]] = {
    "random": {},
    "herding": {"student_epochs": 1},
    "k-center": {"student_epochs": 1},
    "k-means": {},
    "grand": {"students": 2},
    "el2n": {"students": 2},
}
