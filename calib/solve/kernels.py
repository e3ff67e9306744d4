"""Loops over measurements, compiled: everything here is a map over stars and a sum over nodes.

Names: n measurements sorted by star, S stars, E nodes, K unknowns a node, P unknowns a star (1 or 2).
``phi`` is a measurement's node basis (K), ``u = (1, h)`` its star basis (P), ``D_s = sum w u u' + diag(0, lambda_s)``.
Packed symmetric star matrices are (S, 3): [0, 0], [0, 1], [1, 1]; with P = 1 only the first is used.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

import numpy as np
from numba import njit

# ruff: noqa: D103 - each kernel's one line stands in its comment, its shapes in the module's


@njit(inline="always")
def _phi(xy, i, K, centre, out):
    out[0] = 1.0
    if K > 1:
        x = np.float64(xy[i, 0])
        y = np.float64(xy[i, 1])
        out[1] = x - centre[1]
        out[2] = y - centre[2]
        if K > 3:
            out[3] = x * x - centre[3]
            out[4] = x * y - centre[4]
            out[5] = y * y - centre[5]


@njit(cache=True, nogil=True)
def basis(xy, K, centre):
    # phi of every measurement, (n, K)
    n = xy.shape[0]
    out = np.empty((n, K))
    for i in range(n):
        _phi(xy, i, K, centre, out[i])
    return out


@njit(cache=True, nogil=True)
def star_inverses(star_ptr, node, w, P, h, star_precision):
    # D_s^-1, packed (S, 3); zero where a star has no weight
    S = star_ptr.size - 1
    out = np.zeros((S, 3))
    for s in range(S):
        a = 0.0
        b = 0.0
        c = 0.0
        for i in range(star_ptr[s], star_ptr[s + 1]):
            wi = np.float64(w[i])
            a += wi
            if P == 2:
                hi = h[node[i]]
                b += wi * hi
                c += wi * hi * hi
        if a <= 0.0:
            continue
        if P == 1:
            out[s, 0] = 1.0 / a
        else:
            c += star_precision[s]
            det = a * c - b * b
            if det > 1e-12 * a * c:
                out[s, 0] = c / det
                out[s, 1] = -b / det
                out[s, 2] = a / det
            else:
                out[s, 0] = 1.0 / a
    return out


@njit(cache=True, nogil=True)
def right_hand_side(star_ptr, node, m, w, inv, xy, K, centre, P, h, out):
    # t = sum w phi (u . s0 - m), s0 = D^-1 sum w u m, added to out (E, K)
    S = star_ptr.size - 1
    p = np.empty(K)
    for s in range(S):
        y0 = 0.0
        y1 = 0.0
        for i in range(star_ptr[s], star_ptr[s + 1]):
            wm = np.float64(w[i]) * m[i]
            y0 += wm
            if P == 2:
                y1 += wm * h[node[i]]
        s0 = inv[s, 0] * y0 + inv[s, 1] * y1
        s1 = inv[s, 1] * y0 + inv[s, 2] * y1
        for i in range(star_ptr[s], star_ptr[s + 1]):
            if w[i] == 0.0:
                continue
            e = node[i]
            t = s0 - m[i]
            if P == 2:
                t += s1 * h[e]
            t *= np.float64(w[i])
            _phi(xy, i, K, centre, p)
            for a in range(K):
                out[e, a] += t * p[a]


@njit(cache=True, nogil=True)
def apply(star_ptr, node, w, inv, xy, K, centre, P, h, theta, out):
    # out (E, K) += L theta, without assembling L and without its precisions
    S = star_ptr.size - 1
    p = np.empty(K)
    for s in range(S):
        y0 = 0.0
        y1 = 0.0
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            _phi(xy, i, K, centre, p)
            g = 0.0
            for a in range(K):
                g += p[a] * theta[e, a]
            g *= np.float64(w[i])
            y0 += g
            if P == 2:
                y1 += g * h[e]
        s0 = inv[s, 0] * y0 + inv[s, 1] * y1
        s1 = inv[s, 1] * y0 + inv[s, 2] * y1
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            _phi(xy, i, K, centre, p)
            g = -s0
            if P == 2:
                g -= s1 * h[e]
            for a in range(K):
                g += p[a] * theta[e, a]
            g *= np.float64(w[i])
            for a in range(K):
                out[e, a] += g * p[a]


@njit(cache=True, nogil=True)
def back_substitute(star_ptr, node, m, w, inv, xy, K, centre, P, h, theta, stars, residual):
    # stars (S, P) = D^-1 sum w u (m + phi . theta), NaN without weight; residual (n) = m - u . star + phi . theta
    S = star_ptr.size - 1
    p = np.empty(K)
    for s in range(S):
        y0 = 0.0
        y1 = 0.0
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            _phi(xy, i, K, centre, p)
            g = m[i]
            for a in range(K):
                g += p[a] * theta[e, a]
            residual[i] = g
            g *= np.float64(w[i])
            if w[i] != 0.0:
                y0 += g
                if P == 2:
                    y1 += g * h[e]
        if inv[s, 0] > 0.0:
            stars[s, 0] = inv[s, 0] * y0 + inv[s, 1] * y1
            if P == 2:
                stars[s, 1] = inv[s, 1] * y0 + inv[s, 2] * y1
        else:
            stars[s, :] = np.nan
        for i in range(star_ptr[s], star_ptr[s + 1]):
            residual[i] -= stars[s, 0]
            if P == 2:
                residual[i] -= stars[s, 1] * h[node[i]]


@njit(inline="always")
def _find(indices, low, high, f):
    while low < high:
        mid = (low + high) >> 1
        if indices[mid] < f:
            low = mid + 1
        else:
            high = mid
    return low


@njit(cache=True, nogil=True)
def prediction_variance(
    star_ptr,
    node,
    w,
    inv,
    indptr,
    indices,
    xy,
    K,
    centre,
    P,
    h,
    var_diagonal,
    var_blocks,
    gauge,
    variance,
    star_cov,
    star_gauge,
):
    # From the covariance of theta on the pattern of L: the variance (n) of each prediction u . star - phi . theta,
    # the covariance (S, 3, packed) of each star's unknowns, and their covariance (S, P) with the gauge, of which
    # gauge (E, K) is the covariance with theta. Variances of predictions do not depend on the gauge.
    S = star_ptr.size - 1
    longest = 1
    for s in range(S):
        longest = max(longest, star_ptr[s + 1] - star_ptr[s])
    phis = np.empty((longest, K))
    q0 = np.empty(longest)
    q1 = np.empty(longest)
    for s in range(S):
        low = star_ptr[s]
        m = star_ptr[s + 1] - low
        star_cov[s, :] = 0.0
        star_gauge[s, :] = 0.0
        if inv[s, 0] <= 0.0:
            for i in range(m):
                variance[low + i] = np.nan
            star_cov[s, :] = np.nan
            star_gauge[s, :] = np.nan
            continue
        c00 = inv[s, 0]
        c01 = inv[s, 1]
        c11 = inv[s, 2]
        for i in range(m):
            _phi(xy, low + i, K, centre, phis[i])
            q0[i] = 0.0
            q1[i] = 0.0
        # q_i = sum_j beta_j G_ji with beta_j = D^-1 u_j w_j and G_ji = phi_j' C phi_i
        for i in range(m):
            e = node[low + i]
            he = h[e] if P == 2 else 0.0
            wi = np.float64(w[low + i])
            b0i = wi * (inv[s, 0] + inv[s, 1] * he)
            b1i = wi * (inv[s, 1] + inv[s, 2] * he)
            gg = 0.0
            for a in range(K):
                gg += phis[i, a] * gauge[e, a]
            star_gauge[s, 0] += b0i * gg
            if P == 2:
                star_gauge[s, 1] += b1i * gg
            for j in range(i, m):
                f = node[low + j]
                wj = np.float64(w[low + j])
                if wi == 0.0 and wj == 0.0 and i != j:
                    continue
                hf = h[f] if P == 2 else 0.0
                b0j = wj * (inv[s, 0] + inv[s, 1] * hf)
                b1j = wj * (inv[s, 1] + inv[s, 2] * hf)
                g = 0.0
                if e == f:
                    for a in range(K):
                        for b in range(K):
                            g += phis[i, a] * var_diagonal[e, a, b] * phis[j, b]
                elif e < f:
                    k = _find(indices, indptr[e], indptr[e + 1], f)
                    for a in range(K):
                        for b in range(K):
                            g += phis[i, a] * var_blocks[k, a, b] * phis[j, b]
                else:
                    k = _find(indices, indptr[f], indptr[f + 1], e)
                    for a in range(K):
                        for b in range(K):
                            g += phis[i, b] * var_blocks[k, a, b] * phis[j, a]
                q0[i] += b0j * g
                q1[i] += b1j * g
                if i == j:
                    variance[low + i] = g
                    c00 += b0i * b0i * g
                    c01 += b0i * b1i * g
                    c11 += b1i * b1i * g
                else:
                    q0[j] += b0i * g
                    q1[j] += b1i * g
                    c00 += 2.0 * b0i * b0j * g
                    c01 += (b0i * b1j + b1i * b0j) * g
                    c11 += 2.0 * b1i * b1j * g
        star_cov[s, 0] = c00
        if P == 2:
            star_cov[s, 1] = c01
            star_cov[s, 2] = c11
        for i in range(m):
            he = h[node[low + i]] if P == 2 else 0.0
            v = c00 - 2.0 * q0[i]
            if P == 2:
                v += he * (2.0 * c01 + he * c11) - 2.0 * he * q1[i]
            variance[low + i] += v
