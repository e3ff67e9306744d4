"""Solutions out: ECSV and Parquet, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from calib.tables.canonical_out import checked
from calib.tables.measurements import Measurements
from calib.tables.schema import COLUMNS, MAY_BE_MISSING, Kind, column_meta

ROW_GROUP = 1 << 20
"""Rows of a row group of measurements.parquet, at most."""


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name in the same folder, which takes the final name when the block ends well.

    Parameters
    ----------
    path : path
        The final name; an older file of that name stays untouched until then, and when the block fails.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(
    frame: pl.DataFrame, path: str | os.PathLike[str], kind: Kind, meta: Mapping[str, Any] | None = None
) -> None:
    """Write an output table as ECSV or Parquet, by the ending of its name.

    Parameters
    ----------
    frame : polars.DataFrame
        Columns of the registry; NaN stays NaN and null stays null in floats.
    path : path
        Ends in .ecsv or .parquet.
    kind : str
        ``zeropoints``, ``stars``, ``measurements`` or ``terms``.
    meta : mapping, optional
        Metadata of the table: what YAML can hold.

    Raises
    ------
    ValueError
        The frame does not fit the registry, or the ending is another.
    """
    ending = Path(path).suffix
    frame = checked(frame, kind)
    if ending == ".ecsv":
        from calib.tables.astropy_out import write_ecsv

        with atomic_path(path) as temporary:
            write_ecsv(frame, temporary, kind, meta)
    elif ending == ".parquet":
        with ParquetSink(path, kind, meta) as sink:
            sink.write(frame, lengths=True)
    else:
        raise ValueError(f"{path}: tables are written as .ecsv or .parquet")


class ParquetSink:
    """A Parquet file written by row groups; it appears when the block ends well.

    Units, descriptions and UCDs are in each field's metadata, and astropy's own description under table_meta_yaml.

    Parameters
    ----------
    path : path
    kind : str
    meta : mapping, optional
    """

    def __init__(self, path: str | os.PathLike[str], kind: Kind, meta: Mapping[str, Any] | None = None) -> None:
        self._kind: Kind = kind
        self._meta = meta
        self._stack = contextlib.ExitStack()
        self._path = path
        self._writer: Any = None
        self.rows = 0

    def __enter__(self) -> Self:
        self._temporary = self._stack.enter_context(atomic_path(self._path))
        return self

    def write(self, frame: pl.DataFrame, *, lengths: bool = False) -> None:
        """Append rows.

        Parameters
        ----------
        frame : polars.DataFrame
        lengths : bool
            Whether this is all, so that the lengths of text that astropy likes to know can be noted.

        Raises
        ------
        ValueError
            The frame does not fit the registry or what was written before.
        """
        import pyarrow.parquet as pq

        frame = checked(frame, self._kind)
        if self._writer is None:
            self._schema = _arrow_schema(frame, self._kind, self._meta, lengths)
            self._writer = self._stack.enter_context(
                pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
            )
        table = frame.to_arrow()
        if table.schema.names != self._schema.names:
            raise ValueError(f"{self._path}: columns {table.schema.names} after {self._schema.names}")
        self._writer.write_table(table.cast(self._schema), row_group_size=ROW_GROUP)
        self.rows += frame.height

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._writer is None and error is None:
            failure = ValueError(f"{self._path}: nothing was written")
            self._stack.__exit__(ValueError, failure, None)
            raise failure
        return self._stack.__exit__(kind, error, trace)


def _arrow_schema(frame: pl.DataFrame, kind: Kind, meta: Mapping[str, Any] | None, lengths: bool) -> Any:
    import pyarrow as pa

    from calib.tables.astropy_out import astropy_yaml

    types = {
        pl.Int64: pa.int64(),
        pl.Boolean: pa.bool_(),
        pl.String: pa.string(),
        pl.Float64: pa.float64(),
        pl.Float32: pa.float32(),
    }
    fields = []
    whole = {"table_meta_yaml": astropy_yaml(frame, kind, meta)}
    for series in frame:
        column = COLUMNS[kind][series.name]
        notes = {"unit": column.unit, "description": column.description} | column_meta(column, meta)
        fields.append(
            pa.field(
                series.name,
                types[type(series.dtype)],
                nullable=series.dtype.is_float() or (kind, series.name) in MAY_BE_MISSING,
                metadata={k: v for k, v in notes.items() if v},
            )
        )
        if lengths and series.dtype == pl.String:
            longest = series.str.len_chars().max()
            whole[f"table::len::{series.name}"] = str(max(1, longest if isinstance(longest, int) else 1))
    return pa.schema(fields, metadata=whole)


class MeasurementWriter:
    """measurements.parquet, streamed: the input's keys beside what the solution says of each row.

    Use it as a context manager; the file appears whole when the block ends well.

    Parameters
    ----------
    path : path
    meta : mapping, optional
        Metadata of the table.
    """

    def __init__(self, path: str | os.PathLike[str], meta: Mapping[str, Any] | None = None) -> None:
        self._sink = ParquetSink(path, "measurements", meta)

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._sink.__exit__(kind, error, trace)

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return self._sink.rows

    def write(self, measurements: Measurements, **arrays: Any) -> None:
        """Append the rows of some measurements, in their order, by row groups of about a million.

        Parameters
        ----------
        measurements : Measurements
            Its keys are written: star_id, exposure_id, band and detector where the input has them, ra and dec where
            they tell stars.
        **arrays : arrays, shape (n,)
            calibrated_mag, calibrated_mag_err, and residual, weight, outlier_probability, used, influence where known.

        Raises
        ------
        ValueError
            An array has another length, or a column is unknown or missing.
        """
        n = len(measurements)
        for name, array in arrays.items():
            if len(array) != n:
                raise ValueError(f"{name} has {len(array)} rows and the measurements {n}")
        for start in range(0, n, ROW_GROUP):
            part = measurements.frame.select(measurements.keys).slice(start, ROW_GROUP)
            new = [pl.Series(name, array[start : start + ROW_GROUP]) for name, array in arrays.items()]
            self._sink.write(part.with_columns(new), lengths=False)
