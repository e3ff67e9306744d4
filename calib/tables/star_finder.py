"""Known stars, found again by position: those of a solution for more measurements, those of a survey for references."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.association import AS_NEAR

Array = NDArray[np.float64]


class StarFinder:
    """Finds known stars by position.

    Parameters
    ----------
    stars : polars.DataFrame
        star_id, ra and dec, deg; a star may be there several times, as in several bands. Rows without a place are left
        out.
    match_radius : float
        arcsec.
    """

    def __init__(self, stars: pl.DataFrame, match_radius: float) -> None:
        from scipy.spatial import cKDTree

        stars = stars.filter(pl.col("ra").is_finite() & pl.col("dec").is_finite())
        self._ids = stars["star_id"]
        self._tree = cKDTree(_unit(stars["ra"].to_numpy(), stars["dec"].to_numpy()))
        self._radius = _chord(match_radius)

    def __call__(self, ra: Array, dec: Array) -> pl.Series:
        """star_id of the star nearest to each place, null where none lies within the match radius.

        Parameters
        ----------
        ra, dec : float64 arrays, shape (n,), deg
            NaN where missing.
        """
        _, row = self._nearest(ra, dec, 1)
        return self._name(row[:, 0])

    def one_to_one(self, ra: Array, dec: Array, band: NDArray[Any]) -> tuple[pl.Series, NDArray[np.bool_]]:
        """star_id of each place where both are clear, null otherwise; and where it is null though stars are near.

        A place is ambiguous where a second star lies within the match radius and is less than `AS_NEAR` times as far as
        the first, and so are several places of one band whose star is the same, but for one that is that much nearer
        than all others.

        Parameters
        ----------
        ra, dec : float64 arrays, shape (n,), deg
            NaN where missing.
        band : array, shape (n,)
            Whole numbers.
        """
        away, row = self._nearest(ra, dec, 2)
        found = row[:, 0] < len(self._ids)
        unclear = found & (row[:, 1] < len(self._ids)) & (away[:, 1] <= AS_NEAR * away[:, 0])
        # those of one star and band in turn, the nearest first
        order = np.lexsort((away[:, 0], row[:, 0], band))
        order = order[found[order]]
        again = np.zeros(order.size, np.bool_)
        again[1:] = (row[order[1:], 0] == row[order[:-1], 0]) & (band[order[1:]] == band[order[:-1]])
        unclear[order[again]] = True
        second = np.flatnonzero(again)
        second = second[~again[second - 1]]
        near, far = order[second - 1], order[second]
        unclear[near[away[far, 0] <= AS_NEAR * away[near, 0]]] = True
        return self._name(np.where(unclear, len(self._ids), row[:, 0])), unclear

    def _nearest(self, ra: Array, dec: Array, k: int) -> tuple[Array, NDArray[np.int64]]:
        """Distances (n, k) to the nearest stars, and their rows; where none is, infinite and the number of stars."""
        away = np.full((len(ra), k), np.inf)
        row = np.full((len(ra), k), len(self._ids), np.int64)
        placed = np.isfinite(ra) & np.isfinite(dec)
        if placed.any() and len(self._ids):
            d, i = self._tree.query(_unit(ra[placed], dec[placed]), k, distance_upper_bound=self._radius)
            away[placed], row[placed] = np.reshape(d, (-1, k)), np.reshape(i, (-1, k))
        return away, row

    def _name(self, row: NDArray[np.int64]) -> pl.Series:
        return self._ids.gather(pl.Series(np.where(row < len(self._ids), row, -1)).replace(-1, None)).alias("star_id")


def _unit(ra: Array, dec: Array) -> Array:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], 1)


def _chord(arcsec: float) -> float:
    return float(2.0 * np.sin(np.radians(arcsec / 3600.0) / 2.0))


def mean_places(frame: pl.DataFrame) -> pl.DataFrame:
    """Mean direction of each star: star_id, ra and dec, deg, sorted by star_id.

    Parameters
    ----------
    frame : polars.DataFrame
        star_id, ra and dec, deg; rows without a place are left out.
    """
    a, d = pl.col("ra").radians(), pl.col("dec").radians()
    frame = frame.filter(pl.col("ra").is_finite() & pl.col("dec").is_finite())
    total = frame.select("star_id", x=d.cos() * a.cos(), y=d.cos() * a.sin(), z=d.sin()).group_by("star_id").sum()
    x, y, z = pl.col("x"), pl.col("y"), pl.col("z")
    return total.select(
        "star_id",
        ra=pl.arctan2(y, x).degrees() % 360.0,
        dec=pl.arctan2(z, (x * x + y * y).sqrt()).degrees(),
    ).sort("star_id")
