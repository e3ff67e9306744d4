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
    covariance = (top.indptr, top.indices, place, selected.diagonal, selected.blocks, along, design.dense)
    # of these weights, not of those that state the errors
    prediction = prediction_variance(design.walk, node, w, inverse, *covariance)[0]
    out = np.zeros(design.n_measurements, np.float32)
    walk, P = design.walk, design.star_block
    own, q = np.empty(design.n_measurements), np.zeros((design.n_measurements, P))
    _with_stars(
        walk.marked, walk.node_ptr, walk.slot, w[walk.source], walk.star(), inverse, response, P,
        xy[walk.source] if design.block > 1 else xy, design.block, centre, top.indptr, top.indices,
        selected.diagonal, selected.blocks, along, own, q,
    )  # fmt: skip
    _changes(walk.source, node, fit.estimate.residual, w, prediction, response, P, own, q, out)
    return out


def stability(node: NDArray[np.int32], change: NDArray[np.float32], n_nodes: int) -> NDArray[np.float64]:
    """(E,), mag: the largest change of each zero-point if any one of its measurements is left out; NaN without any.

    ``node`` and ``change`` (n,) are the measurements' exposures and influences.
    """
    out = np.full(n_nodes, np.nan)
    _largest(node, change, out)
    return out


@njit(cache=True, nogil=True)
def _with_stars(
    marked, node_ptr, slot, w, star, inv, h, P, places, K, centre, indptr, indices, diagonal, blocks, along, own, q
):
    # q (n, P), covariance of the zero-point of a measurement with the unknowns of its star but for their own part, and
    # own (n) with its local terms; w, star and places, own and q in the order of the walk
    E = node_ptr.size - 1
    place = np.zeros(E, np.int64)
    phi_i, phi_j = np.empty(K), np.empty(K)
    i01 = i11 = bi1 = bj1 = 0.0
    for e in range(E):
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] < E:
                place[indices[k]] = k
        for k in range(node_ptr[e], node_ptr[e + 1]):
            i = slot[k]
            s = star[i]
            i00 = inv[s, 0]
            wi = np.float64(w[i])
            bi0 = wi * i00
            if P == 2:
                i01 = inv[s, 1]
                i11 = inv[s, 2]
                bi0 += wi * i01 * h[e]
                bi1 = wi * (i01 + i11 * h[e])
            kernels.phi(places, i, K, centre, phi_i)
            mine = 0.0
            gauge = 0.0
            for a in range(K):
                mine += diagonal[e, 0, a] * phi_i[a]
                gauge += along[e, a] * phi_i[a]
            own[i] = mine - gauge
            q[i, 0] += bi0 * own[i]
            if P == 2:
                q[i, 1] += bi1 * own[i]
            j = i
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                to = f if f >= 0 else ~f
                wj = np.float64(w[j])
                if wj == 0.0 and wi == 0.0:
                    continue
                kernels.phi(places, j, K, centre, phi_j)
                here = 0.0  # of this zero-point with what the other measurement predicts
                there = -gauge  # and the other way round
                for a in range(K):
                    c = diagonal[e, 0, a] if to == e else blocks[place[to], 0, a]
                    here += (c - along[to, a]) * phi_j[a]
                    there += (diagonal[e, 0, a] if to == e else blocks[place[to], a, 0]) * phi_i[a]
                bj0 = wj * i00
                if P == 2:
                    bj0 += wj * i01 * h[to]
                    bj1 = wj * (i01 + i11 * h[to])
                    q[i, 1] += bj1 * here
                    q[j, 1] += bi1 * there
                q[i, 0] += bj0 * here
                q[j, 0] += bi0 * there


@njit(cache=True, nogil=True)
def _changes(source, node, residual, w, v, h, P, own, q, out):
    # own and q in the order of the walk
    for j in range(source.size):
        i = source[j]
        covariance = q[j, 0] - own[j]
        if P == 2:
            covariance += h[node[i]] * q[j, 1]
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
