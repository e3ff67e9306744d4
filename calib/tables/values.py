"""Columns as they come to columns as they are meant: ids, labels, numbers, flags, nights; or one line that refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.errors import InputError, count
from calib.tables.sources import Source
from calib.tables.sources.csv import NULL_WORDS

MJD_EPOCH_DAYS = 40587
"""MJD of 1970-01-01."""

_TRUE = ("true", "t", "yes", "y")
_FALSE = ("false", "f", "no", "n")
_LARGEST_EXACT = 2.0**53


def to_id(series: pl.Series, source: Source, own: str) -> pl.Series:
    """Return a key column as Int64 or String without nulls.

    Parameters
    ----------
    series : polars.Series
        Integers, whole floats below 2^53, text, bytes, categories.
    source : Source
        The table, for messages and for counting over all of it.
    own : str
        The table's name of the column.

    Raises
    ------
    InputError
        Some are null, NaN or empty, or the type cannot be a key.
    """
    series = _text(series, source, own)
    if _id_missing(series).any():
        n = _count(source, own, lambda s: _id_missing(_text(s, source, own)))
        words = ", ".join(filter(None, source.null_words))
        missing = f"null or empty{words and f' (or {words})'} in {count(n, 'row')}"
        raise InputError(f"{source.where(own)} is {missing}; remove them or give them an id")
    return _whole(series, source, own)


def _id_missing(series: pl.Series) -> pl.Series:
    if series.dtype.is_float():
        return series.is_null() | series.is_nan()
    return series.is_null() | (series == "") if series.dtype == pl.String else series.is_null()


def _whole(series: pl.Series, source: Source, own: str) -> pl.Series:
    dtype = series.dtype
    if dtype == pl.String or dtype == pl.Int64:
        return series
    if dtype.is_integer():
        if dtype == pl.UInt64 and len(series) and int(series.max()) >= 2**63:  # type: ignore[arg-type]
            n = _count(source, own, lambda s: s >= 2**63)
            raise InputError(f"{source.where(own)} exceeds int64 in {count(n, 'row')}; give the ids as text")
        return series.cast(pl.Int64)
    if dtype.is_float() or dtype.is_decimal():
        values = series.cast(pl.Float64).to_numpy()
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(values) < _LARGEST_EXACT) | (values != np.floor(values))
        if bad.any():
            n = _count(source, own, lambda s: _not_whole(s))
            raise InputError(
                f"{source.where(own)} is {dtype} and not an exact whole number in {count(n, 'row')}; "
                "give the ids as int64 or text"
            )
        return series.cast(pl.Int64)
    raise InputError(f"{source.where(own)} is {dtype}; ids are int64 or text")


def _not_whole(series: pl.Series) -> pl.Series:
    values = series.cast(pl.Float64)
    return (values.abs() >= _LARGEST_EXACT) | (values != values.floor())


def to_label(series: pl.Series, source: Source, own: str) -> tuple[pl.Series, NDArray[np.bool_]]:
    """Return a band as String without nulls, and where it was null.

    Parameters
    ----------
    series, source, own
        As in `to_id`; whole numbers become text. Where a format cannot say null, blank text is null unless it is all
        blank, as of a table without bands.
    """
    series = _text(series, source, own)
    if series.dtype != pl.String:
        series = _whole(series.fill_nan(None) if series.dtype.is_float() else series, source, own).cast(pl.String)
    null = series.is_null()
    if source.blank_is_missing and (series == "").any() and not source.is_blank(own):
        null |= series.fill_null("") == ""
    return series.fill_null(""), null.to_numpy()


def to_number(series: pl.Series, source: Source, own: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return values as float64, NaN where null, and where they were null.

    Parameters
    ----------
    series, source, own
        As in `to_id`; text is converted, and refused with a count where it is not a number.

    Raises
    ------
    InputError
        The type has no numbers in it.
    """
    series = _text(series, source, own)
    dtype = series.dtype
    if dtype == pl.String:
        series = _parse(series, source, own)
    elif dtype == pl.Null:
        series = series.cast(pl.Float64)
    elif dtype == pl.Datetime or dtype == pl.Date:
        series = _datetime_mjd(series)
    elif not dtype.is_numeric():
        raise InputError(f"{source.where(own)} is {dtype}, not numbers; convert it or map another column")
    null = series.is_null().to_numpy()
    values: NDArray[np.float64] = series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    return values, null


