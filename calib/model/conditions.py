# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Clouds: how far each zero-point lies below its night's clear-sky level, and whether it lies below at all.

    y_e = z_e + k (X_e - 1) - s q_e = a_night - cloud_e + jitter_e,   cloud_e >= 0

An exposure is photometric (cloud 0) with probability p, else its cloud is exponential with mean tau; p and tau of a
night are unknown and take values on a grid whose shares are learned from all nights (empirical Bayes). The level of a
night is a step of a random walk away from that of the night before, so that a night that was cloudy throughout is held
against its neighbours. Everything is integrated over: a night's level on a grid of its own, the walk by Gaussian
messages between nights (expectation propagation, Minka 2001, UAI 17, 362). A night without clear sky has a veil over
all of it, as thick as its clouds. Errors are posterior standard deviations, with what the exposure's own scatter may
hide where the sky is called clear, and the level's error once more: over surveys with known truth (calib.learn.world,
benchmarks/conditions.py) clouds of overcast nights are off by more than their posterior says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, exp, log, pi, sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import expit, logit

from calib.workers import in_order, shared

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

CLEAR_GRID = np.array([0.0, 0.15, 0.4, 0.7, 0.92, 0.998])
"""Share of a night's exposures that are photometric; where none is, a veil over all of them is as thick as a cloud."""
CLOUD_GRID = np.array([0.01, 0.025, 0.06, 0.15, 0.35, 0.8])
"""Mean cloud of the others, mag."""
USUAL = np.outer([0.12, 0.14, 0.14, 0.06, 0.06, 0.48], np.full(CLOUD_GRID.size, 1.0 / CLOUD_GRID.size))
"""Shares of these before any data, (clear, cloud): half of all nights are photometric throughout."""
USUAL_NIGHTS = 6.0
"""Nights' worth of belief in them."""
JITTER_GRID = np.array([0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
"""Standard deviation of a photometric exposure's zero-point about its night's level, mag; one for all nights."""
LOGIT = (0.33, 0.63)
"""Shift and slope that make the logit of the probability true over surveys of calib.learn.world, even numbers
(benchmarks/conditions.py): the model is surer than it may be."""
THICKEST = 2.5
"""Cloud through which the brightest exposure of a night may have been taken, mag."""
WALK = 0.01
"""Standard deviation of the level from night to night, mag, to begin with."""
LEVELS = 128
"""Values of a night's level that are looked at: three in eight everywhere, as many about the last estimate, the rest
about the brightest exposure, where the level of a night without clear sky lies under its veil."""
STRAY, STRAY_SCALE = 0.02, 8.0
"""Share of photometric exposures that stray, and their variance over the others' in standard deviations."""
PASSES, JITTER_PASSES = 10, (2, 6)
"""Passes over all nights, and those before which the jitter is chosen by the evidence."""
FIRST_LEVEL = 1.0
"""Standard deviation of the first night's level before any data, mag."""
EXPOSURES = 50
"""Of whole nights, that are worth a thread."""


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
        def nights(run):
            a, b = run
            return _nights(
                ptr[a : b + 1], value, spread, cavity[a:b], cavity_variance[a:b], mean[a:b], var[a:b], of_jitter,
                shares, CLEAR_GRID, CLOUD_GRID, out, details,
            )  # fmt: skip

        posterior, moments, evidence = map(np.concatenate, zip(*in_order(nights, shared(ptr, EXPOSURES)), strict=True))
        return posterior, moments, evidence

    for n_pass in range(PASSES):
        if n_pass in JITTER_PASSES:
            tried = [looked(j2, False)[2].sum() for j2 in JITTER_GRID**2]
            jitter2 = float(JITTER_GRID[int(np.argmax(tried))] ** 2)
        evidence, moments, _ = looked(jitter2, n_pass == PASSES - 1)
        mean, var = np.ascontiguousarray(moments.T)
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
    chance = np.clip(out[:, 2], 1e-12, 1.0 - 1e-12)
    clear = expit(LOGIT[0] + LOGIT[1] * logit(chance))
    # a sky called clear may hide a veil below its own scatter, and of its level no night is as sure as its model
    hidden = clear * (spread + jitter2) + var[night[order]]
    cloud_err[order] = np.sqrt(np.maximum(out[:, 1] - out[:, 0] ** 2, 0.0) + hidden)
    photometric[order] = clear
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
def _levels(y, spread, jitter2, cavity, cavity_variance, mean, var, level):
    # where a night's level may lie, (A,) ascending: about what it was found to be, about the brightest exposures, and
    # where other nights put it
    A = level.size
    top = -1e30
    bottom = 1e30
    finest = 1e30
    brightest = -1e30
    for i in range(y.size):
        v = sqrt(spread[i] + jitter2)
        top = max(top, y[i] + 4.0 * v)
        bottom = min(bottom, y[i] - 4.0 * v)
        finest = min(finest, v)
        brightest = max(brightest, y[i])
    s = sqrt(cavity_variance)
    first = max(bottom, cavity - 6.0 * s)
    last = max(top, min(cavity + 5.0 * s, top + THICKEST))
    if first >= last:
        first = bottom
    width = max(5.0 * sqrt(var), 4.0 * finest / sqrt(1.0 * y.size))
    centre = min(max(mean, first), last)
    part = 3 * A // 8
    for k in range(part):
        level[k] = first + (last - first) * k / (part - 1.0)
        level[part + k] = centre + width * (2.0 * k / (part - 1.0) - 1.0)
    rest = A - 2 * part
    for k in range(rest // 2):
        level[2 * part + k] = brightest + 0.5 * finest * (k - rest // 4)
    reach = 0.5 * finest * (rest // 4)
    for k in range(rest // 2, rest):
        level[2 * part + k] = brightest + reach
        reach *= 1.3
    level.sort()


@njit(cache=True, nogil=True)
def _log_clouds(u, v, tau, out):
    # log density of an exposure u below its level through a cloud of mean tau (T,)
    root = sqrt(v)
    for t in range(tau.size):
        out[t] = 0.5 * v / tau[t] ** 2 - log(tau[t]) - u / tau[t] + _tail((u - v / tau[t]) / root)


@njit(cache=True, nogil=True)
def _nights(ptr, y, spread, cavity, cavity_variance, mean, var, jitter2, shares, clear, tau, out, details):
    # out (n, 3): with details, E cloud, E cloud^2, P(no cloud). Returns the posterior of (p, tau) (nights, P, T), the
    # mean and variance of every night's level, and its log evidence. Where the share of clear sky is 0 the level lies
    # a veil, exponential with mean tau, above that of the clouds.
    G = ptr.size - 1
    P = clear.size
    T = tau.size
    A = LEVELS
    posterior = np.zeros((G, P, T))
    moments = np.zeros((G, 2))
    level = np.empty(A)
    step = np.empty(A)
    joint = np.empty((A, P, T))
    under = np.empty((A, T))
    veil = np.empty((3, A, T))
    log_cloud = np.empty(T)
    product = np.empty((P, T))
    evidence = np.zeros(G)
    for g in range(G):
        low = ptr[g]
        high = ptr[g + 1]
        if high == low:
            moments[g, 0] = cavity[g]
            moments[g, 1] = cavity_variance[g]
            continue
        _levels(y[low:high], spread[low:high], jitter2, cavity[g], cavity_variance[g], mean[g], var[g], level)
        for a in range(A):
            # trapezoidal weights of uneven points
            step[a] = 0.5 * (level[min(a + 1, A - 1)] - level[max(a - 1, 0)]) + 1e-12
        for a in range(A):
            for t in range(T):
                under[a, t] = 0.0
                for p in range(P):
                    joint[a, p, t] = 0.0
                    product[p, t] = 1.0
            clear_sum = 0.0
            for i in range(low, high):
                v = spread[i] + jitter2
                u = level[a] - y[i]
                log_clear = _clear(u, v)
                _log_clouds(u, v, tau, log_cloud)
                for t in range(T):
                    under[a, t] += log_cloud[t]
                    ratio = exp(min(max(log_cloud[t] - log_clear, -700.0), 700.0))
                    for p in range(P):
                        if clear[p] == 0.0:
                            continue
                        # a logarithm of many factors at once, taken before they leave the range of a double
                        factor = clear[p] + (1.0 - clear[p]) * ratio
                        longer = product[p, t] * factor
                        if longer > 1e250 or longer < 1e-250:
                            joint[a, p, t] += log(product[p, t])
                            longer = factor
                        product[p, t] = longer
                clear_sum += log_clear
            for t in range(T):
                for p in range(P):
                    joint[a, p, t] += clear_sum + log(product[p, t])
        for p in range(P):
            if clear[p] == 0.0:
                _veiled(level, step, under, tau, joint[:, p, :])
        best = -1e300
        for a in range(A):
            prior = -0.5 * (level[a] - cavity[g]) ** 2 / cavity_variance[g] + log(step[a])
            for p in range(P):
                for t in range(T):
                    joint[a, p, t] += prior + log(shares[p, t])
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
        evidence[g] = best + log(total) - 0.5 * log(2.0 * pi * cavity_variance[g])
        if not details:
            continue
        for i in range(low, high):
            out[i] = 0.0
        for p in range(P):
            if clear[p] == 0.0:
                _veils(level, step, under, tau, joint[:, p, :], veil)
                for i in range(low, high):
                    _through(y[i], spread[i] + jitter2, level, 0.0, tau, veil, out[i])
            else:
                veil[0] = joint[:, p, :]
                veil[1] = 0.0
                veil[2] = 0.0
                for i in range(low, high):
                    _through(y[i], spread[i] + jitter2, level, clear[p], tau, veil, out[i])
    return posterior, moments, evidence


@njit(cache=True, nogil=True)
def _veiled(level, step, under, tau, out):
    # out (A, T): log of the integral over the veil, from the log likelihoods (A, T) of the level under it
    for t in range(tau.size):
        best = -1e300
        for a in range(level.size):
            best = max(best, under[a, t])
        for a in range(level.size):
            total = 0.0
            for b in range(a + 1):
                if under[b, t] > best - 40.0:
                    share = 0.5 if b == a else 1.0
                    total += share * step[b] * exp(under[b, t] - best - (level[a] - level[b]) / tau[t])
            out[a, t] = best + log(total / tau[t] + 1e-300)


@njit(cache=True, nogil=True)
def _veils(level, step, under, tau, joint, out):
    # out (3, A, T): posterior of the level under the veil, then times the mean and the mean square of the veil over it
    out[:] = 0.0
    for t in range(tau.size):
        best = -1e300
        for a in range(level.size):
            best = max(best, under[a, t])
        for a in range(level.size):
            if joint[a, t] < 1e-9:
                continue
            total = 0.0
            for b in range(a + 1):
                if under[b, t] > best - 40.0:
                    share = 0.5 if b == a else 1.0
                    total += share * step[b] * exp(under[b, t] - best - (level[a] - level[b]) / tau[t])
            for b in range(a + 1):
                if under[b, t] > best - 40.0 and total > 0.0:
                    share = 0.5 if b == a else 1.0
                    gap = level[a] - level[b]
                    w = joint[a, t] * share * step[b] * exp(under[b, t] - best - gap / tau[t]) / total
                    out[0, b, t] += w
                    out[1, b, t] += w * gap
                    out[2, b, t] += w * gap * gap


@njit(cache=True, nogil=True)
def _through(y, v, level, clear, tau, veil, out):
    # out (3,) += what an exposure has of cloud, of its square, and of clear sky, over the levels (3, A, T) of the veil
    root = sqrt(v)
    for a in range(level.size):
        u = level[a] - y
        log_clear = _clear(u, v)
        for t in range(tau.size):
            w = veil[0, a, t]
            if w < 1e-9:
                continue
            mu = u - v / tau[t]
            below = _tail(mu / root)
            # the cloud given that there is one: a normal above zero
            mills = exp(-0.5 * mu * mu / v - 0.5 * log(2.0 * pi) - below)
            c1 = max(mu + root * mills, 0.0)
            c2 = max(v + mu * c1, c1 * c1)
            log_c = -log(tau[t]) + 0.5 * v / tau[t] ** 2 - u / tau[t] + below
            cloudy = 1.0
            if clear > 0.0:
                cloudy = (1.0 - clear) * exp(min(max(log_c - log_clear, -700.0), 700.0))
                cloudy = cloudy / (clear + cloudy)
            out[0] += cloudy * (w * c1 + veil[1, a, t])
            out[1] += cloudy * (w * c2 + 2.0 * veil[1, a, t] * c1 + veil[2, a, t])
            out[2] += w * (1.0 - cloudy)


@njit(cache=True, nogil=True)
def _clear(u, v):
    # log density of a photometric exposure: normal, with a few that stray
    near = exp(-0.5 * u * u / v)
    far = exp(-0.5 * u * u / (v * STRAY_SCALE * STRAY_SCALE)) / STRAY_SCALE
    return log((1.0 - STRAY) * near + STRAY * far + 1e-300) - 0.5 * log(2.0 * pi * v)
