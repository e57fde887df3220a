"""`python -m benchmarks.robustness`: clean and robust accuracy of robust distilled sets and of adversarial training."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Column, Plot, RunConfig, RunGroup, first_images, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count, require_positive
from ddsdk.judging import TrainingSet, trained_network
from ddsdk.training import kernel_machine, probabilities
from ddsdk_integrations.robustness import (
    FGSM,
    PGD,
    AdversarialLearning,
    AttackTrial,
    AutoAttack,
    KernelClassifier,
    RobustMatching,
    RobustnessJudge,
    Threat,
    TrainingPGD,
    UnitModel,
    square,
)

STEPS = 200
"""Maximum number of training steps on a distilled set, with batches of at most 256 images."""

_ATTACK = 3
"""Number of steps of PGD in training and distillation; the evaluation has 50."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        radii: Radii of the attacks in the linf norm, for pixels in 0..1, increasing.
        train_radius: Radius of the attacks in training and distillation, one of `radii`.
        attacked: Number of attacked test images.
        auto_attacked: Number of test images attacked with AutoAttack, on one network at `train_radius`; 0 for none.
        square_queries: Number of queries of the Square attack, on the first network with 50 images.
        restarts: Number of restarts of PGD-50.
        width: Width of all ConvNets.
        networks: Number of networks trained on each set.
        teacher_images: Number of real images of each class for training on real images and for robust teachers.
        teacher_epochs: Number of epochs of training on real images.
    """

    radii: tuple[float, ...] = (0.02, 0.05, 0.1)
    train_radius: float = 0.05
    attacked: int = 100
    auto_attacked: int = 20
    square_queries: int = 200
    restarts: int = 2
    width: int = 16
    networks: int = 3
    teacher_images: int = 500
    teacher_epochs: int = 10

    def __post_init__(self) -> None:
        for name in ("attacked", "square_queries", "restarts", "width", "networks", "teacher_images", "teacher_epochs"):
            require_count(name, getattr(self, name))
        require_count("auto_attacked", self.auto_attacked, least=0)
        require_positive("train_radius", self.train_radius)
        require(self.train_radius in self.radii, "train_radius", f"be one of {self.radii}", self.train_radius)
        _ = self.judge

    @property
    def threat(self) -> Threat:
        """Threat model of training and distillation."""
        return Threat("linf", self.train_radius)

    @property
    def judge(self) -> RobustnessJudge:
        """Robustness evaluation with all attacks."""
        auto = AttackTrial(AutoAttack(), (self.train_radius,), images=self.auto_attacked or 1, networks=1)
        trials = (
            AttackTrial(FGSM()),
            AttackTrial(PGD(restarts=self.restarts)),
            AttackTrial(square(self.square_queries), images=50, networks=1),
            *([auto] if self.auto_attacked else []),
        )
        return RobustnessJudge(
            norm="linf", radii=self.radii, trials=trials, images=self.attacked, networks=self.networks
        )


@dataclass(frozen=True, kw_only=True)
class Method:
    """Method of a row.

    Attributes:
        make: Function from images per class and the threat model to the recipe or baseline; None for real images.
        adversarial: Whether networks are trained adversarially on the set.
        robust_labels: Whether the labels come from an adversarially trained teacher.
        kernel: Whether kernel ridge regression is evaluated instead of networks.
        sizes: Numbers of images per class to measure; 0 for real images.
    """

    make: Callable[[int, Threat], Any] | None
    adversarial: bool = False
    robust_labels: bool = False
    kernel: bool = False
    sizes: tuple[int, ...] = (1, 10, 50)


def _random(ipc: int, threat: Threat) -> Any:  # noqa: ANN401, ARG001
    return dd.BASELINES["random"](ipc=ipc)


def _dm(ipc: int, threat: Threat) -> dd.DM:  # noqa: ARG001
    return dd.DM(ipc=ipc, steps=300, real_batch=64, augmentation="")


def _bptt(ipc: int, threat: Threat) -> dd.RaTBPTT:  # noqa: ARG001
    return dd.RaTBPTT(
        ipc=ipc, steps=100, student_steps=10, window=5, student_lr=3e-3, image_lr=0.01, real_batch=256, augmentation=""
    )


def _sre2l(ipc: int, threat: Threat, curvature: float = 0.0) -> dd.SRe2L:  # noqa: ARG001
    return dd.SRe2L(
        ipc=ipc,
        steps=300,
        start="real",
        teacher_epochs=10,
        teacher_images=500,
        teacher_curvature=curvature,
        teacher_curvature_step=1.0,
    )


def _kip(ipc: int, threat: Threat) -> dd.KIP:  # noqa: ARG001
    return dd.KIP(ipc=ipc, steps=300, real_batch=500)


def _adversarial_learning(make: Callable[[int, Threat], Any]) -> Callable[[int, Threat], AdversarialLearning]:
    return lambda ipc, threat: AdversarialLearning(recipe=make(ipc, threat), threat=threat, attack_steps=_ATTACK)


def _robust_matching(ipc: int, threat: Threat) -> RobustMatching:
    return RobustMatching(
        recipe=_dm(ipc, threat), threat=threat, attack_steps=_ATTACK, students="robust", network_images=500
    )


METHODS: Mapping[str, Method] = {
    "random images": Method(make=_random),
    "random images + adversarial training": Method(make=_random, adversarial=True),
    "dm": Method(make=_dm),
    "dm + adversarial training": Method(make=_dm, adversarial=True),
    "dm + robust labels": Method(make=_dm, robust_labels=True),
    "robust matching of dm": Method(make=_robust_matching, sizes=(10,)),
    "sre2l": Method(make=_sre2l, sizes=(10,)),
    "guard": Method(make=partial(_sre2l, curvature=10.0), sizes=(10,)),
    "rat-bptt": Method(make=_bptt, sizes=(10,)),
    "robust data set learning": Method(make=_adversarial_learning(_bptt), sizes=(10,)),
    "kip (kernel)": Method(make=_kip, kernel=True, sizes=(10,)),
    "adversarial kip (kernel)": Method(make=_adversarial_learning(_kip), kernel=True, sizes=(10,)),
    "adversarial kip": Method(make=_adversarial_learning(_kip), sizes=(10,)),
    "real images": Method(make=None, sizes=(0,)),
    "real images + adversarial training": Method(make=None, adversarial=True, sizes=(0,)),
}
"""Methods by name. All networks have the same architecture, so that rows differ only by set and training."""


def values(method: str, axis: str, known: Sequence[Any]) -> list[Any]:  # noqa: ARG001
    """Return the numbers of images per class to measure for a method; 0 for real images.

    Args:
        method: Name of the method, a key of `METHODS`.
        axis: Name of the axis, always ``"ipc"``.
        known: Numbers of images per class that the command line names.
    """
    return [size for size in METHODS[method].sizes if size in (0, *known)]


def about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:
    """Return the class and the parameters of the recipe or baseline of a run."""
    make = METHODS[run.method].make
    if make is None:
        return {"class": "real"}
    recipe = make(run["ipc"], config.threat)
    return {"class": type(recipe).__name__, **dataclasses.asdict(recipe)}


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the accuracies under all attacks, warnings and seconds."""
    rng = dd.generator("robustness", run.seed)
    row = row_networks(run, config, config.judge, train, rng)
    report = config.judge(row.models, test, seed=derive(rng, "attack"), name=run.method).to_dict()
    auto_attack = [accuracies for name, _, accuracies in report["attacks"] if name == "AutoAttack"]
    return {
        **report,
        **{_key(radius): accuracies for radius, accuracies in report["worst"]},
        "auto": auto_attack[0] if auto_attack else None,
        "seconds_distil": row.seconds_distil,
        "seconds_train": row.seconds_train / len(row.models),
    }


