"""Measured curves in the form that ships with the package, from which `ddsdk distill` chooses a method.

Nothing here needs torch: the choice is made before the options of the command line are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddsdk.foundation import read_json

MEASURED = Path(__file__).with_name("measured.json")
"""The curves that ship with the package."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The set of a method at one mark.

    Attributes:
        mark: CPU seconds at which the method was paused.
        seconds: CPU seconds until the first step that ended behind the mark.
        published: Accuracy of networks that train on a class for each image, under the published protocol.
        own: Accuracy under the method's own protocol and labels; None where that is the same thing.
    """

    mark: float
    seconds: float
    published: float
    own: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The curve of one method.

    Attributes:
        recipe: Name of the method.
        settings: Parameters that are not the defaults, without ipc.
        kernel: Whether its own protocol is a kernel machine: its sets do not train networks.
        seeds: Seeds of the runs whose mean the figures are.
        figures: Figures by mark, with one for each mark behind the end of a method that was done before.
    """

    recipe: str
    settings: dict[str, Any]
    kernel: bool = False
    seeds: tuple[int, ...] = (0,)
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Board:
    """Methods that were measured alike.

    Attributes:
        data: Name of the data.
        fingerprint: Fingerprint of the training data.
        ipc: Images per class.
        marks: CPU seconds at which methods were paused.
        network: Network of the students; empty for the one that each method's protocol names.
        network_options: Options of its builder, above those.
        held_out: Part of the training images that judged.
        threads: CPU threads.
        judge_networks: Networks of each judgement.
        judge_epochs: Most epochs of these, under the published protocol.
        judge_width: Width of these.
        versions: Versions of the software.
        entries: Curves of the methods.
    """

    data: str
    fingerprint: str
    ipc: int
    marks: tuple[float, ...]
    network: str
    network_options: dict[str, Any]
    held_out: float
    threads: int
    judge_networks: int
    judge_epochs: int | None
    judge_width: int | None
    versions: dict[str, str] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class _Boards:
    boards: tuple[Board, ...]


def read_boards(path: Path = MEASURED) -> tuple[Board, ...]:
    """Return the boards of a file that `ddsdk winners --out` wrote.

    Raises:
        ArtifactError: ``"measured"``, if the file holds no measured curves.
    """
    rule = f"{str(path)!r} must hold measured curves, as of ddsdk winners --out"
    return read_json(path.read_bytes(), _Boards, "measured", rule).boards
