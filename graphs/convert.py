"""The graphs as objects of igraph, networkx and PyTorch Geometric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import igraph
    import networkx
    from torch_geometric.data import Data, HeteroData

    from graphs.exposures import ExposureGraph
    from graphs.measurements import MeasurementGraph


def bare_igraph(graph: ExposureGraph) -> igraph.Graph:
    """Make an igraph.Graph of the exposure graph without attributes; edge i is link i."""
    import igraph

    return igraph.Graph(n=graph.n_exposures, edges=graph.pairs())


def to_igraph(graph: ExposureGraph) -> igraph.Graph:
    """Make an igraph.Graph: edges with ``n_shared`` and ``weight``, vertices with ``exposure_id``."""
    out = bare_igraph(graph)
    out.es["n_shared"] = graph.n_shared.tolist()
    out.es["weight"] = graph.weight.tolist()
    if graph.exposure_ids is not None:
        out.vs["exposure_id"] = graph.exposure_ids.to_list()
    return out


def to_networkx(graph: ExposureGraph) -> networkx.Graph:
    """Make a networkx.Graph: nodes 0, 1, ..., edges with ``n_shared`` and ``weight``."""
    import networkx

    out = networkx.Graph()
    out.add_nodes_from(range(graph.n_exposures))
    if graph.exposure_ids is not None:
        networkx.set_node_attributes(out, dict(enumerate(graph.exposure_ids.to_list())), "exposure_id")
    links = zip(graph.pairs().tolist(), graph.n_shared.tolist(), graph.weight.tolist(), strict=True)
    out.add_edges_from((e, f, {"n_shared": n, "weight": w}) for (e, f), n, w in links)
    return out


def to_pyg(graph: ExposureGraph) -> Data:
    """Make PyTorch Geometric Data of the exposure graph.

    Returns
    -------
    Data
        ``num_nodes`` exposures; ``edge_index`` (2, 2 n_links) int64 with every link in both directions, sorted;
        ``edge_attr`` (2 n_links, 2) float32: n_shared, weight (mag**-2).
    """
    import torch
    from torch_geometric.data import Data

    pairs = graph.pairs().astype(np.int64)
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    by_source = np.lexsort((ends[:, 1], ends[:, 0]))
    values = np.column_stack([graph.n_shared, graph.weight]).astype(np.float32)
    return Data(
        num_nodes=graph.n_exposures,
        edge_index=torch.from_numpy(np.ascontiguousarray(ends[by_source].T)),
        edge_attr=torch.from_numpy(np.concatenate([values, values])[by_source]),
    )


def hetero_data(graph: MeasurementGraph, measurement_nodes: bool = False, exposure_links: bool = True) -> HeteroData:
    """Make PyTorch Geometric HeteroData of the bipartite graph.

    Parameters
    ----------
    graph
        Stars and exposures.
    measurement_nodes
        Make measurements nodes as well, each with an edge to its star and to its exposure, both ways.
    exposure_links
        Add the exposure graph (unit weights), as in `to_pyg`.

    Returns
    -------
    HeteroData
        Node types star, exposure (and measurement, with ``row`` its input row). Edge types, each ``edge_index`` int64:
        (star, seen_in, exposure) sorted by star with ``row`` the input row of each edge; (exposure, sees, star), the
        same edges reversed; (exposure, shares_stars_with, exposure) with ``edge_attr``; and where asked
        (measurement, of, star), (star, has, measurement), (measurement, in, exposure), (exposure, holds, measurement).
    """
    import torch
    from torch_geometric.data import HeteroData

    star = torch.from_numpy(graph.star().astype(np.int64))
    exposure = torch.from_numpy(graph.exposure.astype(np.int64))
    row = torch.from_numpy(graph.order.astype(np.int64))
    out = HeteroData()
    out["star"].num_nodes = graph.n_stars
    out["exposure"].num_nodes = graph.n_exposures
    out["star", "seen_in", "exposure"].edge_index = torch.stack([star, exposure])
    out["star", "seen_in", "exposure"].row = row
    out["exposure", "sees", "star"].edge_index = torch.stack([exposure, star])
    out["exposure", "sees", "star"].row = row
    if measurement_nodes:
        node = torch.arange(graph.n_measurements)
        out["measurement"].num_nodes = graph.n_measurements
        out["measurement"].row = row
        out["measurement", "of", "star"].edge_index = torch.stack([node, star])
        out["star", "has", "measurement"].edge_index = torch.stack([star, node])
        out["measurement", "in", "exposure"].edge_index = torch.stack([node, exposure])
        out["exposure", "holds", "measurement"].edge_index = torch.stack([exposure, node])
    if exposure_links:
        links = to_pyg(graph.exposure_graph())
        out["exposure", "shares_stars_with", "exposure"].edge_index = links.edge_index
        out["exposure", "shares_stars_with", "exposure"].edge_attr = links.edge_attr
    return out
