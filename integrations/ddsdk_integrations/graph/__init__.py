"""Graph condensation with PyTorch Geometric: ``pip install 'ddsdk[graph]'``.

>>> from ddsdk_integrations.graph import GCond, evaluate_graph, stochastic_blocks, to_data
>>> graph = stochastic_blocks(2000)
>>> distilled = ddsdk.distill(GCond(nodes=40, structure="none"), graph, seed=0)
>>> score = evaluate_graph(distilled, graph, rng=ddsdk.generator("judge"))
>>> data = to_data(distilled)
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("torch_geometric", feature="Graph condensation", package="torch_geometric", extra="graph")

from ddsdk_integrations.graph.baselines import ChosenNodes, PropagatedNodes, whole_graph  # noqa: E402
from ddsdk_integrations.graph.classification import (  # noqa: E402
    GRAPHS_PROTOCOL,
    DosCondGraphs,
    RandomGraphs,
    SyntheticGraphs,
    evaluate_graphs,
    to_batch,
)
from ddsdk_integrations.graph.data import Graph, GraphData, Part  # noqa: E402
from ddsdk_integrations.graph.gcdm import GCDM  # noqa: E402
from ddsdk_integrations.graph.gcond import DosCond, GCond  # noqa: E402
from ddsdk_integrations.graph.graph_sets import GraphSet  # noqa: E402
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL, evaluate_graph, to_data  # noqa: E402
from ddsdk_integrations.graph.kernel import LabelledNodes, StructureKernel, by_structure  # noqa: E402
from ddsdk_integrations.graph.load import (  # noqa: E402
    TextGraphs,
    load_graph,
    planetoid,
    read_text_graphs,
    stochastic_blocks,
    tolokers,
)
from ddsdk_integrations.graph.networks import GRAPH_NETWORKS, graph_network  # noqa: E402
from ddsdk_integrations.graph.propagation import dense_normalised, normalised, propagated  # noqa: E402
from ddsdk_integrations.graph.recipe import GraphRecipe  # noqa: E402
from ddsdk_integrations.graph.sfgc import SFGC  # noqa: E402
from ddsdk_integrations.graph.sntk import GCSNTK  # noqa: E402
from ddsdk_integrations.graph.structure import BernoulliEdges, PairwiseMLP, SelfExpressive, Structure, SyntheticNodes  # noqa: E402
from ddsdk_integrations.graph.students import graph_student  # noqa: E402

__all__ = [
    "GCDM",
    "GCSNTK",
    "GRAPHS_PROTOCOL",
    "GRAPH_NETWORKS",
    "GRAPH_PROTOCOL",
    "SFGC",
    "BernoulliEdges",
    "ChosenNodes",
    "DosCond",
    "DosCondGraphs",
    "GCond",
    "Graph",
    "GraphData",
    "GraphRecipe",
    "GraphSet",
    "LabelledNodes",
    "PairwiseMLP",
    "Part",
    "PropagatedNodes",
    "RandomGraphs",
    "SelfExpressive",
    "Structure",
    "StructureKernel",
    "SyntheticGraphs",
    "SyntheticNodes",
    "TextGraphs",
    "by_structure",
    "dense_normalised",
    "evaluate_graph",
    "evaluate_graphs",
    "graph_network",
    "graph_student",
    "load_graph",
    "normalised",
    "planetoid",
    "propagated",
    "read_text_graphs",
    "stochastic_blocks",
    "to_batch",
    "to_data",
    "tolokers",
    "whole_graph",
]
