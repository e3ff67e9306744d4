"""Reported errors freed from their own measurement's noise.

An error computed from the measured flux is smaller where noise made the star brighter, so weights prefer bright
fluctuations, and shallow exposures come out too bright by about 2 sigma^2 (d ln sigma / dm), a millimagnitude or more.
Where the reported errors are seen to follow residuals as the exposure's error curve says, they are moved along the
curve to the magnitude that the star should have had.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_COUPLING = 0.15
"""Below this share of the full effect, errors are taken as they are: they come from something else than the flux."""
POOLED_STRENGTH = 20.0
"""Measurements' worth of belief that an exposure's error curve is the survey's."""
LARGEST_CHANGE = 1.0
"""Of the logarithm of an error."""
ROWS = 1_000_000
"""Measurements looked at at a time."""


def error_curves(node: NDArray[np.int32], magnitude: Array, log_err: Array, n_nodes: int) -> Curves:
    """Quadratic of ln(error) in magnitude, per node, shrunk to the survey's shape.

    Parameters
    ----------
    node
        int (n,).
    magnitude
        (n,), the magnitude that the star should have had in the exposure.
    log_err
        (n,), ln of the reported error.
    """
    centre = float(np.nanmedian(magnitude))
    gram, moment = np.zeros((n_nodes, 3, 3)), np.zeros((n_nodes, 3))
    for part in _parts(node.size):
        _accumulate(node[part], (magnitude[part] - centre) / 2.0, log_err[part], gram, moment)
    total = gram.sum(0)
    pooled = np.linalg.solve(total + (1e-6 * np.trace(total) + 1e-12) * np.eye(3), moment.sum(0))
    shape = POOLED_STRENGTH * total / max(total[0, 0], 1.0)
    shape[0, :] = shape[:, 0] = 0.0  # each node has its own level
    shape += np.diag([1e-3, 1e-6, 1e-6])
    return Curves(centre, np.linalg.solve(gram + shape, (moment + shape @ pooled)[:, :, None])[:, :, 0])


@dataclass(frozen=True)
class Curves:
    """ln(error) = c0 + c1 x + c2 x^2 of every node, x = (magnitude - centre) / 2; coefficients (E, 3)."""

    centre: float
    coefficients: Array

    def __call__(self, node: NDArray[np.int32], magnitude: Array) -> tuple[Array, Array]:
        """Value and slope (per mag) of the curve, (n,)."""
        x = (magnitude - self.centre) / 2.0
        c0, c1, c2 = (self.coefficients[node, k] for k in range(3))
        return c0 + (c1 + c2 * x) * x, 0.5 * (c1 + 2.0 * c2 * x)


@njit(cache=True, nogil=True)
def _accumulate(node, x, y, gram, moment):
    # normal equations of every node's quadratic, added to
    for i in range(node.size):
        if not (np.isfinite(x[i]) and np.isfinite(y[i])):
            continue
        e = node[i]
        powers = (1.0, x[i], x[i] * x[i])
        for a in range(3):
            moment[e, a] += powers[a] * y[i]
            for b in range(3):
                gram[e, a, b] += powers[a] * powers[b]


def _parts(n: int) -> list[slice]:
    return [slice(k, min(k + ROWS, n)) for k in range(0, n, ROWS)]


def freed_errors(
    node: NDArray[np.int32], m: Array, err: NDArray[np.float32], residual: Array, n_nodes: int
) -> tuple[NDArray[np.float32], float]:
    """Errors at the magnitude that each star should have had, and the coupling that was found (0: none, 1: full).

    Parameters
    ----------
    m, err
        (n,), magnitude and reported error, mag.
    residual
        (n,), of a solve, mag.
    """
    log_err = np.log(err)
    curves = error_curves(node, m - residual, log_err, n_nodes)
    typical, product, square = 0.0, 0.0, 0.0
    for part in _parts(node.size):
        value, slope = curves(node[part], m[part] - residual[part])
        u, move = log_err[part] - value, slope * residual[part]
        if part.start == 0:
            typical = 1.4826 * float(np.nanmedian(np.abs(u)))
        use = np.isfinite(u) & (np.abs(u) < 4.0 * typical + 1e-6) & (np.abs(residual[part]) < 5.0 * err[part] + 0.02)
        product += float((u[use] * move[use]).sum())
        square += float((move[use] ** 2).sum())
    coupling = float(np.clip(product / square, 0.0, 1.2)) if square > 0 else 0.0
    if coupling < LEAST_COUPLING:
        return err, 0.0
    out = np.empty_like(err)
    for part in _parts(node.size):
        slope = curves(node[part], m[part] - residual[part])[1]
        change = np.nan_to_num(coupling * slope * residual[part])
        out[part] = err[part] * np.exp(-np.clip(change, -LARGEST_CHANGE, LARGEST_CHANGE))
    return out, coupling
