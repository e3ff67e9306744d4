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

An exposure may be contaminated: a share of its measurements is of anything but their stars (a wrong astrometric
solution, a trailed image), with the usual shape under the rest. The shares are steps of `CONTAMINATIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import erfc

Array = NDArray[np.float64]

MULTIPLES: Array = np.array([1.0, 4.0, 16.0, 256.0, 4096.0, 65536.0])
"""Of the variance: scales of 1, 2, 4, 16, 64 and 256 times."""
USUAL: Array = np.array([0.80, 0.15, 0.035, 0.012, 0.002, 0.001])
"""Their shares before any data."""
USUAL_MEASUREMENTS = 30.0
"""Measurements' worth of belief in them."""
CONTAMINATIONS: Array = np.arange(13) / 20.0
"""Shares of an exposure's measurements that may be of anything but their stars."""
CONTAMINANT: Array = np.array([0.0, 0.0, 0.10, 0.35, 0.35, 0.20])
"""Shares of the multiples that those have before any data: other stars are off by a magnitude or so."""
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
    contaminant
        (K,), of what is of anything but its star; none of them within `OUTLIER`.
    """

    shares: Array = field(default_factory=lambda: USUAL.copy())
    contaminant: Array = field(default_factory=lambda: CONTAMINANT.copy())

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

    @property
    def table(self) -> Array:
        """(POINTS, 2), log density and w over log(1 + y), for `look`."""
        return _table(tuple(self.shares))

    def contaminated(self, share: float) -> Tails:
        """These, with a share of the measurements being of anything but their stars."""
        return Tails((1.0 - share) * self.shares + share * self.contaminant, self.contaminant) if share else self

    @cached_property
    def share_tables(self) -> Array:
        """(L, K), shares of the multiples under each of `CONTAMINATIONS`."""
        return np.stack([self.contaminated(float(c)).shares for c in CONTAMINATIONS])

    @property
    def beyond(self) -> float:
        """Share of the measurements whose noise is an outlier's by its size."""
        return float(self.shares @ erfc(np.sqrt(0.5 * OUTLIER / MULTIPLES)))

    def densities(self, levels: NDArray[np.integer]) -> Array:
        """(POINTS, L), log densities at some places on `CONTAMINATIONS`."""
        own, other, share = self.table[:, 0], _table(tuple(self.contaminant))[:, 0], CONTAMINATIONS[levels]
        top = np.maximum(own, other)
        parts = np.stack([np.exp(own - top), np.exp(other - top)], axis=1)
        return np.asarray(np.log(parts @ np.stack([1.0 - share, share])) + top[:, None])

    @cached_property
    def tables(self) -> Array:
        """(L, POINTS, 2), `table` under each of `CONTAMINATIONS`."""
        out = np.empty((CONTAMINATIONS.size, *self.table.shape))
        out[:, :, 0] = self.densities(np.arange(CONTAMINATIONS.size)).T
        foreign = _table(tuple(self.contaminant))[:, 1]
        p = np.exp(self.table[:, 0] - out[:, :, 0]) * (1.0 - CONTAMINATIONS[:, None])
        out[:, :, 1] = p * self.table[:, 1] + (1.0 - p) * foreign
        return out

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

    def learned(self, usual: Array, contaminated: Array) -> Tails:
        """Tails that histograms (BINS,) of log(1 + y) are most likely under, with the usual ones believed a little.

        The outliers of contaminated exposures, of which the second histogram is, tell what the contaminant is like.
        """
        shares = _most_likely(usual, self.shares, USUAL)
        if not contaminated.any():
            return Tails(shares, self.contaminant)
        start = 0.5 * (self.shares + self.contaminant)
        others = np.where(MULTIPLES > OUTLIER, _most_likely(contaminated, start, 0.5 * (USUAL + CONTAMINANT)), 0.0)
        return Tails(shares, others / others.sum())


@lru_cache(maxsize=8)
def _table(shares: tuple[float, ...]) -> Array:
    y = np.expm1(np.arange(POINTS) / PER_LOG)
    density, p = Tails(np.array(shares)).posterior(y)
    return np.stack([density, (p / MULTIPLES).sum(1)], axis=1)


def _most_likely(histogram: Array, shares: Array, usual: Array) -> Array:
    # at equal shares the posterior is the likelihood, but for a factor of each bin
    likelihood = Tails(np.full(MULTIPLES.size, 1.0 / MULTIPLES.size)).posterior(_BIN_SQUARES)[1]
    shares = np.maximum(shares, 1e-6)
    for _ in range(STEPS):
        joint = likelihood * shares
        counts = histogram @ (joint / joint.sum(1, keepdims=True)) + USUAL_MEASUREMENTS * usual
        shares = counts / counts.sum()
    return shares


@njit(inline="always")
def spot(y):  # noqa: D103 - as the kernels it stands in
    # the point of the tables before y, and how far y is on the way to the next
    at = min(np.log(1.0 + y), LARGEST_LOG) * PER_LOG
    i = int(at)
    return i, at - i


@njit(inline="always")
def look(tables, level, column, y):  # noqa: D103 - as the kernels it stands in
    # the column at y of a level's table, linear in log(1 + y)
    i, part = spot(y)
    return tables[level, i, column] + part * (tables[level, i + 1, column] - tables[level, i, column])


@njit(cache=True, nogil=True)
def tail_histogram(star_ptr, node, level, base, d2, free, u_mean, step):  # noqa: D103 - a kernel
    # (2, BINS): log(1 + y) of the measurements of every step-th star in nodes that are not contaminated and that are,
    # each counted by what its fit left free and shared between the two points of the grid that it lies between, so that
    # rounding moves nothing
    out = np.zeros((2, BINS))
    for s in range(0, star_ptr.size - 1, step):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            of = 1 if level[node[i]] > 0 else 0
            y = d2[i] / (np.float64(base[i]) + u_mean[s])
            at = min(np.log(1.0 + y) / LARGEST_LOG, 0.999999) * (BINS - 1)
            k = int(at)
            out[of, k] += free[i] * step * (k + 1 - at)
            out[of, k + 1] += free[i] * step * (at - k)
    return out
