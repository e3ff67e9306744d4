# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""How far zero-points lie from their night: a scatter of each night, and within it exposures that a cloud has moved.

The prior of a jitter is a mixture of normals of mean zero: its night's variance, one of a grid whose shares are
learned, times one of a few multiples. On a photometric night most exposures have the night's small variance and a
passing cloud has a large multiple of it; a cloudy night has a large variance. How many have a multiple differs too: a
night is calm, where next to none do, or unsettled, with shares that are learned. (With one share for all, the scatter
of a calm night would be taken for a smaller one with tails, and its ties for tighter than they are.)

What the mixture says of an exposure enters the solve as the normal with the moments of its posterior (expectation
propagation, Minka 2001), against what all else says of that jitter. So nothing that a loose start made uncertain comes
back as scatter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]

JITTER_GRID: Array = np.asarray((0.0007 * 2.0 ** (0.5 * np.arange(22))) ** 2, float)
"""Variance of a night in mag^2: 0.7 mmag to 1 mag in steps of the square root of two."""
MULTIPLES: Array = np.asarray(16.0 ** np.arange(4), float)
"""Of an exposure's variance over its night's: scatter of one, four, 16 and 64 times."""
CALM: Array = np.array([0.99, 0.006, 0.003, 0.001])
"""Shares of the multiples in a calm night."""
USUAL_MULTIPLES: Array = np.array([0.88, 0.07, 0.03, 0.02])
"""In an unsettled one, before any data."""
USUAL_EXPOSURES = 20.0
"""Exposures' worth of belief in them."""
USUAL_KINDS: Array = np.array([2.0, 2.0])
"""Nights' worth of belief that calm nights are as many as unsettled ones."""
USUAL_NIGHTS = 12.0
"""Nights' worth of belief that all variances on the grid are alike."""
SMOOTH_STEPS = 2.0
"""Steps of the grid over which its learned shares are smooth: few nights do not tell neighbours apart."""
LEAST_PRECISION = 1e-6
"""Of a site over its cavity's: a posterior of two peaks would ask for a negative one."""
LOOSE = 1.0
"""Precision, mag^-2, before any solve: too loose to call an exposure's stars wrong."""


def _smoothing() -> Array:
    steps = np.arange(JITTER_GRID.size)
    kernel = np.exp(-0.5 * ((steps[:, None] - steps) / SMOOTH_STEPS) ** 2)
    return np.asarray(kernel / kernel.sum(0), float)


_SMOOTH = _smoothing()


