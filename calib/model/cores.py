# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Where the good measurements of a contaminated exposure lie.

Where most of an exposure's measurements are of anything but their stars, and to one side, its zero-point is first drawn
to that side; from there the good ones look as scattered as the others, and the exposure passes for a noisy one. Which
of the two it is, the likelihood says once it is looked at from where the good ones would lie: along shifts of all
residuals of the exposure, with no excess and half or more of them contaminated. (What a redescending estimate takes
from its start, Yohai 1987, Annals of Statistics 15, 642, is asked here of every exposure that is noisy.)
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.model.noise import CONTAMINATION_LEVELS, LEAST_FREE, NOISY_EXCESS, NoiseModel
from calib.model.tails import look, spot

Array = NDArray[np.float64]

NOISY = 16.0
"""An exposure is looked at where its excess is more than this many times the rest of its usual variance."""
REACH = 3.0
"""Shifts go this many times the excess either way."""
STEP = 0.5
"""From one shift to the next, over the scale of the noise without the excess, or over 10 mmag where that is less."""
MOST_SHIFTS = 400
"""Of an exposure: where its excess is wider still, steps are longer."""
SURE = 10.0
"""Gain of the log likelihood that a shift takes."""


def settle_on_cores(
    model: NoiseModel, star_ptr: NDArray[np.int64], node: NDArray[np.int32], err: NDArray[np.float32],
    residual: NDArray[np.floating], leverage: NDArray[np.floating], variability: Array,
) -> Array:  # fmt: skip
    """Take noisy exposures for contaminated ones where that says more.

    Parameters
    ----------
    model
        Changed: ``excess`` and ``level`` of the nodes with a shift.
    residual, leverage
        (n,), mag, and the share of each measurement that its own prediction took.
    variability
        (S,), mag^2.

    Returns
    -------
    ndarray
        (E,), mag, to be added to the residuals of each node; zero for most.
    """
    shift = np.zeros(model.band.size)
    if model.excess.max(initial=0.0) < NOISY_EXCESS:
        return shift
    rest = model.floor[model.band]
    usual = _usual(node, err, model.error_scale2, rest)
    noisy = np.flatnonzero((model.excess > NOISY_EXCESS) & (model.excess > NOISY * usual))
    if not noisy.size:
        return shift
    row = np.full(shift.size, -1)
    row[noisy] = np.arange(noisy.size)
    reach = REACH * np.sqrt(model.excess[noisy])
    n_shifts = np.ceil(2.0 * reach / (STEP * np.sqrt(np.maximum(usual[noisy], NOISY_EXCESS))))
    shifts = np.linspace(-reach, reach, int(min(n_shifts.max(), MOST_SHIFTS)) + 1, axis=1)
    levels = CONTAMINATION_LEVELS[-2:]
    along, now = np.zeros((*shifts.shape, levels.size)), np.zeros(noisy.size)
    _along_shifts(
        star_ptr, node, row, err, model.error_scale2, rest, model.excess, residual, leverage, variability, shifts,
        model.tails.densities(levels), model.tails.tables, model.level, along, now,
    )  # fmt: skip
    for k, e in enumerate(noisy):
        at, level = np.unravel_index(np.argmax(along[k]), along[k].shape)
        if along[k, at, level] > now[k] + SURE:
            shift[e], model.excess[e], model.level[e] = shifts[k, at], 0.0, levels[level]
    return shift


@njit(cache=True, nogil=True)
def _usual(node, err, c2, rest):
    # (E,), harmonic mean of the variances of each node's measurements without its excess; NaN without any
    total = np.zeros(c2.size)
    count = np.zeros(c2.size)
    for i in range(node.size):
        e = node[i]
        total[e] += 1.0 / (c2[e] * np.float64(err[i]) * np.float64(err[i]) + rest[e])
        count[e] += 1.0
    for e in range(c2.size):
        count[e] = count[e] / total[e] if total[e] > 0.0 else np.nan
    return count


@njit(cache=True, nogil=True)
def _along_shifts(
    star_ptr, node, row, err, c2, rest, excess, residual, leverage, variability, shifts, densities, tables, level,
    along, now,
):
    # along (N, D, L): log likelihoods without excess at every shift and level; now (N,): as things are
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            k = row[e]
            if k < 0:
                continue
            free = min(max(1.0 - leverage[i], 0.0), 1.0)
            kept = max(free, LEAST_FREE)
            s2 = (c2[e] * np.float64(err[i]) * np.float64(err[i]) + rest[e] + variability[s]) * kept
            wide = s2 + excess[e] * kept
            now[k] += free * (look(tables, level[e], 0, residual[i] * residual[i] / wide) - 0.5 * np.log(wide))
            scale = 0.5 * np.log(s2)
            for d in range(shifts.shape[1]):
                r = residual[i] + shifts[k, d]
                j, part = spot(r * r / s2)
                for c in range(densities.shape[1]):
                    like = densities[j, c] + part * (densities[j + 1, c] - densities[j, c])
                    along[k, d, c] += free * (like - scale)
