"""How well two exposures are tied, and where one more overlapping exposure would help most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from graphs.errors import GraphError
from graphs.exposures import checked_pairs
from graphs.laplacian import Blocks, PseudoInverse
from graphs.modes import softest

if TYPE_CHECKING:
    from graphs.exposures import ExposureGraph

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

BATCH = 64  # right-hand sides solved together
POOL = 128  # candidates of a component compared exactly, all pairs of them
POOL_MODES = 8
TRIED = 4096  # candidates among which pairs within reach are looked for


@dataclass(frozen=True)
class LinkGain:
    """What one more link would do.

    Attributes
    ----------
    first, second : int
        The exposures, or groups, it would join; first < second.
    component : int
        Their component.
    resistance : float, mag**2
        Variance of the difference of their zero-points before.
    variance_removed : float, mag**2
        Sum over the component's exposures of the fall in zero-point variance, in the zero-mean gauge.
    rms_removed : float, mag
        ``sqrt(variance_removed / n)``: what leaves the zero-points of the component, in quadrature.
    """

    first: int
    second: int
    component: int
    resistance: float
    variance_removed: float
    rms_removed: float


def effective_resistance(graph: ExposureGraph, pairs: NDArray[np.integer[Any]]) -> Float64s:
    """Variance of the difference of two zero-points, ``(1_e - 1_f)' L+ (1_e - 1_f)``.

    Parameters
    ----------
    graph
        Links with weights in mag**-2.
    pairs : (m, 2) int
        Exposures.

    Returns
    -------
    (m,) float64, mag**2
        0 for an exposure with itself, infinite between components.

    Raises
    ------
    GraphError
        An exposure is out of range.
    """
    ends = checked_pairs(pairs, graph.n_exposures)
    labels = graph.components()
    out = np.where(labels[ends[:, 0]] == labels[ends[:, 1]], 0.0, np.inf)
    todo = np.flatnonzero((ends[:, 0] != ends[:, 1]) & (out == 0))
    if todo.size == 0:
        return out
    blocks = Blocks.of(graph)
    place = np.empty(graph.n_exposures, np.int64)  # of each exposure within its component
    place[blocks.members] = np.arange(graph.n_exposures) - np.repeat(blocks.ptr[:-1], np.diff(blocks.ptr))
    todo = todo[np.argsort(labels[ends[todo, 0]], kind="stable")]
    of_pair = labels[ends[todo, 0]]
    for rows in np.split(todo, np.flatnonzero(np.diff(of_pair)) + 1):
        inverse = PseudoInverse(blocks.block(int(labels[ends[rows[0], 0]])))
        unique, back = np.unique(np.sort(place[ends[rows]], axis=1), axis=0, return_inverse=True)
        out[rows] = _resistances(inverse, unique)[back.ravel()]
    return out


def _resistances(inverse: PseudoInverse, pairs: Int64s) -> Float64s:
    """Resistances of one component's pairs, by pair or by exposure, whichever needs fewer solves."""
    exposures, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(pairs.shape)
    out = np.empty(len(pairs))
    if len(pairs) <= len(exposures):
        for low in range(0, len(pairs), BATCH):
            batch = pairs[low : low + BATCH]
            b = np.zeros((inverse.n, len(batch)))
            columns = np.arange(len(batch))
            b[batch[:, 0], columns] = 1
            b[batch[:, 1], columns] = -1
            x = inverse.apply(b)
            out[low : low + BATCH] = x[batch[:, 0], columns] - x[batch[:, 1], columns]
        return out
    own = np.empty(len(exposures))  # diagonal of L+
    cross = np.empty(len(pairs))
    for low in range(0, len(exposures), BATCH):
        batch = exposures[low : low + BATCH]
        b = np.zeros((inverse.n, len(batch)))
        b[batch, np.arange(len(batch))] = 1
        x = inverse.apply(b)
        own[low : low + BATCH] = x[batch, np.arange(len(batch))]
        mine = np.flatnonzero((ends[:, 0] >= low) & (ends[:, 0] < low + len(batch)))
        cross[mine] = x[pairs[mine, 1], ends[mine, 0] - low]
    return own[ends[:, 0]] + own[ends[:, 1]] - 2 * cross


