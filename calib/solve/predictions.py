# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Variances of predictions and of stars, from the covariance of the nodes on the pattern of L.

With ``b_j = w_j D_s^-1 u_j`` a star is ``sum_j b_j (m_j + phi_j . theta)``, so all that a prediction needs is
``G_ij = phi_i' C phi_j`` between measurements of one star: the same pairs as in assembly, and the same walk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve.assembly import Walk

Array = NDArray[np.float64]

LARGE = 2_000_000
"""Measurements from which the sums within stars are kept in single precision, a few parts in 10^7 of a variance."""

# ruff: noqa: D103 - each kernel's one line stands in its comment


@njit(cache=True, forceinline=True)
def _basis(places, j, K, centre):
    # phi without its constant; zeros beyond K
    if K == 1:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    x = np.float64(places[j, 0])
    y = np.float64(places[j, 1])
    if K == 3:
        return x - centre[1], y - centre[2], 0.0, 0.0, 0.0
    return x - centre[1], y - centre[2], x * x - centre[3], x * y - centre[4], y * y - centre[5]


@njit(cache=True, forceinline=True)
def _row(v, k, a, K, q):
    # row a of block k times phi
    out = v[k, a, 0]
    if K > 1:
        out += v[k, a, 1] * q[0] + v[k, a, 2] * q[1]
    if K > 3:
        out += v[k, a, 3] * q[2] + v[k, a, 4] * q[3] + v[k, a, 5] * q[4]
    return out


@njit(cache=True, forceinline=True)
def _form(v, k, K, p, q):
    # phi_p' V_k phi_q
    out = _row(v, k, 0, K, q)
    if K > 1:
        out += p[0] * _row(v, k, 1, K, q) + p[1] * _row(v, k, 2, K, q)
    if K > 3:
        out += p[2] * _row(v, k, 3, K, q) + p[3] * _row(v, k, 4, K, q) + p[4] * _row(v, k, 5, K, q)
    return out


@njit(cache=True, nogil=True)
def _coefficients(stars, star_ptr, source, node, w, inv, h, P, b):
    # b (n, P) in the order of the walk
    for q in range(stars.size):
        s = stars[q]
        for j in range(star_ptr[q], star_ptr[q + 1]):
            i = source[j]
            wi = np.float64(w[i])
            b[j, 0] = wi * inv[s, 0]
            if P == 2:
                he = h[node[i]]
                b[j, 0] += wi * inv[s, 1] * he
                b[j, 1] = wi * (inv[s, 1] + inv[s, 2] * he)


@njit(cache=True, nogil=True)
def _pairs(marked, node_ptr, slot, b, places, K, centre, P, indptr, indices, var_diagonal, var_blocks, own, q):
    # own (n) = G_ii and q (n, P) = sum_j b_j G_ij, node by node so that a row of links is found by its column
    E = node_ptr.size - 1
    place = np.zeros(E, np.int64)
    for e in range(E):
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] < E:
                place[indices[k]] = k
        for k in range(node_ptr[e], node_ptr[e + 1]):
            i = slot[k]
            pi = _basis(places, i, K, centre)
            g = _form(var_diagonal, e, K, pi, pi)
            own[i] = g
            bi0 = b[i, 0]
            q0 = bi0 * g
            bi1 = b[i, 1] if P == 2 else 0.0
            q1 = bi1 * g
            j = i
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                to = f if f >= 0 else ~f
                pj = _basis(places, j, K, centre)
                g = _form(var_diagonal, e, K, pi, pj) if to == e else _form(var_blocks, place[to], K, pi, pj)
                q0 += b[j, 0] * g
                q[j, 0] += bi0 * g
                if P == 2:
                    q1 += b[j, 1] * g
                    q[j, 1] += bi1 * g
            q[i, 0] += q0
            if P == 2:
                q[i, 1] += q1


@njit(cache=True, nogil=True)
def _pairs_scalar(marked, node_ptr, slot, b, indptr, indices, var_diagonal, var_blocks, own, q):
    # the same for K = P = 1
    E = node_ptr.size - 1
    row = np.zeros(E)
    for e in range(E):
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] < E:
                row[indices[k]] = var_blocks[k, 0, 0]
        g = var_diagonal[e, 0, 0]
        row[e] = g
        for k in range(node_ptr[e], node_ptr[e + 1]):
            i = slot[k]
            bi = b[i, 0]
            own[i] = g
            q0 = bi * g
            j = i
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                c = row[f if f >= 0 else ~f]
                q0 += b[j, 0] * c
                q[j, 0] += bi * c
            q[i, 0] += q0


