"""What sets of people's images are good for, what attacks find, and which of them limits let out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count
from ddsdk_integrations.share.limits import Limits
from ddsdk_integrations.share.patients import simulated_patients
from ddsdk_integrations.share.release import Terms, release
from ddsdk_integrations.share.soft_labels import SoftLabels

SPLITS = ("patient", "image")
_TERMS = Terms(title="Benchmark", intended_use="measurement", licence="that of the source")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        ipc: Images per class.
        steps: Of distilling.
        width: Of the ConvNets that distil and judge, of depth 2.
        per_patient: Images of each simulated patient.
        networks: That attack, and are tested.
        epochs: Of their training.
    """

    ipc: int = 5
    steps: int = 300
    width: int = 16
    per_patient: int = 10
    networks: int = 3
    epochs: int = 150

    def __post_init__(self) -> None:
        for name in ("ipc", "steps", "width", "per_patient", "networks", "epochs"):
            require_count(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A method, what is held out (patients or images), and a seed."""

    method: str
    split: str
    seed: int

    def __post_init__(self) -> None:
        require(self.split in SPLITS, "splits", f"be among {', '.join(SPLITS)}", self.split)


def _distribution(start: str) -> Callable[[Setting], SoftLabels]:
    return lambda s: SoftLabels(recipe=dd.DM(ipc=s.ipc, steps=s.steps, start=start))


ROWS: Mapping[str, Callable[[Setting], SoftLabels]] = {
    "DM from noise": _distribution("noise"),
    "DM from real images": _distribution("real"),
    "class means": lambda s: SoftLabels(recipe=dd.BASELINES["means"](ipc=s.ipc)),
    "random real images": lambda s: SoftLabels(recipe=dd.BASELINES["random"](ipc=s.ipc)),
}
"""All have soft labels of a teacher, and as many floats."""


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:  # noqa: ARG001
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: Made into the images of patients, of which some are held out.
        test: Not read: its images have no patient.
    """
    rng = dd.generator("share", cell.seed)
    records, patients = simulated_patients(train, setting.per_patient, derive(rng, "patients"))
    groups = patients if cell.split == "patient" else torch.arange(len(records))
    options = {"width": setting.width, "depth": 2}
    evaluation = dd.Evaluation(protocol="quick", network_options=options, epochs=setting.epochs, lr=0.03)
    began = time.perf_counter()
    made = release(
        records,
        groups,
        recipe=ROWS[cell.method](setting),
        make_student=dd.network_factory("convnet", records.image_shape, records.num_classes, **options),
        seed=derive(rng, "release"),
        terms=_TERMS,
        evaluation=evaluation,
        networks=setting.networks,
    )
    return {
        "cell": asdict(cell),
        "figures": asdict(made.audit.figures),
        "audit": made.audit.record,
        "broken": list(Limits().broken(made.audit, made.distilled.certificate)),
        "bytes": made.distilled.manifest.storage.bytes,
        "seconds": time.perf_counter() - began,
    }
