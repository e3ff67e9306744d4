"""Light that an exposure's background leaves in every star's aperture, or takes from it.

A background that is wrong by a little adds the same flux B_e to all stars of an exposure, which moves faint ones more:

    calibrated magnitude = m + z_e + ... + b_e g_i,   g_i = 10^(0.4 (M_s - M_0)),   b_e = 2.5 / ln 10  B_e / F_0

with M_s the magnitude of the star and M_0 one near the faint end, whose flux is F_0. b_e is t-distributed about zero
with a scale that is a restricted-likelihood estimate, and joins the unknowns of its node behind the surface's. What
all exposures have in common of it moves the magnitudes of faint stars and no zero-point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.model.calibrator import FLUX_OF_ZERO
from calib.model.problem import Problem
from calib.solve.normal import Estimate
from calib.solve.robust import RobustFit, score_test
from calib.tables.units import MAG_PER_RELATIVE_FLUX

Array = NDArray[np.float64]

FAINT_END = 0.84
"""M_0 is this quantile of the magnitudes of a component's measurements."""
FAINTEST = 6.0
"""g counts as no more than this: stars two magnitudes below the faint end say nothing anyway."""
STEEPEST = 4.0
"""Magnitudes from the mean beyond which a star counts as no brighter or fainter, where a slope is looked for."""
SEEN = 1.0
"""Standard deviations by which residuals must vary with g from exposure to exposure before the term is tried."""


def faintness(problem: Problem, start: Estimate) -> NDArray[np.float32]:
    """g, float32 (n,), sorted by star, from the magnitudes of a start; 0 for the rows of a catalogue."""
    graph = problem.graph
    mag = start.stars[graph.star(), 0]
    label = graph.components()[graph.exposure]
    out = np.zeros(mag.size, np.float32)
    order = np.argsort(label, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(label))[:-1]) if mag.size else []:
        if rows.size:
            x = np.power(10.0, 0.4 * (mag[rows] - np.quantile(mag[rows], FAINT_END)))
            out[rows] = np.minimum(np.nan_to_num(x), FAINTEST)
    out[graph.exposure >= problem.n_exposures] = 0.0
    return out


def shows(fit: RobustFit, g: NDArray[np.float32]) -> bool:
    """Whether residuals vary with g from exposure to exposure, and no less than they do with the magnitude itself.

    A slope with magnitude that differs from exposure to exposure (the magnitude equation of photographic plates, a
    detector that is not linear) is no background: taken for one, it would move zero-points to those of the brightest
    stars.
    """
    design = fit.design
    mag = fit.estimate.stars[design.graph.star(), 0]
    label = fit.equations.topology.component[design.graph.exposure]
    known = np.isfinite(mag)
    count = np.maximum(np.bincount(label, known), 1)
    mean = np.bincount(label[known], mag[known], count.size) / count
    slope = np.where(known, np.clip(mag - mean[label], -STEEPEST, STEEPEST), 0.0)
    light = _varies(fit, g)
    return light > SEEN and light > _varies(fit, slope)


def _varies(fit: RobustFit, g: NDArray[np.floating]) -> float:
    """Score test of coefficients of g, one an exposure, beside its zero-point."""
    node, w = fit.design.graph.exposure, np.asarray(fit.resisting, float)
    total = np.bincount(node, w)
    about = g - (np.bincount(node, w * g) / np.maximum(total, 1e-300))[node]
    return score_test(fit, node, about)


def flux(fit: RobustFit, mag: Array) -> Array:
    """B (E,), nJy if magnitudes (S,) of the stars are AB, of the nodes of a fit; NaN where a node has no faint star."""
    design = fit.design
    assert design.faintness is not None
    node, star = design.graph.exposure, design.graph.star()
    known = (design.faintness > 0) & (design.faintness < FAINTEST) & np.isfinite(mag[star])
    # g is 10^(0.4 M) up to a factor of the component
    ratio = np.log10(design.faintness[known]) - 0.4 * mag[star[known]]
    count = np.bincount(node[known], minlength=design.n_nodes)
    with np.errstate(invalid="ignore"):
        factor = np.bincount(node[known], ratio, design.n_nodes) / np.where(count, count, np.nan)
    share = fit.estimate.theta[: design.n_nodes, -1] / MAG_PER_RELATIVE_FLUX
    return np.asarray(share * FLUX_OF_ZERO * np.power(10.0, factor))
