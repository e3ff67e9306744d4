"""Shrinkage of local terms: each group of coefficients has its own variance about the survey's.

A group g of d coefficients (a node's plane, its quadratic, a star's response) is normal with variance S / lambda, and
lambda is Gamma with mean one: a multivariate Student-t with scale S and nu degrees of freedom, learned from all groups
(Liu & Rubin 1995, Statistica Sinica 5, 19) on expected squares, so that S is the restricted maximum likelihood. Where
nothing varies S goes to zero and the term is gone; one cloudy exposure keeps its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from calib.model.stride import Stride

Array = NDArray[np.float64]

DOF_GRID = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])
SMALLEST = 1e-9
"""Variance, mag^2, below which a term is gone (0.03 mmag)."""
MATTERS = 4e-8
"""Variance, mag^2, below which its changes are of no account (0.2 mmag)."""


@dataclass
class GroupPrior:
    """Student-t prior of one kind of group.

    Attributes
    ----------
    size
        d, coefficients in a group.
    scale
        S, mag^2.
    dof
        nu.
    strength, usual
        Belief that the scale is ``usual`` mag^2, in coefficients' worth; for kinds with few groups.
    alike
        Whether groups are normal instead: all are held by the scale, however far off they lie.
    """

    size: int
    scale: float
    dof: float = 3.0
    strength: float = 0.0
    usual: float = 1e-6
    alike: bool = False
    _stride: Stride = field(default_factory=lambda: Stride(1.5))

    def precision(self, square: Array, variance: Array) -> Array:
        """Expected precision (groups,) of each coefficient, from the sums of squares and of posterior variances."""
        return self._weight((square + variance) / self.scale) / self.scale

    def update(self, square: Array, variance: Array, informed: NDArray[np.bool_]) -> float:
        """One step from all groups' sums of squares and posterior variances; groups without data say nothing.

        Returns the change of the scale's logarithm, or 0 where it does not matter.

        A Fisher-scoring step in log S, of which ``size - weight * variance / S`` is the number of coefficients that the
        data determine (MacKay 1992, Neural Computation 4, 415). It has the fixed points of expectation-maximisation and
        moves where that creeps; its reach shrinks where it turns back, as in resilient propagation.
        """
        q, v = square[informed], variance[informed]
        if q.size < 1:
            return 0.0
        z = (q + v) / self.scale
        if q.size >= 10 and not self.alike:
            self.dof = float(DOF_GRID[np.argmax([self._log_density(z, nu).sum() for nu in DOF_GRID])])
        weight = self._weight(z)
        determined = np.maximum(self.size - weight * v / self.scale, 0.0)
        score = (weight * q / self.scale - determined).sum() + self.strength * (self.usual / self.scale - 1.0)
        information = (determined**2).sum() / self.size + self.strength
        step = float(self._stride(np.asarray(score / max(information, 1e-9))))
        before, self.scale = self.scale, max(self.scale * float(np.exp(step)), SMALLEST)
        return abs(float(np.log(self.scale / before))) if max(before, self.scale) > MATTERS else 0.0

    def log_density(self, square: Array) -> Array:
        """Log density of groups with these sums of squares."""
        return np.asarray(self._log_density(square / self.scale, self.dof) - 0.5 * self.size * np.log(self.scale))

    def _weight(self, z: Array) -> Array:
        """(groups,), expected lambda."""
        return np.ones_like(z) if self.alike else (self.dof + self.size) / (self.dof + z)

    def _log_density(self, z: Array, nu: float) -> Array:
        d = self.size
        if self.alike:
            return np.asarray(-0.5 * z - 0.5 * d * np.log(2.0 * np.pi))
        norm = gammaln(0.5 * (nu + d)) - gammaln(0.5 * nu) - 0.5 * d * np.log(nu * np.pi)
        return np.asarray(norm - 0.5 * (nu + d) * np.log1p(z / nu))
