"""Airmass of exposures whose table names none, from where they point, when, and from where."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.errors import count
from calib.tables.measurements import Measurements

Array = NDArray[np.float64]

LOWEST = 3.0
"""Altitude, deg, below which nothing is calibrated: the site, the time or the place is wrong."""
YEARS = (0.0, 100_000.0)
"""Modified Julian dates, of 1858 and 2132, between which a time is one: a Julian date is not."""

NO_SITE = (
    "no airmass: nights do not tie zero-points; mjd, ra and dec are there, so that site = [longitude, latitude] in the"
    " configuration would give it"
)


def could_have_airmass(measurements: Measurements) -> bool:
    """Whether there is no airmass at all, but a time and a place to work it out."""
    frame = measurements.exposures
    able = frame.select(pl.all_horizontal(pl.col("mjd", "ra", "dec").is_not_null()).any()).item()
    return bool(able) and frame["airmass"].null_count() == frame.height


def airmass(ra: Array, dec: Array, mjd: Array, site: Sequence[float], scale: str = "utc") -> Array:
    """Relative airmass (n,) of the true altitude, NaN below `LOWEST` and outside `YEARS`.

    Young 1994, Applied Optics 33, 1108, equation 5.

    Parameters
    ----------
    ra, dec
        ICRS, deg, (n,).
    mjd
        Of the middle of each exposure, (n,), in the time ``scale`` (UTC where astropy knows none of that name).
    site
        Longitude to the east and latitude, deg.
    """
    import astropy.units as u
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    dated = (mjd > YEARS[0]) & (mjd < YEARS[1])
    place = EarthLocation.from_geodetic(site[0] * u.deg, site[1] * u.deg)
    # the Earth's rotation as it was known when astropy was installed: a second of it is nothing to an airmass
    with (
        warnings.catch_warnings(), iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None), iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
    ):  # fmt: skip
        warnings.simplefilter("ignore")  # leap seconds to come
        time = Time(np.where(dated, mjd, 60_000.0), format="mjd", scale=scale if scale in Time.SCALES else "utc")
        frame = AltAz(obstime=time, location=place)
        altitude = np.asarray(SkyCoord(ra * u.deg, dec * u.deg).transform_to(frame).alt.rad, float)
    c = np.sin(altitude)
    x = (1.002432 * c**2 + 0.148386 * c + 0.0096467) / (c**3 + 0.149864 * c**2 + 0.0102963 * c + 0.000303978)
    return np.asarray(np.where(dated & (altitude >= np.radians(LOWEST)), x, np.nan))


def with_airmass(measurements: Measurements, site: Sequence[float]) -> Measurements:
    """Fill in the airmass of exposures that have none but a time and a place on the sky; warnings count the rest."""
    frame = measurements.exposures
    lacking = pl.col("airmass").is_null()
    able = pl.all_horizontal(pl.col("mjd", "ra", "dec").is_not_null())
    rows = frame.select((lacking & able).arg_true()).to_series().to_numpy()
    x = frame["airmass"].fill_null(np.nan).to_numpy().copy()
    ra, dec, mjd = (frame[name].fill_null(np.nan).to_numpy()[rows] for name in ("ra", "dec", "mjd"))
    x[rows] = airmass(ra, dec, mjd, site, measurements.time_scale) if rows.size else np.zeros(0)
    below = int(np.isnan(x[rows]).sum())
    unable = int(frame.select((lacking & ~able).sum()).item())
    said = []
    if below:
        said.append(
            f"site: {count(below, 'exposure')} would lie within {LOWEST:g} degrees of the horizon or below it,"
            " or in no year of these, without airmass: look at site (longitude to the east, latitude) and mjd"
        )
    if unable:
        said.append(f"site: {count(unable, 'exposure')} with no airmass, nor mjd, ra and dec to work it out")
    return replace(
        measurements, exposures=frame.with_columns(pl.Series("airmass", x, nan_to_null=True)),
        given=measurements.given | ({"airmass"} if rows.size > below else set()),
        warnings=[*measurements.warnings, *said],
    )  # fmt: skip