def _parse(series: pl.Series, source: Source, own: str) -> pl.Series:
    def clean(text: pl.Series) -> pl.Series:
        text = text.str.strip_chars()
        return pl.select(pl.when(~text.is_in(list(NULL_WORDS))).then(text)).to_series()

    def wrong(text: pl.Series) -> pl.Series:
        tidy = clean(_text(text, source, own))
        return tidy.is_not_null() & tidy.cast(pl.Float64, strict=False).is_null()

    tidy = clean(series)
    values = tidy.cast(pl.Float64, strict=False)
    bad = tidy.is_not_null() & values.is_null()
    if bad.any():
        n = _count(source, own, wrong)
        first = tidy.filter(bad)[0]
        raise InputError(f"{source.where(own)} is not a number in {count(n, 'row')} (first '{first}'); correct them")
    return values


def to_flag(series: pl.Series, source: Source, own: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where a flag is not zero, and where it is null.

    Parameters
    ----------
    series, source, own
        As in `to_id`; bool, whole numbers, or the words true and false.
    """
    series = _text(series, source, own)
    if series.dtype == pl.String:
        words = series.str.strip_chars().str.to_lowercase()
        words = pl.select(
            pl.when(words.is_in(_TRUE)).then(pl.lit("1")).when(words.is_in(_FALSE)).then(pl.lit("0")).otherwise(words)
        ).to_series()
        series = _parse(words, source, own)
    if series.dtype == pl.Boolean:
        return series.fill_null(True).to_numpy(), series.is_null().to_numpy()
    values, null = to_number(series, source, own)
    null = null | np.isnan(values)
    return (values != 0) | null, null


def to_night(series: pl.Series, source: Source, own: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return night numbers as whole float64, NaN where null; a date becomes its MJD.

    Parameters
    ----------
    series, source, own
        As in `to_id`.

    Raises
    ------
    InputError
        The nights are neither whole numbers nor dates.
    """
    series = _text(series, source, own)
    if series.dtype == pl.String:
        dates = series.str.strip_chars().str.to_date("%Y-%m-%d", strict=False)
        if dates.null_count() == series.null_count():
            series = dates
    if series.dtype == pl.Date:
        series = (series.cast(pl.Int32) + MJD_EPOCH_DAYS).cast(pl.Int64)
    values, null = to_number(series, source, own)
    bad = np.isfinite(values) & (values != np.floor(values))
    if bad.any():
        raise InputError(
            f"{source.where(own)} is not a whole number in {count(int(bad.sum()), 'row')}; give nights as int or date"
        )
    return values, null


def to_mjd(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return times as MJD and how many were Julian Dates.

    Parameters
    ----------
    values : float64 array, shape (n,), days
        Values above 2,400,000 cannot be MJD of any survey (the year 8400 on) and are read as Julian Dates.
    """
    julian = values > 2.4e6
    return np.where(julian, values - 2400000.5, values), int(julian.sum())


def _datetime_mjd(series: pl.Series) -> pl.Series:
    days = series.cast(pl.Datetime("us")).dt.epoch("us").cast(pl.Float64) / 86_400e6
    return days + MJD_EPOCH_DAYS


def _text(series: pl.Series, source: Source, own: str) -> pl.Series:
    """Categories and bytes as text."""
    if series.dtype == pl.Categorical or series.dtype == pl.Enum:
        return series.cast(pl.String)
    if series.dtype == pl.Binary:
        try:
            return series.cast(pl.String).str.strip_chars_end(" \0")
        except pl.exceptions.ComputeError:
            n = _count(source, own, _not_utf8)
            raise InputError(
                f"{source.where(own)} holds bytes that are not UTF-8 text in {count(n, 'row')}; give text (of bytes, "
                "their hexadecimal digits) or int64"
            ) from None
    return series


def _not_utf8(series: pl.Series) -> pl.Series:
    def bad(value: bytes | None) -> bool:
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return True
        return False

    return pl.Series([bad(value) for value in series], dtype=pl.Boolean)


def _count(source: Source, own: str, test: Callable[[pl.Series], pl.Series]) -> int:
    """Rows of the whole table that fail; only on the way to an error."""
    return sum(int(test(chunk[own]).sum()) for chunk in source.chunks([own]))
