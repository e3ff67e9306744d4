"""Where the exposures of a graph are drawn; the same every time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_COMPONENTS = 60
"""Components beyond so many, the smallest, are stacked in one corner."""
STIFF = 250
"""Components up to so many exposures are laid out by their distances, larger ones by forces."""
TOGETHER = 0.012
"""Pointings closer than this share of the map count as one."""


def spread(x: Array, y: Array, extent: float) -> Array:
    """Places on the sky, (n, 2), with exposures of one pointing spread about it like seeds of a sunflower."""
    cell = TOGETHER * extent
    key = np.stack([np.round(x / cell), np.round(y / cell)], 1).astype(np.int64)
    _, group, counts = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    nth = np.empty(x.size)
    nth[order] = np.arange(x.size) - np.repeat(np.cumsum(counts) - counts, counts)
    room = np.sqrt(1.0 / max(counts.size, 1)) / np.sqrt(max(float(counts.max()), 1.0)) * extent
    radius = np.sqrt(nth) * min(2.0 * cell, 0.3 * room)
    angle = nth * 2.399963
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


def drawn(graph: Any, at: NDArray[np.int64]) -> Array:
    """Places (len(at), 2) of some exposures, component by component, packed on shelves, largest first."""
    whole = graph.to_igraph()
    part = whole.subgraph(at.tolist())
    components = sorted(part.connected_components(), key=lambda members: (-len(members), members[0]))
    place = np.zeros((at.size, 2))
    random_state = random.Random(1)
    _use(random_state)
    try:
        blocks = [(c, _one(part, c) * np.sqrt(len(c))) for c in components[:MOST_COMPONENTS]]
    finally:
        _use(random)
    rest = [i for c in components[MOST_COMPONENTS:] for i in c]
    if rest:
        side = int(np.ceil(np.sqrt(len(rest))))
        grid = np.array([(i % side, i // side) for i in range(len(rest))], float)
        blocks.append((rest, grid - grid.mean(0)))
    shelf = 1.3 * np.sqrt(sum((2 * np.sqrt(len(c)) + 1.0) ** 2 for c, _ in blocks))
    x = y = height = 0.0
    for members, points in blocks:
        low, high = points.min(0), points.max(0)
        width, tall = high - low + 1.0
        if x > 0 and x + width > shelf:
            x, y, height = 0.0, y - height, 0.0
        place[members] = points - [low[0], high[1]] + [x, y]
        x, height = x + width, max(height, tall)
    return place


def _one(graph: Any, members: list[int]) -> Array:
    """One component within the unit circle."""
    if len(members) == 1:
        return np.zeros((1, 2))
    part = graph.subgraph(members)
    start = part.layout_circle()
    if len(members) <= STIFF:
        made = part.layout_kamada_kawai(seed=start)
    else:
        made = part.layout_fruchterman_reingold(niter=150)
    points = np.array(made.coords)
    points -= points.mean(0)
    return np.asarray(points / max(float(np.hypot(*points.T).max()), 1e-9))


def _use(source: Any) -> None:
    import igraph

    igraph.set_random_number_generator(source)
