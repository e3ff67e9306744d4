# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""What zero-points may be off by where they hang on a measurement that nothing checks.

The inverse of the normal equations takes every measurement's noise to be of the width that its weight says. Where a
measurement's leverage is near one (an exposure's only star that others have too, the only star between two parts of a
survey) its residual is next to nothing whatever its noise was, and its weight is a good measurement's. Given all else,
which predicts it with variance V and misses it by d, its noise is of a multiple a_k of its variance s^2 with
probability

    p_k ~ q_k N(d; 0, a_k s^2 + V),

and then normal with variance a_k s^2 V / (a_k s^2 + V) about d a_k s^2 / (a_k s^2 + V). What the mean square distance
of that from the residual has beyond the variance v of the prediction, which errs by as much as the noise differs from
the residual, every zero-point feels by the square of Cov(z, prediction) / v.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.model.tails import MULTIPLES
from calib.solve import kernels
from calib.solve.normal import NormalEquations, Spread
from calib.solve.robust import RobustFit

Array = NDArray[np.float64]

UNCHECKED = 0.8
"""Leverage from which a measurement counts as not checked by others."""
BY_EXPOSURE = 0.25
"""Part of it that has to be its exposure's, and so move a zero-point: a star's other measurement may have no weight."""
MOST_LEVERAGE = 1.0 - 1e-9
FURTHEST = 3.0
"""Standard deviations of the noise that d is taken to be at most: what is further off has lost its weight and its
leverage, and where next to nothing holds a zero-point the steady pull of a one-sided prior, as of clouds, is no d."""
MOST = 512
"""Measurements of which every zero-point is asked what it feels; of the rest only their own exposure's is."""
AT_ONCE = 64


class Unchecked(NamedTuple):
    """Variances (E,), mag^2, with the mean of each component held at zero, and where references hold its scale: what
    moves one zero-point moves the mean, and so all others, but not what references say of these.
    """

    about_mean: Array
    anchored: Array


def unchecked_variance(fit: RobustFit, equations: NormalEquations, spread: Spread) -> Unchecked:
    """What zero-points may be off by for measurements that nothing checks.

    Parameters
    ----------
    equations, spread
        Those whose inverse states the errors of the fit, and the variances.
    """
    design, top = fit.design, equations.topology
    out = Unchecked(np.zeros(design.n_nodes), np.zeros(design.n_nodes))
    if fit.noise.tails.is_normal:
        return out
    row, excess = _excess(fit, equations, spread.prediction)
    order = np.lexsort((row, -excess))
    row, excess = row[order], excess[order]
    node = design.graph.exposure[row]
    leverage = equations.w[row] * spread.prediction[row]
    for start in range(0, min(row.size, MOST), AT_ONCE):
        part = slice(start, min(start + AT_ONCE, MOST, row.size))
        moves = _moves(equations, row[part]) / leverage[part]
        beside_most = _beside_most(moves, top.component, node[part])
        for total, felt in zip(out, (top.about_mean(moves), beside_most), strict=True):
            total += (felt**2) @ excess[part]
    for total in out:
        np.add.at(total, node[MOST:], excess[MOST:])
    return out


def _beside_most(moves: Array, component: NDArray[np.int32], node: NDArray[np.int32]) -> Array:
    """Moves (E, rows) of the components that rows of some nodes are of, less what most of their zero-points do."""
    out = np.zeros_like(moves)
    for c in np.unique(component[node]):
        at = np.ix_(component == c, component[node] == c)
        out[at] = moves[at] - np.median(moves[at], axis=0)
    return out


def _excess(
    fit: RobustFit, equations: NormalEquations, prediction: NDArray[np.floating]
) -> tuple[NDArray[np.int64], Array]:
    """Measurements that nothing checks, and what the mean square error of their prediction has beyond v, mag^2."""
    design, noise = fit.design, fit.noise
    star_ptr, node = design.graph.star_ptr, design.graph.exposure
    linked = equations.topology.size[equations.topology.component] > 1
    seeing = np.zeros(1) if design.response is None else design.response
    stars = equations.star_inverse, design.star_block, seeing
    row = _unchecked(star_ptr, node, equations.w, prediction, *stars, linked)
    star = np.searchsorted(star_ptr, row, "right") - 1
    s2 = noise.base(node[row], fit.err[row]) + fit.weighted.variability[star]
    v, residual = prediction[row].astype(float), fit.estimate.residual[row].astype(float)
    checked = 1.0 - np.minimum(equations.w[row] * v, MOST_LEVERAGE)
    V, wide = (v / checked)[:, None], MULTIPLES * s2[:, None]
    limit = FURTHEST * np.sqrt(s2[:, None])
    d = np.clip((residual / checked)[:, None], -limit, limit)
    shares = noise.tails.share_tables[noise.level[node[row]]]
    with np.errstate(divide="ignore"):
        p = np.log(shares) - 0.5 * (np.log(wide + V) + d**2 / (wide + V))
    p = np.exp(p - p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    share = wide / (wide + V)
    excess = (p * (share * V + (share * d - residual[:, None]) ** 2)).sum(1) - v
    more = excess > 0.0
    return row[more], excess[more]


def _moves(equations: NormalEquations, rows: NDArray[np.int64]) -> Array:
    """(E, rows), what each zero-point is moved by when one is added to a measurement."""
    design, prior = equations.design, equations.prior
    star_ptr, node = design.graph.star_ptr, design.graph.exposure
    xy, centre, response = design.arrays
    placed = design.block > 1
    sides = np.zeros((rows.size, *prior.rhs.shape))
    for i, side in zip(rows, sides, strict=True):
        s = int(np.searchsorted(star_ptr, i, "right")) - 1
        own = slice(star_ptr[s], star_ptr[s + 1])
        one = np.zeros(own.stop - own.start)
        one[i - own.start] = 1.0
        kernels.right_hand_side(
            np.array([0, one.size], star_ptr.dtype), node[own], one, equations.w[own],
            equations.star_inverse[s : s + 1], xy[own] if placed else xy, design.block, centre, design.star_block,
            response, side,
        )  # fmt: skip
    moved = equations.factor.solve(np.ascontiguousarray(sides.transpose(1, 2, 0)))
    return np.asarray(moved[: design.n_nodes, 0])


@njit(cache=True, nogil=True)
def _unchecked(star_ptr, node, w, v, inv, P, h, linked):
    # rows of a leverage beyond UNCHECKED, by what is not known of their exposures, of stars that others saw too
    found = []
    for s in range(star_ptr.size - 1):
        if star_ptr[s + 1] - star_ptr[s] < 2:
            continue
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            if not (w[i] * v[i] > UNCHECKED and linked[e]):
                continue
            star = inv[s, 0]
            if P == 2:
                star += h[e] * (2.0 * inv[s, 1] + h[e] * inv[s, 2])
            if w[i] * (v[i] - star) > BY_EXPOSURE:
                found.append(i)
    return np.array(found, np.int64)
