"""Loops over measurements, compiled: everything here is a map over stars and a sum over nodes.

Names: n measurements sorted by star, S stars, E nodes, K unknowns a node, P unknowns a star (1 or 2).
``phi`` is a measurement's node basis (K: 1, 3 or 6 of a surface, one more by magnitude), ``u = (1, h)`` its star
basis (P), ``D_s = sum w u u' + diag(0, lambda_s)``. Packed symmetric star matrices are (S, 3): [0, 0], [0, 1], [1, 1];
with P = 1 only the first is used.

What is called from Python does runs of stars side by side (`calib.workers`): each run sees its own stars, and all
measurements and nodes.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from calib.workers import cut, each, shared, summed

# ruff: noqa: D103 - each kernel's one line stands in its comment, its shapes in the module's


@njit(inline="always")
def has_magnitude_term(K):
    # whether the last of K unknowns is by magnitude: beside 1, 3 or 6 of a surface
    return K == 2 or K == 4 or K == 7


@njit(inline="always")
def phi(xy, i, K, centre, out):
    # phi of measurement i
    out[0] = 1.0
    if K > 2:
        x = np.float64(xy[i, 0])
        y = np.float64(xy[i, 1])
        out[1] = x - centre[1]
        out[2] = y - centre[2]
        if K > 4:
            out[3] = x * x - centre[3]
            out[4] = x * y - centre[4]
            out[5] = y * y - centre[5]
    if has_magnitude_term(K):
        out[K - 1] = np.float64(xy[i, 2])


@njit(cache=True, nogil=True)
def basis(xy, K, centre):
    # phi of every measurement, (n, K)
    n = xy.shape[0]
    if has_magnitude_term(K) and xy.shape[1] < 3:
        raise ValueError("a term by magnitude needs its g beside the places")
    out = np.empty((n, K))
    for i in range(n):
        phi(xy, i, K, centre, out[i])
    return out


def star_inverses(star_ptr: Any, node: Any, w: Any, P: Any, h: Any, star_precision: Any) -> Any:
    # D_s^-1, packed (S, 3); zero where a star has no weight
    out = np.zeros((star_ptr.size - 1, 3))

    def job(s: int, t: int) -> None:
        _star_inverses(star_ptr[s : t + 1], node, w, P, h, star_precision[s:t], out[s:t])

    each(job, shared(star_ptr))
    return out


@njit(cache=True, nogil=True)
def _star_inverses(star_ptr, node, w, P, h, star_precision, out):
    S = star_ptr.size - 1
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


def less_response(star_ptr: Any, node: Any, b: Any, h: Any, m: Any) -> None:
    # m (n) less b_s h_e, in place
    each(lambda s, t: _less_response(star_ptr[s : t + 1], node, b[s:t], h, m), shared(star_ptr))


@njit(cache=True, nogil=True)
def _less_response(star_ptr, node, b, h, m):
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            m[i] -= b[s] * h[node[i]]


def right_hand_side(
    star_ptr: Any, node: Any, m: Any, w: Any, inv: Any, xy: Any, K: Any, centre: Any, P: Any, h: Any, out: Any
) -> None:
    # t = sum w phi (u . s0 - m), s0 = D^-1 sum w u m, added to out (E, K)
    def job(s: int, t: int, out: Any) -> None:
        _right_hand_side(star_ptr[s : t + 1], node, m, w, inv[s:t], xy, K, centre, P, h, out)

    summed(job, cut(star_ptr), out)


@njit(cache=True, nogil=True)
def _right_hand_side(star_ptr, node, m, w, inv, xy, K, centre, P, h, out):
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
            phi(xy, i, K, centre, p)
            for a in range(K):
                out[e, a] += t * p[a]


def apply(
    star_ptr: Any, node: Any, w: Any, inv: Any, xy: Any, K: Any, centre: Any, P: Any, h: Any, theta: Any, out: Any
) -> None:
    # out (E, K) += L theta, without assembling L and without its precisions
    def job(s: int, t: int, out: Any) -> None:
        if K == 1 and P == 1:
            _apply_scalar(star_ptr[s : t + 1], node, w, inv[s:t], theta, out)
        else:
            _apply_blocks(star_ptr[s : t + 1], node, w, inv[s:t], xy, K, centre, P, h, theta, out)

    summed(job, cut(star_ptr), out)


@njit(cache=True, nogil=True)
def _apply_scalar(star_ptr, node, w, inv, theta, out):
    for s in range(star_ptr.size - 1):
        low = star_ptr[s]
        high = star_ptr[s + 1]
        mean = 0.0
        for i in range(low, high):
            mean += np.float64(w[i]) * theta[node[i], 0]
        mean *= inv[s, 0]
        for i in range(low, high):
            e = node[i]
            out[e, 0] += np.float64(w[i]) * (theta[e, 0] - mean)


@njit(cache=True, nogil=True)
def _apply_blocks(star_ptr, node, w, inv, xy, K, centre, P, h, theta, out):
    S = star_ptr.size - 1
    p = np.empty(K)
    for s in range(S):
        y0 = 0.0
        y1 = 0.0
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            phi(xy, i, K, centre, p)
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
            phi(xy, i, K, centre, p)
            g = -s0
            if P == 2:
                g -= s1 * h[e]
            for a in range(K):
                g += p[a] * theta[e, a]
            g *= np.float64(w[i])
            for a in range(K):
                out[e, a] += g * p[a]


def back_substitute(
    star_ptr: Any, node: Any, m: Any, w: Any, inv: Any, xy: Any, K: Any, centre: Any, P: Any, h: Any, theta: Any,
    stars: Any, residual: Any,
) -> None:  # fmt: skip
    # stars (S, P) = D^-1 sum w u (m + phi . theta), NaN without weight; residual (n) = m - u . star + phi . theta
    def job(s: int, t: int) -> None:
        _back_substitute(
            star_ptr[s : t + 1], node, m, w, inv[s:t], xy, K, centre, P, h, theta, stars[s:t], residual
        )

    each(job, shared(star_ptr))


@njit(cache=True, nogil=True)
def _back_substitute(star_ptr, node, m, w, inv, xy, K, centre, P, h, theta, stars, residual):
    S = star_ptr.size - 1
    p = np.empty(K)
    for s in range(S):
        y0 = 0.0
        y1 = 0.0
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            phi(xy, i, K, centre, p)
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
