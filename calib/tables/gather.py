"""Chunks put end to end in little more memory than the result."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.convert import Chunk
from calib.tables.errors import InputError

_ORDER = ("star_id", "exposure_id", "band", "detector", "mag", "mag_err", "x", "y", "ra", "dec", "color", "flag")


class _Labels:
    """Text with few distinct values as small codes."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def encode(self, series: pl.Series) -> NDArray[Any]:
        for value in series.unique().sort().to_list():
            self.codes.setdefault(value, len(self.codes))
        dtype = np.min_scalar_type(max(len(self.codes) - 1, 0))
        old = list(self.codes)
        coded = series.replace_strict(old, list(range(len(old))), return_dtype=pl.UInt32)
        return coded.to_numpy().astype(dtype)

    def decode(self, codes: NDArray[Any]) -> pl.Series:
        """Return an Enum whose categories are in sorted order."""
        names = sorted(self.codes)
        rank = np.empty(len(names), codes.dtype)
        rank[[self.codes[n] for n in names]] = np.arange(len(names))
        return _zero_copy(rank[codes]).cat.to(pl.Enum(names))


class Gatherer:
    """Collects chunks, column by column, and lays each column out once.

    Parameters
    ----------
    types : dict, optional
        Types of the keys seen so far, kept up to date: a later table must have the same.
    """

    def __init__(self, types: dict[str, Any] | None = None) -> None:
        self._types: dict[str, Any] = {} if types is None else types
        self._parts: dict[str, list[Any]] = {}
        self._labels: dict[str, _Labels] = {}
        self._reason: list[NDArray[np.uint8]] = []
        self.rows = 0

    def add(self, chunk: Chunk, label: str) -> None:
        """Take in a chunk.

        Parameters
        ----------
        chunk : Chunk
            With band.
        label : str
            The table it is of, for the message.

        Raises
        ------
        InputError
            A key is text in one table and a number in another.
        """
        self.rows += chunk.keys.height
        for series in chunk.keys:
            name = series.name
            first = self._types.setdefault(name, (series.dtype, label))
            if first[0] != series.dtype:
                raise InputError(
                    f"{label}: {name} is {series.dtype} and in {first[1]} {first[0]}; give one type in all files"
                )
            value: Any = series
            if name == "band" or (name == "detector" and series.dtype == pl.String):
                value = self._labels.setdefault(name, _Labels()).encode(series)
            elif series.dtype == pl.Int64:
                value = series.to_numpy()
            self._parts.setdefault(name, []).append(value)
        for name, array in chunk.numbers.items():
            self._parts.setdefault(name, []).append(array)
        if chunk.flag is not None:
            self._parts.setdefault("flag", []).append(pl.Series(chunk.flag))
        self._reason.append(chunk.reason)

    def finish(self) -> tuple[pl.DataFrame, NDArray[np.uint8], pl.DataType]:
        """Return the frame, the reasons, and the type of band; each column's parts are freed as it is laid out."""
        columns = []
        for name in _ORDER:
            parts = self._parts.pop(name, None)
            if parts is None:
                continue
            if isinstance(parts[0], pl.Series):
                series = pl.concat(parts, rechunk=True)
            else:
                array = np.concatenate(parts) if len(parts) > 1 else parts[0]
                series = self._labels[name].decode(array) if name in self._labels else _zero_copy(array)
            columns.append(series.alias(name))
            del parts
        frame = pl.DataFrame(columns)
        return frame, np.concatenate(self._reason), frame["band"].dtype


def _zero_copy(array: NDArray[Any]) -> pl.Series:
    import pyarrow as pa

    series = pl.from_arrow(pa.array(array))
    assert isinstance(series, pl.Series)
    return series