def best_new_links(
    graph: ExposureGraph,
    k: int = 5,
    groups: NDArray[np.integer[Any]] | None = None,
    weight: float | None = None,
    place: Float64s | None = None,
    reach: float = np.inf,
) -> list[LinkGain]:
    """Pairs of exposures, or of groups, that one more overlapping exposure would help most.

    A link of weight w between e and f lowers the sum of the zero-points' variances by
    ``w |L+ b|**2 / (1 + w b' L+ b)`` with ``b = 1_e - 1_f`` (Sherman and Morrison 1950); for groups b is the
    difference of their means. The pairs are chosen one after the other, each given those before it, so that the k
    answers do not all mend the same weakness, and none twice. Up to `POOL` candidates in a component are all compared;
    of more, those that are least tied and those outermost in its `POOL_MODES` softest modes, where ``|L+ b|`` is
    greatest. With a ``reach``, only pairs within it are compared; of more than `POOL` candidates those of the pairs
    that are farthest apart in the softest modes, looked for among `TRIED` of them.

    Only pairs within a component are compared: two components are tied by any link at all, and the error that it
    removes was infinite.

    Parameters
    ----------
    graph
        Links with weights in mag**-2.
    k
        How many; fewer are returned if there are fewer pairs.
    groups : (n_exposures,) int
        Field, pointing or night of each exposure, where pairs of those are wanted; negative to leave one out.
    weight
        Weight of the new link, mag**-2; the median link's if None.
    place : (n_exposures, d)
        Where exposures are, in coordinates in which distances are Euclidean: directions on the sky as unit vectors.
    reach
        Pairs whose mean places are farther apart, in units of ``place``, are left out.

    Returns
    -------
    list of LinkGain
        In the order chosen, the best first.

    Raises
    ------
    GraphError
        ``groups`` or ``place`` has the wrong length, or ``weight`` is not positive.
    """
    if place is not None and (place.ndim != 2 or len(place) != graph.n_exposures):
        raise GraphError(f"places of shape {place.shape} for {graph.n_exposures} exposures")
    labels = np.arange(graph.n_exposures) if groups is None else np.asarray(groups)
    if labels.shape != (graph.n_exposures,):
        raise GraphError(f"groups of shape {labels.shape} for {graph.n_exposures} exposures")
    if graph.n_links == 0:
        return []
    weight = float(np.median(graph.weight)) if weight is None else weight
    if not 0 < weight < np.inf:
        raise GraphError(f"the new link has weight {weight}; it must be positive and finite")
    blocks = Blocks.of(graph)
    near = None if place is None else (place, reach)
    pools = [_Pool(blocks, c, labels, weight, near) for c in range(blocks.n_components) if blocks.size(c) > 1]
    pools = [pool for pool in pools if pool.label.size > 1]
    gains = []
    for _ in range(k):
        best = max(pools, key=lambda pool: pool.best_gain, default=None)
        if best is None or best.best_gain <= 0:
            break
        gains.append(best.take())
    return gains


