"""`python -m benchmarks.share`: use, attacks and limits of sets of simulated patients."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Cell, Column, Group, Plot, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count
from ddsdk.running import Method
from ddsdk_integrations.share import Limits, SoftLabels, Terms, release, simulated_patients

_TERMS = Terms(title="Benchmark", intended_use="measurement", licence="that of the source")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        ipc: Images per class.
        steps: Steps of distilling.
        width: Width of the ConvNets that distil and judge, of depth 2.
        per_patient: Images of each simulated patient.
        networks: Networks that attack, and are tested.
        epochs: Epochs of their training.
    """

    ipc: int = 5
    steps: int = 300
    width: int = 16
    per_patient: int = 10
    networks: int = 3
    epochs: int = 150

    def __post_init__(self) -> None:
        for known in fields(self):
            require_count(known.name, getattr(self, known.name))


METHODS: Mapping[str, Callable[[Setting], Method[dd.RealData]]] = {
    "DM from noise": lambda s: dd.DM(ipc=s.ipc, steps=s.steps, start="noise"),
    "DM from real images": lambda s: dd.DM(ipc=s.ipc, steps=s.steps, start="real"),
    "class means": lambda s: dd.BASELINES["means"](ipc=s.ipc),
    "random real images": lambda s: dd.BASELINES["random"](ipc=s.ipc),
}
"""All get soft labels of a teacher, and store as many floats."""


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:  # noqa: ARG001
    """Return figures, audit and broken default limits of a set; test images, which have no patient, are not read."""
    rng = dd.generator("share", cell.seed)
    records, patients = simulated_patients(train, setting.per_patient, derive(rng, "patients"))
    options = {"width": setting.width, "depth": 2}
    began = time.perf_counter()
    made = release(
        records,
        patients if cell["split"] == "patient" else torch.arange(len(records)),
        recipe=SoftLabels(recipe=METHODS[cell.method](setting)),
        make_student=dd.network_factory("convnet", records.image_shape, records.num_classes, **options),
        seed=derive(rng, "release"),
        terms=_TERMS,
        evaluation=dd.Evaluation(protocol="quick", network_options=options, epochs=setting.epochs, lr=0.03),
        networks=setting.networks,
    )
    return {
        **asdict(made.audit.figures),
        **made.audit.record,
        "broken": Limits().broken(made.audit, made.distilled.certificate),
        "bytes": made.distilled.manifest.storage.bytes,
        "seconds": time.perf_counter() - began,
    }


def _split(word: str) -> str:
    require(word in ("patient", "image"), "split", "be patient or image", word)
    return word


def _votes(group: Group) -> str:
    return percent_of("", "groups").text(group) if group.at["split"] == "patient" else "–"


def _verdict(group: Group) -> str:
    refused, runs = sum(bool(result["broken"]) for result in group.results), len(group.results)
    return f"refused {refused} of {runs}" if refused else f"let out {runs} of {runs}"


def _points(group: Group) -> list[tuple[float | None, float]]:
    if group.at["split"] != "patient":
        return []
    best = statistics.fmean(max(r["membership_auc"], r["distance_auc"]) for r in group.results)
    return [(best, 100 * statistics.fmean(r["balanced"] for r in group.results))]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.share",
    text="Make images those of simulated patients, distil, audit, and hold each set against the default limits.",
    setting=Setting,
    methods=METHODS,
    measure=measure,
    axes={"split": Axis("patient,image", "Kinds of groups that are held out, separated by commas.", _split)},
    columns=[
        percent_of("balanced accuracy, %", "balanced"),
        Column("votes of a patient, %", _votes),
        mean_of("AUC by networks", "membership_auc", digits=3),
        mean_of("AUC by distance", "distance_auc", digits=3),
        mean_of("near-copies", "near_copies", digits=0),
        mean_of("least distance", "smallest_distance", digits=3),
        mean_of("bytes", "bytes", digits=0),
        mean_of("seconds", "seconds", digits=0),
        Column("default limits", _verdict),
    ],
    line=lambda r: f"{100 * r['balanced']:.1f} %, broken: {r['broken']}",
    plot=Plot(
        "share.png",
        _points,
        "area under the curve of the best attack (0.5: chance)",
        "balanced accuracy on held-out patients, %",
        joined=False,
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
