# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Clouds: how far each zero-point lies below its night's clear-sky level, and whether it lies below at all.

    y_e = z_e + k (X_e - 1) - s q_e = a_night - cloud_e + jitter_e,   cloud_e >= 0

An exposure is photometric (cloud 0) with probability p, else its cloud is exponential with mean tau; p and tau of a
night are unknown and take values on a grid whose shares are learned from all nights (empirical Bayes). The level of a
night is a step of a random walk away from that of the night before, so that a night that was cloudy throughout is held
against its neighbours. Everything is integrated over: a night's level on a grid of its own, the walk by Gaussian
messages between nights (expectation propagation, Minka 2001, UAI 17, 362). Errors are posterior standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, log, pi, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

CLEAR_GRID = np.array([0.02, 0.15, 0.4, 0.7, 0.92, 0.998])
"""Share of a night's exposures that are photometric."""
CLOUD_GRID = np.array([0.01, 0.025, 0.06, 0.15, 0.35, 0.8])
"""Mean cloud of the others, mag."""
USUAL = np.outer([0.12, 0.14, 0.14, 0.06, 0.06, 0.48], np.full(CLOUD_GRID.size, 1.0 / CLOUD_GRID.size))
"""Shares of these before any data, (clear, cloud): half of all nights are photometric throughout."""
USUAL_NIGHTS = 6.0
"""Nights' worth of belief in them."""
JITTER_GRID = np.array([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
"""Standard deviation of a photometric exposure's zero-point about its night's level, mag; one for all nights."""
WALK = 0.01
"""Standard deviation of the level from night to night, mag, to begin with."""
LEVELS = 96
"""Values of a night's level that are looked at."""
STRAY, STRAY_SCALE = 0.02, 8.0
"""Share of photometric exposures that stray, and their variance over the others' in standard deviations."""
PASSES, JITTER_PASSES = 10, (2, 6)
"""Passes over all nights, and those before which the jitter is chosen by the evidence."""
FIRST_LEVEL = 1.0
"""Standard deviation of the first night's level before any data, mag."""


@dataclass(frozen=True)
class Clouds:
    """Of every exposure: cloud and its error, mag, and the probability that there is none; all (E,).

    Attributes
    ----------
    level, level_err
        (nights,), clear-sky level, mag, in the zero-points' gauge.
    jitter, walk
        What was learned of the scatter of photometric zero-points and of the levels, mag.
    """

    cloud: Array
    cloud_err: Array
    photometric: Array
    level: Array
    level_err: Array
    jitter: float
    walk: float


def clouds(y: Array, variance: Array, night: Ints, chain: Ints) -> Clouds:
    """Infer clouds.

    Parameters
    ----------
    y
        (E,), zero-points brought to airmass 1, mag; NaN where unknown.
    variance
        (E,), of them, mag^2.
    night
        (E,), number of the night (of one band), 0 to nights - 1.
    chain
        (nights,), label of what the levels of nights have in common, a band; nights of one chain are in order of time.
    """
    n_nights = chain.size
    known = np.isfinite(y) & np.isfinite(variance)
    order = np.flatnonzero(known)[np.argsort(night[known], kind="stable")]
    ptr = np.searchsorted(night[order], np.arange(n_nights + 1))
    value, spread = y[order], np.maximum(variance[order], 1e-10)
    shares = USUAL.copy()
    jitter2, walk2 = 0.003**2, WALK**2
    # sites: Gaussian stand-ins for what each night says of its level
    site_precision, site_shift = np.zeros(n_nights), np.zeros(n_nights)
    cavity, cavity_variance = np.zeros(n_nights), np.full(n_nights, FIRST_LEVEL**2)
    for g in range(n_nights):
        if ptr[g + 1] > ptr[g]:
            cavity[g] = np.quantile(value[ptr[g] : ptr[g + 1]], 0.8)
    out = np.zeros((value.size, 3))
    mean, var = cavity.copy(), cavity_variance.copy()

    def looked(of_jitter, details):
        return _nights(
            ptr, value, spread, cavity, cavity_variance, mean, var, of_jitter, shares, CLEAR_GRID, CLOUD_GRID, out,
            details,
        )  # fmt: skip

    for n_pass in range(PASSES):
        if n_pass in JITTER_PASSES:
            tried = [looked(j2, False)[2] for j2 in JITTER_GRID**2]
            jitter2 = float(JITTER_GRID[int(np.argmax(tried))] ** 2)
        evidence, moments, _ = looked(jitter2, n_pass == PASSES - 1)
        mean, var = moments[:, 0], moments[:, 1]
        full = np.diff(ptr) > 0
        if n_pass < PASSES - 1:
            counts = evidence[full].sum(0) + USUAL_NIGHTS * USUAL
            shares = counts / counts.sum()
            precision = np.maximum(1.0 / var - 1.0 / cavity_variance, 0.0)
            damping = 1.0 if n_pass < 3 else 0.7
            shift = np.where(precision > 0, mean / var - cavity / cavity_variance, 0.0)
            site_precision += damping * (precision - site_precision)
            site_shift += damping * (shift - site_shift)
            site_precision[~full], site_shift[~full] = 0.0, 0.0
            cavity, cavity_variance, step2, steps = _walked(site_precision, site_shift, chain, walk2)
            walk2 = float(np.clip((step2 + 2.0 * WALK**2) / (steps + 2.0), 1e-7, 0.01))
    cloud, cloud_err, photometric = (np.full(y.size, np.nan) for _ in range(3))
    cloud[order] = out[:, 0]
    cloud_err[order] = np.sqrt(np.maximum(out[:, 1] - out[:, 0] ** 2, 1e-12))
    photometric[order] = np.clip(out[:, 2], 0.0, 1.0)
    return Clouds(cloud, cloud_err, photometric, mean, np.sqrt(var), sqrt(jitter2), sqrt(walk2))


def _walked(
    site_precision: Array, site_shift: Array, chain: Ints, walk2: float
) -> tuple[Array, Array, float, int]:
    """What the other nights of a chain say of each night's level: mean, variance; and the sum of squared steps.

    A Kalman filter each way; a level's cavity is the product of both predictions.
    """
    n = chain.size
    forward, backward = np.zeros((n, 2)), np.zeros((n, 2))  # precision, shift
    for into, order in ((forward, range(n)), (backward, range(n - 1, -1, -1))):
        before = -1
        for g in order:
            if before >= 0 and chain[before] == chain[g]:
                precision = into[before, 0] + site_precision[before]
                shift = into[before, 1] + site_shift[before]
                if precision > 0:
                    spread = 1.0 / precision + walk2
                    into[g] = 1.0 / spread, shift / precision / spread
            before = g
    weak = 1.0 / FIRST_LEVEL**2
    middle = float((site_shift.sum() / site_precision.sum()) if site_precision.sum() > 0 else 0.0)
    precision = forward[:, 0] + backward[:, 0] + 1e-3 * weak
    shift = forward[:, 1] + backward[:, 1] + 1e-3 * weak * middle
    # steps between neighbours, from the two of them and what lies beyond
    total, steps = 0.0, 0
    for g in range(n - 1):
        if chain[g] != chain[g + 1]:
            continue
        left = forward[g, 0] + site_precision[g]
        right = backward[g + 1, 0] + site_precision[g + 1]
        if left <= 0 or right <= 0:
            continue
        gap = (backward[g + 1, 1] + site_shift[g + 1]) / right - (forward[g, 1] + site_shift[g]) / left
        noise = 1.0 / left + 1.0 / right
        gain = walk2 / (walk2 + noise)
        total += (gain * gap) ** 2 + walk2 * (1.0 - gain)
        steps += 1
    return shift / precision, 1.0 / precision, total, steps


@njit(cache=True, nogil=True)
def _tail(x):
    # ln of the standard normal's share below x
    if x > -8.0:
        return log(0.5 * erfc(-x / sqrt(2.0)))
    return -0.5 * x * x - log(-x) - 0.5 * log(2.0 * pi) + log(1.0 - 1.0 / (x * x))


@njit(cache=True, nogil=True)
def _nights(ptr, y, spread, cavity, cavity_variance, mean, var, jitter2, shares, clear, tau, out, details):
    # out (n, 3): with details, E cloud, E cloud^2, P(no cloud). Returns the posterior of (p, tau) (nights, P, T), the
    # mean and variance of every night's level, and the log evidence.
    G = ptr.size - 1
    P = clear.size
    T = tau.size
    A = LEVELS
    posterior = np.zeros((G, P, T))
    moments = np.zeros((G, 2))
    level = np.empty(A)
    joint = np.empty((A, P, T))
    log_cloud = np.empty(T)
    product = np.empty((P, T))
    log_tau = np.log(tau)
    evidence = 0.0
    for g in range(G):
        low = ptr[g]
        high = ptr[g + 1]
        if high == low:
            moments[g, 0] = cavity[g]
            moments[g, 1] = cavity_variance[g]
            continue
        # where the level may lie: about what it was found to be, about the brightest exposures, and where others put it
        top = -1e30
        bottom = 1e30
        finest = 1e30
        for i in range(low, high):
            v = sqrt(spread[i] + jitter2)
            top = max(top, y[i] + 4.0 * v)
            bottom = min(bottom, y[i] - 4.0 * v)
            finest = min(finest, v)
        s = sqrt(cavity_variance[g])
        first = max(bottom, cavity[g] - 6.0 * s)
        last = max(top, min(cavity[g] + 5.0 * s, top + 1.0))
        if first >= last:
            first = bottom
        # half the points everywhere, half about the last estimate
        width = max(5.0 * sqrt(var[g]), 4.0 * finest / sqrt(1.0 * (high - low)))
        centre = min(max(mean[g], first), last)
        half = A // 2
        for k in range(half):
            level[k] = first + (last - first) * k / (half - 1.0)
            level[half + k] = centre + width * (2.0 * k / (half - 1.0) - 1.0)
        level.sort()
        best = -1e300
        for a in range(A):
            # trapezoidal weights of uneven points
            left = level[a] - level[max(a - 1, 0)]
            right = level[min(a + 1, A - 1)] - level[a]
            prior = -0.5 * (level[a] - cavity[g]) ** 2 / cavity_variance[g] + log(0.5 * (left + right) + 1e-12)
            for p in range(P):
                for t in range(T):
                    joint[a, p, t] = prior + log(shares[p, t])
                    product[p, t] = 1.0
            clear_sum = 0.0
            for i in range(low, high):
                v = spread[i] + jitter2
                root = sqrt(v)
                u = level[a] - y[i]
                log_clear = _clear(u, v)
                for t in range(T):
                    log_cloud[t] = 0.5 * v / tau[t] ** 2 - log_tau[t] - u / tau[t] + _tail((u - v / tau[t]) / root)
                for t in range(T):
                    ratio = exp(min(max(log_cloud[t] - log_clear, -700.0), 700.0))
                    for p in range(P):
                        # a logarithm of many factors at once, taken before they leave the range of a double
                        factor = clear[p] + (1.0 - clear[p]) * ratio
                        longer = product[p, t] * factor
                        if longer > 1e250 or longer < 1e-250:
                            joint[a, p, t] += log(product[p, t])
                            longer = factor
                        product[p, t] = longer
                clear_sum += log_clear
            for p in range(P):
                for t in range(T):
                    joint[a, p, t] += clear_sum + log(product[p, t])
                    best = max(best, joint[a, p, t])
        total = 0.0
        m1 = 0.0
        m2 = 0.0
        for a in range(A):
            for p in range(P):
                for t in range(T):
                    joint[a, p, t] = exp(joint[a, p, t] - best)
                    total += joint[a, p, t]
                    m1 += joint[a, p, t] * level[a]
        m1 /= total
        for a in range(A):
            for p in range(P):
                for t in range(T):
                    joint[a, p, t] /= total
                    m2 += joint[a, p, t] * (level[a] - m1) ** 2
                    posterior[g, p, t] += joint[a, p, t]
        moments[g, 0] = m1
        moments[g, 1] = max(m2, 1e-9)
        evidence += best + log(total) - 0.5 * log(2.0 * pi * cavity_variance[g])
        if not details:
            continue
        for i in range(low, high):
            v = spread[i] + jitter2
            root = sqrt(v)
            cloud1 = 0.0
            cloud2 = 0.0
            p_clear = 0.0
            for a in range(A):
                u = level[a] - y[i]
                log_clear = _clear(u, v)
                for t in range(T):
                    mu = u - v / tau[t]
                    below = _tail(mu / root)
                    log_c = -log(tau[t]) + 0.5 * v / tau[t] ** 2 - u / tau[t] + below
                    ratio = exp(min(max(log_c - log_clear, -700.0), 700.0))
                    # the cloud given that there is one: a normal above zero
                    mills = exp(-0.5 * mu * mu / v - 0.5 * log(2.0 * pi) - below)
                    c1 = max(mu + root * mills, 0.0)
                    c2 = max(v + mu * c1, c1 * c1)
                    for p in range(P):
                        w = joint[a, p, t]
                        if w < 1e-9:
                            continue
                        cloudy = (1.0 - clear[p]) * ratio
                        cloudy = cloudy / (clear[p] + cloudy)
                        cloud1 += w * cloudy * c1
                        cloud2 += w * cloudy * c2
                        p_clear += w * (1.0 - cloudy)
            out[i, 0] = cloud1
            out[i, 1] = cloud2
            out[i, 2] = p_clear
    return posterior, moments, evidence


@njit(cache=True, nogil=True)
def _clear(u, v):
    # log density of a photometric exposure: normal, with a few that stray
    near = exp(-0.5 * u * u / v)
    far = exp(-0.5 * u * u / (v * STRAY_SCALE * STRAY_SCALE)) / STRAY_SCALE
    return log((1.0 - STRAY) * near + STRAY * far + 1e-300) - 0.5 * log(2.0 * pi * v)
