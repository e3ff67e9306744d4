"""Where exposures lie beside each other, told by the stars they share: no coordinate is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from graphs.errors import GraphError

if TYPE_CHECKING:
    from graphs.exposures import ExposureGraph
    from graphs.measurements import Floats, MeasurementGraph

Float64s = NDArray[np.float64]

LANDMARKS = 64
"""Exposures of a component from which all distances are measured."""
LEAST_OVERLAP = 0.05
"""Links that share a smaller part of their stars may be mistakes, and are long in any case."""
SHORTEST = 1e-3
"""Distance, in field widths, of two exposures that share all their stars."""


def places(graph: ExposureGraph, landmarks: int = LANDMARKS) -> Float64s:
    """Place of each exposure on a plane, (n_exposures, 2), in field widths about the mean of its component.

    Two exposures that share a part of their stars lie as far apart as two square fields that overlap by that part;
    others by the shortest way over those that do (Tenenbaum, de Silva & Langford 2000, Science 290, 2319, with the
    landmarks of de Silva & Tenenbaum 2004, Stanford technical report). Which way is up, and which side is left, is not
    known. Directions along which places scatter no more than the third, of which a plane has none, are shrunk away: an
    exposure graph that is no map, of stars shared at random, has all its exposures at one place.

    Parameters
    ----------
    graph
        With the stars behind its links (`MeasurementGraph.exposure_graph`).
    landmarks
        Exposures of a component from which all distances are measured; at least 4.

    Raises
    ------
    GraphError
        The graph was made of links alone.
    """
    if graph.incidence is None:
        raise GraphError("places need the stars of each exposure: make the graph by MeasurementGraph.exposure_graph")
    out = np.zeros((graph.n_exposures, 2))
    near = _distances(graph)
    component = graph.components()
    order = np.argsort(component, kind="stable")
    for nodes in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        if nodes.size > 1:
            part = near if nodes.size == graph.n_exposures else near[nodes][:, nodes]
            out[nodes] = _embedded(_from_landmarks(part, landmarks))
    return out


def star_offsets(graph: MeasurementGraph, own: Floats | None = None) -> Iterator[Float64s]:
    """How far each measurement's star lies from its exposure, field widths: (n_measurements,) along each of two ways.

    Exposures lie where `places` puts them, stars at the mean of theirs.

    Parameters
    ----------
    graph
        Stars and exposures.
    own
        (n_measurements,), 1 for those that tell places, 0 for others; all where not given.
    """
    node, star = graph.exposure, graph.star()
    place = graph.exposure_graph(own).places()
    visits = np.maximum(np.bincount(star, own, graph.n_stars), 1)
    for k in range(2):
        along = place[node, k]
        at = np.bincount(star, along if own is None else own * along, graph.n_stars) / visits
        yield at[star] - along


def _distances(graph: ExposureGraph) -> sparse.csr_array:
    """Symmetric distances over the links that overlap enough, and over a spanning tree of the rest."""
    assert graph.incidence is not None
    n_stars = np.bincount(graph.incidence[1], minlength=graph.n_exposures)
    first, second = graph.pairs().T
    overlap = np.minimum(graph.n_shared / np.minimum(n_stars[first], n_stars[second]), 1.0)
    # between two squares that are apart along a side and two that are apart along a diagonal
    distance = np.maximum(0.5 * ((1.0 - overlap) + np.sqrt(2.0) * (1.0 - np.sqrt(overlap))), SHORTEST)
    kept = overlap >= LEAST_OVERLAP
    tree = graph.spanning_tree()
    n = graph.n_exposures
    kept |= np.isin(first * np.int64(n) + second, tree[:, 0] * np.int64(n) + tree[:, 1])
    upper = sparse.csr_array((distance[kept], (first[kept], second[kept])), shape=(n, n))
    return sparse.csr_array(upper + upper.T)


def _from_landmarks(near: sparse.csr_array, landmarks: int) -> tuple[Float64s, NDArray[np.intp]]:
    """Shortest ways (L, n) from landmarks that lie as far from each other as they can, and which these are."""
    n = near.shape[0]
    if n <= landmarks:
        return np.asarray(dijkstra(near, directed=False)), np.arange(n)
    at = int(np.argmax(dijkstra(near, directed=False, indices=0)))
    rows: list[Float64s] = []
    chosen: list[int] = []
    nearest = np.full(n, np.inf)
    for _ in range(landmarks):
        rows.append(np.asarray(dijkstra(near, directed=False, indices=at)))
        chosen.append(at)
        nearest = np.minimum(nearest, rows[-1])
        at = int(np.argmax(nearest))
    return np.array(rows), np.array(chosen)


def _embedded(measured: tuple[Float64s, NDArray[np.intp]]) -> Float64s:
    """Classical scaling of the landmarks, and every exposure by its distances from them: (n, 2), of mean zero."""
    squared = measured[0] ** 2
    among = squared[:, measured[1]]
    mean = among.mean(0)
    value, vector = np.linalg.eigh(-0.5 * (among - mean - mean[:, None] + mean.mean()))
    value, vector = value[::-1], vector[:, ::-1]
    third = max(value[2], 0.0) if value.size > 2 else 0.0
    out = np.zeros((squared.shape[1], 2))
    for k in range(min(2, value.size)):
        if value[k] > max(third, 1e-12 * value[0]) > 0:
            along = -0.5 * vector[:, k] @ (squared - mean[:, None]) / np.sqrt(value[k])
            out[:, k] = along * np.sqrt((value[k] - third) / value[k])
    return np.asarray(out - out.mean(0))
