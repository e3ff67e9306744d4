"""What a gradient of the flat field that nothing shows may do to magnitudes: an error that all zero-points share.

A camera whose sensitivity falls from one side of the field to the other leaves, exposure beside exposure, a gradient
of zero-points over the sky. It agrees with every measurement. Where surfaces are fitted their prior
allows for it (`calib.solve.terms`); here it is allowed for where none is, for want of places in the field or because
the data ask for none. Nights that tie zero-points hold some of it back, as the solve itself says.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from calib.model.problem import Problem

Array = NDArray[np.float64]


def gradient_patterns(problem: Problem) -> Iterator[Array]:
    """Magnitudes (n,) that one standard deviation of the gradient leaves, along each of two directions.

    Exposures are placed beside each other by the stars they share (`graphs.places`), stars at the mean of theirs.
    """
    graph = problem.graph
    node, star = graph.exposure, graph.star()
    own = (node < problem.n_exposures).astype(np.float32)
    place = 2.0 * problem.flat_gradient * graph.exposure_graph(None if own.all() else own).places()
    visits = np.maximum(np.bincount(star, own, graph.n_stars), 1)
    for k in range(2):
        at = np.bincount(star, own * place[node, k], visits.size) / visits
        yield own * (at[star] - place[node, k])
