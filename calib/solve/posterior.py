"""From a fit to errors one can state: the information that weights cost, and what the noise model missed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.model.noise import NoiseModel
from calib.solve import kernels
from calib.solve.normal import Estimate, NormalEquations, Spread
from calib.solve.robust import RobustFit

Array = NDArray[np.float64]

BOOTSTRAP_DRAWS = 64


def information_loss(noise: NoiseModel) -> float:
    """Information of a Student-t about its location over that of a normal with the expected weights: (nu+1)/(nu+3)."""
    return 1.0 if np.isinf(noise.dof) else (noise.dof + 1.0) / (noise.dof + 3.0)


def stated_spread(fit: RobustFit) -> tuple[NormalEquations, Spread]:
    """Variances with the weights that carry as much information as the Student-t does.

    Expected weights say how to average; their inverse is too small a variance, by the factor above (Lange, Little &
    Taylor 1989, JASA 84, 881).
    """
    loss = information_loss(fit.noise)
    if loss == 1.0:
        return fit.equations, fit.spread
    equations = NormalEquations(fit.design, fit.equations.m, fit.equations.w * loss, fit.prior, fit.equations.topology)
    return equations, equations.spread()


def wild_bootstrap(
    equations: NormalEquations, estimate: Estimate, spread: Spread, score_weight: Array, seed: int,
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
    out = np.zeros((n_all, design.block))
    star = np.repeat(np.arange(design.n_stars, dtype=np.int32), np.diff(star_ptr))
    scaled = estimate.residual * _restored(equations, spread, star)
    scaled = estimate.residual * _restored(equations, spread, star)
    for k in range(draws):
        out[:] = 0.0
        sign = (2 * rng.integers(0, 2, design.n_stars, np.int8) - 1).astype(np.float32)
        m = scaled * sign[star]
        kernels.right_hand_side(
            star_ptr, node, m, score_weight, inverse, xy, design.block, centre, design.star_block, response, out
        )
        rhs[:, :, k] = out
    drawn = equations.factor.solve(rhs)[: design.n_nodes, 0]
    top = equations.topology
    mean = np.zeros((top.n_components, draws))
    np.add.at(mean, top.component, drawn)
    drawn = drawn - (mean / top.size[:, None])[top.component]
    return np.asarray((drawn**2).mean(1))


def _restored(equations: NormalEquations, spread: Spread, star: NDArray[np.int32]) -> NDArray[np.float32]:
    """(n,), what undoes the shrinking of residuals by the fit of the nodes.

    That by the fit of each star's own magnitude stays: its score is of residuals about it, before the fit as after.
    """
    inv, w = equations.star_inverse, equations.w
    own = inv[:, 0][star]
    if equations.design.star_block == 2:
        h = equations.design.arrays[2][equations.design.graph.exposure]
        own = own + h * (2.0 * inv[:, 1][star] + h * inv[:, 2][star])
    alone, left = np.clip(1.0 - w * own, 0.0, 1.0), np.maximum(1.0 - w * spread.prediction, 0.05)
    return np.sqrt(alone / left).astype(np.float32)
