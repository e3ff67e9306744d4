# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Variances of predictions and of stars, from the covariance of the nodes on the pattern of L.

With ``b_j = w_j D_s^-1 u_j`` a star is ``sum_j b_j (m_j + phi_j . theta)``, so all that a prediction needs is
``G_ij = phi_i' C phi_j`` between measurements of one star: the same pairs as in assembly, and the same walk.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve.assembly import Walk
from calib.solve.dense import DenseFields, predict_dense
from calib.solve.kernels import has_magnitude_term
from calib.workers import each, shared

Array = NDArray[np.float64]

LARGE = 2_000_000
"""Measurements from which the sums within stars are kept in single precision, a few parts in 10^7 of a variance."""

# ruff: noqa: D103 - each kernel's one line stands in its comment


@njit(cache=True, forceinline=True)
def _basis(places, j, K, centre):
    # phi without its constant, that by magnitude last; zeros beyond K
    z = np.float64(places[j, 2]) if has_magnitude_term(K) else 0.0
    if K < 3:
        return 0.0, 0.0, 0.0, 0.0, 0.0, z
    x = np.float64(places[j, 0])
    y = np.float64(places[j, 1])
    if K < 5:
        return x - centre[1], y - centre[2], 0.0, 0.0, 0.0, z
    return x - centre[1], y - centre[2], x * x - centre[3], x * y - centre[4], y * y - centre[5], z


@njit(inline="always")
def _row(v, k, a, K, q):
    # row a of block k times phi
    out = v[k, a, 0]
    if K > 2:
        out += v[k, a, 1] * q[0] + v[k, a, 2] * q[1]
    if K > 4:
        out += v[k, a, 3] * q[2] + v[k, a, 4] * q[3] + v[k, a, 5] * q[4]
    if has_magnitude_term(K):
        out += v[k, a, K - 1] * q[5]
    return out


@njit(cache=True, forceinline=True)
def _form(v, k, K, p, q):
    # phi_p' V_k phi_q
    out = _row(v, k, 0, K, q)
    if K > 2:
        out += p[0] * _row(v, k, 1, K, q) + p[1] * _row(v, k, 2, K, q)
    if K > 4:
        out += p[2] * _row(v, k, 3, K, q) + p[3] * _row(v, k, 4, K, q) + p[4] * _row(v, k, 5, K, q)
    if has_magnitude_term(K):
        out += p[5] * _row(v, k, K - 1, K, q)
    return out


@njit(cache=True, nogil=True, forceinline=True)
def _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, K, P):
    # q (n, P) = sum_j b_j G_ij, node by node so that a row of links is found by its column; w, star and places in the
    # order of the walk. b is made as it is met. Of the measurements slot[low[e]:end[e]] of each node, those of a run.
    E = low.size
    place = np.zeros(E, np.int64)
    bi1 = bj1 = q1 = i01 = i11 = 0.0
    for e in range(E):
        if low[e] == end[e]:
            continue
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] < E:
                place[indices[k]] = k
        for k in range(low[e], end[e]):
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
            pi = _basis(places, i, K, centre)
            g = _form(var_diagonal, e, K, pi, pi)
            q0 = bi0 * g
            q1 = bi1 * g
            j = i
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                to = f if f >= 0 else ~f
                pj = _basis(places, j, K, centre)
                g = _form(var_diagonal, e, K, pi, pj) if to == e else _form(var_blocks, place[to], K, pi, pj)
                wj = np.float64(w[j])
                bj0 = wj * i00
                if P == 2:
                    bj0 += wj * i01 * h[to]
                    bj1 = wj * (i01 + i11 * h[to])
                    q1 += bj1 * g
                    q[j, 1] += bi1 * g
                q0 += bj0 * g
                q[j, 0] += bi0 * g
            q[i, 0] += q0
            if P == 2:
                q[i, 1] += q1


@njit(cache=True, nogil=True)
def _pairs_1_2(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 1, 2)


@njit(cache=True, nogil=True)
def _pairs_2_1(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 2, 1)


@njit(cache=True, nogil=True)
def _pairs_2_2(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 2, 2)


@njit(cache=True, nogil=True)
def _pairs_3_1(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 3, 1)


@njit(cache=True, nogil=True)
def _pairs_3_2(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 3, 2)


@njit(cache=True, nogil=True)
def _pairs_4_1(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 4, 1)


@njit(cache=True, nogil=True)
def _pairs_4_2(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 4, 2)


@njit(cache=True, nogil=True)
def _pairs_6_1(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 6, 1)


@njit(cache=True, nogil=True)
def _pairs_6_2(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 6, 2)


@njit(cache=True, nogil=True)
def _pairs_7_1(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 7, 1)


@njit(cache=True, nogil=True)
def _pairs_7_2(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q):
    _pairs(marked, low, end, slot, w, star, inv, h, places, centre, indptr, indices, var_diagonal, var_blocks, q, 7, 2)


