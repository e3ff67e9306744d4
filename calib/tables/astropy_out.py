"""Output frames as astropy tables, with units and descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from calib.tables.canonical_out import checked
from calib.tables.errors import InputError, count
from calib.tables.schema import COLUMNS, Kind, column_meta


def to_qtable(frame: pl.DataFrame, kind: Kind, meta: Mapping[str, Any] | None = None) -> Any:
    """Return an output frame as an astropy QTable.

    Parameters
    ----------
    frame : polars.DataFrame
        Columns of the registry.
    kind : str
        ``zeropoints``, ``stars``, ``measurements`` or ``terms``.
    meta : mapping, optional
        The table's metadata; of `calib.tables.schema.TOLD`, columns have it too.

    Returns
    -------
    astropy.table.QTable
        Columns with a unit are Quantities; missing floats are NaN; UCDs are in ``info.meta["ucd"]``.

    Raises
    ------
    ValueError
        The frame does not fit the registry.
    """
    from astropy import units as u
    from astropy.table import Column, MaskedColumn, QTable

    table = QTable(meta=dict(meta or {}))
    for series in checked(frame, kind):
        column = COLUMNS[kind][series.name]
        if series.dtype.is_float():
            values = series.fill_null(np.nan).to_numpy()
            made = u.Quantity(values, column.unit, copy=True) if column.unit else Column(values)
        elif series.null_count():
            filled = series.fill_null("" if series.dtype == pl.String else 0)
            values = np.array(filled.to_list(), np.str_) if series.dtype == pl.String else filled.to_numpy()
            made = MaskedColumn(values, mask=series.is_null().to_numpy())
        elif series.dtype == pl.String:
            made = Column(np.array(series.to_list(), dtype=np.str_))
        else:
            made = Column(series.to_numpy())
        table[series.name] = made
        info = table[series.name].info
        info.description = column.description
        if told := column_meta(column, meta):
            info.meta = told
    return table


def write_ecsv(frame: pl.DataFrame, path: Any, kind: Kind, meta: Mapping[str, Any] | None = None) -> None:
    """Write an ECSV file in which empty text reads back as empty, not as masked.

    Parameters
    ----------
    frame, kind, meta
        As of `to_qtable`.
    path : path
    """
    from astropy.table import MaskedColumn

    table = _plain(frame, kind, meta)
    for name in table.colnames:
        if table[name].dtype.kind == "U" and (table[name] == "").any():
            info = table[name].info
            text = MaskedColumn(table[name], name=name, description=info.description, meta=info.meta)
            text.info.serialize_method["ecsv"] = "data_mask"
            table.replace_column(name, text)
    table.write(path, format="ascii.ecsv")


def check_fits(frame: pl.DataFrame, label: str) -> None:
    """Refuse text that a FITS table cannot hold.

    Parameters
    ----------
    frame : polars.DataFrame
    label : str
        The file that it is to be written to.

    Raises
    ------
    InputError
        Some is not ASCII.
    """
    for series in frame.select(pl.col(pl.String)):
        beyond = series.str.len_bytes() != series.str.len_chars()
        if beyond.any():
            raise InputError(
                f"{label}: {series.name} is not ASCII in {count(int(beyond.sum()), 'row')} (first: "
                f"{series.filter(beyond)[0]}), and FITS holds no other text; give a name that ends in .parquet, .csv "
                "or .ecsv"
            )


def astropy_yaml(frame: pl.DataFrame, kind: Kind, meta: Mapping[str, Any] | None = None) -> str:
    """Return astropy's description of a table, which it looks for under table_meta_yaml in Parquet.

    Parameters
    ----------
    frame, kind, meta
        As of `to_qtable`; the rows do not matter.
    """
    from astropy.table.meta import get_yaml_from_table

    return "\n".join(get_yaml_from_table(_plain(frame.head(0), kind, meta)))


def _plain(frame: pl.DataFrame, kind: Kind, meta: Mapping[str, Any] | None) -> Any:
    """Columns that carry their units, which readers without Quantities know too; a QTable makes Quantities of them."""
    from astropy.table import Table

    return Table(to_qtable(frame, kind, meta))
