"""`python -m benchmarks.share`: accuracy and privacy attacks of distilled sets of simulated patients."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Column, Plot, RunConfig, RunGroup, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count
from ddsdk.running import Method
from ddsdk_integrations.share import ExportLimits, ReleaseTerms, TeacherLabels, prepare_release, simulated_patients

_TERMS = ReleaseTerms(title="Benchmark", intended_use="measurement", licence="that of the source")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        ipc: Images per class of the distilled sets.
        steps: Number of steps of each recipe.
        width: Width of all ConvNets, which have depth 2.
        per_patient: Number of images of each simulated patient.
        networks: Number of networks for evaluation and for membership attacks.
        epochs: Number of training epochs of these networks.
    """

    ipc: int = 5
    steps: int = 300
    width: int = 16
    per_patient: int = 10
    networks: int = 3
    epochs: int = 150

    def __post_init__(self) -> None:
        for setting in fields(self):
            require_count(setting.name, getattr(self, setting.name))


METHODS: Mapping[str, Callable[[ExperimentConfig], Method[dd.RealData]]] = {
    "DM from noise": lambda s: dd.DM(ipc=s.ipc, steps=s.steps, start="noise"),
    "DM from real images": lambda s: dd.DM(ipc=s.ipc, steps=s.steps, start="real"),
    "class means": lambda s: dd.BASELINES["means"](ipc=s.ipc),
    "random real images": lambda s: dd.BASELINES["random"](ipc=s.ipc),
}
"""Recipes and baselines, all with soft labels of a teacher and with an equal storage budget."""


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:  # noqa: ARG001
    """Return accuracies, privacy audit and exceeded default limits of a set.

    The test split is unused, because its images have no simulated patient.
    """
    rng = dd.generator("share", run.seed)
    records, patients = simulated_patients(train, config.per_patient, derive(rng, "patients"))
    options = {"width": config.width, "depth": 2}
    began = time.perf_counter()
    release = prepare_release(
        records,
        patients if run["split"] == "patient" else torch.arange(len(records)),
        recipe=TeacherLabels(recipe=METHODS[run.method](config)),
        make_student=dd.network_factory("convnet", records.image_shape, records.num_classes, **options),
        seed=derive(rng, "release"),
        terms=_TERMS,
        protocol=dd.TrainingProtocol(name="quick", network_options=options, epochs=config.epochs, lr=0.03),
        networks=config.networks,
    )
    return {
        **asdict(release.audit.figures),
        **release.audit.record,
        "broken": ExportLimits().broken(release.audit, release.distilled.certificate),
        "bytes": release.distilled.manifest.storage.bytes,
        "seconds": time.perf_counter() - began,
    }


def _split(word: str) -> str:
    require(word in ("patient", "image"), "split", "be patient or image", word)
    return word


def _votes(group: RunGroup) -> str:
    return percent_of("", "groups").text(group) if group.at["split"] == "patient" else "–"


def _verdict(group: RunGroup) -> str:
    refused, runs = sum(bool(result["broken"]) for result in group.results), len(group.results)
    return f"refused {refused} of {runs}" if refused else f"let out {runs} of {runs}"


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    if group.at["split"] != "patient":
        return []
    best = statistics.fmean(max(r["membership_auc"], r["distance_auc"]) for r in group.results)
    return [(best, 100 * statistics.fmean(r["balanced"] for r in group.results))]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.share",
    text="Assign images to simulated patients, distil, audit the privacy of each set and check the default limits.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    axes={"split": Axis("patient,image", "Units of the held-out split, separated by commas: patient, image.", _split)},
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
