"""Tables in memory: polars frames, and astropy tables, which are also what ECSV and VOTable are read into."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calib.tables.errors import InputError
from calib.tables.sources.base import CHUNK_ROWS, Source


class PolarsSource(Source):
    """A polars frame.

    Parameters
    ----------
    frame : polars.DataFrame
    """

    format_name = "a polars frame"

    def __init__(self, frame: pl.DataFrame) -> None:
        super().__init__("the polars DataFrame")
        self._frame = frame
        self.names = frame.columns
        self.rows = frame.height

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of `batch_rows` rows; see `Source.chunks`."""
        yield from self._frame.select(names).iter_slices(batch_rows)


class AstropySource(Source):
    """An astropy Table or QTable, in memory or read whole from a file.

    Parameters
    ----------
    table : astropy.table.Table
    label : str
    path : Path, optional
        The file it was read from.
    """

    format_name = "an astropy table"

    def __init__(self, table: Any, label: str = "the astropy Table", path: Path | None = None) -> None:
        super().__init__(label, path)
        self._table = table
        self.rows = len(table)
        self.names = [str(n) for n in table.colnames]
        for name in self.names:
            column = table[name]
            if hasattr(column, "mjd"):
                self.time_scales[name] = str(column.scale)
            elif getattr(column, "unit", None) is not None:
                self.units[name] = column.unit.to_string()

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of `batch_rows` rows; see `Source.chunks`."""
        for start in range(0, len(self._table), batch_rows):
            rows = slice(start, start + batch_rows)
            yield pl.DataFrame([column_to_series(n, self._table[n][rows], self.where(n)) for n in names])


def read_astropy(path: Path, kind: str) -> AstropySource:
    """Read an ECSV, VOTable or FITS file by astropy.

    Parameters
    ----------
    path : Path
    kind : str
        astropy's name of the format.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    from astropy.table import QTable, Table

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if kind == "fits":
                table = Table.read(path, format=kind, astropy_native=True)  # times as times
            else:
                table = (QTable if kind == "ascii.ecsv" else Table).read(path, format=kind)
        except Exception as error:  # the readers raise everything from IndexError to their own
            text = str(error).split("\n")[0][:200] or type(error).__name__
            raise InputError(f"{path}: cannot be read as {kind} ({text}); is the file whole?") from error
    source = AstropySource(table, str(path), path)
    source.blank_is_missing = kind in ("fits", "votable")
    if any("everal" in str(w.message) or "ultiple tables" in str(w.message) for w in caught):
        source.notes.append(f"{path}: holds several tables; the first is read")
    return source


def column_to_series(name: str, column: Any, where: str) -> pl.Series:
    """Convert an astropy column of any class to a polars series: masked is null, bytes are text, byte order native.

    Parameters
    ----------
    name : str
    column : astropy column, Quantity, Time or masked variant of them
    where : str
        File and column, for the message.

    Raises
    ------
    InputError
        The column has several values per row, or values that are not numbers, text or times.
    """
    if hasattr(column, "mjd"):
        column = column.mjd
    mask = getattr(column, "mask", None)
    data = getattr(column, "unmasked", column)
    data = getattr(data, "value", data)
    data = getattr(data, "data", data) if isinstance(data, np.ma.MaskedArray) else data
    return array_to_series(name, np.asarray(data), None if mask is None else np.asarray(mask), where)


def array_to_series(name: str, data: Any, mask: Any, where: str) -> pl.Series:
    """Convert a numpy array and a mask to a polars series; see `column_to_series`."""
    if data.ndim != 1:
        raise InputError(f"{where} has {data.shape[1:]} values per row; give one number per row")
    kind = data.dtype.kind
    if kind == "S":
        text = np.char.decode(np.char.rstrip(data, b" \0"), "utf-8", "backslashreplace")  # different ids stay so
        series = pl.Series(name, text.tolist(), dtype=pl.String)
    elif kind == "U":
        series = pl.Series(name, np.char.rstrip(data).tolist(), dtype=pl.String)
    elif kind == "O":
        series = _object_series(name, data.tolist(), where)
    elif kind in "biuf":
        if kind == "f" and data.dtype.itemsize not in (4, 8):
            data = data.astype(np.float64)
        series = pl.Series(name, np.ascontiguousarray(data, dtype=data.dtype.newbyteorder("=")))
    else:
        raise InputError(f"{where} is of type {data.dtype}, neither numbers nor text")
    if mask is not None and mask.any():
        keep = pl.Series("keep", np.broadcast_to(~mask, data.shape))
        series = pl.select(pl.when(keep).then(series).alias(name)).to_series()
    return series


def _object_series(name: str, values: list[Any], where: str) -> pl.Series:
    values = [v.decode("utf-8", "backslashreplace").rstrip(" \0") if isinstance(v, bytes) else v for v in values]
    values = [None if v is np.ma.masked else v for v in values]
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{where} mixes types ({str(error).splitlines()[0]}); give one type") from error
