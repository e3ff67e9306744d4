"""Errors that all zero-points and stars of a component share, whose directions are known beforehand.

A pattern of magnitudes, one standard deviation of what is not known, moves zero-points and stars together by what the
solve makes of it. Patterns are uncorrelated, so that their squares add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.model.anchors import Anchors
from calib.model.noise import LARGE
from calib.model.problem import Problem
from calib.solve.methods import Solved
from calib.solve.unseen import gradient_patterns

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SharedErrors:
    """What one standard deviation of each pattern moves, mag.

    Attributes
    ----------
    zeropoints
        (E, patterns), in the gauge of the solution.
    star_variance
        (S,), mag^2, of all patterns together.
    """

    zeropoints: Array
    star_variance: Array


def shared_errors(problem: Problem, solved: Solved, component: NDArray[np.int32], anchors: Anchors) -> SharedErrors:
    """Of an unseen gradient where no surface is fitted, and of the terms of the instrument.

    Parameters
    ----------
    component
        (S,), of each star, -1 for one outside all.
    anchors
        What holds the scale of each component.
    """
    moved = [_moved(problem, solved, m, component, anchors) for m in _patterns(problem, solved)]
    n, n_stars = problem.graph.n_exposures, problem.graph.n_stars
    zeropoints = np.stack([z for z, _ in moved], 1) if moved else np.zeros((n, 0))
    if moved and solved.fit.design.n_measurements >= LARGE:
        solved.equations.release()
    return SharedErrors(zeropoints, sum((mag**2 for _, mag in moved), np.zeros(n_stars)))


def _patterns(problem: Problem, solved: Solved) -> Iterator[Array]:
    fit = solved.fit
    if fit.design.degree == 0:
        yield from gradient_patterns(problem)
    if fit.instrument is not None:
        for value in fit.instrument.directions():
            yield fit.instrument.columns.times(value)


def _moved(
    problem: Problem, solved: Solved, m: Array, component: NDArray[np.int32], anchors: Anchors
) -> tuple[Array, Array]:
    """Zero-points (E,) and stars (S,) moved by magnitudes m (n,) of the exposures, in the gauge of the solution."""
    graph, equations, n = problem.graph, solved.equations, problem.graph.n_exposures
    top, node, star = equations.topology, graph.exposure, graph.star()
    weight = np.asarray(equations.w, float)
    total = np.bincount(star, weight, graph.n_stars)
    z = equations.response_to(m)[:n, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = np.where(total > 0, np.bincount(star, weight * (m + z[node]), total.size) / total, 0.0)
    seen = component >= 0
    level = np.bincount(component[seen], (anchors.weight * mag)[seen], top.n_components)
    free = np.bincount(top.component, z, top.n_components) / top.size
    level = np.where(anchors.anchored, level, free)
    catalogue = np.arange(problem.n_exposures, n)
    level[top.component[catalogue]] = z[catalogue]
    return z - level[top.component], np.where(seen, mag - level[component], 0.0)