class _Pool:
    """Candidates of one component, and the fall in variance that a link between any two would bring."""

    def __init__(
        self,
        blocks: Blocks,
        component: int,
        labels: NDArray[np.integer[Any]],
        weight: float,
        near: tuple[Float64s, float] | None,
    ) -> None:
        self.component, self.weight = component, weight
        mine = labels[blocks.exposures(component)]
        self.label, group = np.unique(mine, return_inverse=True)
        means = sparse.csc_array((1 / np.bincount(group)[group], (np.arange(mine.size), group)))
        usable = np.flatnonzero(self.label >= 0)
        inverse = PseudoInverse(blocks.block(component))
        centre = None if near is None else np.asarray(means.T @ near[0][blocks.exposures(component)])
        if usable.size > POOL and near is not None and centre is not None:
            soft = softest(blocks, component, POOL_MODES, inverse)
            usable = usable[np.sort(_apart_within(soft, means[:, usable], centre[usable], near[1]))]
        elif usable.size > POOL:
            usable = usable[np.sort(_outermost(blocks, component, inverse, means[:, usable]))]
        self.label = self.label[usable]
        self.b = means[:, usable].toarray()
        self.x = inverse.apply(self.b)  # L+ b of each candidate, kept up to date as links are taken
        self.out = np.zeros((usable.size, usable.size), np.bool_)  # pairs that are taken or out of reach
        if near is not None and centre is not None:
            self.out = cdist(centre[usable], centre[usable]) > near[1]
        self._refresh()

    def _refresh(self) -> None:
        def distances(inner: Float64s) -> Float64s:
            own = np.diagonal(inner)
            return np.asarray(np.maximum(own[:, None] + own[None, :] - 2 * inner, 0))

        self.resistance = distances(self.b.T @ self.x)
        self.gain = self.weight * distances(self.x.T @ self.x) / (1 + self.weight * self.resistance)
        self.gain[self.out] = 0
        self.best_gain = float(self.gain.max(initial=0.0))

    def take(self) -> LinkGain:
        """Add the best link, and say what it does."""
        i, j = sorted(int(index) for index in np.unravel_index(np.argmax(self.gain), self.gain.shape))
        gain, resistance = float(self.gain[i, j]), float(self.resistance[i, j])
        u = self.x[:, i] - self.x[:, j]
        self.x = self.x - np.outer(u, self.weight / (1 + self.weight * resistance) * (u @ self.b))
        self.out[i, j] = self.out[j, i] = True
        self._refresh()
        rms = float(np.sqrt(gain / len(u)))
        return LinkGain(int(self.label[i]), int(self.label[j]), self.component, resistance, gain, rms)


def _outermost(blocks: Blocks, component: int, inverse: PseudoInverse, means: sparse.csc_array) -> Int64s:
    """Candidates least tied, and farthest out in the softest modes or seeded random mixtures of them: `POOL`."""
    values, vectors = softest(blocks, component, POOL_MODES, inverse)
    place = np.asarray(means.T @ vectors) / values
    mixtures = np.random.default_rng(0).standard_normal((place.shape[1], 8 * POOL))
    looseness = np.asarray((means * means).T @ (1 / blocks.block(component).diagonal()))
    chosen: dict[int, None] = dict.fromkeys(np.argsort(-looseness, kind="stable")[: POOL // 8].tolist())
    for direction in np.concatenate([np.eye(place.shape[1]), mixtures.T]):
        along = place @ direction
        for end in (int(np.argmin(along)), int(np.argmax(along))):
            chosen.setdefault(end)
        if len(chosen) >= POOL:
            break
    return np.array(list(chosen)[:POOL], np.int64)


def _apart_within(soft: tuple[Float64s, Float64s], means: sparse.csc_array, centre: Float64s, reach: float) -> Int64s:
    """Candidates of the pairs within ``reach`` that are farthest apart in the softest modes: up to `POOL`."""
    values, vectors = soft
    tried = np.arange(means.shape[1])
    if tried.size > TRIED:
        tried = np.sort(np.random.default_rng(0).choice(tried.size, TRIED, replace=False))
    place = np.asarray(means[:, tried].T @ vectors) / values
    pairs = cKDTree(centre[tried]).query_pairs(reach, output_type="ndarray")
    apart = ((place[pairs[:, 0]] - place[pairs[:, 1]]) ** 2).sum(axis=1)
    ends = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], -apart))[: POOL * POOL]]
    chosen = list(dict.fromkeys(ends.ravel().tolist()))[:POOL]
    return np.asarray(tried[chosen], np.int64)
