# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""The shape of the noise: a normal core and learned tails.

A measurement's noise is normal with its own scale s times one of a few multiples, one of which is 1; the multiples'
shares are learned, so that the density is a normal, nearly a Student-t, or a normal with outliers anywhere, as the data
say. With y = (noise / s)^2,

    f(y) = sum_k q_k N(noise / s; 0, a_k),   w(y) = sum_k p_k(y) / a_k,   p_k ~ q_k N(noise / s; 0, a_k)

w is the expected weight in units of 1 / s^2 (Dempster, Laird & Rubin 1980, in Multivariate Analysis V). A Student-t
has one number for both its shoulders and its far tails: where one measurement in ten is far off, it gives away a tenth
of what the others say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]

MULTIPLES: Array = np.array([1.0, 4.0, 16.0, 256.0, 4096.0, 65536.0])
"""Of the variance: scales of 1, 2, 4, 16, 64 and 256 times."""
USUAL: Array = np.array([0.80, 0.15, 0.035, 0.012, 0.002, 0.001])
"""Their shares before any data."""
USUAL_MEASUREMENTS = 30.0
"""Measurements' worth of belief in them."""
OUTLIER = 9.0
"""An outlier's variance is more than this many times the model's: its noise is of more than three times the scale."""
LARGEST_LOG = 21.0
POINTS = 8192
"""Tables are over log(1 + y), from 0 to LARGEST_LOG."""
PER_LOG = (POINTS - 2) / LARGEST_LOG
BINS = 1024
_BIN_SQUARES: Array = np.asarray(np.expm1(np.arange(BINS) * LARGEST_LOG / (BINS - 1)), float)
STEPS = 60
"""Steps of expectation-maximisation on a histogram of log(1 + y)."""


@dataclass(frozen=True)
class Tails:
    """Shares of the multiples.

    Attributes
    ----------
    shares
        (K,), of `MULTIPLES`.
    """

    shares: Array = field(default_factory=lambda: USUAL.copy())

    @classmethod
    def normal(cls) -> Tails:
        """Without tails."""
        return cls(np.eye(MULTIPLES.size)[0])

    @property
    def is_normal(self) -> bool:
        """Whether there are no tails at all."""
        return bool(self.shares[0] == 1.0)

    def posterior(self, y: Array) -> tuple[Array, Array]:
        """Log density (n,) and the shares of the multiples (n, K) at squares y over s^2."""
        with np.errstate(divide="ignore"):
            joint = np.log(self.shares) - 0.5 * np.log(2.0 * np.pi * MULTIPLES) - 0.5 * y[:, None] / MULTIPLES
        top = joint.max(1, keepdims=True)
        p = np.exp(joint - top)
        total = p.sum(1, keepdims=True)
        return (top + np.log(total))[:, 0], p / total

    @cached_property
    def table(self) -> Array:
        """(POINTS, 3), log density, w and probability of an outlier over log(1 + y), for `look`."""
        y = np.expm1(np.arange(POINTS) / PER_LOG)
        density, p = self.posterior(y)
        return np.stack([density, (p / MULTIPLES).sum(1), p[:, MULTIPLES > OUTLIER].sum(1)], axis=1)

    @cached_property
    def _information(self) -> tuple[float, float]:
        t = np.geomspace(1e-5, 1e5, 6000)
        density, p = self.posterior(t**2)
        f, w = np.exp(density), (p / MULTIPLES).sum(1)

        def mean(x: Array) -> float:
            return float(2.0 * np.trapezoid(x * f * t, np.log(t)))

        return mean(t**2 * w**2) / mean(w), mean((t**2 * w - 1.0) ** 2) / 2.0

    @property
    def information(self) -> float:
        """Fisher's information of the location, over that of a normal with the expected weights; 1 without tails."""
        return 1.0 if self.is_normal else self._information[0]

    @property
    def scale_information(self) -> float:
        """Fisher's information of the logarithm of s, over a normal's."""
        return 1.0 if self.is_normal else self._information[1]

    def outlier(self, y: NDArray[np.floating]) -> Array:
        """Probability (n,) that noise of these squares over s^2 is an outlier's; as usual where there are no tails."""
        table = Tails().table if self.is_normal else self.table
        at = np.minimum(np.log1p(np.asarray(y, float)), LARGEST_LOG) * PER_LOG
        return np.asarray(np.interp(at, np.arange(POINTS), table[:, 2]), float)

    def learned(self, histogram: Array) -> Tails:
        """Tails that a histogram (BINS,) of log(1 + y) is most likely under, with the usual ones believed a little."""
        # at equal shares the posterior is the likelihood, but for a factor of each bin
        likelihood = Tails(np.full(MULTIPLES.size, 1.0 / MULTIPLES.size)).posterior(_BIN_SQUARES)[1]
        usual, shares = USUAL_MEASUREMENTS * USUAL, np.maximum(self.shares, 1e-6)
        for _ in range(STEPS):
            joint = likelihood * shares
            counts = histogram @ (joint / joint.sum(1, keepdims=True)) + usual
            shares = counts / counts.sum()
        return Tails(shares)


@njit(inline="always")
def look(table, column, y):  # noqa: D103 - as the kernels it stands in
    # the table's column at y, linear in log(1 + y)
    at = min(np.log(1.0 + y), LARGEST_LOG) * PER_LOG
    i = int(at)
    part = at - i
    return table[i, column] + part * (table[i + 1, column] - table[i, column])


@njit(cache=True, nogil=True)
def tail_histogram(star_ptr, base, d2, free, u_mean, step):  # noqa: D103 - a kernel
    # (BINS,): log(1 + y) of the measurements of every step-th star, each counted by what its fit left free and shared
    # between the two points of the grid that it lies between, so that rounding moves nothing
    out = np.zeros(BINS)
    for s in range(0, star_ptr.size - 1, step):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            y = d2[i] / (np.float64(base[i]) + u_mean[s])
            at = min(np.log(1.0 + y) / LARGEST_LOG, 0.999999) * (BINS - 1)
            k = int(at)
            out[k] += free[i] * step * (k + 1 - at)
            out[k + 1] += free[i] * step * (at - k)
    return out
