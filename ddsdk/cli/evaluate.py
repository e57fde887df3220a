"""`ddsdk evaluate`: judge a set beside the baselines, under one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.cli.console import out, progress, table
from ddsdk.cli.options import DataOptions, NetworkOptions, fitting_options, make_student, names
from ddsdk.errors import require
from ddsdk.evaluation import Evaluation, Score
from ddsdk.recipes import RECIPES
from ddsdk.text import escape_terminal

if TYPE_CHECKING:
    from ddsdk.judge import Progress

__all__ = ["Evaluate", "Row", "baseline_size", "follow", "judge", "show_scores"]


class Row(NamedTuple):
    """A score, and whether it was read from a file and not computed now."""

    score: Score
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Evaluate(NetworkOptions, DataOptions):
    """Train fresh networks on a set, test them once, and print the baselines under the same protocol.

    Attributes:
        set: Folder of the artefact.
        test: Test data, a folder or parquet file, where `data` has no test split of its own.
        networks: Networks to train, separated by commas. Empty takes the one of the protocol.
        protocol: stored: the one in the artefact. published: that of DC, DSA and DM. quick: for small machines,
            not comparable with papers. A changed one is named after its changes.
        repeats: Fresh networks of each kind; None takes the protocol's.
        epochs: Epochs; None takes the protocol's.
        baselines: Baselines of the same size, separated by commas.
        results: Folder of the scores, so that none is computed twice; `SET-results`, beside the set, if not given.
        fresh: Compute every score again.
        seed: Root of every random number.
    """

    set: tyro.conf.Positional[Path]
    test: str | None = None
    networks: str = ""
    protocol: Literal["stored", "published", "quick"] = "stored"
    repeats: int | None = None
    epochs: int | None = None
    baselines: str = "random,herding,k-means"
    results: Path | None = None
    fresh: bool = False
    seed: int = 0

    def run(self) -> int:
        """Evaluate and print."""
        from ddsdk.scores import results_folder

        distilled = dd.Distilled.load(self.set)
        train, test = (data.with_preprocess(distilled.preprocess) for data in self.pair(self.test))
        chosen = names(self.networks)
        for network in chosen:
            require(network in dd.NETWORKS, "networks", f"be among {', '.join(dd.NETWORKS)}", network)
        evaluations = self._evaluations(Evaluation.from_dict(distilled.evaluation), chosen)
        for evaluation in evaluations:
            rows = judge(
                distilled,
                train,
                test,
                evaluation,
                names(self.baselines),
                results=results_folder(self.set) if self.results is None else self.results,
                seed=self.seed,
                fresh=self.fresh,
            )
            show_scores(test.name, evaluation, rows)
        sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
        low, high, size = min(sizes), max(sizes), baseline_size(distilled, train)
        if low != size or high != size:
            count = f"{low} to {high}" if low < high else f"{high}"
            out(f"the set has {count} images per class, each baseline has {size}")
        return 0

    def _evaluations(self, stored: Evaluation, chosen: list[str]) -> list[Evaluation]:
        base = {
            "stored": stored,
            "published": Evaluation.published(stored.augmentation),
            "quick": Evaluation.quick(stored.augmentation),
        }[self.protocol]
        networks = chosen or [base.network]
        require(base.network in dd.NETWORKS, "network", f"be among {', '.join(dd.NETWORKS)}", base.network)
        found = []
        for network in networks:
            options = fitting_options(network, networks, self.network_options())
            changes: dict[str, Any] = {"epochs": self.epochs, "networks": self.repeats}
            found.append(base.changed(network=network, options=options, **changes))
        return found


def judge(
    distilled: dd.Distilled,
    train: dd.RealData,
    test: dd.RealData,
    evaluation: Evaluation,
    baselines: list[str],
    *,
    results: Path,
    seed: int,
    fresh: bool = False,
) -> list[Row]:
    """Score a set, and baselines that store as many floats, under the same protocol.

    Args:
        distilled: The set.
        train: Where the baselines select from, in the set's value space.
        test: Held-out data, in the set's value space.
        evaluation: The protocol.
        baselines: Keys of `ddsdk.BASELINES`.
        results: Folder of kept scores.
        seed: Root of every random number.
        fresh: Compute again what was kept.
    """
    from ddsdk.scores import scoring

    for name in baselines:
        require(name in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", name)
    student = make_student(train, evaluation.network, dict(evaluation.network_options))
    each, rows = evaluation.networks * evaluation.epochs, []
    with progress("judging", each * (1 + len(baselines))) as update:
        own = _method_name(distilled)
        steps = scoring(results, own, distilled, test, evaluation, seed, fresh=fresh)
        rows.append(follow(steps, own, update))
        for i, name in enumerate(baselines, 1):
            size = baseline_size(distilled, train)
            selection = BASELINES[name](ipc=size, augmentation=evaluation.augmentation)
            update(each * i, f"selecting {name}")
            chosen = selection(train, make_student=student, rng=dd.generator(seed, name))
            steps = scoring(results, name, chosen, test, evaluation, seed, fresh=fresh)
            rows.append(follow(steps, name, update, each * i))
    return rows


def baseline_size(distilled: dd.Distilled, train: dd.RealData) -> int:
    """Return the images per class of a baseline that stores as many floats as the set, or as there are."""
    return min(distilled.stored_ipc, *train.class_sizes)


def follow(steps: Iterator[Progress], name: str, update: Callable[[int, str], None], before: int = 0) -> Row:
    """Go through an evaluation, show how far it is, and return what came out.

    Args:
        steps: From `ddsdk.judge.evaluating` or `ddsdk.scores.scoring`.
        name: What is judged.
        update: From `ddsdk.cli.console.progress`.
        before: Epochs that are done already.
    """
    for step in steps:
        update(before + step.done, escape_terminal(name, 40))
    assert step.score is not None  # the last step of every evaluation has it
    return Row(step.score, step.kept)


def _method_name(distilled: dd.Distilled) -> str:
    recipe = str(distilled.provenance.get("recipe", "set"))
    classes = {method.__name__: name for name, method in {**RECIPES, **BASELINES}.items()}
    return classes.get(recipe, recipe.lower())


def show_scores(data: str, evaluation: Evaluation, rows: list[Row]) -> None:
    """Print scores as a table that says under which protocol they hold."""
    augmentation = evaluation.augmentation or "none"
    cells = [
        (
            escape_terminal(s.name),
            str(s.images),
            f"{100 * s.mean:.2f} ± {100 * s.std:.2f}",
            f"{s.seconds:.0f}{', kept' if kept else ''}",
        )
        for s, kept in rows
    ]
    columns = ("trained on", "images", "test accuracy, %", "seconds")
    title = f"{data}, {evaluation.network_label}, protocol {evaluation.protocol}"
    table(escape_terminal(title, 200), columns, cells)
    out(
        f"{evaluation.networks} networks, {evaluation.epochs} epochs, augmentation {augmentation}, "
        "last epoch; labels as stored"
    )
