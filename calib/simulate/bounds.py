"""What a solve could reach if it knew the truth, and what the field does instead: yardsticks for accuracy.

- The weights bound: weighted least squares that knows the true standard deviation of every measurement (noise, the
  star's variability, the rms structure of the exposure's field) and leaves out every outlier, without terms.
- The noise floor: the same with every systematic departure removed as well, so that only noise is left.
- 3-sigma clipping: weighted least squares with the reported errors, clipped until nothing more goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.problem import Problem
from calib.solve.normal import Estimate, NormalEquations, Prior, Topology
from calib.solve.select import design_of, subset

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """Zero-points of the two bounds, (E,) mag, mean 0 in each component; NaN for exposures left without a link."""

    weights: Array
    noise: Array


@dataclass(frozen=True)
class Errors:
    """How far zero-points are from the truth, each component brought to its mean.

    Attributes
    ----------
    rms
        Root mean square error, mag.
    n
        Exposures compared.
    pull_std, coverage_68, coverage_95
        Of error over stated error: standard deviation, and fractions within 1 and 1.96; NaN without stated errors.
    """

    rms: float
    n: int
    pull_std: float
    coverage_68: float
    coverage_95: float


def bounds(problem: Problem, truth: pl.DataFrame) -> Bounds:
    """Solve with all that is hidden.

    Parameters
    ----------
    problem
        Of a simulated survey.
    truth
        truth_measurements, row by row with the survey's measurements: sigma, sigma_total, systematic, outlier,
        outlier_offset.
    """
    row = problem.input_row
    column = {name: truth[name].to_numpy()[row] for name in ("sigma", "sigma_total", "systematic", "outlier_offset")}
    good = ~truth["outlier"].to_numpy()[row]
    inliers = subset(problem, good)
    weights, _ = exact_solve(inliers, inliers.m, 1.0 / column["sigma_total"][good] ** 2)
    clean = problem.m - column["systematic"] - column["outlier_offset"]
    noise, _ = exact_solve(problem, clean, 1.0 / column["sigma"] ** 2)
    return Bounds(weights, noise)


def exact_solve(problem: Problem, m: Array, w: Array) -> tuple[Array, Estimate]:
    """Weighted least squares without terms: zero-points (E,), mean 0 in each component, and the estimate.

    Parameters
    ----------
    m, w
        (n,), magnitudes and weights, sorted by star.
    """
    design = design_of(problem, 0)
    topology = Topology(design)
    equations = NormalEquations(design, m, w, Prior.none(design), topology)
    estimate = equations.estimate()
    z = equations.centred(estimate.theta)[: design.n_nodes, 0].copy()
    z[topology.size[topology.component] < 2] = np.nan
    return z, estimate


def clip_solve(problem: Problem, n_sigma: float = 3.0, max_passes: int = 30) -> Array:
    """Weighted least squares with sigma clipping: zero-points (E,), mean 0 in each component.

    A measurement goes when its residual is beyond ``n_sigma`` times its reported error times the rms of all such
    ratios, which forgives reported errors that are all too small by one factor.
    """
    part = problem
    for _ in range(max_passes):
        z, estimate = exact_solve(part, part.m, 1.0 / part.err.astype(float) ** 2)
        ratio = estimate.residual / part.err
        keep = np.abs(ratio) <= n_sigma * np.sqrt(np.mean(ratio**2))
        if keep.all():
            break
        part = subset(part, keep)
    return z


def zeropoint_errors(
    zeropoint: Array, truth: Array, component: NDArray[np.integer], err: Array | None = None
) -> Errors:
    """Compare zero-points with the truth, the mean difference of each component removed.

    Parameters
    ----------
    zeropoint, truth
        (E,), mag; NaN where there is none.
    component
        (E,), of the whole survey, so that all methods are held against the same truth.
    err
        (E,), stated standard errors, mag.
    """
    good = np.isfinite(zeropoint) & np.isfinite(truth)
    _, group = np.unique(component[good], return_inverse=True)
    size = np.bincount(group)
    difference = zeropoint[good] - truth[good]
    difference = difference - (np.bincount(group, weights=difference) / size)[group]
    linked = size[group] > 1
    difference = difference[linked]
    pull = np.full(difference.size, np.nan) if err is None else np.abs(difference / err[good][linked])
    if not difference.size:
        return Errors(float("nan"), 0, float("nan"), float("nan"), float("nan"))
    known = err is not None
    return Errors(
        float(np.sqrt(np.mean(difference**2))), int(difference.size), float(np.sqrt(np.mean(pull**2))),
        float(np.mean(pull < 1.0)) if known else float("nan"), float(np.mean(pull < 1.96)) if known else float("nan"),
    )  # fmt: skip
