"""Condense a graph: 8 synthetic nodes stand for 2,000, as an ordinary PyG graph.

python examples/graph_condensation.py
"""

import dataclasses

import ddsdk
from ddsdk_integrations.graph import GRAPH_PROTOCOL, CoresetNodes, GCond, evaluate_graph, stochastic_blocks, to_data

# Your own: GraphData(data) for any PyG graph with masks; planetoid("cora", folder) reads local files.
graph = stochastic_blocks(2000, features=16, signal=0.6, homophily=0.9)
judge = dataclasses.replace(GRAPH_PROTOCOL, networks=2, epochs=60, network_options={"width": 32})

for name, method in {
    "random nodes": CoresetNodes(nodes=8),
    "GCond-X, no edges": GCond(nodes=8, structure="none", steps=40, feature_lr=0.01),
    "GCond, learned edges": GCond(nodes=8, steps=40, feature_lr=0.01, edge_turn=10, feature_turn=30),
}.items():
    condensed = ddsdk.distill(method, graph, seed=ddsdk.generator("run"))
    score = evaluate_graph(condensed, graph, judge, seed=0)
    print(f"{name}: {100 * score.mean:.1f} %, {condensed.manifest.storage.bytes} bytes")

condensed.save("out/condensed")
print(to_data(ddsdk.Distilled.load("out/condensed")))
