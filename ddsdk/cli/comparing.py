"""The table of `ddsdk evaluate --compare`: a set beside real images, under its own and the common protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddsdk import judging, recipes
from ddsdk.cli.console import out, table
from ddsdk.foundation import write_atomic

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.data import RealData
    from ddsdk.experiments import SetComparison
    from ddsdk.training import TrainingProtocol


def common_protocol(distilled: Distilled, train: RealData) -> TrainingProtocol:
    """Return the protocol of all sets of the same data: the published one with hard labels and DSA augmentation.

    Args:
        distilled: Distilled set to be trained on.
        train: Real training data, which decide the operations of the augmentation.
    """
    return judging.published_protocol(distilled, recipes.augmentation_for(train, None))


def show_comparison(comparison: SetComparison, markdown: Path | None) -> None:
    """Print a finished comparison, and write it as markdown.

    Args:
        comparison: Comparison whose steps were taken.
        markdown: File to write. None for no file.
    """
    from ddsdk.experiments import comparison_markdown, comparison_text

    text = comparison_text(comparison)
    table(text.title, text.heads, text.rows)
    table("scores of DD-Ranking", ("score", "value", "definition"), text.scores)
    for note in text.notes:
        out(note)
    if markdown is not None:
        write_atomic(markdown, comparison_markdown(comparison).encode())
        out(str(markdown))
