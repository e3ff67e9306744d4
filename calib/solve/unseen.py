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
from graphs.places import star_offsets

Array = NDArray[np.float64]


def gradient_patterns(problem: Problem) -> Iterator[Array]:
    """Magnitudes (n,) that one standard deviation of the gradient leaves, along each of two directions.

    Exposures are placed beside each other by the stars they share (`graphs.places`), stars at the mean of theirs.
    """
    own = None
    if problem.n_catalogue:
        own = (problem.graph.exposure < problem.n_exposures).astype(np.float32)
    for offset in star_offsets(problem.graph, own):
        yield 2.0 * problem.flat_gradient * (offset if own is None else own * offset)
