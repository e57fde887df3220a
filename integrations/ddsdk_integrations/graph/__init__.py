"""Graph condensation with PyTorch Geometric: ``pip install 'ddsdk[graph]'``.

>>> import ddsdk
>>> from ddsdk_integrations.graph import GCond, stochastic_blocks, to_data
>>> graph = stochastic_blocks(400)
>>> distilled = ddsdk.distill(GCond(nodes=8, steps=2, structure="none"), graph, seed=0)
>>> to_data(distilled).x.shape
torch.Size([8, 32])
"""

# ruff: noqa: E402 - a missing library must raise its own error before the imports fail

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("torch_geometric", feature="Graph condensation", package="torch_geometric", extra="graph")

from ddsdk_integrations.graph.baselines import CoresetNodes as CoresetNodes
from ddsdk_integrations.graph.baselines import PropagatedNodes as PropagatedNodes
from ddsdk_integrations.graph.classification import GRAPHS_PROTOCOL as GRAPHS_PROTOCOL
from ddsdk_integrations.graph.classification import DosCondGraphs as DosCondGraphs
from ddsdk_integrations.graph.classification import RandomGraphs as RandomGraphs
from ddsdk_integrations.graph.classification import SyntheticGraphs as SyntheticGraphs
from ddsdk_integrations.graph.classification import evaluate_graphs as evaluate_graphs
from ddsdk_integrations.graph.classification import to_batch as to_batch
from ddsdk_integrations.graph.data import Graph as Graph
from ddsdk_integrations.graph.data import GraphData as GraphData
from ddsdk_integrations.graph.data import NodeSplit as NodeSplit
from ddsdk_integrations.graph.graph_sets import GraphSet as GraphSet
from ddsdk_integrations.graph.importing import import_condensed as import_condensed
from ddsdk_integrations.graph.importing import rebuilt_labels as rebuilt_labels
from ddsdk_integrations.graph.judge import GRAPH_PROTOCOL as GRAPH_PROTOCOL
from ddsdk_integrations.graph.judge import evaluate_graph as evaluate_graph
from ddsdk_integrations.graph.judge import to_data as to_data
from ddsdk_integrations.graph.judge import whole_graph_scores as whole_graph_scores
from ddsdk_integrations.graph.kernel import LabelledNodes as LabelledNodes
from ddsdk_integrations.graph.kernel import StructureKernel as StructureKernel
from ddsdk_integrations.graph.kernel import structure_gram_matrices as structure_gram_matrices
from ddsdk_integrations.graph.load import TextGraphs as TextGraphs
from ddsdk_integrations.graph.load import load_graph as load_graph
from ddsdk_integrations.graph.load import planetoid as planetoid
from ddsdk_integrations.graph.load import read_text_graphs as read_text_graphs
from ddsdk_integrations.graph.load import stochastic_blocks as stochastic_blocks
from ddsdk_integrations.graph.load import tolokers as tolokers
from ddsdk_integrations.graph.matching import GCDM as GCDM
from ddsdk_integrations.graph.matching import DosCond as DosCond
from ddsdk_integrations.graph.matching import GCond as GCond
from ddsdk_integrations.graph.networks import GRAPH_NETWORKS as GRAPH_NETWORKS
from ddsdk_integrations.graph.networks import graph_network as graph_network
from ddsdk_integrations.graph.networks import graph_student as graph_student
from ddsdk_integrations.graph.propagation import dense_normalised_adjacency as dense_normalised_adjacency
from ddsdk_integrations.graph.propagation import normalised_adjacency as normalised_adjacency
from ddsdk_integrations.graph.propagation import propagated as propagated
from ddsdk_integrations.graph.recipe import GraphRecipe as GraphRecipe
from ddsdk_integrations.graph.sfgc import SFGC as SFGC
from ddsdk_integrations.graph.sntk import GCSNTK as GCSNTK
from ddsdk_integrations.graph.structure import BernoulliEdges as BernoulliEdges
from ddsdk_integrations.graph.structure import PairwiseMLP as PairwiseMLP
from ddsdk_integrations.graph.structure import SelfExpressive as SelfExpressive
from ddsdk_integrations.graph.structure import Structure as Structure
from ddsdk_integrations.graph.structure import SyntheticNodes as SyntheticNodes
