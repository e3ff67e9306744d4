"""The term of every exposure by how bright stars are (`calib.model.by_magnitude`): which shape, and how it is found.

The coefficient b_e is t-distributed about zero with a scale that is a restricted-likelihood estimate, and joins the
unknowns of its node behind the surface's. What all exposures have in common of it moves the magnitudes of stars and no
zero-point. A survey has one shape, that of the greatest evidence: a slope taken for a background would move zero-points
to those of the brightest stars, a nonlinearity taken for a slope to those of the middling ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from calib.model.by_magnitude import SHAPES, ByMagnitude, MagnitudeTerms
from calib.model.problem import Problem
from calib.solve.normal import Estimate
from calib.solve.robust import RobustFit, score_test

Array = NDArray[np.float64]

SEEN = 2.0
"""Standard deviations by which residuals must vary with g from exposure to exposure before a term is tried; by fewer it
would not gain what a term has to (`calib.solve.select.GAIN`)."""


def by_magnitude(shape: str, problem: Problem, start: Estimate) -> ByMagnitude:
    """One shape for a survey, from the magnitudes of a start; 0 for the rows of a catalogue."""
    term = ByMagnitude.of(shape, problem.graph, start.stars[:, 0])
    term.g[problem.graph.exposure >= problem.n_exposures] = 0.0
    return term


def seen_in(fit: RobustFit, problem: Problem, start: Estimate) -> list[ByMagnitude]:
    """Shapes by which residuals vary from exposure to exposure, that by which they vary most first."""
    terms = [by_magnitude(shape, problem, start) for shape in SHAPES]
    varies = {term.shape: _varies(fit, term.g) for term in terms}
    return sorted((t for t in terms if varies[t.shape] > SEEN), key=lambda t: -varies[t.shape])


def _varies(fit: RobustFit, g: NDArray[np.floating]) -> float:
    """Score test of coefficients of g, one an exposure, beside its zero-point."""
    node, w = fit.design.graph.exposure, np.asarray(fit.resisting, float)
    total = np.bincount(node, w)
    about = g - (np.bincount(node, w * g) / np.maximum(total, 1e-300))[node]
    return score_test(fit, node, about)


def columns(fit: RobustFit, mag: Array) -> Mapping[str, Array]:
    """What the table of zero-points says of it, (E,) each of the nodes of a fit, for final magnitudes (S,) of stars."""
    design = fit.design
    term = design.by_magnitude
    if term is None:
        return {}
    return MagnitudeTerms.columns(
        term.shape, fit.estimate.theta[: design.n_nodes, -1], term.pivot(design.graph, mag)
    )