@dataclass
class JitterPrior:
    """Learned mixture of jitters, and each exposure's site.

    Attributes
    ----------
    group
        int (N,), the night of each exposure.
    n_groups
        G.
    shares, kinds, multiples
        Learned shares of `JITTER_GRID`, of calm and unsettled nights, and of `MULTIPLES` in these.
    precision, mean
        (N,), each exposure's normal site, mag^-2 and mag.
    posterior
        (G, grid), of every night's variance; None before the first look.
    log_sites
        Sum of the logarithms of the sites at the last estimate, scaled as the mixture is: what the prior adds to the
        log density there.
    """

    group: NDArray[np.int32]
    n_groups: int
    shares: Array = field(default_factory=lambda: np.full(JITTER_GRID.size, 1.0 / JITTER_GRID.size))
    kinds: Array = field(default_factory=lambda: USUAL_KINDS / USUAL_KINDS.sum())
    multiples: Array = field(default_factory=lambda: USUAL_MULTIPLES.copy())
    precision: Array = field(default_factory=lambda: np.zeros(0))
    mean: Array = field(default_factory=lambda: np.zeros(0))
    posterior: Array | None = None
    log_sites: float = 0.0

    def __post_init__(self) -> None:
        if not self.precision.size:
            self.precision, self.mean = np.full(self.group.size, LOOSE), np.zeros(self.group.size)
        self._counts: Array | None = None
        self._kinds: Array | None = None

    def learned(self) -> dict[str, list[float]]:
        """The shares, as JSON has them."""
        return {name: getattr(self, name).tolist() for name in ("shares", "kinds", "multiples")}

    def begin(self, learned: Mapping[str, Sequence[float]]) -> None:
        """Begin from the shares that another has learned."""
        self.shares, self.kinds, self.multiples = (np.array(learned[n]) for n in ("shares", "kinds", "multiples"))

    def observe(self, value: Array, variance: Array, step: float = 1.0) -> None:
        """New sites from the posterior means and variances (N,) of all jitters, under the sites there are.

        ``step`` is the share of the way that they go: with 1, a few may run in circles for ever.
        """
        old, old_mean = self.precision, self.mean
        left = np.maximum(1.0 / np.maximum(variance, 1e-16) - old, 1e-8 * old + 1e-8)
        v = 1.0 / left
        m = v * ((left + old) * value - old * old_mean)
        log_multiples = np.log(np.stack([CALM, self.multiples]))
        log_z = _evidence(m, v, JITTER_GRID, MULTIPLES, log_multiples)
        night = np.zeros((self.n_groups, *log_z.shape[1:]))
        np.add.at(night, self.group, log_z)
        night += np.log(self.kinds)[:, None] + np.log(self.shares)
        total = logsumexp(night, axis=(1, 2))
        both = np.exp(night - total[:, None, None])
        self.posterior, self._kinds = both.sum(1), both.sum(2)
        # the sites that the estimate was made with, each scaled so that its integral with the cavity is the mixture's
        wide = v + 1.0 / old
        self.log_sites = float(total.sum()) + float(
            (0.5 * np.log(wide * old) + 0.5 * (m - old_mean) ** 2 / wide - 0.5 * old * (value - old_mean) ** 2).sum()
        )
        mean, var, self._counts = _moments(m, v, JITTER_GRID, MULTIPLES, log_multiples, log_z, both[self.group])
        precision = np.maximum(1.0 / var - left, LEAST_PRECISION * left)
        pull = mean * (left + precision) - m * left
        self.precision = old + step * (precision - old)
        self.mean = (old * old_mean + step * (pull - old * old_mean)) / self.precision

    def update(self) -> None:
        """New shares from the last look."""
        assert self.posterior is not None
        assert self._counts is not None
        assert self._kinds is not None
        kinds = self._kinds.sum(0) + USUAL_KINDS
        self.kinds = kinds / kinds.sum()
        nights = _SMOOTH @ self.posterior.sum(0) + USUAL_NIGHTS / JITTER_GRID.size
        self.shares = nights / nights.sum()
        exposures = self._counts + USUAL_EXPOSURES * USUAL_MULTIPLES
        self.multiples = exposures / exposures.sum()


@njit(cache=True, nogil=True)
def _evidence(m, v, grid, multiples, log_shares):
    # (N, kinds, grid): log density of a cavity (m, v) under every kind and variance of its night, summed over the
    # multiples
    out = np.empty((m.size, log_shares.shape[0], grid.size))
    terms = np.empty(multiples.size)
    for i in range(m.size):
        for j in range(grid.size):
            for k in range(multiples.size):
                total = v[i] + grid[j] * multiples[k]
                terms[k] = -0.5 * (np.log(2.0 * np.pi * total) + m[i] * m[i] / total)
            for q in range(log_shares.shape[0]):
                top = -np.inf
                for k in range(multiples.size):
                    top = max(top, log_shares[q, k] + terms[k])
                sum_ = 0.0
                for k in range(multiples.size):
                    sum_ += np.exp(log_shares[q, k] + terms[k] - top)
                out[i, q, j] = top + np.log(sum_)
    return out


@njit(cache=True, nogil=True)
def _moments(m, v, grid, multiples, log_shares, log_z, posterior):
    # mean and variance (N,) of each jitter given its night's posterior (N, kinds, grid), and the counts of multiples in
    # unsettled nights
    mean = np.empty(m.size)
    variance = np.empty(m.size)
    counts = np.zeros(multiples.size)
    for i in range(m.size):
        first = 0.0
        second = 0.0
        for q in range(log_shares.shape[0]):
            for j in range(grid.size):
                if posterior[i, q, j] < 1e-12:
                    continue
                for k in range(multiples.size):
                    tau = grid[j] * multiples[k]
                    total = v[i] + tau
                    log_p = log_shares[q, k] - 0.5 * (np.log(2.0 * np.pi * total) + m[i] * m[i] / total)
                    share = posterior[i, q, j] * np.exp(log_p - log_z[i, q, j])
                    at = m[i] * tau / total
                    first += share * at
                    second += share * (at * at + v[i] * tau / total)
                    if q == 1:
                        counts[k] += share
        mean[i] = first
        variance[i] = max(second - first * first, 1e-18)
    return mean, variance, counts
