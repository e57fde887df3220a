"""`ddsdk distill`: make a set."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from ddsdk import artefact, foundation, judging, networks, running
from ddsdk.cli.chosen import Chosen, chosen_method
from ddsdk.cli.console import err, open_line, out, progress
from ddsdk.cli.options import DataOptions, NetworkOptions
from ddsdk.foundation import DivergedError
from ddsdk.recipes import IterativeRecipe, Recipe, student_network

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.data import RealData
    from ddsdk.running import Estimate, Job, Run
    from ddsdk.students import TrainedRuns


_VALIDATION = ("validation", "validate_every", "validation_epochs", "validation_width")


@dataclass(frozen=True, kw_only=True)
class DistillOptions(NetworkOptions, DataOptions):
    """Distil a data set and save the result as an artefact.

    Without --recipe, the method is the one that measured best for the kind of labels and the budget, with the settings
    that it was measured with; `ddsdk winners` lists them.

    Attributes:
        out: Folder of the artefact. It holds the checkpoint while the run lasts.
        recipe: Method; `ddsdk recipes` lists them. Its parameters are further options.
        label_kind: Without --recipe, labels that networks will train on: hard for a class for each image and
            cross-entropy, as usual; soft for the labels and protocol that the method itself has.
        budget: Time that the run may take here, such as 60s, 10m or 1.5h: as many steps are taken as fit, of those
            that the method has. Without --recipe 5m if not given; then --steps keeps its own number.
        measured: Without --recipe, file of measured curves to choose from, see `ddsdk winners`; what ships with the
            package if not given.
        resume: Go on with the run in `out` from its last checkpoint, bit for bit.
        start_from: Folder of a set whose images the run starts from, in place of the recipe's own start: the first ones
            of each class, as many as the recipe stores.
        seed: Root of every random number.
        network: Network of the students; empty for the one that the method's protocol names, with its options.
            --width, --depth and --norm go above these.
        checkpoint_seconds: Seconds between checkpoints.
        validation: Part of the training images, such as 0.1, that is held out and chooses the best of the run's sets.
            With 0 the set of the last step is the result.
        validate_every: Steps between two looks at the held-out images.
        validation_epochs: Epochs of the network of such a look, where the recipe's protocol has more.
        validation_width: Channels of that network.
    """

    out: Path
    chosen: ClassVar[Chosen | None] = None

    recipe: str = "dm"
    label_kind: Literal["hard", "soft"] = "hard"
    budget: str | None = None
    measured: Path | None = None
    resume: bool = False
    start_from: Path | None = None
    seed: int = 0
    network: str = ""
    checkpoint_seconds: float = 30.0
    validation: float = 0.0
    validate_every: int = 100
    validation_epochs: int = 300
    validation_width: int = 64

    def run(self) -> int:
        """Distil."""
        method: Recipe = self.method  # type: ignore[attr-defined]
        if self.chosen is not None and self.chosen.choice is not None:
            out(self.chosen.choice.told())
        return run_recipe(method, self.train(), self, told_to_resume=self.resume)

    def students(self, method: Recipe, train: RealData) -> tuple[str, dict[str, Any]]:
        """Return the network of the students, and the options of its builder."""
        return student_network(method, train, self.network, self.network_options())

    def held_out(self, train: RealData) -> tuple[RealData, judging.Validation | None]:
        """Return the images to distil, and those that are held out, if any."""
        if not self.validation:
            return train, None
        # One split for all seeds: figures of several runs are of the same images.
        rest, held = train.split(self.validation, foundation.generator("validation"))
        return rest, judging.Validation(
            held=held, every=self.validate_every, epochs=self.validation_epochs, width=self.validation_width
        )


def distill_verb(args: Sequence[str]) -> type[Any]:
    """Return the options of `ddsdk distill`, with those of the recipe that `args` name or that is chosen for them."""
    # The options of the other verbs are read without a look at what was measured.
    words = args if args[:1] == ["distill"] else ["--recipe", "dm"]
    chosen = chosen_method(words)
    flat: Any = Annotated[type(chosen.method), tyro.conf.arg(name="")]
    defaults = {"recipe": chosen.recipe, "network": chosen.network, **chosen.network_options}
    kinds = {f.name: f.type for f in dataclasses.fields(DistillOptions)}
    fields: list[Any] = [
        ("method", flat, dataclasses.field(default_factory=lambda: chosen.method)),
        *((name, kinds[name], dataclasses.field(default=value)) for name, value in defaults.items()),
    ]
    verb = make_dataclass(
        "Distill", fields, bases=(DistillOptions,), frozen=True, kw_only=True, namespace={"chosen": chosen}
    )
    verb.__doc__ = DistillOptions.__doc__
    return verb


def configuration(method: Recipe, train: RealData, options: DistillOptions, start: Distilled | None) -> dict[str, Any]:
    """Return everything that the result depends on."""
    import torch

    network, network_options = options.students(method, train)
    budget = _budget(method, options)
    return {
        "recipe": options.recipe,
        **dataclasses.asdict(method),
        "network": network,
        **network_options,
        **({} if budget is None else {"budget": budget}),
        "seed": options.seed,
        "data": train.fingerprint,
        **({} if start is None else {"start_from": start.content_id}),
        **({} if not options.validation else {name: getattr(options, name) for name in _VALIDATION}),
        "zca": options.zca,
        "device": train.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def run_recipe(method: Recipe, train: RealData, options: DistillOptions, *, told_to_resume: bool = False) -> int:
    """Run a recipe or baseline in its folder; return the exit code.

    Args:
        method: A value of `RECIPES` or `BASELINES`.
        train: Data to distil.
        options: Folder, network, seed.
        told_to_resume: Whether a message says that there is nothing to resume.

    Raises:
        DivergedError: If the run diverges, or has done so before.
    """
    if options.validation and not isinstance(method, IterativeRecipe):
        raise ValueError(f"validation must be 0 for {options.recipe}, which has no steps to choose from")
    train, validation = options.held_out(train)
    start = None if options.start_from is None else artefact.Distilled.load(options.start_from)
    network, network_options = options.students(method, train)
    student = networks.network_factory(network, train.image_shape, train.num_classes, **network_options)
    budget = _budget(method, options)
    if budget is not None and options.resume and isinstance(method, IterativeRecipe):
        method = _as_begun(method, options.out)
    config = configuration(method, train, options, start)
    with running.Job(options.out, config, resume=options.resume, every=options.checkpoint_seconds) as job:
        if job.finished:
            if job.diverged:
                raise DivergedError(
                    f"the run in {options.out} diverged; the folder holds its last finite set. "
                    "Lower --image-lr and name another folder"
                )
            out(f"{options.out} is finished already")
            return 0
        if told_to_resume and not job.resumes:
            out(f"no checkpoint in {options.out}, starting at step 1")
        run = running.Run(method, train, make_student=student, seed=options.seed, start=start, validation=validation)
        if not _train(run):
            missing = len(run.runs.missing) if run.runs is not None else 0
            err(f"stopped with {missing} networks to train; {_go_on(options)}")
            return 75
        estimate = None
        if budget is not None and not job.resumes:
            fit = run.fit(budget)
            estimate = fit.estimate
            if fit.fits < estimate.steps:
                err(f"the budget of {budget:g} s is too short: {fit.spent:.0f} s go by before the first step")
            out(f"{estimate.steps} of {fit.planned} steps for a budget of {budget:g} s")
            job.settle(configuration(run.method, train, options, start))  # type: ignore[arg-type]
        code = _finish(job, run, options, estimate)
        if code:
            return code
    out(f"saved {options.out}")
    out(f"open it: {open_line(options.out)}")
    return 0


def _as_begun(method: IterativeRecipe, folder: Path) -> IterativeRecipe:
    """Return a recipe with the length that the run in a folder has: another trial would find another one."""
    value = (running.found_config(folder) or {}).get(method.length)
    return running.with_length(method, value) if isinstance(value, int) else method


def _budget(method: Recipe, options: DistillOptions) -> float | None:
    """Return the seconds that the steps are to fit, if any."""
    stepped = isinstance(method, IterativeRecipe)
    return options.chosen.budget if stepped and options.chosen is not None else None


def _finish(job: Job, run: Run[RealData], options: DistillOptions, estimate: Estimate | None) -> int:
    """Take the steps that are left and save the set; return the exit code."""
    if not run.iterative:
        job.finish(run.distilled())
        return 0
    loop, diverged = run.distillation, None
    with _graceful() as stopped, progress("distilling", loop.plan.steps) as update:
        try:
            if job.steps_taken < loop.plan.steps:
                announce(run.estimate() if estimate is None else estimate, job.steps_taken)
            for step in job.steps(run):
                reduced = f", learning rate reduced {loop.shrunk}x" if loop.shrunk else ""
                update(step.number, f"loss {step.loss:.4g}{reduced}")
                if loop.validations and loop.validations[-1][0] == step.number:
                    accuracy, best = loop.validations[-1][1], max(found for _, found in loop.validations)
                    out(f"step {step.number}: {accuracy:.2%} of the held-out images, best so far {best:.2%}")
                if stopped:
                    break
        except DivergedError as error:
            diverged = error
    if stopped and loop.index < loop.plan.steps:
        err(f"stopped after step {loop.index}; {_go_on(options)}")
        return 75
    made = run.distilled()
    if "start" in made.provenance:
        done = made.provenance["start"]
        out(f"started from {done['images']} images of {options.start_from}; {done['left_out']} were left out")
    job.finish(made)
    if loop.shrunk:
        err(f"the learning rate was reduced {loop.shrunk}x because values were not finite")
    if diverged:
        err(f"the last finite set was saved in {job.folder}")
        raise diverged
    return 0


def _go_on(options: DistillOptions) -> str:
    # A command that resumes anyway needs no option for it, and may know none.
    again = shlex.join([*sys.argv[1:], *([] if options.resume else ["--resume"])])
    return f"go on with: ddsdk {again}"


def _train(run: Run[RealData]) -> bool:
    """Train the networks that a run needs and that are not in the cache yet; tell whether all are there now."""
    runs = run.runs
    if runs is None or not runs.missing:
        return True
    missing, epochs = len(runs.missing), runs.training.epochs
    announce_runs(runs, missing)
    with _graceful() as stopped, progress("training networks", missing * epochs) as update:
        for done, _ in run.prepare():
            update(done, f"network {-(-done // epochs)} of {missing}")
            if stopped:
                return False
    return True


def announce_runs(runs: TrainedRuns, missing: int) -> None:
    """Print the number of networks to train before the first step, and their storage."""
    size = runs.nbytes * missing / len(runs) / 2**20
    out(
        f"{missing} of {len(runs)} networks are not trained yet: {runs.training.epochs} epochs each, "
        f"{size:.1f} MiB in {runs.folder}. Each is kept, and later runs find it there"
    )


def announce(estimate: Estimate, taken: int = 0) -> None:
    """Print steps, time and storage of a run, or of the rest of one that has `taken` steps behind it."""
    left = estimate.steps - taken
    seconds = estimate.seconds * left / estimate.steps
    time = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    steps = f"{left} of {estimate.steps} steps left" if taken else f"{estimate.steps} steps"
    out(f"{steps}, about {time}, peak memory {estimate.memory / 2**20:.0f} MiB, disk {estimate.disk / 2**20:.1f} MiB")


@contextmanager
def _graceful() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM so that the loop can end after a whole step; the second one does not wait."""
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
