"""A solution's tables, read back; and any small table as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from calib.tables.errors import InputError
from calib.tables.sources import open_sources
from calib.tables.sources.csv import CsvSource


class SolutionTables(NamedTuple):
    """The tables of an output folder.

    Attributes
    ----------
    zeropoints, stars : polars.DataFrame
    terms : polars.DataFrame or None
    measurements : polars.LazyFrame or None
        Not read until it is collected.
    """

    zeropoints: pl.DataFrame
    stars: pl.DataFrame
    terms: pl.DataFrame | None
    measurements: pl.LazyFrame | None


def read_solution_tables(folder: str | os.PathLike[str]) -> SolutionTables:
    """Read the tables of an output folder.

    Parameters
    ----------
    folder : path

    Raises
    ------
    InputError
        It is no output folder, or a file cannot be read.
    """
    home = Path(folder)
    if not home.is_dir():
        raise InputError(f"{folder}: no such folder; give the --out of calib solve")
    for name in ("zeropoints.parquet", "stars.parquet"):
        if not (home / name).is_file():
            raise InputError(f"{folder}: has no {name}; give the --out of a finished calib solve")
    terms, rows = home / "terms.ecsv", home / "measurements.parquet"
    try:
        return SolutionTables(
            pl.read_parquet(home / "zeropoints.parquet"),
            pl.read_parquet(home / "stars.parquet"),
            _terms(read_any(terms)) if terms.is_file() else None,
            pl.scan_parquet(rows) if rows.is_file() else None,
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{folder}: cannot be read ({str(error).splitlines()[0]})") from error


def _terms(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.String).fill_null(""))


def read_any(table: Any) -> pl.DataFrame:
    """Read any table whole, with its own names and values; masked values are null, times are MJD.

    Parameters
    ----------
    table : path, folder, glob or table in memory

    Returns
    -------
    polars.DataFrame
        Text that is all numbers, or all true and false, is read as such from CSV. Units are not applied.

    Raises
    ------
    InputError
        It cannot be read, or its files differ in their columns.
    """
    parts = []
    sources = open_sources(table)
    for source in sources:
        if source.names != sources[0].names:
            raise InputError(f"{source.label}: its columns differ from those of {sources[0].label}")
        chunks = list(source.chunks(source.names))
        frame = pl.concat(chunks) if chunks else pl.DataFrame(schema=dict.fromkeys(source.names, pl.Null))
        parts.append(_numbers(frame) if isinstance(source, CsvSource) else frame)
    return pl.concat(parts, how="vertical_relaxed")


def _numbers(frame: pl.DataFrame) -> pl.DataFrame:
    out = []
    for series in frame:
        made = series
        if series.dtype == pl.String and series.null_count() < len(series):
            number = series.cast(pl.Float64, strict=False)
            padded = series.str.contains(r"^-?0\d").any()
            words = series.str.to_lowercase()
            if number.null_count() == series.null_count() and not padded:
                made = number
            elif words.drop_nulls().is_in(["true", "false"]).all():
                made = (words == "true").alias(series.name)
        out.append(made)
    return pl.DataFrame(out)
