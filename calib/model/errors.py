"""Reported errors freed from their own measurement's noise.

An error computed from the measured flux is smaller where noise made the star brighter, so weights prefer bright
fluctuations, and shallow exposures come out too bright by about 2 sigma^2 (d ln sigma / dm), a millimagnitude or more.
Where the reported errors are seen to follow residuals as the exposure's error curve says, they are moved along the
curve to the magnitude that the star should have had.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEAST_COUPLING = 0.15
"""Below this share of the full effect, errors are taken as they are: they come from something else than the flux."""
POOLED_STRENGTH = 20.0
"""Measurements' worth of belief that an exposure's error curve is the survey's."""
LARGEST_CHANGE = 1.0
"""Of the logarithm of an error."""


def error_curves(node: NDArray[np.int32], magnitude: Array, log_err: Array, n_nodes: int) -> tuple[Array, Array]:
    """Quadratic of ln(error) in magnitude, per node, shrunk to the survey's shape: its value and slope (n,).

    Parameters
    ----------
    node
        int (n,).
    magnitude
        (n,), the magnitude that the star should have had in the exposure.
    log_err
        (n,), ln of the reported error.
    """
    centre = float(np.median(magnitude))
    x = (magnitude - centre) / 2.0
    basis = np.stack([np.ones_like(x), x, x * x], 1)
    ok = np.isfinite(x) & np.isfinite(log_err)
    basis[~ok] = 0.0
    y = np.where(ok, log_err, 0.0)
    gram = np.stack(
        [np.bincount(node, weights=basis[:, a] * basis[:, b], minlength=n_nodes) for a in range(3) for b in range(3)], 1
    ).reshape(n_nodes, 3, 3)
    moment = np.stack([np.bincount(node, weights=basis[:, a] * y, minlength=n_nodes) for a in range(3)], 1)
    total = gram.sum(0)
    pooled = np.linalg.solve(total + 1e-6 * np.trace(total) * np.eye(3), moment.sum(0))
    shape = POOLED_STRENGTH * total / max(total[0, 0], 1.0)
    shape[0, :] = shape[:, 0] = 0.0  # each node has its own level
    shape[0, 0] = 1e-3
    coefficients = np.linalg.solve(gram + shape, (moment + shape @ pooled)[:, :, None])[:, :, 0]
    c = coefficients[node]
    return (basis * c).sum(1), (c[:, 1] + 2.0 * c[:, 2] * x) / 2.0


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
    log_err = np.log(err.astype(float))
    value, slope = error_curves(node, m - residual, log_err, n_nodes)
    u, move = log_err - value, slope * residual
    typical = 1.4826 * float(np.median(np.abs(u)))
    use = np.isfinite(u) & (np.abs(u) < 4.0 * typical + 1e-6) & (np.abs(residual) < 5.0 * err + 0.02)
    square = float((move[use] ** 2).sum())
    coupling = float((u[use] * move[use]).sum()) / square if square > 0 else 0.0
    coupling = float(np.clip(coupling, 0.0, 1.2))
    if coupling < LEAST_COUPLING:
        return err, 0.0
    change = np.clip(np.nan_to_num(coupling * move), -LARGEST_CHANGE, LARGEST_CHANGE)
    return (err * np.exp(-change)).astype(np.float32), coupling
