"""What the page is made of: a solution folder, read so that a large survey costs little."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.errors import InputError
from calib.tables.nights import derive_nights
from calib.tables.solution_tables import read_any

Array = NDArray[np.float64]

SAMPLE = 200_000
"""Measurements that the residual figures look at, about: those of a random choice of stars."""
FEW_STARS = 1000
"""The sample is never thinned to fewer stars than this."""


@dataclass(frozen=True)
class Material:
    """A solution as the figures need it.

    Attributes
    ----------
    run
        run.json.
    zeropoints
        With ``node`` (row number), ``night`` (NaN where mjd is unknown), and of the measurements ``n_rows``,
        ``outlier_fraction``.
    stars
        Lazily.
    terms
        As written, or empty.
    rows
        The measurements, lazily, or None.
    n_rows, n_stars
        Their number, and that of the stars.
    sample
        Used measurements of sampled stars: star_id, node, band, mag, residual, noise, leverage, weight, reported_err,
        ra, dec.
    every
        One star in so many is in the sample.
    bands
        Bands by number of exposures, most first.
    """

    run: dict[str, Any]
    zeropoints: pl.DataFrame
    stars: pl.LazyFrame
    terms: pl.DataFrame
    rows: pl.LazyFrame | None
    n_rows: int
    n_stars: int
    sample: pl.DataFrame
    every: int
    bands: list[str]

    def column(self, name: str) -> Array:
        """Float column of the zero-points; NaN where the column or the value is missing."""
        if name not in self.zeropoints.columns:
            return np.full(self.zeropoints.height, np.nan)
        return self.zeropoints[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    def of_band(self, band: str) -> NDArray[np.bool_]:
        """Which zero-points are of a band."""
        return (self.zeropoints["band"] == band).to_numpy()

    def band_name(self, band: str) -> str:
        """How a band is called on the page."""
        return f"band {band}" if band else "all exposures"

    @property
    def keys(self) -> list[str]:
        """Columns that say which zero-point a measurement has."""
        return keys_of(self.zeropoints, self.rows)


def keys_of(zeropoints: pl.DataFrame, rows: pl.LazyFrame | None) -> list[str]:
    """Columns shared by zero-points and measurements that name a zero-point."""
    names = rows.collect_schema().names() if rows is not None else []
    return [c for c in ("exposure_id", "band", "detector") if c in zeropoints.columns and c in names]


def read_material(folder: Path) -> Material:
    """Read a solution folder.

    Raises
    ------
    InputError
        It holds no solution, or run.json is not JSON.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the --out of calib solve")
    for name in ("zeropoints.parquet", "stars.parquet", "run.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: has no {name}; give the --out of a finished calib solve")
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error})") from None
    zeropoints = pl.read_parquet(folder / "zeropoints.parquet").with_row_index("node")
    stars = pl.scan_parquet(folder / "stars.parquet")
    n_stars = int(stars.select(pl.col("star_id").n_unique()).collect(engine="streaming").item())
    measured, fitted = folder / "measurements.parquet", folder / "terms.ecsv"
    rows = pl.scan_parquet(measured) if measured.is_file() else None
    terms = read_any(fitted).with_columns(pl.col(pl.String).fill_null("")) if fitted.is_file() else pl.DataFrame()
    zeropoints = zeropoints.with_columns(pl.col("node").cast(pl.Int32), pl.col("band").fill_null(""))
    night = np.full(zeropoints.height, np.nan)
    if "mjd" in zeropoints.columns:
        mjd = zeropoints["mjd"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        night = derive_nights(mjd)
    zeropoints = zeropoints.with_columns(pl.Series("night", night))
    n_rows, every, sample = 0, 1, _EMPTY
    if rows is not None:
        zeropoints = _with_counts(zeropoints, rows)
        n_rows = int(rows.select(pl.len()).collect().item())
        every = max(1, min(-(-n_rows // SAMPLE), n_stars // FEW_STARS))
        sample = _sample(zeropoints, stars, rows, every, run)
    counts = zeropoints.group_by("band").len().sort("len", "band", descending=[True, False])
    bands = counts["band"].to_list()
    return Material(run, zeropoints, stars, terms, rows, n_rows, n_stars, sample, every, bands)


_EMPTY = pl.DataFrame(schema={"node": pl.Int32, "residual": pl.Float64})


def _with_counts(zeropoints: pl.DataFrame, rows: pl.LazyFrame) -> pl.DataFrame:
    """Rows of each zero-point, and the share of its used rows that are probable outliers."""
    keys = keys_of(zeropoints, rows)
    used = pl.col("used")
    aggregates = [pl.len().alias("n_rows")]
    if "outlier_probability" in rows.collect_schema().names():
        outlier = (pl.col("outlier_probability") > 0.5) & used
        aggregates.append((outlier.sum() / used.sum().cast(pl.Float64)).alias("outlier_fraction"))
    counts = rows.group_by(keys).agg(aggregates).collect(engine="streaming")
    return zeropoints.join(counts, on=keys, how="left", maintain_order="left")


def _sample(
    zeropoints: pl.DataFrame, stars: pl.LazyFrame, rows: pl.LazyFrame, every: int, run: dict[str, Any]
) -> pl.DataFrame:
    """All used measurements of one star in `every`, with their noise by the noise model and their leverage.

    ``calibrated_mag_err^2 = (error_scale err)^2 + excess_noise^2 + floor^2 + zeropoint_err^2``: the first three are the
    noise, and from them follows the reported error.
    """
    names = rows.collect_schema().names()
    if not {"residual", "weight", "calibrated_mag_err"} <= set(names):
        return _EMPTY
    keys = keys_of(zeropoints, rows)
    lazy = rows.select(*keys, "star_id", "calibrated_mag", "calibrated_mag_err", "residual", "weight", "used")
    lazy = lazy.filter(pl.col("used"), pl.col("weight") > 0, pl.col("residual").is_finite())
    if every > 1:
        lazy = lazy.filter(pl.col("star_id").hash(7) % every == 0)
    floors = run.get("model", {}).get("floor_mag", {}) or {}
    floor = pl.DataFrame(
        {"band": list(floors), "floor": [float(v or 0.0) for v in floors.values()]},
        schema={"band": pl.String, "floor": pl.Float64},
    )
    conditions = zeropoints.select(
        "node", *keys, *(["band"] if "band" not in keys else []), "zeropoint_err", "excess_noise", "error_scale"
    ).join(floor, on="band", how="left", maintain_order="left")
    frame = lazy.collect(engine="streaming").join(conditions, on=keys, how="inner", maintain_order="left")
    weight = pl.col("weight").cast(pl.Float64)
    noise2 = pl.col("calibrated_mag_err").cast(pl.Float64) ** 2 - pl.col("zeropoint_err") ** 2
    own2 = pl.col("noise2") - pl.col("excess_noise") ** 2 - pl.col("floor").fill_null(0.0) ** 2
    frame = frame.with_columns(
        noise2.alias("noise2"), (weight / weight.sum().over("star_id", "band")).alias("leverage")
    ).filter(pl.col("noise2") > 0)
    frame = frame.with_columns(
        pl.col("noise2").sqrt().alias("noise"),
        pl.when(own2 > 0.01 * pl.col("noise2")).then(own2).sqrt().truediv("error_scale").alias("reported_err"),
        pl.col("residual").cast(pl.Float64),
    )
    if frame.height > 2 * SAMPLE:
        frame = frame.gather_every(-(-frame.height // SAMPLE))
    place = [c for c in ("ra", "dec") if c in stars.collect_schema().names()]
    own = stars.select("star_id", "band", "mag", *place)
    if every > 1:
        own = own.filter(pl.col("star_id").hash(7) % every == 0)
    frame = frame.join(own.collect(engine="streaming"), on=["star_id", "band"], how="left", maintain_order="left")
    kept = ("star_id", "node", "band", "mag", "residual", "noise", "leverage", "weight", "reported_err", *place)
    return frame.select(kept)
