# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""The probability that a measurement's noise is an outlier's, from what its star's other measurements say.

With s^2 the variance of a measurement's noise, `calib.model.tails.MULTIPLES` a_k of it with shares q_k, and d its
distance from what the others of its star, and all else that was solved for, predict with variance V,

    p_k ~ q_k N(d; 0, a_k s^2 + V).

A star's only measurement has no others (V is infinite) and keeps the shares. Where two or three measurements disagree
it is not known which is right: all their multiples are gone through together, about a mean that any may lie off.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.model.noise import NoiseModel
from calib.model.tails import MULTIPLES, OUTLIER, Tails

Array = NDArray[np.float64]

FEW = 3
"""Measurements of a star up to which all multiples are gone through together."""
MOST_LEVERAGE = 1.0 - 1e-6


def outlier_probability(
    noise: NoiseModel, star_ptr: NDArray[np.int64], node: NDArray[np.int32], base: NDArray[np.floating],
    variability: Array, residual: NDArray[np.floating], prediction: NDArray[np.floating], w: NDArray[np.floating],
) -> NDArray[np.float32]:  # fmt: skip
    """Of every measurement, sorted by star.

    Parameters
    ----------
    noise
        Its tails, the usual ones where it has none, and exposures' contamination.
    base, variability
        (n,), (S,), mag2: of the noise without and of the star's variability.
    residual
        (n,), mag.
    prediction, w
        (n,), mag2 and 1/mag2: variance of what is predicted of it, its own part included, and its weight in that.
    """
    tails = Tails() if noise.tails.is_normal else noise.tails
    out = np.empty(node.size, np.float32)
    _probabilities(
        star_ptr, node, noise.level, np.log(np.maximum(tails.share_tables, 1e-300)), MULTIPLES, OUTLIER, base,
        variability, residual, prediction, w, out,
    )  # fmt: skip
    return out


@njit(cache=True, nogil=True)
def _probabilities(star_ptr, node, level, log_shares, multiples, beyond, base, u, residual, prediction, w, out):
    K = multiples.size
    p, like, precision, chosen = np.empty(K), np.empty((FEW, K)), np.empty((FEW, K)), np.empty(FEW, np.int64)
    for s in range(star_ptr.size - 1):
        low, visits = star_ptr[s], star_ptr[s + 1] - star_ptr[s]
        if 1 < visits <= FEW:
            total = 0.0
            for i in range(visits):
                total += w[low + i]
            for i in range(visits):
                # of the prediction, what does not come from the star's own mean
                v = prediction[low + i] - 1.0 / total if total > 0.0 else 0.0
                v = v if v > 0.0 else 0.0  # NaN where nothing is linked
                for k in range(K):
                    variance = multiples[k] * (base[low + i] + u[s]) + v
                    precision[i, k] = 1.0 / variance
                    like[i, k] = log_shares[level[node[low + i]], k] - 0.5 * np.log(variance)
            _together(like[:visits], precision, multiples, beyond, residual[low:], chosen, out[low:])
            continue
        for i in range(low, low + visits):
            h = w[i] * prediction[i]
            h = MOST_LEVERAGE if not h < MOST_LEVERAGE or visits == 1 else max(h, 0.0)
            d, v = residual[i] / (1.0 - h), prediction[i] / (1.0 - h)
            alone = visits == 1 or not np.isfinite(d) or not np.isfinite(v)
            top = -np.inf
            for k in range(K):
                p[k] = log_shares[level[node[i]], k]
                if not alone:
                    variance = multiples[k] * (base[i] + u[s]) + v
                    p[k] -= 0.5 * (np.log(variance) + d * d / variance)
                top = max(top, p[k])
            far, norm = 0.0, 0.0
            for k in range(K):
                p[k] = np.exp(p[k] - top)
                norm += p[k]
                if multiples[k] > beyond:
                    far += p[k]
            out[i] = far / norm


@njit(cache=True, nogil=True)
def _together(like, precision, multiples, beyond, residual, chosen, out):
    # out: probabilities of a star's few measurements, over all choices of a multiple for each, the mean unknown
    n, K = like.shape
    far, norm, top = np.zeros(n), 0.0, -np.inf
    for choice in range(K**n):
        rest, value, weight, first, second = choice, 0.0, 0.0, 0.0, 0.0
        for i in range(n):
            k = chosen[i] = rest % K
            rest //= K
            w = precision[i, k]
            value += like[i, k]
            weight += w
            first += residual[i] * w
            second += residual[i] * residual[i] * w
        value -= 0.5 * (np.log(weight) + second - first * first / weight)
        if value > top:
            shrink = np.exp(top - value)
            norm *= shrink
            far *= shrink
            top = value
        q = np.exp(value - top)
        norm += q
        for i in range(n):
            if multiples[chosen[i]] > beyond:
                far[i] += q
    for i in range(n):
        out[i] = far[i] / norm