class Row(NamedTuple):
    """Trained networks of a row with their cost.

    Attributes:
        models: Trained networks, or one kernel regression.
        seconds_distil: Seconds of the distillation, training of a robust teacher included.
        seconds_train: Seconds of the training of all networks.
    """

    models: list[UnitModel]
    seconds_distil: float
    seconds_train: float


def row_networks(
    run: RunConfig, config: ExperimentConfig, judge: RobustnessJudge, train: dd.RealData, rng: torch.Generator
) -> Row:
    """Return the networks of a run, trained by its method.

    Args:
        run: Coordinates of the run.
        config: Settings of distillation and training.
        judge: Robustness evaluation, which has the number of networks.
        train: Training images that are distilled.
        rng: Random generator of the run.
    """
    method = METHODS[run.method]
    real = first_images(train, config.teacher_images)
    batch, own_protocol = real.batch(torch.arange(len(real))), None
    seconds = 0.0
    if method.make is not None:
        distilled, seconds = _cached_set(method.make(run["ipc"], config.threat), train, config.width, run.seed)
        batch = dd.Batch(distilled.images.to(train.device), distilled.labels.to(train.device))
        own_protocol = dd.TrainingProtocol.from_dict(distilled.protocol)
    adversary = TrainingPGD(preprocess=train.preprocess, threat=config.threat, steps=_ATTACK)
    began = time.perf_counter()
    if method.robust_labels:
        real_batch, teacher_rng = real.batch(torch.arange(len(real))), derive(rng, "teacher")
        protocol = _training_protocol(config, None)
        teacher = trained_network(TrainingSet(real_batch, protocol), 0, rng=teacher_rng, adversary=adversary)
        batch = dd.Batch(batch.x, probabilities(teacher.eval(), batch.x))
    distilled_at = time.perf_counter()
    if method.kernel and own_protocol is not None:
        machine = kernel_machine(own_protocol.network, **own_protocol.network_options)
        models = [UnitModel(KernelClassifier(machine, batch), train.preprocess)]
    else:
        training = _training_protocol(config, None if method.make is None else len(batch.x))
        attack = adversary if method.adversarial else None
        models = judge.networks_of(batch, train, training, seed=derive(rng, "judge"), adversary=attack)
    return Row(models, seconds + distilled_at - began, time.perf_counter() - distilled_at)


