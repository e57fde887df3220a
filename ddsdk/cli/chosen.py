"""The method of `ddsdk distill`, which decides its options, and the budget."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from ddsdk.foundation import ArtifactError, require
from ddsdk.planning import MEASURED, METHODS, Choice, LabelKind, choose, made_of, read_boards
from ddsdk.recipes import IterativeRecipe

_BUDGET, _IPC = "5m", 10
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Method and defaults that a command line chooses before it is read as options.

    Attributes:
        recipe: Name of the method.
        method: The method whose fields are the defaults of further options.
        network: Default network of the students; empty for the one that the method's protocol names.
        network_options: Defaults of the options of its builder.
        budget: Seconds that the steps are to fit; None to take the method's own number.
        choice: Reason of the choice; None where the user named the method.
    """

    recipe: str
    method: Any
    network: str = ""
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    budget: float | None = None
    choice: Choice | None = None


def _option(words: Sequence[str], name: str) -> str | None:
    """Return the last value of an option, given as ``--name value`` or ``--name=value``; None if it is not there."""
    found = None
    for word, value in zip(words, [*words[1:], ""], strict=True):
        key, equals, rest = word.partition("=")
        if key.startswith("--") and key.replace("_", "-") == f"--{name}":
            found = rest if equals else value
    return found


def duration(text: str) -> float:
    """Return the seconds of 90, 90s, 10m or 1.5h."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(parts[1]) * _SECONDS[parts[2]] if parts else 0.0
    require(seconds > 0, "budget", "be a time such as 60s, 10m or 1.5h", text)
    return seconds


def chosen_method(words: Sequence[str]) -> Chosen:
    """Return the method that a command line names, or the winner of measured curves where it names none."""
    name, budget = _option(words, "recipe"), _option(words, "budget")
    seconds = None if budget is None else duration(budget)
    if name is None:
        return _winner(words, seconds or duration(_BUDGET))
    if name not in METHODS:
        near = get_close_matches(name.lower(), METHODS, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"recipe must be one of {', '.join(METHODS)}, got {name!r}{hint}")
    for other in ("label-kind", "measured"):
        value = _option(words, other)
        require(value is None, other, f"be left out with --recipe {name}: it chooses a recipe", value)
    method: Any = METHODS[name]
    if seconds is not None:
        stepped = issubclass(method, IterativeRecipe)
        require(stepped, "budget", f"be left out for {name}, which has no steps", budget)
        count = method.length
        require(_option(words, count) is None, "budget", f"be left out where {count} are given", budget)
    return Chosen(recipe=name, method=method(), budget=seconds)


def _winner(words: Sequence[str], budget: float) -> Chosen:
    kind = _option(words, "label-kind") or "hard"
    require(kind in get_args(LabelKind), "label-kind", f"be one of {', '.join(get_args(LabelKind))}", kind)
    ipc = _option(words, "ipc") or ""
    choice = choose(
        read_boards(Path(_option(words, "measured") or MEASURED)),
        kind=kind,  # type: ignore[arg-type]  # checked above
        budget=budget,
        # What is no number is refused, with better words, by whoever reads the options.
        ipc=int(ipc) if ipc.isdecimal() else _IPC,
        data=_option(words, "data"),
    )
    entry, board = choice.entry, choice.board
    require(entry.recipe in METHODS, "measured", f"name methods among {', '.join(METHODS)}", entry.recipe)
    cls: Any = METHODS[entry.recipe]
    own = _option(words, "network") is None
    counted = _option(words, cls.length) is not None
    try:
        method = made_of(entry.recipe, {**entry.settings, "ipc": choice.ipc})
    except ValueError as error:
        rule = f"have parameters of {cls.__name__}"
        raise ArtifactError("measured", f"measured must {rule}, got: {error}") from None
    return Chosen(
        recipe=entry.recipe,
        method=method,
        network=board.network if own else "convnet",
        network_options=board.network_options if own else {},
        budget=None if counted else budget,
        choice=choice,
    )
