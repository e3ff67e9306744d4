"""Differential extinction: stars of one exposure are seen through different depths of air.

It is a surface over the field, k (X - X_e), with X the airmass and k the extinction per unit airmass. Exposures tell
theirs one from another, but the plane that all have in common no overlap tells from a slope of the whole sky; where
telescope and hour are known it is known. Where the telescope stands follows from the
airmasses, times and places of the exposures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Site = tuple[float, float]

LEAST_EXPOSURES = 10
"""Exposures with airmass, time and place from which a site is looked for."""
MOST_EXPOSURES = 400
"""Of which it is."""
AGREES, MOST = 0.01, 0.8
"""It is the site if so many of the given airmasses differ by no more from its own."""
LEAST_RANGE = 0.1
"""Airmasses that differ less say nothing of it."""
LOWEST = 0.15
"""Sine of the altitude below which no airmass is worked out."""


def airmass(ra: Array, dec: Array, mjd: Array, site: tuple[Any, Any]) -> Array:
    """Secant of the zenith distance at a site (longitude to the east, latitude), all deg; NaN where stars are low.

    With the mean sidereal time of UT, which is good to an arcminute.
    """
    longitude, latitude = site
    hour = np.radians(280.46062 + 360.98564736629 * (mjd - 51544.5) + longitude - ra)
    d, p = np.radians(dec), np.radians(latitude)
    sine = np.sin(p) * np.sin(d) + np.cos(p) * np.cos(d) * np.cos(hour)
    return np.asarray(np.where(sine > LOWEST, 1.0 / np.maximum(sine, LOWEST), np.nan))


def site_of(ra: Array, dec: Array, mjd: Array, given: Array) -> Site | None:
    """The site whose airmasses are those given (E,); None where no one site's are, or where they do not tell."""
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec) & np.isfinite(mjd) & np.isfinite(given))
    if known.size < LEAST_EXPOSURES or np.ptp(given[known]) < LEAST_RANGE:
        return None
    from scipy.optimize import least_squares

    some = known[:: -(-known.size // MOST_EXPOSURES)]

    def gap(site: Array, at: NDArray[np.integer] = some) -> Array:
        x = airmass(ra[at], dec[at], mjd[at], (float(site[0]), float(site[1])))
        return np.asarray(np.nan_to_num(x, nan=1.0 / LOWEST) - given[at])

    longitudes, latitudes = (v.ravel() for v in np.meshgrid(np.arange(0.0, 360.0, 5.0), np.arange(-85.0, 86.0, 5.0)))
    x = airmass(ra[some, None], dec[some, None], mjd[some, None], (longitudes, latitudes))
    off = np.median(np.abs(np.nan_to_num(x, nan=1.0 / LOWEST) - given[some, None]), axis=0)
    start = longitudes[off.argmin()], latitudes[off.argmin()]
    found = least_squares(gap, start, loss="soft_l1", f_scale=AGREES).x
    if np.quantile(np.abs(gap(found, known)), MOST) > AGREES:
        return None
    return float((found[0] + 180.0) % 360.0 - 180.0), float(found[1])