@lru_cache(maxsize=4)
def _cached_set(recipe: Any, train: dd.RealData, width: int, seed: int) -> tuple[dd.Distilled, float]:  # noqa: ANN401
    """Return a distilled set and the seconds of its distillation, cached for other methods of the same command."""
    make = dd.network_factory("convnet", train.image_shape, train.num_classes, width=width)
    began = time.perf_counter()
    distilled = dd.distill(recipe, train, make_student=make, seed=dd.generator("robustness", seed))
    return distilled, time.perf_counter() - began


def _training_protocol(config: ExperimentConfig, images: int | None) -> dd.TrainingProtocol:
    """Return the training protocol for a number of distilled images; None for real images."""
    # Smaller batches for real images: few epochs would otherwise have too few steps.
    epochs, batch_size = (config.teacher_epochs, 64) if images is None else (min(300, STEPS // -(-images // 256)), 256)
    return dataclasses.replace(
        dd.TrainingProtocol.published(),
        network_options={"width": config.width},
        epochs=epochs,
        batch_size=batch_size,
        labels="probabilities",
    )


def _key(radius: float) -> str:
    return f"linf {radius:g}"


def _points(row: RunGroup) -> list[tuple[float | None, float]]:
    """Return points of radius, 0 without an attack, and accuracy under the worst attack in percent."""
    keys = {0.0: "clean", **{radius: _key(radius) for radius, _ in row.results[0]["worst"]}}
    return [(x, 100 * statistics.fmean(statistics.fmean(r[key]) for r in row.results)) for x, key in keys.items()]


def _ordered(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups sorted by images per class, real images last, and by accuracy at the largest radius."""
    return sorted(groups, key=lambda group: (group.at["ipc"] or sys.maxsize, -_points(group)[-1][1]))


def _columns(rows: Sequence[RunGroup]) -> list[Column]:
    return [
        percent_of("clean, %", "clean"),
        *(percent_of(f"{_key(radius)}, %", _key(radius)) for radius, _ in rows[0].results[0]["worst"]),
        percent_of("AutoAttack, %", "auto"),
        mean_of("s to distil", "seconds_distil", digits=0),
        mean_of("s to train", "seconds_train", digits=0),
        mean_of("s to attack", "seconds", digits=0),
        Column("warnings", lambda row: str(sum(len(result["warnings"]) for result in row.results))),
    ]


def _notes(groups: Sequence[RunGroup]) -> str:
    lines = [
        f"- {group.method}, {group.at['ipc'] or 'real'}: {warning}\n"
        for group in groups
        for result in group.results
        for warning in result["warnings"]
    ]
    return "".join(lines)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.robustness",
    text="Train networks on distilled sets, attack them and compare their robust accuracy with adversarial training.",
    config=ExperimentConfig,
    methods=METHODS,
    axes={"ipc": Axis("1,10,50", "Images per class, separated by commas; 0 stands for real images.")},
    values=values,
    about=about,
    measure=measure,
    rows=_ordered,
    columns=_columns,
    notes=_notes,
    line=lambda r: ", ".join(f"{x:g}: {100 * statistics.fmean(y):.1f}" for x, y in [[0, r["clean"]], *r["worst"]]),
    plot=Plot(
        lambda group: f"radii-{group.at['ipc'] or 'real'}.png",
        _points,
        "radius (linf, unit range)",
        "accuracy under the worst attack, %",
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
