"""The methods of ``--method``: each takes a problem, or half its stars, and gives zero-points with errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.config import Config
from calib.model.noise import LARGE, NodeSums, NoiseModel, Weighted
from calib.model.problem import Problem
from calib.model.tails import Tails
from calib.solve.begin import Beginning, begun_fit
from calib.solve.border import Border
from calib.solve.by_magnitude import by_magnitude
from calib.solve.clusters import bootstrap_variances
from calib.solve.normal import NormalEquations, Prior, Spread, Topology
from calib.solve.robust import RobustFit, absolute_start, fit, stated_spread
from calib.solve.select import Trial, border_of, design_of, instrument_of, robust_fit
from calib.solve.split import Half
from calib.solve.terms import Terms

Array = NDArray[np.float64]
Progress = Callable[[str, int, float], None]


REFIT_PASSES = 15
"""Passes of a part of the stars, which begins from what the whole has learned and is near where it rests by then."""


@dataclass
class Solved:
    """A method's answer, in the mean gauge of each component.

    Attributes
    ----------
    fit
        What the method came to.
    equations, spread
        Those whose inverse states the errors, and the variances.
    inflation
        (components,), factor on all errors, not below one.
    bootstrap_ratio
        Bootstrap over stated variance of zero-points, the median over exposures.
    trials
        Local terms tried.
    beyond
        (E,), variance of zero-points that the inverse does not hold, mag^2: errors that measurements share, and members
        of an ensemble that disagree.
    outlier
        (n,), probability of every measurement to be an outlier, where the method has its own.
    """

    fit: RobustFit
    equations: NormalEquations
    spread: Spread
    inflation: Array
    bootstrap_ratio: float
    trials: list[Trial]
    beyond: Array
    outlier: NDArray[np.float32] | None = None

    def half(self) -> Half:
        """Zero-points and errors, as star-split compares them.

        Tails that nothing checks (`calib.solve.unchecked`) are left out: the score is a likelihood of normal errors.
        """
        top, n = self.equations.topology, self.fit.design.n_nodes
        z = top.about_mean(self.fit.estimate.theta[:n, 0] + self.fit.faint_blends)
        z[top.size[top.component] < 2] = np.nan
        variance = np.maximum(self.spread.node[:n, 0, 0], 0.0) * self.inflation[top.component] ** 2 + self.beyond
        return Half(z, np.sqrt(variance), top.component)


def solve_robust(
    problem: Problem, config: Config, progress: Progress | None = None, beginning: Beginning | None = None
) -> Solved:
    """Expected weights, variances by REML, local terms and night levels where they earn their place.

    Terms earn none anew where an older solution is begun from.
    """
    if beginning is None:
        found, trials = robust_fit(problem, config, progress)
    else:
        found, trials = begun_fit(problem, config, beginning, progress)
    return stated(found, trials, problem.err, config.seed)


def resolve_robust(problem: Problem, like: RobustFit, config: Config) -> Solved:
    """The robust solve of part of the stars with the terms that the whole survey chose.

    All variances are learned anew, from those of the whole on.
    """
    return stated(refit(problem, like, config), [], problem.err, config.seed)


def refit(problem: Problem, like: RobustFit, config: Config) -> RobustFit:
    """As `resolve_robust`, without what its errors take."""
    noise = like.noise.copy() if problem.survey_nodes is None else like.noise.at(problem.survey_nodes)
    seeing, nodes = like.design.response, problem.survey_nodes
    seeing = seeing if seeing is None or nodes is None else seeing[nodes]
    design, start = design_of(problem, like.design.degree, seeing), None
    term = like.design.by_magnitude
    if term is not None:
        start = absolute_start(design, problem.m, problem.err, Topology(design))
        design = design.with_terms(design.degree, seeing, by_magnitude(term.shape, problem, start))
    border = border_of(problem, design, config)
    instrument = instrument_of(problem, design, like.instrument)
    return fit(
        design, problem.m, problem.err, problem.band, border, start=start, noise=noise,
        terms=Terms(design, border).like(like.terms), instrument=instrument,
        max_passes=min(config.max_passes, REFIT_PASSES), tolerance=config.tolerance,
    )  # fmt: skip


def solve_wls(problem: Problem, config: Config, progress: Progress | None = None) -> Solved:
    """Weighted least squares with the reported errors: no terms, no robustness."""
    design = design_of(problem, 0)
    topology = Topology(design)
    w = 1.0 / problem.err.astype(float) ** 2
    equations = NormalEquations(design, problem.m, w, Prior.none(design), topology)
    estimate, spread = equations.estimate(), equations.spread()
    n_bands = len(problem.bands)
    noise = NoiseModel.start(problem.band, np.ones(n_bands), floor=0.0)
    noise.excess[:], noise.tails = 0.0, Tails.normal()
    nothing = np.zeros(design.n_stars)
    sums = NodeSums(*(np.zeros(design.n_nodes),) * 7, noise.shares, None, np.nan)
    border = Border.of(problem, surfaces=False, levels=False)
    found = RobustFit(
        design, noise, Terms(design, border), Prior.none(design), Weighted(w, nothing, nothing, nothing, sums),
        problem.err, 0.0, equations, estimate, spread, np.nan, 1, True, 0.0,
    )  # fmt: skip
    return stated(found, [], problem.err, config.seed)


def stated(found: RobustFit, trials: list[Trial], err: NDArray[np.floating], seed: int) -> Solved:
    """Errors with the information that weights cost, enlarged where residuals say that they are too small.

    ``err`` are the reported errors (n,), by which the bootstrap knows its stars.
    """
    equations, spread = stated_spread(found)
    top, n = equations.topology, found.design.n_nodes
    inflation, ratio, coherent = np.ones(top.n_components), float("nan"), np.zeros(n)
    variance = spread.node[:n, 0, 0]
    compared = (top.size[top.component] > 1) & (variance > 0)
    if compared.any():
        observed = (equations, found.estimate.residual, spread, found.equations.w)
        drawn, coherent = bootstrap_variances(*observed, err, found.noise.band, seed)
        ratios = drawn[compared] / variance[compared]
        ratio = float(np.median(ratios))
        for c in np.unique(top.component[compared]):
            inside = ratios[top.component[compared] == c]
            # few exposures say little about their own component: lean on the survey
            pooled = (inside.size * np.median(inside) + 20 * ratio) / (inside.size + 20)
            inflation[c] = np.sqrt(max(float(pooled), 1.0))
    if found.design.n_measurements >= LARGE:
        equations.release()
    return Solved(found, equations, spread, inflation, ratio, trials, coherent)
