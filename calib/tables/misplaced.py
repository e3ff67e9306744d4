"""Measurements that lie elsewhere on the sky than their star: another star's, under its name."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from calib.tables.errors import count
from calib.tables.reasons import CODES, mark
from graphs.ids import encode_ids

LEAST_DEG = 5.0 / 3600.0
"""Nothing nearer to its star is called misplaced: stars move, and catalogues differ."""
TIMES_USUAL = 20.0
"""Nor is anything within this many times the median distance from the star's place."""
MANY, MANY_OF_DETECTOR = 0.01, 0.05
"""Shares of all rows, and of a detector's, beyond which misplaced ones are worth a warning."""
FEW_ROWS = 100
"""Detectors of fewer are not looked at by themselves."""


def mark_misplaced(frame: pl.DataFrame, reason: NDArray[np.uint8]) -> None:
    """Give every usable row that lies far from its star's other rows the reason ``misplaced``, in place.

    A star's place is that of its row of median right ascension, so that it is where most of its rows are. Which of two
    rows is wrong nothing says; the later one goes.

    Parameters
    ----------
    frame : polars.DataFrame
        Canonical columns with star_id, ra and dec, n rows.
    reason : uint8 array, shape (n,)
    """
    ra, dec = frame["ra"].to_numpy(), frame["dec"].to_numpy()
    row = np.flatnonzero((reason == 0) & np.isfinite(ra) & np.isfinite(dec))
    codes, ids = encode_ids(frame["star_id"])
    row = row[np.argsort(codes[row], kind="stable")]
    ptr = np.concatenate([[0], np.cumsum(np.bincount(codes[row], minlength=len(ids)))])
    distance = np.empty(row.size, np.float32)
    _distances(ptr, ra[row], dec[row], distance)
    several = np.repeat(np.diff(ptr) > 2, np.diff(ptr))
    usual = float(np.median(distance[several])) if several.any() else 0.0
    where = np.zeros(frame.height, np.bool_)
    where[row[distance > max(LEAST_DEG, TIMES_USUAL * usual)]] = True
    mark(reason, where, "misplaced")


def many_misplaced(frame: pl.DataFrame, reason: NDArray[np.uint8]) -> list[str]:
    """Return a warning where many rows are misplaced, of all that could be used or of some detectors' (of the worst).

    Parameters
    ----------
    frame : polars.DataFrame
        Canonical columns, n rows.
    reason : uint8 array, shape (n,)
    """
    out = reason == CODES["misplaced"]
    n = int(np.count_nonzero(out))
    if not n:
        return []
    among = out | (reason == 0)
    share, where = n / int(np.count_nonzero(among)), ""
    if "detector" in frame.columns:
        rows = pl.DataFrame({"detector": frame["detector"], "out": out}).filter(among)
        worst = rows.group_by("detector").agg(pl.len(), pl.col("out").mean()).filter(pl.col("len") >= FEW_ROWS)
        worst = worst.filter(pl.col("out") > max(MANY_OF_DETECTOR, 1.5 * share)).sort("out", "detector").tail(1)
        if worst.height:
            where = f", {100 * worst['out'][0]:.0f} % of those of detector {worst['detector'][0]}"
    if share <= MANY and not where:
        return []
    return [
        f"{count(n, 'row')} ({100 * share:.1f} %{where}) misplaced, elsewhere than their star's others: is star_id the "
        "same star in all exposures, and are places right?"
    ]


@njit(cache=True)
def _distances(ptr, ra, dec, out):
    # out (n) = distance of each row from its star's place, deg
    for s in range(ptr.size - 1):
        low = ptr[s]
        n = ptr[s + 1] - low
        if n == 0:
            continue
        east = np.empty(n)
        for i in range(n):
            east[i] = (ra[low + i] - ra[low] + 180.0) % 360.0 - 180.0
        at = low + np.argsort(east, kind="mergesort")[(n - 1) // 2]
        if n == 2:
            at = low
        x = np.cos(np.radians(dec[at]))
        for i in range(low, low + n):
            away = (ra[i] - ra[at] + 180.0) % 360.0 - 180.0
            # the chord, right at any distance
            north = np.sin(np.radians(0.5 * (dec[i] - dec[at])))
            across = np.sin(np.radians(0.5 * away))
            half = north * north + x * np.cos(np.radians(dec[i])) * across * across
            out[i] = np.degrees(2.0 * np.arcsin(min(np.sqrt(half), 1.0)))
