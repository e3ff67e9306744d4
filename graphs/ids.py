"""Identifier columns of any table -> dense codes in the order of the identifiers' values."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graphs import coding, kernels
from graphs.errors import GraphError

Int32s = NDArray[np.int32]


def read_ids(table: Any, column: str) -> pl.Series:
    """One identifier column of a table as a polars series of integers or strings.

    Parameters
    ----------
    table
        polars frame (lazy or not), pyarrow Table, astropy Table, or anything with ``table[column]`` giving an array.
    column
        Its name.

    Raises
    ------
    GraphError
        The column is absent, has nulls or masked values, or holds neither integers nor strings.
    """
    if isinstance(table, pl.LazyFrame):
        table = table.select(column).collect()
    try:
        raw = table[column]
    except (KeyError, pl.exceptions.ColumnNotFoundError):
        names = getattr(table, "columns", None)
        if type(table).__module__.partition(".")[0] == "pyarrow":
            names = table.column_names
        elif names is None or hasattr(names, "keys"):
            names = list(table.keys())
        raise GraphError(
            f"no column {column!r} among {', '.join(map(str, names))}; name yours with star= or exposure="
        ) from None
    series = _as_series(raw, column)
    if series.dtype in (pl.Categorical, pl.Enum, pl.Binary):
        series = series.cast(pl.String)
    if series.null_count():
        raise GraphError(f"column {column!r} has {series.null_count()} nulls; leave rows without identifier out first")
    if not (series.dtype.is_integer() or series.dtype == pl.String):
        raise GraphError(f"column {column!r} holds {series.dtype}; identifiers are integers or strings")
    return series.rechunk()


def _as_series(raw: Any, column: str) -> pl.Series:
    if isinstance(raw, pl.Series):
        return raw
    if type(raw).__module__.partition(".")[0] == "pyarrow":
        converted = pl.from_arrow(raw)
        assert isinstance(converted, pl.Series)
        return converted
    mask = getattr(raw, "mask", None)
    if mask is not None and np.any(mask):
        raise GraphError(f"column {column!r} has {int(np.sum(mask))} masked identifiers; leave them out first")
    values = np.asarray(raw)
    if values.ndim != 1:
        raise GraphError(f"column {column!r} has shape {values.shape}; identifiers are one per row")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind in "iu":
        return pl.Series(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")))
    if values.dtype.kind == "U" or all(isinstance(value, str) for value in values.tolist()):
        return pl.Series(values.tolist(), dtype=pl.String)
    if values.dtype.kind == "O" and all(isinstance(value, int | np.integer) for value in values.tolist()):
        return pl.Series(values.tolist(), dtype=pl.Int64)
    raise GraphError(f"column {column!r} holds {values.dtype}; identifiers are integers or strings")


def encode_ids(ids: pl.Series) -> tuple[Int32s, pl.Series]:
    """Dense codes of identifiers, and the distinct identifiers in the order of their codes.

    Parameters
    ----------
    ids
        Integers or strings, no nulls.

    Returns
    -------
    codes : (n,) int32
    distinct : polars Series
        Sorted by value, so that codes do not depend on the order of the rows.
    """
    dealt, rows, distinct, _ = deal_ids(ids)
    if rows is None:
        return dealt, distinct
    codes = np.empty(dealt.size, np.int32)
    coding.return_codes(dealt, rows, codes)
    return codes, distinct


def deal_ids(
    ids: pl.Series, beside: Int32s | None = None
) -> tuple[Int32s, NDArray[np.integer[Any]] | None, pl.Series, Int32s | None]:
    """Codes like those of `encode_ids`, in an order in which those of one identifier lie close together.

    Returns
    -------
    codes : (n,) int32
    rows : (n,) int32, or int64 beyond 2**31 rows, or None
        Input row of each code, ascending for each identifier. None where the codes are in the order of the rows.
    distinct : polars Series
    carried : (n,) int32 or None
        ``beside``, in the order of the codes.
    """
    if ids.is_empty():
        return np.zeros(0, np.int32), None, ids.clear(), beside
    if not ids.dtype.is_integer() or ids.dtype in (pl.UInt64, pl.Int128):
        distinct_ids = ids.unique().sort()
        table = distinct_ids.alias("id").to_frame().with_columns(code=pl.int_range(len(distinct_ids), dtype=pl.Int32))
        joined = ids.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")
        return joined["code"].to_numpy(), None, distinct_ids, beside
    values, rows = ids.cast(pl.Int64).to_numpy(), None
    low = int(values.min())
    span = int(values.max()) - low + 1
    codes = np.empty(values.size, np.int32)
    if span <= 4 * len(ids) + 65536:  # nearly dense already: a table look-up instead of a hash
        distinct = coding.dense_codes(values, low, span, codes)
    elif kernels.is_ascending(values):
        distinct = coding.run_codes(values, codes)
    else:
        packs = coding.deal(values, low, span, beside)
        rows, beside = packs.rows, packs.carried
        distinct = coding.number_packs(packs.ptr, packs.keys, codes)
        by_value = np.argsort(distinct)
        rank = np.empty(distinct.size, np.int32)
        rank[by_value] = np.arange(distinct.size, dtype=np.int32)
        coding.rank_codes(codes, rank)
        distinct = distinct[by_value]
    return codes, rows, pl.Series(ids.name, distinct).cast(ids.dtype), beside
