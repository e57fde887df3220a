"""Choice of the method of `ddsdk distill`, before the options of the command line are parsed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from ddsdk.foundation import ArtifactError, CheckedDataclass, PositiveInt, require
from ddsdk.planning import (
    LEADERBOARDS_PATH,
    METHODS,
    Choice,
    LabelKind,
    Leaderboard,
    choose_methods,
    method_from_parameters,
    nearest_leaderboard,
    preset,
    read_leaderboards,
    short_start,
)
from ddsdk.recipes import IterativeRecipe, Recipe

AUTO = "auto"
"""Name of the recipe that stands for the best of several on the user's data."""
_BUDGET, _IPC = "5m", 10
_CANDIDATES, _FIRST_CANDIDATE = 3, "dm"
"""Number of methods that auto tries, and the one that is tried first: its steps are short, and it suits most data."""
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class AnyRecipe(CheckedDataclass):
    """Parameters of `--recipe auto`, which has those of all recipes alone.

    Attributes:
        ipc: Images per class in the distilled set, at least 1.
    """

    ipc: PositiveInt = 10


@dataclass(frozen=True, kw_only=True)
class MethodChoice:
    """Method of a command line, with defaults for its options.

    Attributes:
        recipe: Name of the method, a key of `ddsdk.planning.METHODS`.
        method: Recipe or baseline whose parameters are the defaults of further options.
        network: Default student network; empty for the network of the method's protocol.
        network_options: Default options of the network's builder, by name.
        budget: Time budget of the run in seconds; None for the method's own number of steps.
        choice: Measurement behind the choice; None for a method that the command line names.
        settings: Settings for short runs, of a named method under a time budget, by name; empty for those of the paper.
        candidates: Methods of `--recipe auto`, which are tried on the user's data; empty for one method.
    """

    recipe: str
    method: Any
    network: str = ""
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    budget: float | None = None
    choice: Choice | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    candidates: tuple[IterativeRecipe, ...] = ()

    def summary(self) -> str:
        """Return the line that is printed before the run; empty for the settings of the paper."""
        if self.choice is not None:
            return self.choice.summary()
        values = {**self.settings, **self.network_options}
        if self.budget is None or not values:
            return ""
        settings = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"settings for short runs, where you set nothing else: {settings}"


def _option(words: Sequence[str], name: str) -> str | None:
    """Return the last value of an option ``--name value`` or ``--name=value``; None for an absent option."""
    value = None
    for word, next_word in zip(words, [*words[1:], ""], strict=True):
        key, equals, inline_value = word.partition("=")
        if key.startswith("--") and key.replace("_", "-") == f"--{name}":
            value = inline_value if equals else next_word
    return value


def duration(text: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 10m or 1.5h. Any other text is a ValueError."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(parts[1]) * _SECONDS[parts[2]] if parts else 0.0
    require(seconds > 0, "budget", "be a time such as 60s, 10m or 1.5h", text)
    return seconds


def chosen_method(words: Sequence[str]) -> MethodChoice:
    """Return the method that a command line names, or else the best measured method.

    An option that contradicts the choice, such as --budget with --steps, is a ValueError too.

    Raises:
        ValueError: If the named method does not exist.
    """
    name, budget = _option(words, "recipe"), _option(words, "budget")
    seconds = None if budget is None else duration(budget)
    if name is None:
        return _winner(words, seconds or duration(_BUDGET))
    if name == AUTO:
        return _auto(words, seconds or duration(_BUDGET))
    if name not in METHODS:
        similar = get_close_matches(name.lower(), METHODS, n=1, cutoff=0.3)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"recipe must be one of {AUTO}, {', '.join(METHODS)}, got {name!r}{hint}")
    for other in ("label-kind", "measured"):
        value = _option(words, other)
        require(value is None, other, f"be left out with --recipe {name}: it is for the choice of a recipe", value)
    method: Any = METHODS[name]
    if seconds is None:
        return MethodChoice(recipe=name, method=method())
    iterative = issubclass(method, IterativeRecipe)
    require(iterative, "budget", f"be left out for {name}, which has no steps", budget)
    length = method.length
    require(_option(words, length) is None, "budget", f"be left out if --{length} is given", budget)
    return _short_run(words, name, seconds)


