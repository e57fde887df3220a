"""`ddsdk evaluate`: judge a set beside the baselines, under one protocol."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.cli.console import out, table
from ddsdk.cli.options import DataOptions, make_student, names, network_options
from ddsdk.errors import require
from ddsdk.evaluation import Evaluation, Score

__all__ = ["Evaluate", "judge", "show_scores"]


@dataclass(frozen=True, kw_only=True)
class Evaluate(DataOptions):
    """Train fresh networks on a set, test them once, and print the baselines under the same protocol.

    Attributes:
        set: Folder of the artefact.
        networks: Networks to train, separated by commas. Empty takes the one of the protocol.
        protocol: stored: the one in the artefact. published: that of DC, DSA and DM. quick: for small machines,
            not comparable with papers.
        width: Width of the ConvNet; None takes the protocol's.
        depth: Depth of the ConvNet; None takes the protocol's.
        repeats: Fresh networks of each kind; None takes the protocol's.
        epochs: Epochs; None takes the protocol's.
        baselines: Baselines of the same size, separated by commas.
        results: Folder of the scores, so that none is computed twice; `SET/results` if not given.
        seed: Root of every random number.
    """

    set: tyro.conf.Positional[Path]
    networks: str = ""
    protocol: Literal["stored", "published", "quick"] = "stored"
    width: int | None = None
    depth: int | None = None
    repeats: int | None = None
    epochs: int | None = None
    baselines: str = "random,herding,k-means"
    results: Path | None = None
    seed: int = 0

    def run(self) -> int:
        """Evaluate and print."""
        distilled = dd.Distilled.load(self.set)
        train, test = (data.with_preprocess(distilled.preprocess) for data in self.pair())
        chosen = names(self.networks)
        for network in chosen:
            require(network in dd.NETWORKS, "networks", f"be among {', '.join(dd.NETWORKS)}", network)
        protocol = self._protocol(Evaluation.from_dict(distilled.evaluation))
        for network in chosen or [protocol.network]:
            options = network_options(network, self.width, self.depth)
            if network == protocol.network:
                options = {**protocol.network_options, **options}
            evaluation = dataclasses.replace(protocol, network=network, network_options=options)
            results = self.set / "results" if self.results is None else self.results
            scores = judge(
                distilled, train, test, evaluation, names(self.baselines), results=results, seed=self.seed
            )
            show_scores(test.name, evaluation, scores)
        return 0

    def _protocol(self, stored: Evaluation) -> Evaluation:
        base = {
            "stored": stored,
            "published": Evaluation.published(stored.augmentation),
            "quick": Evaluation.quick(stored.augmentation),
        }[self.protocol]
        changes = {"networks": self.repeats, "epochs": self.epochs}
        given: dict[str, Any] = {k: v for k, v in changes.items() if v is not None}
        if self.epochs is not None and self.epochs != base.epochs:
            given["protocol"] = f"{base.protocol}, {self.epochs} epochs"
        return dataclasses.replace(base, **given)


def judge(
    distilled: dd.Distilled,
    train: dd.RealData,
    test: dd.RealData,
    evaluation: Evaluation,
    baselines: list[str],
    *,
    results: Path,
    seed: int,
) -> list[Score]:
    """Score a set and baselines of the same size under the same protocol.

    Args:
        distilled: The set.
        train: Where the baselines select from, in the set's value space.
        test: Held-out data, in the set's value space.
        evaluation: The protocol.
        baselines: Keys of `ddsdk.BASELINES`.
        results: Folder of kept scores.
        seed: Root of every random number.
    """
    for name in baselines:
        require(name in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", name)
    own = str(distilled.provenance.get("recipe", "set")).lower()
    scores = [dd.kept_score(results, own, distilled, test, evaluation, seed)]
    student = make_student(train, evaluation.network, dict(evaluation.network_options))
    for name in baselines:
        selection = BASELINES[name](ipc=distilled.ipc, augmentation=evaluation.augmentation)
        chosen = selection(train, make_student=student, rng=dd.generator(seed, name))
        scores.append(dd.kept_score(results, name, chosen, test, evaluation, seed))
    return scores


def show_scores(data: str, evaluation: Evaluation, scores: list[Score]) -> None:
    """Print scores as a table that says under which protocol they hold."""
    augmentation = evaluation.augmentation or "none"
    rows = [
        (s.name, str(s.images), f"{100 * s.mean:.2f} ± {100 * s.std:.2f}", f"{s.seconds:.0f}") for s in scores
    ]
    columns = ("trained on", "images", "test accuracy, %", "seconds")
    table(f"{data}, {evaluation.network_label}, protocol {evaluation.protocol}", columns, rows)
    out(
        f"{evaluation.networks} networks, {evaluation.epochs} epochs, augmentation {augmentation}, "
        "last epoch; labels as stored"
    )
