"""Nights from times, without knowing where the telescope stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST_DAY = 2.0 / 24.0
_LABEL_TURN = 0.25


def day_phase(mjd: NDArray[np.float64]) -> float:
    """Return the fraction of the UT day at which one night is told from the next.

    It is the middle of the longest stretch of the UT day in which nothing was ever observed: local noon, to within an
    hour or two, for any telescope on the ground, and no longitude is needed. Where nothing that long as two hours is
    free (space, or several sites), 0.5.

    Parameters
    ----------
    mjd : float64 array, shape (n,), days
        NaN is left out.
    """
    fraction = np.unique(mjd[np.isfinite(mjd)] % 1.0)
    if not fraction.size:
        return 0.5
    gaps = np.diff(fraction, append=fraction[0] + 1.0)
    widest = int(np.argmax(gaps))
    if gaps[widest] < _LEAST_DAY:
        return 0.5
    return float((fraction[widest] + 0.5 * gaps[widest]) % 1.0)


def derive_nights(mjd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the night of each time: whole numbers, the MJD on which most of the night falls, NaN where unknown.

    ``night = floor(mjd - phase) + [phase > 0.25]`` with the phase of `day_phase`. The second term makes the number
    the MJD of the night's larger part from Chile to Hawaii and from Africa to Australia, and keeps it the same when
    the phase moves a little as data are added.

    Parameters
    ----------
    mjd : float64 array, shape (n,), days
    """
    phase = day_phase(mjd)
    return np.floor(mjd - phase) + (1.0 if phase > _LABEL_TURN else 0.0)
