"""Steps that overshoot where others answer to the same residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Stride:
    """How far the last steps in a logarithm went, and how far the next may go: shorter after each turn.

    As in resilient propagation (Riedmiller & Braun 1993, IEEE Int. Conf. Neural Networks, 586).

    Attributes
    ----------
    longest
        A step may be.
    last, reach
        The last steps, and the longest that they might have been; None before the first.
    """

    longest: float = 1.0
    last: Array | None = None
    reach: Array | None = None

    def __call__(self, step: Array) -> Array:
        """The steps, each no longer than it may be."""
        reach = np.full(np.shape(step), self.longest)
        if self.last is not None and self.reach is not None:
            reach = np.where(step * self.last < 0, 0.4 * self.reach, np.minimum(1.5 * self.reach, self.longest))
        self.last, self.reach = np.clip(step, -reach, reach), reach
        return self.last
