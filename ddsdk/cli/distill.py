"""`ddsdk distill`: distils a data set into an artefact."""

from __future__ import annotations

import dataclasses
import math
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from ddsdk import artefact, data, foundation, judging, networks, planning, running, synthetic
from ddsdk.cli.console import err, open_line, out, progress, readable_seconds
from ddsdk.cli.method_choice import MethodChoice, chosen_method
from ddsdk.cli.options import DataOptions, NetworkOptions, student_factory
from ddsdk.foundation import DivergedError
from ddsdk.recipes import IterativeRecipe, Recipe, student_network

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.data import RealData
    from ddsdk.running import CostEstimate, Job, Run
    from ddsdk.students import TrainedRuns


_STOP = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
# Under a time budget: share of the training images for the validation, width and images of a validation network.
_HELD_OUT, _NARROW, _IMAGES_PER_LOOK, _LEAST_EPOCHS, _LEAST_CLASS = 0.1, 32, 30_000, 50, 20
_TRAINING = 0.5
"""Largest share of a time budget for the training of experts, pools and teachers."""
_VALIDATION = ("validation", "validate_every", "validation_epochs", "validation_width")


@dataclass(frozen=True, kw_only=True)
class DistillOptions(NetworkOptions, DataOptions):
    """Distil a data set and save the distilled set as an artefact.

    Without --recipe, the method with the highest measured accuracy for the label kind and the time budget is chosen,
    with its measured settings. `ddsdk winners` lists these measurements.

    Attributes:
        out: Folder of the artefact. During the run it holds the checkpoint.
        recipe: Name of the method; `ddsdk recipes` lists all. The parameters of the method are further options below.
        label_kind: Labels that networks will be trained with, for the choice of the method without --recipe. hard: one
            class per image, with cross-entropy. soft: the labels and the training protocol of the method.
        budget: Time budget of the run on this machine, such as 60s, 10m or 1.5h. The number of steps is reduced to fit
            it. With --recipe, give --budget or the number of steps, not both. Without --recipe: 5m by default, and an
            explicit number of steps stays.
        measured: Measured curves for the choice of the method without --recipe, a file of `ddsdk winners --out`.
            Default: the measurements in the package.
        resume: Whether the run in `out` continues from its last checkpoint. The result is identical, bit for bit, to
            that of an uninterrupted run.
        start_from: Folder of a distilled set whose images initialise the new ones, instead of the recipe's `start`. The
            first images of each class are used, as many as the recipe stores.
        seed: Seed of all random numbers.
        network: Student network: a name of the catalogue (convnet, resnet18 ...), torchvision:NAME, timm:NAME, or
            package.module:NAME of a class, function or module of your own, which is imported. Default: the network of
            the method's protocol, with its options. --width, --depth and --norm override these options.
        checkpoint_seconds: Seconds between two checkpoints.
        validation: Fraction of the training images, such as 0.1, held out to select the best set of the run, its start
            included (early stopping). 0: no images are held out and the set of the last step is saved. None: 0.1 with a
            time budget, if each class has 20 images and enough for the set, and 0 otherwise.
        validate_every: Steps between two validations. With a time budget they are spread over the run instead.
        validation_epochs: Maximum number of training epochs of the validation network; the recipe's protocol may have
            fewer.
        validation_width: Width (channels per layer) of the validation network.
        small_classes: Treatment of classes with fewer images than the set needs. refuse: an error. repeat: augmented
            repeats of their images fill the class. fewer: as repeat, but the saved set has no more images of such a
            class than the data.
    """

    out: Path
    chosen: ClassVar[MethodChoice | None] = None

    recipe: str = "dm"
    label_kind: Literal["hard", "soft"] = "hard"
    budget: str | None = None
    measured: Path | None = None
    resume: bool = False
    start_from: Path | None = None
    seed: int = 0
    network: str = ""
    checkpoint_seconds: float = 30.0
    validation: float | None = None
    validate_every: int = 100
    validation_epochs: int = 300
    validation_width: int = 64
    small_classes: Literal["refuse", "repeat", "fewer"] = "refuse"

    def run(self) -> int:
        """Return the exit code after distilling."""
        method: Recipe = self.method  # type: ignore[attr-defined]
        if self.chosen is not None and self.chosen.summary():
            out(self.chosen.summary())
        return run_recipe(method, self.train(), self, told_to_resume=self.resume)

    def students(self, method: Recipe, train: RealData) -> tuple[str, dict[str, Any]]:
        """Return the name of the student network and the options of its builder."""
        return student_network(method, train, self.network, self.network_options())

    def held_out_share(self, train: RealData) -> float:
        """Return the fraction of the training images to hold out."""
        if self.validation is not None:
            return self.validation
        if self.chosen is None or self.chosen.budget is None:
            return 0.0
        least = max(_LEAST_CLASS, math.ceil(self.method.ipc / (1 - _HELD_OUT)))  # type: ignore[attr-defined]
        if min(train.class_sizes) >= least:
            return _HELD_OUT
        foundation.note(f"no images are held out to choose the best set, because a class has fewer than {least} images")
        return 0.0

    def held_out(self, train: RealData) -> tuple[RealData, judging.Validation | None]:
        """Return the images to distil and the validation on the held-out images; None without validation."""
        if not self.validation:
            return train, None
        # The split does not depend on --seed, so that validation accuracies of several seeds are comparable.
        distilled_part, held_out = train.split(self.validation, foundation.generator("validation"))
        epochs, images = self.validation_epochs, train.num_classes * self.method.ipc  # type: ignore[attr-defined]
        if self.chosen is not None and self.chosen.budget is not None:
            epochs = min(epochs, max(_LEAST_EPOCHS, _IMAGES_PER_LOOK // images))
        return distilled_part, judging.Validation(
            held=held_out, every=self.validate_every, epochs=epochs, width=self.validation_width
        )


def distill_verb(args: Sequence[str]) -> type[Any]:
    """Return the dataclass of the options of `ddsdk distill`, the parameters of the method included.

    Args:
        args: Arguments of the command line. They name the method, or the best measured method is chosen.
    """
    # Other commands need no choice of a method: they do not read the file of measurements.
    words = args if args[:1] == ["distill"] else ["--recipe", "dm"]
    chosen = chosen_method(words)
    parameters: Any = Annotated[type(chosen.method), tyro.conf.arg(name="")]  # options without a prefix
    defaults: dict[str, Any] = {"recipe": chosen.recipe, "network": chosen.network, **chosen.network_options}
    if chosen.budget is not None and issubclass(type(chosen.method), IterativeRecipe):
        defaults |= {"validation_width": _NARROW}
    kinds = {f.name: f.type for f in dataclasses.fields(DistillOptions)}
    fields: list[Any] = [
        ("method", parameters, dataclasses.field(default_factory=lambda: chosen.method)),
        *((name, kinds[name], dataclasses.field(default=value)) for name, value in defaults.items()),
    ]
    command = make_dataclass(
        "Distill", fields, bases=(DistillOptions,), frozen=True, kw_only=True, namespace={"chosen": chosen}
    )
    command.__doc__ = DistillOptions.__doc__
    return command


def configuration(method: Recipe, train: RealData, options: DistillOptions, start: Distilled | None) -> dict[str, Any]:
    """Return all values that determine the result. A checkpoint is resumed only under an equal configuration."""
    import torch

    network, network_options = options.students(method, train)
    budget = _budget(method, options)
    own = network not in networks.NETWORKS and not networks.is_library_name(network)
    return {
        "recipe": options.recipe,
        **dataclasses.asdict(method),
        "network": network,
        **network_options,
        **({"function": _function(network, network_options, train)} if own else {}),
        **({} if budget is None else {"budget": budget}),
        "seed": options.seed,
        "data": train.fingerprint,
        **({} if start is None else {"start_from": start.content_id}),
        **({} if options.small_classes == "refuse" else {"small_classes": options.small_classes}),
        **({} if not options.validation else {name: getattr(options, name) for name in _VALIDATION}),
        "zca": options.zca,
        "device": train.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def run_recipe(method: Recipe, train: RealData, options: DistillOptions, *, told_to_resume: bool = False) -> int:
    """Run a recipe or baseline and save the distilled set in the folder of the options.

    Args:
        method: Recipe or baseline with its parameters.
        train: Training data to distil.
        options: Options of `ddsdk distill`, such as folder, network and seed.
        told_to_resume: Whether a missing checkpoint is reported.

    Returns:
        Exit code: 0 for a saved set, 75 for a stopped run that can be resumed.

    Raises:
        DivergedError: If the run diverges, or the folder holds a diverged run.
        ValueError: If validation is on for a method without steps.
    """
    if options.validation and not isinstance(method, IterativeRecipe):
        raise ValueError(f"validation must be 0 for {options.recipe}, a method without steps, got {options.validation}")
    options = dataclasses.replace(options, validation=options.held_out_share(train))
    train, validation = options.held_out(train)
    counts = [min(method.ipc, size) for size in train.class_sizes]
    if options.small_classes != "refuse":
        train = data.repeat_small_classes(train, method.ipc)
    start = None if options.start_from is None else artefact.Distilled.load(options.start_from)
    network, network_options = options.students(method, train)
    student = student_factory(network, train, network_options)
    budget = _budget(method, options)
    if budget is not None and isinstance(method, IterativeRecipe):
        # A run that was stopped while its networks were trained has no configuration yet.
        stored = running.stored_config(options.out) if options.resume else None
        if stored is None:
            method = _with_training_within(budget, method, train, student, options.seed)
        else:
            method = _with_saved_fit(method, stored)
    config = configuration(method, train, options, start)
    with running.Job(options.out, config, resume=options.resume, every=options.checkpoint_seconds) as job:
        if job.finished:
            if job.diverged:
                raise DivergedError(
                    f"the run in {options.out} diverged; the folder holds its last finite set. "
                    "Lower --image-lr and choose another folder with --out"
                )
            out(f"the run in {options.out} is already finished")
            return 0
        if told_to_resume and not job.resumes:
            out(f"no checkpoint in {options.out}, starting at step 1")
        run = running.Run(method, train, make_student=student, seed=options.seed, start=start, validation=validation)
        if not _train_networks(run):
            missing = len(run.runs.missing) if run.runs is not None else 0
            err(f"stopped with {missing} networks left to train; {_resume_hint(options)}")
            return 75
        if options.small_classes == "fewer" and run.iterative:
            _check_fewer(options.recipe, run.distillation.plan.syn)
        estimate = None
        if budget is not None and not job.resumes:
            fit = run.fit(budget)
            estimate = fit.estimate
            if fit.fits < estimate.steps:
                err(f"the time budget of {budget:g} s is too short: the first step starts after {fit.spent:.0f} s")
            out(f"{estimate.steps} of {fit.planned} steps in the time budget of {budget:g} s")
            job.settle(configuration(run.method, train, options, start))  # type: ignore[arg-type]
        code = _finish(job, run, options, estimate, counts)
        if code:
            return code
    out(f"saved {options.out}")
    out(f"open with: {open_line(options.out)}")
    return 0


def _with_training_within(
    budget: float, method: IterativeRecipe, train: RealData, student: networks.NetworkFactory, seed: int
) -> IterativeRecipe:
    """Return a recipe whose experts, pool or teacher are trained within half of a time budget."""
    runs = running.Run(method, train, make_student=student, seed=seed).runs
    seconds = 0.0 if runs is None else runs.estimate()
    if seconds <= _TRAINING * budget:
        return method
    shorter = planning.with_shorter_training(method, max(train.class_sizes), _TRAINING * budget / seconds)
    fields = ", ".join(f"{name}={getattr(shorter, name)}" for name in method.training_fields)
    out(f"networks to train would take about {readable_seconds(seconds)}; their training is shortened: {fields}")
    return shorter


def _with_saved_fit(method: IterativeRecipe, stored: Mapping[str, Any]) -> IterativeRecipe:
    """Return a recipe with the number of steps and the training of networks of a stored configuration.

    The time budget is not fitted again on resuming, because a second measurement would give other numbers.
    """
    changes = {name: stored[name] for name in (method.length, *method.training_fields) if name in stored}
    return dataclasses.replace(method, **changes)


def _function(network: str, options: dict[str, Any], train: RealData) -> str:
    """Return the digest of a network of the user's, so that a run goes on under the same network alone."""
    student = student_factory(network, train, options)(foundation.generator("identity"))
    return networks.function_digest(student, train.image_shape)


def _budget(method: Recipe, options: DistillOptions) -> float | None:
    """Return the time budget of the run in seconds; None without a budget or for a method without steps."""
    iterative = isinstance(method, IterativeRecipe)
    return options.chosen.budget if iterative and options.chosen is not None else None


def _check_fewer(recipe: str, syn: synthetic.SyntheticSet) -> None:
    """Raise ValueError for a set from which single images cannot be left out."""
    plain = isinstance(syn.parametrization, synthetic.Pixels)
    plain &= syn.rate is None or not isinstance(syn.rate.rates, tuple)
    rule = f"be refuse or repeat for {recipe}, whose set is not stored as single images"
    foundation.require(plain, "small_classes", rule, "fewer")


def _finish(
    job: Job, run: Run[RealData], options: DistillOptions, estimate: CostEstimate | None, counts: Sequence[int]
) -> int:
    """Take the remaining steps and save the distilled set.

    A diverged run saves its last finite set and raises `DivergedError`.

    Args:
        job: Job of the run.
        run: Run with its trained networks.
        options: Options of `ddsdk distill`.
        estimate: Estimated cost of the run; None to measure it.
        counts: Images of each class to save with ``--small-classes fewer``.

    Returns:
        Exit code: 0 for a saved set, 75 for a stopped run.
    """
    if not run.iterative:
        job.finish(_result(run, options, counts))
        return 0
    loop, diverged = run.distillation, None
    with _collected_signals() as signals, progress("distilling", loop.plan.steps) as update:
        try:
            if job.steps_taken < loop.plan.steps:
                estimate = run.estimate() if estimate is None else estimate
                announce(estimate, job.steps_taken)
                foundation.require_free_disk(job.folder, estimate.disk, "the checkpoints and the set")
            for step in job.steps(run):
                if loop.validations and step.number == 1:
                    out(f"start: validation accuracy {loop.validations[0][1]:.2%}")
                reduced = f", learning rate reduced {loop.rate_reductions} times" if loop.rate_reductions else ""
                update(step.number, f"loss {step.loss:.4g}{reduced}")
                if loop.validations and loop.validations[-1][0] == step.number:
                    accuracies = [accuracy for _, accuracy in loop.validations]
                    out(f"step {step.number}: validation accuracy {accuracies[-1]:.2%}, best {max(accuracies):.2%}")
                if signals:
                    break
        except DivergedError as error:
            diverged = error
    if signals and loop.index < loop.plan.steps:
        err(f"stopped after step {loop.index}; {_resume_hint(options)}")
        return 75
    distilled = _result(run, options, counts)
    if run.distillation.validations:
        _announce_best(run.distillation.validations)
    if "start" in distilled.provenance:
        start = distilled.provenance["start"]
        out(f"started from {start['images']} images of {options.start_from}; {start['left_out']} were not used")
    job.finish(distilled)
    if loop.rate_reductions:
        err(f"the learning rate was reduced {loop.rate_reductions} times because values were not finite")
    if diverged:
        err(f"the last finite set was saved in {job.folder}")
        raise diverged
    return 0


def _announce_best(validations: Sequence[tuple[int, float]]) -> None:
    # Of equal scores the loop keeps the first one.
    step, score = max(validations, key=lambda validation: validation[1])
    which = f"step {step}" if step else "the start, which no later set exceeded"
    out(f"the set is that of {which}: validation accuracy {score:.2%}")


def _result(run: Run[RealData], options: DistillOptions, counts: Sequence[int]) -> Distilled:
    distilled = run.distilled()
    return distilled.first_of_classes(counts) if options.small_classes == "fewer" else distilled


def _resume_hint(options: DistillOptions) -> str:
    # `ddsdk demo` always resumes and has no option --resume.
    command = shlex.join([*sys.argv[1:], *([] if options.resume else ["--resume"])])
    return f"continue with: ddsdk {command}"


def _train_networks(run: Run[RealData]) -> bool:
    """Train the experts or teachers of a run that are not in the cache.

    Returns:
        Whether all of them are trained. False after a signal to stop.
    """
    runs = run.runs
    if runs is None or not runs.missing:
        return True
    missing, epochs = len(runs.missing), runs.training.epochs
    announce_runs(runs, missing)
    with _collected_signals() as signals, progress("training networks", missing * epochs) as update:
        for done, _ in run.prepare():
            update(done, f"network {-(-done // epochs)} of {missing}")
            if signals:
                return False
    return True


def announce_runs(runs: TrainedRuns, missing: int) -> None:
    """Print the number of experts or teachers to train and their size on disk, which must be free."""
    size = runs.nbytes * missing / len(runs) / 2**20
    out(
        f"{missing} of {len(runs)} networks are not trained yet: {runs.training.epochs} epochs each, "
        f"{size:.1f} MiB in {runs.folder}. They are cached for later runs"
    )
    foundation.require_free_disk(runs.folder, runs.nbytes * missing // len(runs), "the trained networks")


def announce(estimate: CostEstimate, taken: int = 0) -> None:
    """Print the estimated time, peak memory and disk space of a run.

    Args:
        estimate: Estimate of the whole run.
        taken: Number of finished steps of a resumed run; the printed time is that of the remaining ones.
    """
    remaining = estimate.steps - taken
    seconds = estimate.seconds * remaining / estimate.steps
    time = readable_seconds(seconds)
    steps = f"{remaining} of {estimate.steps} steps left" if taken else f"{estimate.steps} steps"
    out(f"{steps}, about {time}, peak memory {estimate.memory / 2**20:.0f} MiB, disk {estimate.disk / 2**20:.1f} MiB")


@contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Collect the signals to stop, so that a loop can end after a whole step. A second signal interrupts it at once.

    A process that ignores SIGHUP, as under ``nohup``, goes on ignoring it.

    Yields:
        Numbers of the received signals.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    # SIGHUP: a closed terminal. SIGQUIT: Ctrl and backslash. Windows has neither.
    numbers = [getattr(signal, name) for name in _STOP if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, receive) for number in caught}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
