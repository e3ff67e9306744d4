"""From a fit to errors one can state: the information that weights cost, and what the noise model missed."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve import kernels
from calib.solve.normal import Estimate, NormalEquations, Spread
from calib.solve.robust import RobustFit

Array = NDArray[np.float64]

BOOTSTRAP_DRAWS = 64

# ruff: noqa: D103 - the kernel's one line stands in its comment


def stated_spread(fit: RobustFit) -> tuple[NormalEquations, Spread]:
    """Variances with the weights that carry as much information as the Student-t does.

    Expected weights say how to average; their inverse is too small a variance (Lange, Little & Taylor 1989, JASA 84,
    881).
    """
    if fit.stated is not None:
        return fit.stated, fit.spread
    information = fit.noise.information
    if information == 1.0:
        return fit.equations, fit.spread
    w = fit.equations.w * information
    equations = NormalEquations(fit.design, fit.equations.m, w, fit.prior, fit.equations.topology)
    return equations, equations.spread()


def wild_bootstrap(
    equations: NormalEquations, estimate: Estimate, spread: Spread, score_weight: NDArray[np.floating], seed: int,
    draws: int = BOOTSTRAP_DRAWS,
) -> Array:  # fmt: skip
    """Variance (E,) of zero-points when each star's residuals change sign together (Mammen 1993, Ann. Stat. 21, 255).

    Stars are the independent units: whatever makes a star's own residuals agree (variability, blends, a wrong identity)
    is in. Residuals are scaled to the variance they had before zero-points were fitted; draws reuse the factor.
    """
    design = equations.design
    rng = np.random.default_rng(seed)
    star_ptr, node = design.graph.star_ptr, design.graph.exposure
    xy, centre, response = design.arrays
    n_all = design.n_nodes + equations.topology.hubs.n
    rhs = np.zeros((n_all, design.block, draws))
    inverse = kernels.star_inverses(star_ptr, node, score_weight, design.star_block, response, equations.prior.star)
    signs = np.empty((design.n_stars, draws), np.int8)
    for k in range(draws):
        signs[:, k] = 2 * rng.integers(0, 2, design.n_stars, np.int8) - 1
    _signed_sides(
        star_ptr, node, estimate.residual, equations.w, spread.prediction, equations.star_inverse, score_weight,
        inverse, xy, design.block, centre, design.star_block, response, signs, rhs,
    )  # fmt: skip
    drawn = equations.factor.solve(rhs)[: design.n_nodes, 0]
    top = equations.topology
    mean = np.zeros((top.n_components, draws))
    np.add.at(mean, top.component, drawn)
    drawn = drawn - (mean / top.size[:, None])[top.component]
    return np.asarray((drawn**2).mean(1))


@njit(cache=True, nogil=True)
def _signed_sides(star_ptr, node, residual, w, v, inv, score, score_inv, xy, K, centre, P, h, signs, rhs):  # type: ignore[no-untyped-def]
    # rhs (E, K, draws) += each star's right-hand side times its signs (S, draws): a star's residuals change sign
    # together, so its share is computed once. w, v, inv: weights of the fit, variances of its predictions and packed
    # D_s^-1; score, score_inv: the weights of the right-hand side and theirs.
    longest = 0
    for s in range(star_ptr.size - 1):
        longest = max(longest, star_ptr[s + 1] - star_ptr[s])
    m = np.empty(longest, residual.dtype)
    p = np.empty(K)
    for s in range(star_ptr.size - 1):
        low = star_ptr[s]
        y0 = 0.0
        y1 = 0.0
        for i in range(low, star_ptr[s + 1]):
            # undo the shrinking of residuals by the fit of the nodes; that by the fit of the star's own magnitude
            # stays: its score is of residuals about it, before the fit as after
            own = inv[s, 0]
            if P == 2:
                own += h[node[i]] * (2.0 * inv[s, 1] + h[node[i]] * inv[s, 2])
            alone = min(max(1.0 - w[i] * own, 0.0), 1.0)
            left = max(1.0 - w[i] * v[i], 0.05)
            m[i - low] = residual[i] * np.sqrt(alone / left)
            wm = np.float64(score[i]) * m[i - low]
            y0 += wm
            if P == 2:
                y1 += wm * h[node[i]]
        s0 = score_inv[s, 0] * y0 + score_inv[s, 1] * y1
        s1 = score_inv[s, 1] * y0 + score_inv[s, 2] * y1
        for i in range(low, star_ptr[s + 1]):
            if score[i] == 0.0:
                continue
            e = node[i]
            t = s0 - m[i - low]
            if P == 2:
                t += s1 * h[e]
            t *= np.float64(score[i])
            kernels.phi(xy, i, K, centre, p)
            for a in range(K):
                side = t * p[a]
                for k in range(signs.shape[1]):
                    rhs[e, a, k] += side * signs[s, k]
