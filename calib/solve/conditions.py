"""Clouds of a solved survey: its zero-points brought to airmass 1 and median seeing, night by night."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calib.model.conditions import Clouds, clouds
from calib.model.problem import Problem
from calib.solve.robust import RobustFit

Array = NDArray[np.float64]


def conditions_of(problem: Problem, fit: RobustFit) -> Clouds | None:
    """Infer the clouds of all exposures that have a night model; None where nights or airmass are not known.

    Extinction is the night's own where the night is tight; where it is not, clouds that thicken or thin while the
    airmass changes would pass for extinction, and it is the band's, with the scatter of nights as its error.
    """
    levels = fit.terms.levels
    if levels is None or levels.jitter.posterior is None:
        return None
    h, theta = levels.levels, fit.estimate.theta
    own_variance = np.einsum("ekk->ek", fit.spread.grounded)
    n, groups = fit.design.n_nodes, np.arange(h.n_groups)
    tight = levels.tight
    of_band = theta[h.band_hub(1, h.band)]
    slope = of_band + tight * (theta[h.slope(groups)] - of_band)
    slope_variance = own_variance[h.slope(groups)] + (1.0 - tight) * levels.slope.scale
    count = np.maximum(np.bincount(h.group, minlength=h.n_groups), 1)
    middle = np.bincount(h.group, h.airmass, h.n_groups) / count
    s = h.band_hub(2, h.band[h.group])
    drift, drift_variance = np.zeros(h.n_groups), np.zeros(h.n_groups)
    if h.drifts:
        drift = tight * theta[h.drift(groups)]
        drift_variance = own_variance[h.drift(groups)] + (1.0 - tight) * levels.drift.scale
    y, variance, night = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.int64)
    y[h.node] = theta[h.node, 0] + slope[h.group] * h.airmass + drift[h.group] * h.path - h.seeing * theta[s]
    # the night's level takes up what errors its exposures share: of these the gap to it is free
    variance[h.node] = np.clip(fit.spread.node[h.node, 0, 0], 0.0, levels.last["jitter"][1])
    variance[h.node] += slope_variance[h.group] * (h.airmass - middle[h.group]) ** 2
    variance[h.node] += drift_variance[h.group] * h.path**2
    night[h.node] = h.group
    linked = fit.equations.topology.size[fit.equations.topology.component] > 1
    y[~linked] = np.nan
    found = clouds(y, variance, night, h.band.astype(np.int64))
    gone = np.arange(n) >= problem.n_exposures

    def kept(x: Array) -> Array:
        return np.where(gone, np.nan, x)

    return replace(
        found, cloud=kept(found.cloud), cloud_err=kept(found.cloud_err), photometric=kept(found.photometric)
    )
