"""Errors that all zero-points and stars of a component share, whose directions are known beforehand.

A pattern of magnitudes, one standard deviation of what is not known, moves zero-points and stars together by what the
solve makes of it. Patterns are uncorrelated, so that their squares add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.model.anchors import Anchors, shown_along
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
    bend
        How many times as far as is allowed for do reference stars lie along an unseen gradient; 0 without any.
    """

    zeropoints: Array
    star_variance: Array
    bend: float = 0.0


def shared_errors(problem: Problem, solved: Solved, component: NDArray[np.int32], anchors: Anchors) -> SharedErrors:
    """Of an unseen gradient where no surface is fitted, and of the terms of the instrument.

    Parameters
    ----------
    component
        (S,), of each star, -1 for one outside all.
    anchors
        What holds the scale of each component.
    """
    moved_by = _Gauge(problem, solved, component, anchors)
    zeropoints, star_variance = [np.zeros((problem.graph.n_exposures, 0))], np.zeros(problem.graph.n_stars)
    told, bend = np.flatnonzero(np.isfinite(anchors.gap) & (component >= 0)), 0.0
    for m, unseen in _patterns(problem, solved):
        z, mag = moved_by(m)
        size = 1.0
        if unseen and told.size:
            # what is a guess without references is as large as they show it
            shown = shown_along(anchors.gap[told], anchors.tension[told], component[told], mag[told])
            size, bend = max(1.0, shown), max(bend, shown)
        zeropoints.append(size * z[:, None])
        star_variance += (size * mag) ** 2
    if len(zeropoints) > 1 and solved.fit.design.n_measurements >= LARGE:
        solved.equations.release()
    return SharedErrors(np.concatenate(zeropoints, axis=1), star_variance, bend)


def _patterns(problem: Problem, solved: Solved) -> Iterator[tuple[Array, bool]]:
    """Magnitudes (n,), and whether their size is a guess."""
    fit = solved.fit
    if fit.design.degree == 0:
        for m in gradient_patterns(problem):
            yield m, True
    if fit.instrument is not None:
        for value in fit.instrument.directions():
            yield fit.instrument.columns.times(value), False


class _Gauge:
    """What magnitudes of the exposures move, in the gauge of the solution."""

    def __init__(self, problem: Problem, solved: Solved, component: NDArray[np.int32], anchors: Anchors) -> None:
        graph = problem.graph
        self.equations, self.component, self.anchors = solved.equations, component, anchors
        self.node, self.star = graph.exposure, graph.star()
        self.weight = np.asarray(solved.equations.w, float)
        self.total = np.bincount(self.star, self.weight, graph.n_stars)
        self.catalogue = np.arange(problem.n_exposures, graph.n_exposures)

    def __call__(self, m: Array) -> tuple[Array, Array]:
        """Zero-points (E,) and stars (S,) moved by magnitudes m (n,)."""
        top, anchors, total = self.equations.topology, self.anchors, self.total
        z = self.equations.response_to(m)[: self.equations.design.n_nodes, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(self.star, self.weight * (m + z[self.node]), total.size) / total
        mag = np.where(total > 0, mean, 0.0)
        seen = self.component >= 0
        level = np.bincount(self.component[seen], (anchors.weight * mag)[seen], top.n_components)
        free = np.bincount(top.component, z, top.n_components) / top.size
        level = np.where(anchors.anchored, level, free)
        level[top.component[self.catalogue]] = z[self.catalogue]
        return z - level[top.component], np.where(seen, mag - level[self.component], 0.0)
