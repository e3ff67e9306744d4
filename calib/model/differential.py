"""Differential extinction: stars of one exposure are seen through different depths of air.

It is a surface over the field, k (X - X_e), with X the airmass and k the extinction per unit airmass. Exposures tell
theirs one from another, but the plane that all have in common no overlap tells from a slope of the whole sky; where
telescope and hour are known it is known. Where the telescope stands follows from the
airmasses, times and places of the exposures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.model.field import Places
from calib.model.rows import ROWS

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
LEAST_OF_PLANE, LEAST_OF_QUADRATIC = 8, 20
"""Measurements of an exposure that say how the airmass goes over its field."""
WELL = 1e5
"""Condition of their least squares up to which they do."""


def airmass(ra: Array, dec: Array, mjd: Array, site: Site) -> Array:
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

    grid = [(lon, lat) for lon in np.arange(0.0, 360.0, 5.0) for lat in np.arange(-85.0, 86.0, 5.0)]
    start = min(grid, key=lambda site: float(np.median(np.abs(gap(np.array(site))))))
    found = least_squares(gap, start, loss="soft_l1", f_scale=AGREES).x
    if np.quantile(np.abs(gap(found, known)), MOST) > AGREES:
        return None
    return float((found[0] + 180.0) % 360.0 - 180.0), float(found[1])


def across_fields(
    xy: Places, centre: Array, node: NDArray[np.integer], ra: Array, dec: Array, mjd: Array, site: Site
) -> Array:
    """(E, 5), airmass over each field: coefficients of x, y, x^2, x y, y^2 less their means; 0 where not known.

    By least squares over the places (n, 2) of an exposure's stars at ra, dec (n,), deg, however its field was turned;
    of few stars, a plane, of fewer, nothing. ``mjd`` is (E,), centre (6,) as in `calib.model.field.Field`.
    """
    n = mjd.size
    normal, side, count = np.zeros((n, 6, 6)), np.zeros((n, 6)), np.zeros(n)
    for start in range(0, node.size, ROWS):
        part = slice(start, start + ROWS)
        x = airmass(ra[part], dec[part], mjd[node[part]], site)
        good = np.isfinite(x)
        at, b = node[part][good], basis(xy[part][good], centre)
        count += np.bincount(at, minlength=n)
        for j in range(6):
            side[:, j] += np.bincount(at, b[:, j] * x[good], n)
            for k in range(j, 6):
                normal[:, j, k] += np.bincount(at, b[:, j] * b[:, k], n)
    normal += np.triu(normal, 1).transpose(0, 2, 1)
    out = np.zeros((n, 5))
    for size, least in ((3, LEAST_OF_PLANE), (6, LEAST_OF_QUADRATIC)):
        part_of = normal[:, :size, :size]
        told = (count >= least) & (np.linalg.cond(part_of + 1e-9 * np.eye(size)) < WELL)
        if told.any():
            out[told] = 0.0
            out[told, : size - 1] = np.linalg.solve(part_of[told], side[told, :size, None])[:, 1:, 0]
    return out


def basis(xy: Places, centre: Array) -> Array:
    """(n, 6), 1, x, y, x^2, x y, y^2 less their means, of places (n, 2)."""
    x, y = xy.astype(float).T
    return np.stack([np.ones(x.size), x, y, x * x, x * y, y * y], 1) - np.where(np.arange(6) > 0, centre, 0.0)
