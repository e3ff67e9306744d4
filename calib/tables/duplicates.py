"""Rows given twice."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.reasons import mark

_BLOCK = 1 << 18
_SIEVE = np.uint32(1 << 22)


def mark_duplicates(frame: pl.DataFrame, reason: NDArray[np.uint8]) -> None:
    """Give every usable row that repeats an earlier usable one the reason ``duplicate``, in place.

    A repeat has the same star, exposure, band, magnitude, error, and the same detector, place and colour where they
    are given; two different measurements of a star in one exposure are not one. Only 32-bit hashes are sorted, and
    only rows whose hash occurs twice are compared.

    Parameters
    ----------
    frame : polars.DataFrame
        Canonical columns, n rows.
    reason : uint8 array, shape (n,)
    """
    keys = frame.drop("flag", strict=False)
    hashes = np.empty(frame.height, np.uint32)
    for start in range(0, frame.height, _BLOCK):
        hashes[start : start + _BLOCK] = _hash(keys.slice(start, _BLOCK))
    hashes.sort()
    repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    del hashes
    if not repeated.size:
        return
    sieve = np.zeros(_SIEVE, np.bool_)
    sieve[repeated % _SIEVE] = True
    rows = []
    for start in range(0, frame.height, _BLOCK):
        found = _hash(keys.slice(start, _BLOCK))
        maybe = np.flatnonzero(sieve[found % _SIEVE])
        place = np.minimum(np.searchsorted(repeated, found[maybe]), repeated.size - 1)
        rows.append(start + maybe[repeated[place] == found[maybe]])
    row = np.concatenate(rows)
    row = row[reason[row] == 0]
    later = ~keys[row].is_unique().to_numpy() & ~_first(keys[row])
    where = np.zeros(frame.height, np.bool_)
    where[row[later]] = True
    mark(reason, where, "duplicate")


def _hash(frame: pl.DataFrame) -> NDArray[np.uint32]:
    return (frame.hash_rows() & 0xFFFFFFFF).to_numpy().astype(np.uint32)


def _first(frame: pl.DataFrame) -> NDArray[np.bool_]:
    first: NDArray[np.bool_] = frame.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    return first
