"""What one would reach who knew the truth of a simulated survey: how far better weights, or better judgement, can go.

Used by benchmarks/learned.py. No network is asked, and nothing is chosen by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from calib.learn.samples import Truth
from calib.model.problem import Problem
from calib.solve.normal import NormalEquations
from calib.solve.robust import RobustFit


def known_weights(problem: Problem, fit: RobustFit, survey: Any, truth: Truth) -> float:
    """Zero-point rms, mag, of the robust fit's terms and priors under the true variance of every measurement.

    Outliers are left out; stars' variability is in the variance. What no term describes has no variance of its own:
    either none is given it, or each exposure's mean of what the robust fit leaves, whichever does better.
    """
    rows = survey.truth_measurements[problem.input_row]
    variance, outlier = rows["sigma"].to_numpy() ** 2, rows["outlier"].to_numpy()
    node, star, n = problem.graph.exposure, problem.graph.star(), fit.design.n_nodes
    variance = variance + truth.variable[star] ** 2
    left = np.clip(np.nan_to_num(fit.estimate.residual) ** 2 - variance, -1e-2, 1e-3)
    count = np.maximum(np.bincount(node, ~outlier, n), 1)
    beyond = np.maximum(np.bincount(node, np.where(outlier, 0.0, left), n) / count, 0.0) + 1e-6
    top, found = fit.equations.topology, []
    for more in (np.zeros(n), beyond):
        w = np.where(outlier, 0.0, 1.0 / (variance + more[node]))
        theta = NormalEquations(fit.design, fit.equations.m, w, fit.prior, top).estimate().theta
        z = top.about_mean(theta[:n, 0] + fit.faint_blends) - top.about_mean(truth.zeropoint)
        found.append(float(np.sqrt(np.nanmean(z[top.size[top.component] > 1] ** 2))))
    return min(found)


def known_variability(problem: Problem, survey: Any, truth: Truth, among: np.ndarray) -> np.ndarray:
    """Minus the log probability, of each of these stars, that a chi-square which knows everything else is so large.

    Known are zero-points, systematics, sigmas, and which measurements are outliers: what is left unknown is whether a
    star that varies varied when it was looked at. The systematics of variable stars are left in, which flatters it.
    """
    rows = survey.truth_measurements[problem.input_row]
    star, n = problem.graph.star(), problem.graph.n_stars
    variable = (truth.variable > 0)[star]
    y = problem.m + truth.zeropoint[problem.graph.exposure]
    y -= np.where(variable, 0.0, rows["systematic"].to_numpy())
    w = np.where(rows["outlier"].to_numpy(), 0.0, 1.0 / rows["sigma"].to_numpy() ** 2)
    w = np.where(np.isfinite(y), w, 0.0)
    y = np.nan_to_num(y)
    total = np.maximum(np.bincount(star, w, n), 1e-30)
    mean = np.bincount(star, w * y, n) / total
    square = np.bincount(star, w * (y - mean[star]) ** 2, n)
    free = np.maximum(np.bincount(star, w > 0, n) - 1, 1)
    return np.asarray(-chi2.logsf(square[among], free[among]))
