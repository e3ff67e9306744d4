# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Measurements as features see them: standardised residuals with their sums, and the rows of the network's first table.

Names: n measurements sorted by star, S stars, E nodes; ``base`` and ``variance`` are those of a measurement's noise
without and with its star's variability, ``t`` its residual over its standard deviation and what its leverage left.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# ruff: noqa: D103 - each kernel's one line stands in its comment

LARGEST = 6.0
"""Size of t beyond which it counts no further."""
LOCAL = 3.0
"""And in what parts of the field say."""
CELLS = 8
"""The field is looked at in CELLS x CELLS parts."""
OUTLYING = 4.0
"""Size of t from which exposures count a measurement as one of their outliers."""


@njit(inline="always")
def limited(x, size):
    return min(max(x, -size), size)


@njit(cache=True, nogil=True)
def standardise(
    star_ptr, node, w, base, variability, information, prediction, residual, t, leverage, of_stars, of_nodes
):
    # t and leverage (n). Sums over stars (S, 5): log base, residual^2 / base, 1 - leverage, |t|, cbrt(t); over nodes
    # (E, 8): 1, log base, t^2, w variance t, w variance, cbrt(t), t^4, whether it lies far out
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            b = np.float64(base[i])
            r = residual[i]
            if math.isnan(r):
                r = 0.0
            h = w[i] * information[e] * prediction[i]
            h = 0.0 if math.isnan(h) else min(max(h, 0.0), 0.98)
            variance = b + variability[s]
            z = r / math.sqrt(variance * (1.0 - h))
            t[i] = z
            leverage[i] = h
            soft = limited(z, LARGEST)
            log_base, root, weight = math.log(b), np.cbrt(soft), w[i] * variance
            of_stars[s, 0] += log_base
            of_stars[s, 1] += r * r / b
            of_stars[s, 2] += 1.0 - h
            of_stars[s, 3] += abs(soft)
            of_stars[s, 4] += root
            of_nodes[e, 0] += 1.0
            of_nodes[e, 1] += log_base
            of_nodes[e, 2] += soft * soft
            of_nodes[e, 3] += weight * soft
            of_nodes[e, 4] += weight
            of_nodes[e, 5] += root
            of_nodes[e, 6] += soft**4
            of_nodes[e, 7] += abs(z) > OUTLYING


@njit(inline="always")
def cell_of(e, x, y):
    # part of the field of node e; x and y are in [-1, 1]
    a = int(min(max((x + 1.0) * 0.5 * CELLS, 0.0), CELLS - 1.0))
    b = int(min(max((y + 1.0) * 0.5 * CELLS, 0.0), CELLS - 1.0))
    return (e * CELLS + a) * CELLS + b


@njit(inline="always")
def placed(xy, i):
    # x, y, and whether they are known
    x = np.float64(xy[i, 0])
    y = np.float64(xy[i, 1])
    if math.isfinite(x) and math.isfinite(y):
        return x, y, 1.0
    return 0.0, 0.0, 0.0


@njit(cache=True, nogil=True)
def by_place(node, xy, t, cells, squares):
    # sums over parts of the field (E x CELLS x CELLS, 3): t, t^2, 1; and over nodes of t^2
    for i in range(node.size):
        x, y, _ = placed(xy, i)
        soft = limited(t[i], LOCAL)
        k = cell_of(np.int64(node[i]), x, y)
        cells[k, 0] += soft
        cells[k, 1] += soft * soft
        cells[k, 2] += 1.0
        squares[node[i]] += soft * soft


@njit(cache=True, forceinline=True)
def asinh(x):
    # to 1e-16 of itself or of one; the library's takes three times as long
    size = abs(x)
    return math.copysign(math.log(size + math.sqrt(size * size + 1.0)), x)


@njit(inline="always")
def finite(x):
    # bounded, and nothing where it is no number
    return 0.0 if math.isnan(x) else min(max(x, -10.0), 10.0)


@njit(cache=True, nogil=True)
def describe(
    star_ptr, node, w, base, variability, t, leverage, err, log_err, m, typical, error_scale2, xy, cells, slope, seeing,
    out,
):
    # rows (n, 15) of calib.learn.features.MEASUREMENT; typical (E, 2) are a node's band's magnitude and log error. xy
    # has no row where no place is known, slope (S) no number where no star answers to seeing
    has_place, has_response = xy.shape[0] > 0, slope.size > 0
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            variance = np.float64(base[i]) + variability[s]
            weight = w[i] * variance
            out[i, 0] = finite(asinh(t[i]))
            out[i, 1] = finite(min(abs(t[i]), LARGEST))
            out[i, 2] = finite(math.log(1e-4 if weight < 1e-4 else weight))
            out[i, 3] = finite(log_err[i] - typical[e, 1])
            out[i, 4] = finite(asinh(0.5 * (m[i] - typical[e, 0])))
            out[i, 5] = math.sqrt(leverage[i])
            out[i, 8] = finite(asinh(slope[s] * seeing[e] / math.sqrt(variance))) if has_response else 0.0
            out[i, 9] = finite(error_scale2[e] * np.float64(err[i]) ** 2 / variance)
            out[i, 10] = finite(variability[s] / variance)
            out[i, 14] = has_response
            if not has_place:
                out[i, 6] = out[i, 7] = out[i, 11] = out[i, 12] = out[i, 13] = 0.0
                continue
            x, y, known = placed(xy, i)
            out[i, 6] = finite(math.sqrt(x * x + y * y) - 0.75)
            out[i, 7] = finite(max(abs(x), abs(y)) - 0.65)
            k = cell_of(np.int64(e), x, y)
            others = cells[k, 2] - 1.0
            out[i, 11] = finite(asinh((cells[k, 0] - limited(t[i], LOCAL)) / math.sqrt(others + 1.0)))
            out[i, 12] = finite(math.log(others + 1.0))
            out[i, 13] = known
