"""Stars' responses to seeing: most have none, some are blended, and blends go one way.

A neighbour's light enters the aperture as seeing worsens, so blended stars brighten together, and a mean response of
all stars cannot be told from the zero-points of bad nights. What can is its shape: a spike of single stars at zero and
tails. The prior of b_s is that mixture, a narrow normal and exponentials of either sign, its shares learned from all
stars; each star's share in the solve is the normal with the moments of its own posterior (expectation propagation,
Minka 2001).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

Array = NDArray[np.float64]

SPIKE = 3e-4
"""Standard deviation of a single star's response, mag per standard deviation of seeing."""
TAILS = 0.004 * 4.0 ** np.arange(4)
"""Means of the exponentials, mag per standard deviation of seeing."""
HIDDEN_SHARE = 0.1
"""Share of stars that may answer to seeing by as much as their noise hides: what a common response can amount to."""
LEAST_PRECISION = 1e-3
"""Of a site over its cavity's: a bimodal posterior would ask for a negative one."""
ROWS = 200_000
"""Stars looked at at a time."""
FAR = -50.0
"""Standard deviations below zero beyond which moments of what is above are a series."""


@dataclass
class BlendPrior:
    """Learned mixture of responses, and each star's site.

    Attributes
    ----------
    shares
        (1 + 2 T,): spike, brightening tails (b < 0), fading tails.
    precision, mean
        (S,), each star's normal site, 1/mag^2 and mag.
    gain
        Log likelihood of the mixture over that of no response at all.
    common
        Response common to all stars, mag per standard deviation of seeing, that blends below the noise of the
        best-measured quarter of stars leave in zero-points. Its size is the geometric mean of what noise can hide and
        of the mean response that is seen, its sign is that one's: faint blends go the way of the bright ones.
        Zero-points are freed of it, and it is its own standard error (`calib.solve.robust.RobustFit.faint_blends`).
    unsettled
        Standard error of the place of zero, mag per standard deviation of seeing: half the width of the shortest half
        of the responses of the best-measured quarter of stars. A clear spike is as narrow as `SPIKE`.
    """

    n_stars: int
    shares: Array = field(default_factory=lambda: np.r_[0.8, np.repeat([0.15, 0.05], TAILS.size) / TAILS.size])
    precision: Array = field(default_factory=lambda: np.zeros(0))
    mean: Array = field(default_factory=lambda: np.zeros(0))
    gain: float = 0.0
    common: float = 0.0
    unsettled: float = 0.0

    def __post_init__(self) -> None:
        if not self.precision.size:
            self.precision = np.full(self.n_stars, 1.0 / 3e-3**2)
            self.mean = np.zeros(self.n_stars)

    def observe(self, value: Array, variance: Array) -> None:
        """New sites and shares from the posterior means and variances of all stars; NaN for stars without data."""
        known = np.isfinite(value) & (variance > 0)
        left = np.zeros(self.n_stars)
        left[known] = 1.0 / variance[known] - self.precision[known]
        informed = known & (left > 1e-6 * self.precision)
        cavity_variance = np.full(self.n_stars, 1e2)
        cavity_mean = np.zeros(self.n_stars)
        at = informed
        cavity_variance[at] = 1.0 / left[at]
        cavity_mean[at] = cavity_variance[at] * (value[at] / variance[at] - self.precision[at] * self.mean[at])
        total, mean, var = np.empty((3, self.n_stars))
        counts = np.r_[2.0, np.full(2 * TAILS.size, 0.1)]
        for start in range(0, self.n_stars, ROWS):
            part = slice(start, start + ROWS)
            log_z, means, variances = self._components(cavity_mean[part], cavity_variance[part])
            total[part] = logsumexp(log_z, axis=1)
            share = np.exp(log_z - total[part, None])
            mean[part] = (share * means).sum(1)
            var[part] = (share * (variances + means**2)).sum(1) - mean[part] ** 2
            counts += share[informed[part]].sum(0)
        precision = np.maximum(1.0 / var - 1.0 / cavity_variance, LEAST_PRECISION / cavity_variance)
        self.precision = precision
        self.mean = (mean * (1.0 / cavity_variance + precision) - cavity_mean / cavity_variance) / precision
        order = np.flatnonzero(at)[np.argsort(cavity_variance[at])]
        best = order[: max(int(0.25 * order.size), 1)]
        hidden = HIDDEN_SHARE * float(np.median(np.sqrt(cavity_variance[best]))) if best.size else 0.0
        # how much light neighbours add at all is known from those that are seen: half-way, in ratio
        seen = float(np.average(mean[at], weights=1.0 / cavity_variance[at])) if at.any() else 0.0
        self.common = float(np.copysign(np.sqrt(hidden * min(abs(seen), hidden)), seen))
        self.unsettled = 0.5 * shortest_half(mean[best])
        none = -0.5 * (np.log(2 * np.pi * cavity_variance) + cavity_mean**2 / cavity_variance)
        self.gain = float((total - none)[informed].sum())
        self.shares = counts / counts.sum()

    def _components(self, m: Array, v: Array) -> tuple[Array, Array, Array]:
        """Log evidence, mean and variance of every component of the mixture given N(b; m, v), each (S, 1 + 2 T)."""
        s = np.sqrt(v)
        total = v + SPIKE**2
        log_z = [np.log(self.shares[0]) - 0.5 * (np.log(2 * np.pi * total) + m**2 / total)]
        means, variances = [m * SPIKE**2 / total], [v * SPIKE**2 / total]
        for k, sign in enumerate([-1.0] * TAILS.size + [1.0] * TAILS.size):
            tau = TAILS[k % TAILS.size]
            x = sign * m
            a = (x - v / tau) / s
            tail = log_ndtr(a)
            first, second = _truncated(a, tail)
            log_z.append(np.log(self.shares[1 + k] / tau) - x / tau + 0.5 * v / tau**2 + tail)
            means.append(sign * s * first)
            variances.append(v * second)
        return np.stack(log_z, 1), np.stack(means, 1), np.stack(variances, 1)


def shortest_half(values: Array) -> float:
    """Width of the shortest interval that holds half of the values."""
    ordered = np.sort(values)
    inside = (ordered.size + 1) // 2
    return float((ordered[inside - 1 :] - ordered[: ordered.size - inside + 1]).min()) if inside else 0.0


def _truncated(a: Array, log_cdf: Array) -> tuple[Array, Array]:
    """Mean and variance of a normal of mean a and unit variance above zero, from ln of its share above zero."""
    ratio = np.exp(-0.5 * a**2 - 0.5 * np.log(2 * np.pi) - log_cdf)
    # where little is left above zero, what is left of the differences is rounding: Mills' series instead
    far = a < FAR
    x2 = np.where(far, a**2, 1.0)
    mean = np.where(far, (1.0 - 2.0 / x2 + 10.0 / x2**2) / np.sqrt(x2), np.maximum(a + ratio, 0.0))
    variance = np.where(far, (1.0 - 6.0 / x2 + 50.0 / x2**2) / x2, np.clip(1.0 - a * ratio - ratio**2, 1e-6, 1.0))
    return mean, variance
