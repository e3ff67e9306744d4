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


class _Buffer:
    """One array filled from the front; of the right size at once where the number of rows is known."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._array: NDArray[Any] | None = None
        self._used = 0

    def add(self, part: NDArray[Any]) -> None:
        end = self._used + len(part)
        if self._array is None:
            self._array = np.empty(max(self._capacity, end), part.dtype)
        dtype = np.promote_types(self._array.dtype, part.dtype)
        if end > len(self._array) or dtype != self._array.dtype:
            larger = np.empty(len(self._array) if end <= len(self._array) else max(end, 3 * end // 2), dtype)
            larger[: self._used] = self._array[: self._used]
            self._array = larger
        self._array[self._used : end] = part
        self._used = end

    def array(self) -> NDArray[Any]:
        assert self._array is not None
        return self._array[: self._used]


class Gatherer:
    """Collects chunks, column by column, and lays each column out once.

    Parameters
    ----------
    rows : int
        How many rows will come, as far as it is known.
    types : dict, optional
        Types of the keys seen so far, kept up to date: a later table must have the same.
    """

    def __init__(self, rows: int = 0, types: dict[str, Any] | None = None) -> None:
        self._capacity = rows
        self._types: dict[str, Any] = {} if types is None else types
        self._buffers: dict[str, _Buffer] = {}
        self._text: dict[str, list[pl.Series]] = {}
        self._labels: dict[str, _Labels] = {}
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
            if name == "band" or (name == "detector" and series.dtype == pl.String):
                self._put(name, self._labels.setdefault(name, _Labels()).encode(series))
            elif series.dtype == pl.String:
                self._text.setdefault(name, []).append(series)
            else:
                self._put(name, series.to_numpy())
        for name, array in chunk.numbers.items():
            self._put(name, array)
        if chunk.flag is not None:
            self._put("flag", chunk.flag)
        self._put("reason", chunk.reason)

    def _put(self, name: str, array: NDArray[Any]) -> None:
        self._buffers.setdefault(name, _Buffer(self._capacity)).add(array)

    def finish(self) -> tuple[pl.DataFrame, NDArray[np.uint8], pl.DataType]:
        """Return the frame, the reasons, and the type of band; what is gathered is handed over."""
        columns = []
        for name in _ORDER:
            if name in self._text:
                series = pl.concat(self._text.pop(name), rechunk=True)
            elif name in self._labels:
                series = self._labels[name].decode(self._buffers.pop(name).array())
            elif name in self._buffers:
                series = _zero_copy(self._buffers.pop(name).array())
            else:
                continue
            columns.append(series.alias(name))
        frame = pl.DataFrame(columns)
        return frame, self._buffers.pop("reason").array(), frame["band"].dtype


def _zero_copy(array: NDArray[Any]) -> pl.Series:
    import pyarrow as pa

    series = pl.Series(array) if array.dtype == np.bool_ else pl.from_arrow(pa.array(array))
    assert isinstance(series, pl.Series)
    return series
