"""Counts and statistics of measurements over the exposures and the stars of a problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from calib.model.problem import Problem

Array = NDArray[np.float64]

ROWS = 500_000
"""Rows looked at at a time."""


def stars_per_node(problem: Problem) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct stars of each node, and those of them that are seen in another node too."""
    out = np.zeros((2, problem.graph.n_exposures), np.int64)
    _count_stars(problem.graph.star_ptr, problem.graph.exposure, out)
    return out[0], out[1]


@njit(cache=True, nogil=True)
def _count_stars(star_ptr, node, out):  # type: ignore[no-untyped-def]
    for s in range(star_ptr.size - 1):
        low, high = star_ptr[s], star_ptr[s + 1]
        elsewhere = False
        for i in range(low + 1, high):
            elsewhere = elsewhere or node[i] != node[low]
        for i in range(low, high):
            again = False
            for j in range(low, i):
                again = again or node[j] == node[i]
            if not again:
                out[0, node[i]] += 1
                out[1, node[i]] += elsewhere


def of_nodes(problem: Problem, values: Callable[[NDArray[np.integer[Any]]], NDArray[Any]], what: pl.Expr) -> Array:
    """(E,), a statistic of the values ``v`` of each exposure's measurements, some exposures at a time."""
    ptr, position = problem.graph.by_exposure()
    out = np.full(ptr.size - 1, np.nan)
    first = 0
    while first < problem.n_exposures:
        stop = min(max(int(np.searchsorted(ptr, ptr[first] + ROWS)), first + 1), problem.n_exposures)
        at = position[ptr[first] : ptr[stop]]
        node = np.repeat(np.arange(first, stop), np.diff(ptr[first : stop + 1]))
        frame = pl.DataFrame({"node": node, "v": values(at)}).group_by("node").agg(what)
        out[frame["node"].to_numpy()] = frame["v"].to_numpy()
        first = stop
    return out


@njit(cache=True, nogil=True)
def star_sums(star_ptr, node, n_exposures, residual, base, w, v):  # type: ignore[no-untyped-def]
    """(S,) twice: sum of squared residuals over their noise, and of what each left free.

    Catalogues (nodes from n_exposures on) do not count.
    """
    chi2, freedom = np.zeros(star_ptr.size - 1), np.zeros(star_ptr.size - 1)
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            if node[i] < n_exposures:
                chi2[s] += residual[i] * residual[i] / base[i]
                freedom[s] += 1.0 - min(max(w[i] * v[i], 0.0), 0.99)
    return chi2, freedom
