"""Nights, and what drifts in the course of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.simulate.focalplane import N_NIGHT_MAPS
from calib.simulate.spec import SurveySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NIGHT_HOURS = 8.0
_OVERHEAD_HOURS = 90 / 3600


@dataclass(frozen=True)
class Nights:
    """Nights (n_nights,) and the exposures (n_exposures,) taken in them, in order of time.

    Attributes
    ----------
    number : int (n_nights,)
        Integer MJD of the evening.
    first, count : int (n_nights,)
        First exposure and number of exposures.
    step_minutes : float (n_nights,)
        From one exposure to the next.
    cloudy : bool (n_nights,)
        Whether clouds come at all.
    zero, slope : float (n_nights,)
        Zero level and its drift over half a night, mag.
    extinction_factor, ln_seeing, transit_hour : float (n_nights,)
        Extinction over its mean; night's mean ln(seeing / median); hour at which the first field culminates.
    flat : float (n_nights, N_NIGHT_MAPS)
        Strength of the changing flat-field patterns.
    night : int (n_exposures,)
        Index of the night.
    hours, mjd : float (n_exposures,)
        Time since the night's beginning, and MJD.
    """

    number: Ints
    first: Ints
    count: Ints
    step_minutes: Floats
    cloudy: NDArray[np.bool_]
    zero: Floats
    slope: Floats
    extinction_factor: Floats
    ln_seeing: Floats
    transit_hour: Floats
    flat: Floats
    night: Ints
    hours: Floats
    mjd: Floats

    @classmethod
    def draw(cls, spec: SurveySpec, rng: np.random.Generator) -> Nights:
        """Deal the exposures out to nights of unequal length and draw what changes from night to night."""
        n = spec.nights
        share = rng.gamma(4.0, 1.0, n)
        count = 1 + rng.multinomial(spec.n_exposures - n, share / share.sum())
        first = np.cumsum(count) - count
        night = np.repeat(np.arange(n), count)
        longest = NIGHT_HOURS / count
        step = np.minimum(longest, np.clip(rng.uniform(0, 1, n) * longest, _OVERHEAD_HOURS, 0.4))
        start = rng.uniform(0, 1, n) * (NIGHT_HOURS - step * count)
        hours = start[night] + step[night] * (np.arange(spec.n_exposures) - first[night])
        number = 60_000 + np.cumsum(rng.geometric(0.3, n))
        walk = spec.zero_drift * np.cumsum(rng.standard_normal(n))
        patterns = np.empty((n, N_NIGHT_MAPS))
        state = rng.standard_normal(N_NIGHT_MAPS)
        for i in range(n):
            state = 0.8 * state + 0.6 * rng.standard_normal(N_NIGHT_MAPS)
            patterns[i] = state / np.sqrt(N_NIGHT_MAPS)
        cloudy = np.zeros(n, np.bool_)
        cloudy[rng.permutation(n)[: round(spec.cloudy_nights * n)]] = True
        return cls(
            number=number, first=first, count=count, step_minutes=60 * step, cloudy=cloudy,
            zero=walk - walk.mean(), slope=0.2 * spec.zero_drift * rng.standard_normal(n),
            extinction_factor=np.exp(spec.extinction_scatter * rng.standard_normal(n)),
            ln_seeing=0.75 * spec.seeing_scatter * rng.standard_normal(n),
            transit_hour=rng.uniform(0, NIGHT_HOURS, n), flat=patterns, night=night, hours=hours,
            mjd=number[night] + (hours + 0.5) / 24,
        )  # fmt: skip


def ornstein_uhlenbeck(rng: np.random.Generator, nights: Nights, minutes: float) -> Floats:
    """Return a stationary process (n_exposures,) of unit variance, correlated within a night as exp(-dt / minutes)."""
    value = rng.standard_normal(len(nights.night))
    memory = np.exp(-nights.step_minutes / minutes)
    fresh = np.sqrt(1 - memory**2)
    for k in range(1, int(nights.count.max())):
        active = np.flatnonzero(nights.count > k)
        i = nights.first[active] + k
        value[i] = memory[active] * value[i - 1] + fresh[active] * value[i]
    return value
