"""Columns that stand in names of folders: band=g/night=12/part.parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from calib.tables.errors import InputError, count
from calib.tables.sources.base import CHUNK_ROWS, WHOLE, Source

_FOLDER = re.compile(r"([^=]+)=(.*)")
_NULL = "__HIVE_DEFAULT_PARTITION__"


class PartitionedSource(Source):
    """A table with a constant column for each folder called key=value on its path.

    A column that the table holds itself is the table's, and refused where it says otherwise than the folder. Names of
    folders are text as that of CSV is: whole numbers unless another table has text.

    Parameters
    ----------
    inner : Source
    folders : dict of str to str or None
        Value by key; None is null.
    """

    def __init__(self, inner: Source, folders: dict[str, str | None]) -> None:
        super().__init__(inner.label, inner.path)
        self._inner, self._folders = inner, folders
        self.names = [*inner.names, *(key for key in folders if key not in inner.names)]
        self.units, self.time_scales, self.as_text = inner.units, inner.time_scales, inner.as_text
        self.rows, self.notes = inner.rows, inner.notes
        self.null_words, self.blank_is_missing = inner.null_words, inner.blank_is_missing

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of `batch_rows` rows; see `Source.chunks`."""
        own = [n for n in names if n in self._inner.names]
        for frame in self._inner.chunks(own or self._inner.names[:1], batch_rows):
            for name in own:
                if name in self._folders and _other(frame[name], self._folders[name]).any():
                    raise self._contradiction(name)
            yield pl.DataFrame([frame[n] if n in own else self._constant(n, frame.height) for n in names])

    def text_columns(self, names: Sequence[str]) -> set[str]:
        """See `Source.text_columns`."""
        own = [n for n in names if n in self._inner.names]
        return self._inner.text_columns(own) | {n for n in names if n not in own and self._is_text(n)}

    def _is_text(self, name: str) -> bool:
        value = self._folders[name]
        return value is not None and (name in self.as_text or not _whole(value))

    def _constant(self, name: str, rows: int) -> pl.Series:
        value = self._folders[name]
        one = pl.Series(name, [value], pl.String)
        return (one if value is None or self._is_text(name) else one.cast(pl.Int64)).new_from_index(0, rows)

    def _contradiction(self, name: str) -> InputError:
        value = self._folders[name]
        n = sum(int(_other(frame[name], value).sum()) for frame in self._inner.chunks([name]))
        return InputError(
            f"{self.where(name)} is not {value} in {count(n, 'row')}, as the folder {name}={value} says; "
            f"correct one of them, or leave both out with --columns {name}="
        )


def partitioned(source: Source) -> Source:
    """Return a table with the columns that stand in its path, as that was given.

    Parameters
    ----------
    source : Source
    """
    found = [_FOLDER.fullmatch(part) for part in (source.path or Path()).parent.parts]
    folders = {unquote(m[1]): None if m[2] == _NULL else unquote(m[2]) for m in found if m}
    return PartitionedSource(source, folders) if folders else source


def _whole(value: str) -> bool:
    return re.fullmatch(WHOLE, value) is not None and -(2**63) <= int(value) < 2**63


def _other(series: pl.Series, value: str | None) -> pl.Series:
    """Where a column says otherwise than its folder; null says nothing."""
    if value is not None and series.dtype.is_integer() and _whole(value):
        return (series != int(value)).fill_null(False)
    if value is not None and series.dtype.is_numeric():
        number = pl.Series([value]).cast(pl.Float64, strict=False)[0]
        return (series.cast(pl.Float64) != float("nan" if number is None else number)).fill_null(False)
    return (series.cast(pl.String) != ("" if value is None else value)).fill_null(False)
