# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""What leaving out one measurement would do to the zero-point of its exposure, weights and variances held.

With ``r`` the residual, ``w`` the weight and ``v`` the variance of its prediction ``A_i x = u . star - phi . theta``,
leaving out measurement i changes the solution by (Cook & Weisberg 1982, Residuals and Influence in Regression)

    delta z_e = -Cov(z_e, A_i x) w r / (1 - w v),
    Cov(z_e, A_i x) = sum_j b_ij Cov(z_e, theta_j) . phi_j - Cov(z_e, theta_e) . phi_i,

b_ij = w_j u_i' D^-1 u_j what measurement j of the star says at i, and covariances those on the pattern of L: the same
pairs as for the variances of predictions, and nothing is solved for.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve import kernels
from calib.solve.gauge import along_gauge
from calib.solve.predictions import LARGE, prediction_variance
from calib.solve.robust import RobustFit

MOST_LEVERAGE = 0.99


def influence(fit: RobustFit) -> NDArray[np.float32] | None:
    """(n,), mag: change of the zero-point of its exposure if a measurement, sorted by star, is left out.

    Zero-points are about the mean of their component. None for the largest surveys, which keep no covariance of linked
    exposures.
    """
    design, equations = fit.design, fit.equations
    if design.n_measurements >= LARGE:
        return None
    top = equations.topology
    along, _ = along_gauge(equations.factor, equations.mean_functional, top.component, top.coupled)
    selected = equations.factor.selected_inverse()
    xy, centre, response = design.arrays
    node, w, inverse = design.graph.exposure, equations.w, equations.star_inverse
    place = (xy, design.block, centre, design.star_block, response)
    covariance = (top.indptr, top.indices, place, selected.diagonal, selected.blocks, along)
    # of these weights, not of those that state the errors
    prediction = prediction_variance(design.walk, node, w, inverse, *covariance)[0]
    out = np.zeros(design.n_measurements, np.float32)
    _influence(
        design.graph.star_ptr, node, fit.estimate.residual, w, prediction, inverse, *place, top.indptr, top.indices,
        selected.diagonal, selected.blocks, along, out,
    )  # fmt: skip
    return out


def stability(node: NDArray[np.int32], change: NDArray[np.float32], n_nodes: int) -> NDArray[np.float64]:
    """(E,), mag: the largest change of each zero-point if any one of its measurements is left out; NaN without any.

    ``node`` and ``change`` (n,) are the measurements' exposures and influences.
    """
    out = np.full(n_nodes, np.nan)
    _largest(node, change, out)
    return out


@njit(cache=True)
def _with_zeropoint(e, f, phi, K, indptr, indices, diagonal, blocks, along):
    # (Cov(z_e, theta_f) - along_f) . phi
    out = 0.0
    if e == f:
        for a in range(K):
            out += (diagonal[e, 0, a] - along[f, a]) * phi[a]
        return out
    row = min(e, f)
    column = max(e, f)
    low = indptr[row]
    high = indptr[row + 1]
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < column:
            low = middle + 1
        else:
            high = middle
    for a in range(K):
        out += ((blocks[low, 0, a] if e < f else blocks[low, a, 0]) - along[f, a]) * phi[a]
    return out


@njit(cache=True, nogil=True)
def _influence(
    star_ptr, node, residual, w, v, inv, xy, K, centre, P, h, indptr, indices, diagonal, blocks, along, out
):
    phi = np.empty(K)
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            first = inv[s, 0]
            second = 0.0
            if P == 2:
                first += h[e] * inv[s, 1]
                second = inv[s, 1] + h[e] * inv[s, 2]
            covariance = 0.0
            for j in range(star_ptr[s], star_ptr[s + 1]):
                if w[j] == 0.0 and j != i:
                    continue
                f = node[j]
                kernels.phi(xy, j, K, centre, phi)
                b = w[j] * (first + h[f] * second if P == 2 else first)
                if j == i:
                    b -= 1.0
                covariance += b * _with_zeropoint(e, f, phi, K, indptr, indices, diagonal, blocks, along)
            left = 1.0 - min(w[i] * v[i], MOST_LEVERAGE)
            change = -covariance * w[i] * residual[i] / left
            if np.isfinite(change):
                out[i] = change


@njit(cache=True, nogil=True)
def _largest(node, change, out):
    for i in range(node.size):
        size = abs(change[i])
        if not out[node[i]] >= size:
            out[node[i]] = size
