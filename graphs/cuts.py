"""Exposures that hang by a thread: cuts of the graph that few stars cross."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import depth_first_order

from graphs import kernels
from graphs.trees import stars_across, subtree_ends

if TYPE_CHECKING:
    from graphs.exposures import ExposureGraph

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Incidence = tuple[Int64s, Int32s]
Candidate = tuple[int, NDArray[np.integer[Any]]]  # stars across, groups of one side

EXACT_GROUPS = 48  # groups of a component up to which minimal cuts are found by maximum flows


@dataclass(frozen=True, eq=False)
class StarCut:
    """A division of a component that few stars cross.

    Attributes
    ----------
    n_stars : int
        Stars measured on both sides: without them the component falls apart.
    exposures : (m,) int32
        The side with fewer exposures, ascending.
    """

    n_stars: int
    exposures: Int32s


@dataclass(frozen=True, eq=False)
class WeakLinks:
    """What of an exposure graph hangs on few stars.

    Attributes
    ----------
    max_shared : int
        The most stars that count as few.
    n_tying_stars : (n_exposures,) int32
        For each exposure the distinct stars that tie it to any other; 0 if it is isolated.
    exposures : (m,) int32
        Exposures tied by at least one and at most ``max_shared`` stars.
    cuts : tuple of StarCut
        Fewest stars first.
    """

    max_shared: int
    n_tying_stars: Int32s
    exposures: Int32s
    cuts: tuple[StarCut, ...]


def weak_links(graph: ExposureGraph, max_shared: int = 10, max_cuts: int = 1000) -> WeakLinks:
    """Exposures and groups of exposures that at most ``max_shared`` stars tie to the rest of their component.

    Bridges miss most of these: one star in three exposures makes a triangle. Here stars are counted, not links.

    1. Exposures that share more than ``max_shared`` stars lie on one side of every cut looked for. They are merged
       into groups, shared stars are counted between groups, and so on until no two groups share so many. On a well
       linked survey this leaves one group per component, and no cut: that answer is exact.
    2. Between the groups left, every cut returned has its stars counted exactly. Looked at are each group alone, every
       cut that crosses the spanning tree with the most shared stars once (Steiner counts, O(n log n)), and in
       components of at most `EXACT_GROUPS` groups the minimal cut between any two groups (Gusfield 1990, with stars
       as hyperedges), so that there no pair held by few stars is missed.

    Parameters
    ----------
    graph
        With its stars (as `MeasurementGraph.exposure_graph` makes it); otherwise each shared star of each link is taken
        as a star of its own, and counts are upper bounds.
    max_shared
        The most stars that count as few.
    max_cuts
        The most cuts to return, those with fewest stars.
    """
    ptr, exposure = graph.incidence or _stars_of_links(graph, max_shared)
    if graph.incidence is None:
        n_tying = graph.adjacency(graph.n_shared).sum(axis=1).astype(np.int32)
    else:
        n_tying = kernels.count_tying(ptr, exposure, graph.n_exposures)
    hanging = np.flatnonzero((n_tying > 0) & (n_tying <= max_shared)).astype(np.int32)

    group, tied, between = _contract(graph, (ptr, exposure), max_shared)
    candidates = _group_cuts(tied, between) + _tree_cuts(tied, between) + _flow_cuts(tied, between)
    candidates = [cut for cut in candidates if 0 < cut[0] <= max_shared]
    candidates.sort(key=lambda cut: (cut[0], cut[1].size))
    in_component = np.bincount(graph.components(), minlength=1)
    cuts: dict[bytes, StarCut] = {}
    for n_stars, side in candidates:
        inside = np.zeros(between.n_exposures, np.bool_)
        inside[side] = True
        exposures = np.flatnonzero(inside[group]).astype(np.int32)
        component = graph.components()[exposures[0]]
        if 2 * exposures.size >= in_component[component]:
            others = np.setdiff1d(np.flatnonzero(graph.components() == component), exposures).astype(np.int32)
            if others.size < exposures.size or others[0] < exposures[0]:
                exposures = others
        cuts.setdefault(exposures.tobytes(), StarCut(n_stars, exposures))
        if len(cuts) == max_cuts:
            break
    ordered = sorted(cuts.values(), key=lambda cut: (cut.n_stars, cut.exposures.size, tuple(cut.exposures)))
    return WeakLinks(max_shared, n_tying, hanging, tuple(ordered))


def _stars_of_links(graph: ExposureGraph, max_shared: int) -> Incidence:
    """Stars of their own for every link; more than ``max_shared + 1`` of one link would change nothing."""
    pairs = np.repeat(graph.pairs(), np.minimum(graph.n_shared, max_shared + 1), axis=0)
    return 2 * np.arange(len(pairs) + 1, dtype=np.int64), pairs.ravel()


def _contract(graph: ExposureGraph, incidence: Incidence, max_shared: int) -> tuple[Int32s, Incidence, ExposureGraph]:
    """Merge whatever shares more than ``max_shared`` stars: (group of each exposure, stars of groups, group graph)."""
    from graphs.measurements import MeasurementGraph

    group = np.arange(graph.n_exposures, dtype=np.int32)
    ptr, node = incidence
    while True:
        strong = graph.n_shared > max_shared
        n_strong = np.concatenate([[0], np.cumsum(strong)])
        merged = kernels.label_runs(n_strong[graph.indptr], graph.indices[strong], True, graph.n_exposures)
        n_groups = int(merged.max(initial=-1)) + 1
        group = merged[group]
        ptr, node, _ = kernels.merge_visits(ptr, merged[node], np.ones(node.size))
        n_of = np.diff(ptr)
        node = node[np.repeat(n_of > 1, n_of)]
        ptr = np.concatenate([[0], np.cumsum(n_of[n_of > 1])]).astype(np.int64)
        done = not strong.any()
        graph = MeasurementGraph(ptr, node, np.arange(node.size), n_groups).exposure_graph()
        if done:
            return group, (ptr, node), graph


def _group_cuts(tied: Incidence, between: ExposureGraph) -> list[Candidate]:
    """Each group against the rest."""
    counts = kernels.count_tying(*tied, between.n_exposures)
    return [(int(counts[g]), np.array([g])) for g in np.flatnonzero(counts)]


def _tree_cuts(tied: Incidence, between: ExposureGraph) -> list[Candidate]:
    """Cut each link of the spanning tree with the most shared stars."""
    n = between.n_exposures
    tree = between.spanning_tree()
    roots = np.unique(between.components(), return_index=True)[1]
    rows = np.concatenate([tree[:, 0], np.full(roots.size, n)])  # one more node, n, holds the trees together
    columns = np.concatenate([tree[:, 1], roots])
    links = sparse.csr_array((np.ones(rows.size), (rows, columns)), shape=(n + 1, n + 1))
    preorder, predecessor = depth_first_order(links, n, directed=False)
    place = np.empty(n + 1, np.int32)
    place[preorder] = np.arange(n + 1)
    parent = np.zeros(n + 1, np.int32)
    parent[1:] = place[predecessor[preorder[1:]]]
    counts = stars_across(parent, tied[0], place[tied[1]])
    ends = subtree_ends(parent)
    inner = np.flatnonzero((counts > 0) & (ends - np.arange(n + 1) > 1))  # leaves are cut as groups
    return [(int(counts[v]), preorder[v : ends[v]]) for v in inner]


def _flow_cuts(tied: Incidence, between: ExposureGraph) -> list[Candidate]:
    """Minimal cuts between all pairs of groups, in components of few groups."""
    labels = between.components()
    sizes = np.bincount(labels, minlength=1)
    star_component = labels[tied[1][tied[0][:-1]]] if tied[0].size > 1 else np.zeros(0, np.int32)
    stars_of = np.argsort(star_component, kind="stable")
    star_ends = np.cumsum(np.bincount(star_component, minlength=sizes.size))
    members = np.argsort(labels, kind="stable")
    member_ends = np.cumsum(sizes)
    cuts: list[Candidate] = []
    for component in np.flatnonzero((sizes > 3) & (sizes <= EXACT_GROUPS)):  # of 3 groups every cut is a group's
        groups = members[member_ends[component] - sizes[component] : member_ends[component]]
        low = star_ends[component - 1] if component else 0
        hyperedges: dict[tuple[int, ...], int] = {}
        for s in stars_of[low : star_ends[component]]:
            key = tuple(np.searchsorted(groups, tied[1][tied[0][s] : tied[0][s + 1]]).tolist())
            hyperedges[key] = hyperedges.get(key, 0) + 1
        cuts += [(n, groups[side]) for n, side in _gusfield(len(groups), hyperedges)]
    return cuts


def _gusfield(n: int, hyperedges: dict[tuple[int, ...], int]) -> list[Candidate]:
    """Cut every two of n connected nodes apart minimally, by n - 1 maximum flows through the stars."""
    import igraph

    edges: list[tuple[int, int]] = []
    capacity: list[int] = []
    extra = n
    unlimited = sum(hyperedges.values()) + 1
    for nodes, count in hyperedges.items():
        ins, outs = extra, extra + 1
        extra += 2
        edges.append((ins, outs))
        capacity.append(count)
        for node in nodes:
            edges += [(node, ins), (outs, node)]
            capacity += [unlimited, unlimited]
    flow = igraph.Graph(n=extra, edges=edges, directed=True)
    parent = np.zeros(n, np.int64)
    cuts: list[Candidate] = []
    for i in range(1, n):
        cut = flow.mincut(i, int(parent[i]), capacity=capacity)
        side = np.array(sorted(node for node in cut.partition[0] if node < n), np.int64)
        cuts.append((round(cut.value), side))
        later = side[side > i]
        parent[later[parent[later] == parent[i]]] = i
    return cuts
