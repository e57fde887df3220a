"""Choice of the method of `ddsdk distill`, before the options of the command line are parsed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from ddsdk.foundation import ArtifactError, require
from ddsdk.planning import (
    LEADERBOARDS_PATH,
    METHODS,
    Choice,
    LabelKind,
    choose_method,
    method_from_parameters,
    nearest_leaderboard,
    preset,
    read_leaderboards,
    short_start,
)
from ddsdk.recipes import IterativeRecipe

_BUDGET, _IPC = "5m", 10
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


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
    """

    recipe: str
    method: Any
    network: str = ""
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    budget: float | None = None
    choice: Choice | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
    if name not in METHODS:
        similar = get_close_matches(name.lower(), METHODS, n=1, cutoff=0.3)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"recipe must be one of {', '.join(METHODS)}, got {name!r}{hint}")
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
    default_network = _option(words, "network") is None
    return MethodChoice(
        recipe=name,
        method=method_from_parameters(name, {**settings, "ipc": ipc}),
        network_options=leaderboard.network_options if default_network else {},
        budget=budget,
        settings=settings,
    )


def _ipc(words: Sequence[str]) -> int:
    ipc = _option(words, "ipc") or ""
    # Text that is no number gets its error message later, from the parser of the options.
    return int(ipc) if ipc.isdecimal() and int(ipc) else _IPC


def _winner(words: Sequence[str], budget: float) -> MethodChoice:
    kind = _option(words, "label-kind") or "hard"
    require(kind in get_args(LabelKind), "label-kind", f"be one of {', '.join(get_args(LabelKind))}", kind)
    choice = choose_method(
        read_leaderboards(Path(_option(words, "measured") or LEADERBOARDS_PATH)),
        kind=kind,  # type: ignore[arg-type]  # checked above
        budget=budget,
        ipc=_ipc(words),
        data=_option(words, "data"),
    )
    entry, leaderboard = choice.entry, choice.leaderboard
    require(entry.recipe in METHODS, "measured", f"name methods among {', '.join(METHODS)}", entry.recipe)
    cls: Any = METHODS[entry.recipe]
    default_network = _option(words, "network") is None
    explicit_length = _option(words, cls.length) is not None
    try:
        method = method_from_parameters(entry.recipe, {**entry.settings, "ipc": choice.ipc})
    except ValueError as error:
        raise ArtifactError("measured", f"measured must have parameters of {cls.__name__}, got: {error}") from None
    return MethodChoice(
        recipe=entry.recipe,
        method=method,
        network=leaderboard.network if default_network else "convnet",
        network_options=leaderboard.network_options if default_network else {},
        budget=None if explicit_length else budget,
        choice=choice,
    )
