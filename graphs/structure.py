"""What holds the exposure graph together, by igraph: bridges, articulation exposures, spanning trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from graphs.convert import bare_igraph

if TYPE_CHECKING:
    from graphs.exposures import ExposureGraph

Int32s = NDArray[np.int32]


def bridges(graph: ExposureGraph) -> Int32s:
    """Links whose removal splits a component: (n_bridges, 2) int32, sorted."""
    edges = np.array(sorted(bare_igraph(graph).bridges()), np.int64)
    return graph.pairs()[edges]


def articulation_exposures(graph: ExposureGraph) -> Int32s:
    """Exposures whose removal splits a component, ascending int32."""
    return np.array(sorted(bare_igraph(graph).articulation_points()), np.int32)


def spanning_tree(graph: ExposureGraph) -> Int32s:
    """Links of a spanning forest with the greatest sum of shared stars: (n_exposures - n_components, 2) int32, sorted.

    Of links with equally many stars the one with more weight is taken.
    """
    if graph.n_links == 0:
        return np.zeros((0, 2), np.int32)
    rank = np.empty(graph.n_links)
    rank[np.lexsort((graph.weight, graph.n_shared))] = np.arange(graph.n_links)
    edges = bare_igraph(graph).spanning_tree(weights=-rank, return_tree=False)
    return graph.pairs()[np.array(sorted(edges), np.int64)]