@njit(cache=True, nogil=True)
def _collect(
    stars, star_ptr, source, node, inv, places, K, centre, P, h, gauge, b, own, q, variance, star_cov, star_gauge
):
    for t in range(stars.size):
        s = stars[t]
        star_cov[s] = 0.0
        star_gauge[s] = 0.0
        if inv[s, 0] <= 0.0:
            star_cov[s] = np.nan
            star_gauge[s] = np.nan
            for j in range(star_ptr[t], star_ptr[t + 1]):
                variance[source[j]] = np.nan
            continue
        c00 = inv[s, 0]
        c01 = inv[s, 1]
        c11 = inv[s, 2]
        for j in range(star_ptr[t], star_ptr[t + 1]):
            p = _basis(places, j, K, centre)
            c00 += b[j, 0] * q[j, 0]
            e = node[source[j]]
            along = gauge[e, 0]
            if K > 1:
                along += p[0] * gauge[e, 1] + p[1] * gauge[e, 2]
            if K > 3:
                along += p[2] * gauge[e, 3] + p[3] * gauge[e, 4] + p[4] * gauge[e, 5]
            star_gauge[s, 0] += b[j, 0] * along
            if P == 2:
                c01 += b[j, 0] * q[j, 1]
                c11 += b[j, 1] * q[j, 1]
                star_gauge[s, 1] += b[j, 1] * along
        star_cov[s, 0] = c00
        if P == 2:
            star_cov[s, 1] = c01
            star_cov[s, 2] = c11
        for j in range(star_ptr[t], star_ptr[t + 1]):
            i = source[j]
            v = own[j] + c00 - 2.0 * q[j, 0]
            if P == 2:
                he = h[node[i]]
                v += he * (2.0 * c01 + he * c11) - 2.0 * he * q[j, 1]
            variance[i] = v


def prediction_variance(
    walk: Walk,
    node: NDArray[np.int32],
    w: NDArray[np.floating[Any]],
    star_inverse: Array,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    place: tuple[NDArray[np.float32], int, Array, int, Array],
    var_diagonal: Array,
    var_blocks: Array,
    gauge: Array,
) -> tuple[Array, Array, Array]:
    """Variances from the covariance of theta on the pattern of L.

    Parameters
    ----------
    walk, node, w, star_inverse, indptr, indices, place
        As for `calib.solve.assembly.assemble`.
    var_diagonal, var_blocks
        (E or more, K, K) and (links, K, K), covariance of theta, mag^2.
    gauge
        (E or more, K), covariance of theta with the functional that the gauge holds.

    Returns
    -------
    variance : (n,)
        Of each ``u . star - phi . theta``; the same in every gauge. NaN where the star has no weight.
    star : (S, 3)
        Packed covariance of each star's unknowns.
    star_gauge : (S, P)
        Covariance of each star's unknowns with the gauge's functional.
    """
    xy, K, centre, P, response = place
    n, S = node.size, walk.stars.size
    kind = np.float64 if n < LARGE else np.float32
    b, q, own = np.empty((n, P), kind), np.zeros((n, P), kind), np.empty(n, kind)
    variance: Array = np.empty(n, kind)
    star, star_gauge = np.zeros((S, 3)), np.zeros((S, P))
    runs = (walk.stars, walk.star_ptr, walk.source)
    rows = (walk.marked, walk.node_ptr, walk.slot, b)
    pattern = (indptr, indices, var_diagonal, var_blocks, own, q)
    places = xy[walk.source] if K > 1 else xy
    _coefficients(*runs, node, w, star_inverse, response, P, b)
    if K == 1 and P == 1:
        _pairs_scalar(*rows, *pattern)
    else:
        _pairs(*rows, places, K, centre, P, *pattern)
    _collect(*runs, node, star_inverse, places, K, centre, P, response, gauge, b, own, q, variance, star, star_gauge)
    return variance, star, star_gauge
