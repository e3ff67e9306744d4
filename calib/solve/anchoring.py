"""The gauge that reference stars set: their offsets from a solution, and what of the zero-points they hold."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.anchors import Anchors, anchor
from calib.model.problem import Problem
from calib.solve.gauge import star_functional
from calib.solve.kernels import basis
from calib.solve.methods import Solved

Array = NDArray[np.float64]


def anchored_by_stars(
    problem: Problem, solved: Solved, mag: Array, component: NDArray[np.int32], reference: pl.DataFrame | None
) -> tuple[Anchors, Array | None]:
    """The references' offsets, and the functional of theta that they hold; None where there are none."""
    equations, top = solved.equations, solved.equations.topology
    own = solved.equations.star_inverse[:, 0]
    anchors = anchor(problem.stars, mag, own, component, top.n_components, reference)
    if not anchors.anchored.any():
        return anchors, None
    functional = star_functional(equations, anchors.weight)
    unanchored = ~anchors.anchored[top.component]
    functional[: unanchored.size][unanchored] = equations.mean_functional[: unanchored.size][unanchored]
    return anchors, functional


def anchored_by_catalogue(problem: Problem, solved: Solved) -> tuple[Anchors, Array]:
    """The gauge where the catalogue's zero-point is 0, in every component that holds reference stars."""
    fit, equations, top = solved.fit, solved.equations, solved.equations.topology
    nodes = np.arange(problem.n_exposures, problem.graph.n_exposures)
    component = top.component[nodes]
    anchored = np.zeros(top.n_components, bool)
    anchored[component] = True
    # its rows lie at the middle of the field, where a surface is not quite zero, and no exposure does to them what it
    # does to stars by their magnitude
    at_middle = basis(np.zeros((1, 3), np.float32), fit.design.block, fit.design.arrays[1])[0]
    theta = equations.centred(fit.estimate.theta)
    offset = np.zeros(top.n_components)
    offset[component] = -theta[nodes] @ at_middle
    functional = equations.mean_functional.copy()
    functional[: top.component.size][anchored[top.component]] = 0.0
    functional[nodes] = at_middle
    rows = np.flatnonzero(problem.graph.exposure >= problem.n_exposures)
    at = problem.graph.exposure[rows] - problem.n_exposures
    own = np.bincount(at, problem.err[rows].astype(float) ** 2, nodes.size) / np.maximum(np.bincount(at), 1)
    noise = fit.noise.floor[problem.band[nodes]] + fit.noise.excess[nodes]
    # where all errors are alike, their scale and a floor say the same
    noise += np.maximum(fit.noise.error_scale2[nodes] - 1.0, 0.0) * own
    scatter = np.zeros(top.n_components)
    scatter[component] = np.sqrt(noise)
    base = fit.noise.base(problem.graph.exposure[rows], problem.err[rows]).astype(float)
    gap, tension = np.full((2, fit.design.n_stars), np.nan)
    star = problem.graph.star()[rows]
    gap[star], tension[star] = fit.estimate.residual[rows], fit.estimate.residual[rows] / np.sqrt(base)
    nothing = np.zeros(top.n_components)
    anchors = Anchors(offset, anchored, nothing, np.zeros(fit.design.n_stars), scatter, gap, tension)
    return anchors, functional