_PAIRS = {
    (1, 2): _pairs_1_2, (2, 1): _pairs_2_1, (2, 2): _pairs_2_2,
    (3, 1): _pairs_3_1, (3, 2): _pairs_3_2, (4, 1): _pairs_4_1, (4, 2): _pairs_4_2,
    (6, 1): _pairs_6_1, (6, 2): _pairs_6_2, (7, 1): _pairs_7_1, (7, 2): _pairs_7_2,
}
"""Compiled for each K and P, so that inner loops unroll."""


@njit(cache=True, nogil=True)
def _pairs_scalar(marked, low, end, slot, w, star, inv, indptr, indices, var_diagonal, var_blocks, q):
    # the same for K = P = 1
    E = low.size
    row = np.zeros(E)
    for e in range(E):
        if low[e] == end[e]:
            continue
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] < E:
                row[indices[k]] = var_blocks[k, 0, 0]
        g = var_diagonal[e, 0, 0]
        row[e] = g
        for k in range(low[e], end[e]):
            i = slot[k]
            i00 = inv[star[i], 0]
            bi = np.float64(w[i]) * i00
            q0 = bi * g
            j = i
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                c = row[f if f >= 0 else ~f]
                q0 += np.float64(w[j]) * i00 * c
                q[j, 0] += bi * c
            q[i, 0] += q0


@njit(cache=True, nogil=True)
def _within(node_ptr, slot, first, stop):
    # (E,) twice: where in slot each node's measurements of a run begin and end; they ascend
    E = node_ptr.size - 1
    low = np.empty(E, np.int64)
    end = np.empty(E, np.int64)
    for e in range(E):
        mine = slot[node_ptr[e] : node_ptr[e + 1]]
        low[e] = node_ptr[e] + np.searchsorted(mine, first)
        end[e] = node_ptr[e] + np.searchsorted(mine, stop)
    return low, end


@njit(cache=True, nogil=True)
def _collect(
    stars, star_ptr, source, node, w, inv, places, K, centre, P, h, gauge, var_diagonal, q, variance, star_cov,
    star_gauge,
):  # fmt: skip
    # w and places in the order of the walk
    b1 = 0.0
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
            e = node[source[j]]
            wj = np.float64(w[j])
            b0 = wj * inv[s, 0]
            if P == 2:
                b0 += wj * inv[s, 1] * h[e]
                b1 = wj * (inv[s, 1] + inv[s, 2] * h[e])
            c00 += b0 * q[j, 0]
            along = gauge[e, 0]
            if K > 2:
                along += p[0] * gauge[e, 1] + p[1] * gauge[e, 2]
            if K > 4:
                along += p[2] * gauge[e, 3] + p[3] * gauge[e, 4] + p[4] * gauge[e, 5]
            if has_magnitude_term(K):
                along += p[5] * gauge[e, K - 1]
            star_gauge[s, 0] += b0 * along
            if P == 2:
                c01 += b0 * q[j, 1]
                c11 += b1 * q[j, 1]
                star_gauge[s, 1] += b1 * along
        star_cov[s, 0] = c00
        if P == 2:
            star_cov[s, 1] = c01
            star_cov[s, 2] = c11
        for j in range(star_ptr[t], star_ptr[t + 1]):
            i = source[j]
            e = node[i]
            p = _basis(places, j, K, centre)
            v = _form(var_diagonal, e, K, p, p) + c00 - 2.0 * q[j, 0]
            if P == 2:
                he = h[e]
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
    dense: DenseFields | None = None,
) -> tuple[Array, Array, Array]:
    """Variances from the covariance of theta on the pattern of L.

    Parameters
    ----------
    walk, node, w, star_inverse, indptr, indices, place, dense
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
    q = np.zeros((n, P), kind)
    star, star_gauge = np.zeros((S, 3)), np.zeros((S, P))
    weight = w[walk.source]
    others = walk if dense is None else dense
    rows = (others.slot, weight, walk.star(), star_inverse)
    pattern = (indptr, indices, var_diagonal, var_blocks, q)
    places = xy[walk.source] if K > 1 else xy
    runs = shared(walk.star_ptr)

    kernel: Any = _PAIRS.get((K, P), _pairs_scalar)
    terms = () if K == P == 1 else (response, places, centre)

    def pairs(rows: Any, first: int, stop: int) -> None:
        within = _within(others.node_ptr, others.slot, walk.star_ptr[first], walk.star_ptr[stop])
        kernel(walk.marked, *within, *rows, *terms, *pattern)

    each(partial(pairs, rows), runs)
    if dense is not None:
        predict_dense(
            dense, walk.star_ptr, walk.nodes, weight, rows[2], star_inverse, indptr, indices,
            (places, K, centre, P, response), var_diagonal, var_blocks, q,
        )  # fmt: skip
    del rows
    variance: Array = np.empty(n, kind)

    def collect(first: int, stop: int) -> None:
        _collect(
            walk.stars[first:stop], walk.star_ptr[first : stop + 1], walk.source, node, weight, star_inverse, places, K,
            centre, P, response, gauge, var_diagonal, q, variance, star, star_gauge,
        )  # fmt: skip

    each(collect, runs)
    return variance, star, star_gauge