def _short_run(words: Sequence[str], name: str, budget: float) -> MethodChoice:
    """Return a method with the settings for short runs: those of its measurement, or else its preset."""
    ipc = _ipc(words)
    leaderboard = nearest_leaderboard(read_leaderboards(LEADERBOARDS_PATH), ipc=ipc, data=_option(words, "data"))
    measured = {entry.recipe: entry.settings for entry in leaderboard.entries}
    settings = {**measured.get(name, preset(name, ipc)), **short_start(name)}
    return MethodChoice(
        recipe=name,
        method=method_from_parameters(name, {**settings, "ipc": ipc}),
        network_options=_network_options(words, leaderboard),
        budget=budget,
        settings=settings,
    )


def _auto(words: Sequence[str], budget: float) -> MethodChoice:
    """Return DM and the two most accurate other methods of the measurements, as candidates for trials."""
    choices = _choices(words, budget)
    leaderboard, ipc = choices[0].leaderboard, choices[0].ipc
    methods = [
        _measured_method(choice.entry.recipe, {**choice.entry.settings, **short_start(choice.entry.recipe)}, ipc)
        for choice in choices
    ]
    iterative = [method for method in methods if isinstance(method, IterativeRecipe)]
    candidates = sorted(iterative, key=lambda method: method.name != _FIRST_CANDIDATE)[:_CANDIDATES]
    require(bool(candidates), "measured", "hold a method with steps", [choice.entry.recipe for choice in choices])
    return MethodChoice(
        recipe=AUTO,
        method=AnyRecipe(ipc=ipc),
        network_options=_network_options(words, leaderboard),
        budget=budget,
        candidates=tuple(candidates),
    )


def _network_options(words: Sequence[str], leaderboard: Leaderboard) -> Mapping[str, Any]:
    return leaderboard.network_options if _option(words, "network") is None else {}


def _choices(words: Sequence[str], budget: float) -> list[Choice]:
    """Return the measured methods for the options of a command line, best first."""
    kind = _option(words, "label-kind") or "hard"
    require(kind in get_args(LabelKind), "label-kind", f"be one of {', '.join(get_args(LabelKind))}", kind)
    return choose_methods(
        read_leaderboards(Path(_option(words, "measured") or LEADERBOARDS_PATH)),
        kind=kind,  # type: ignore[arg-type]  # checked above
        budget=budget,
        ipc=_ipc(words),
        data=_option(words, "data"),
    )


def _measured_method(name: str, settings: Mapping[str, Any], ipc: int) -> Recipe:
    """Return a method of a file of measurements.

    Raises:
        ArtifactError: If a setting does not fit the method.
    """
    require(name in METHODS, "measured", f"name methods among {', '.join(METHODS)}", name)
    try:
        return method_from_parameters(name, {**settings, "ipc": ipc})
    except ValueError as error:
        parameters = f"parameters of {METHODS[name].__name__}"
        raise ArtifactError("measured", f"measured must have {parameters}, got: {error}") from None


def _ipc(words: Sequence[str]) -> int:
    ipc = _option(words, "ipc") or ""
    # Text that is no number gets its error message later, from the parser of the options.
    return int(ipc) if ipc.isdecimal() and int(ipc) else _IPC


def _winner(words: Sequence[str], budget: float) -> MethodChoice:
    choice = _choices(words, budget)[0]
    entry, leaderboard = choice.entry, choice.leaderboard
    method = _measured_method(entry.recipe, entry.settings, choice.ipc)
    return MethodChoice(
        recipe=entry.recipe,
        method=method,
        network=leaderboard.network if _option(words, "network") is None else "convnet",
        network_options=_network_options(words, leaderboard),
        budget=None if _option(words, method.length) is not None else budget,
        choice=choice,
    )
