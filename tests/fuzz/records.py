"""Readers of tables, curves and leaderboards, and of the text files of integrations."""

from __future__ import annotations

import atheris
from inputs import refused_or, refusing, written

with atheris.instrument_imports(include=["ddsdk", "ddsdk_integrations"]):
    from ddsdk.experiments.curve import read_curves
    from ddsdk.experiments.table import read_table
    from ddsdk.planning import read_leaderboards
    from ddsdk_integrations.nas import read_accuracies
    from ddsdk_integrations.recommend import Interactions

READERS = (read_table, read_curves, read_leaderboards)


def results(data):
    """The file of a table, of curves or of leaderboards."""
    for read in READERS:
        refusing(lambda read=read: read(written("results.json", data)))


def cells(data):
    refused_or(lambda: read_accuracies(written("cells.csv", data), "cifar10"))


def ratings(data):
    refused_or(lambda: Interactions.from_csv(written("ratings.csv", data)))


def graphs(data):
    from ddsdk_integrations.graph import read_text_graphs

    refused_or(lambda: read_text_graphs(written("graphs.txt", data)))
