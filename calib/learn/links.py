# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Same-star links between exposures, with what their shared stars say: number, mean difference, scatter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphs import MeasurementGraph

PARTNERS = 6
"""Other measurements of the same star that a measurement is compared with, spread over its visits."""
MOST_PAIRS = 2_000_000
"""Pairs looked at; larger surveys look at some of their stars."""
DENSE = 4_000_000
"""Pairs of exposures of which there may be a table; of more exposures the pairs are sorted."""
LINK = ("shared", "difference", "scatter")


@dataclass
class Links:
    """Links in both directions.

    Attributes
    ----------
    edge_index
        int64 (2, L), from and to.
    edge_attr
        float32 (L, 3): logarithm of the number of shared stars, the weighted mean of the differences of residuals (from
        less to) in its standard errors, the logarithm of their scatter over what weights promise.
    """

    edge_index: NDArray[np.int64]
    edge_attr: NDArray[np.float32]


def links_of(graph: MeasurementGraph, w: NDArray[np.float64], residual: NDArray[np.float64]) -> Links:
    """Compare pairs of measurements of one star; O(measurements x PARTNERS)."""
    n_pairs = graph.n_measurements * PARTNERS
    step = max(1, n_pairs // MOST_PAIRS)
    visits = np.diff(graph.star_ptr)[::step]
    total = int((visits * np.clip(visits - 1, 0, PARTNERS)).sum())
    key, values = np.empty(total, np.int64), np.empty((3, total))  # by numpy, whose large arrays take few pages
    found = _pairs(graph.star_ptr, graph.exposure, np.asarray(w, float), residual, step, graph.n_exposures, key, values)
    key, values = key[:found], values[:, :found]
    if not key.size:
        return Links(np.zeros((2, 0), np.int64), np.zeros((0, len(LINK)), np.float32))
    if graph.n_exposures**2 <= DENSE:
        unique = np.flatnonzero(np.bincount(key, minlength=graph.n_exposures**2))
        sums = [np.bincount(key, x, graph.n_exposures**2)[unique] for x in (None, *values)]
    else:
        unique, which = np.unique(key, return_inverse=True)
        sums = [np.bincount(which, x, unique.size) for x in (None, *values)]
    count, weight, mean, square = (x.astype(float) for x in sums)
    low, high = unique // graph.n_exposures, unique % graph.n_exposures
    significance = np.arcsinh(mean / np.sqrt(np.maximum(weight, 1e-30)))
    scatter = np.log(square / count + 0.05)
    shared = np.log(count * step)
    forth = np.stack([shared, significance, scatter], axis=1)
    back = forth * np.array([1.0, -1.0, 1.0])
    index = np.stack([np.r_[low, high], np.r_[high, low]])
    return Links(index, np.clip(np.r_[forth, back], -10, 10).astype(np.float32))


@njit(cache=True, nogil=True)
def _pairs(star_ptr, node, w, residual, step, n_nodes, key, values):
    # of every step-th star: key low * n_nodes + high, and (weight, weight x difference, weight x clipped square);
    # returns how many
    k = 0
    for s in range(0, star_ptr.size - 1, step):
        low = star_ptr[s]
        n = star_ptr[s + 1] - low
        if n < 2:
            continue
        partners = min(n - 1, PARTNERS)
        for a in range(n):
            for p in range(partners):
                b = (a + 1 + p * (n - 1) // partners) % n
                i = low + a
                j = low + b
                e = node[i]
                f = node[j]
                if e == f or w[i] <= 0.0 or w[j] <= 0.0:
                    continue
                d = residual[i] - residual[j]
                if e > f:
                    e, f, d = f, e, -d
                weight = w[i] * w[j] / (w[i] + w[j])
                key[k] = np.int64(e) * n_nodes + f
                values[0, k] = weight
                values[1, k] = weight * d
                values[2, k] = min(weight * d * d, 36.0)
                k += 1
    return k
