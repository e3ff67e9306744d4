"""Output frames held against the registry before they are written."""

from __future__ import annotations

import polars as pl

from calib.tables.schema import COLUMNS, MAY_BE_MISSING, Kind

_POLARS: dict[str, pl.DataType] = {
    "int64": pl.Int64(),
    "bool": pl.Boolean(),
    "string": pl.String(),
    "float64": pl.Float64(),
    "float32": pl.Float32(),
}


def checked(frame: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """Return the frame with the registry's columns, in its order, with its types.

    Parameters
    ----------
    frame : polars.DataFrame
        Categories are written as text and integers of any width as int64.
    kind : str
        ``zeropoints``, ``stars``, ``measurements`` or ``terms``.

    Raises
    ------
    ValueError
        A column is unknown or missing, or one that is no float has nulls.
    """
    columns = COLUMNS[kind]
    unknown = [c for c in frame.columns if c not in columns]
    missing = [c.name for c in columns.values() if c.needed and c.name not in frame.columns]
    if unknown or missing:
        raise ValueError(f"{kind}: unknown columns {unknown}, missing columns {missing}; see calib.tables.schema")
    out = []
    for name, column in columns.items():
        if name not in frame.columns:
            continue
        series = frame[name]
        if column.type == "id":
            series = series.cast(pl.Int64 if series.dtype.is_integer() else pl.String)
        else:
            series = series.cast(_POLARS[column.type])
        if series.null_count() and not series.dtype.is_float() and (kind, name) not in MAY_BE_MISSING:
            raise ValueError(f"{kind}: column {name} has {series.null_count()} nulls; only floats may be missing")
        out.append(series)
    return pl.DataFrame(out)
