"""What a gradient of the flat field that nothing shows may do to zero-points: an error that all of them share.

A camera whose sensitivity falls from one side of the field to the other leaves, exposure beside exposure, a gradient
of zero-points over the sky. It agrees with every measurement. Where surfaces are fitted their prior
allows for it (`calib.solve.terms`); here it is allowed for where none is, for want of places in the field or because
the data ask for none. Nights that tie zero-points hold some of it back, as the solve itself says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.model.anchors import Anchors
from calib.model.noise import LARGE
from calib.model.problem import Problem
from calib.solve.methods import Solved

Array = NDArray[np.float64]

GRADIENT = 1e-3
"""Standard deviation, mag over half the field, along each of two directions: that of a survey's illumination."""


@dataclass(frozen=True)
class UnseenGradient:
    """What one standard deviation of the gradient moves, along each of two directions.

    Attributes
    ----------
    zeropoints
        (E, 2), mag, in the gauge of the solution.
    stars
        (S, 2), mag.
    """

    zeropoints: Array
    stars: Array


def unseen_gradient(problem: Problem, solved: Solved, component: NDArray[np.int32], anchors: Anchors) -> UnseenGradient:
    """Response of zero-points and stars to a gradient over the field, where no surface is fitted.

    Exposures are placed beside each other by the stars they share (`graphs.places`), stars at the mean of theirs;
    the solve then answers what magnitudes a gradient leaves there.

    Parameters
    ----------
    component
        (S,), of each star, -1 for one outside all.
    anchors
        What holds the scale of each component.
    """
    graph, equations, n = problem.graph, solved.equations, problem.graph.n_exposures
    out = UnseenGradient(np.zeros((n, 2)), np.zeros((graph.star_ptr.size - 1, 2)))
    if solved.fit.design.degree > 0:
        return out
    top, node, star = equations.topology, graph.exposure, graph.star()
    own = (node < problem.n_exposures).astype(np.float32)
    place = 2.0 * GRADIENT * graph.exposure_graph(None if own.all() else own).places()
    weight = np.asarray(equations.w, float)
    total = np.bincount(star, weight, out.stars.shape[0])
    visits = np.bincount(star, own, out.stars.shape[0])
    catalogue = np.arange(problem.n_exposures, n)
    for k in range(2):
        at = np.bincount(star, own * place[node, k], visits.size) / np.maximum(visits, 1)
        m = own * (at[star] - place[node, k])
        z = equations.response_to(m)[:n, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            mag = np.where(total > 0, np.bincount(star, weight * (m + z[node]), total.size) / total, 0.0)
        seen = component >= 0
        level = np.bincount(component[seen], (anchors.weight * mag)[seen], top.n_components)
        free = np.bincount(top.component, z, top.n_components) / top.size
        level = np.where(anchors.anchored, level, free)
        level[top.component[catalogue]] = z[catalogue]
        out.zeropoints[:, k] = z - level[top.component]
        out.stars[:, k] = np.where(seen, mag - level[component], 0.0)
    if solved.fit.design.n_measurements >= LARGE:
        equations.release()
    return out
