"""Loops that number integers: by a look-up table where they are dense, by hash tables where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

BIN_BITS = 13  # of a value: how finely the packs of `deal` can part them


def empty_rows(n_rows: int) -> NDArray[np.integer[Any]]:
    """Array for the numbers of rows: int32, or int64 beyond 2**31 rows."""
    return np.empty(n_rows, np.int32 if n_rows < 2**31 else np.int64)


@dataclass(frozen=True)
class Packs:
    """Integers dealt into packs by value, all of one value into one pack; what is done pack by pack stays in the cache.

    Attributes
    ----------
    ptr : (n_packs + 1,) int64
        Pack k has the members ``ptr[k]:ptr[k + 1]``, its values above those of the packs before.
    keys : (n,) int32 or int64
        The integers.
    rows : (n,) int32, or int64 beyond 2**31 rows
        Where they stood; ascending within a pack.
    carried : (n,) or None
        What stood beside them.
    """

    ptr: Array
    keys: Array
    rows: Array
    carried: Array | None


def deal(values: Array, low: int, span: int, beside: Array | None = None) -> Packs:
    """Deal integers in ``[low, low + span)`` into packs of some thousand, as far as their values let them be parted."""
    n_packs = min(max(values.size >> 13, 1), 512)
    shift = max(span.bit_length() - BIN_BITS, 0)
    count = _count_bins(values, low, shift)
    before = np.cumsum(count) - count
    pack_of_bin = np.minimum(before * n_packs // max(values.size, 1), n_packs - 1).astype(np.uint16)
    ptr = np.zeros(n_packs + 1, np.int64)
    np.cumsum(np.bincount(pack_of_bin, count, n_packs).astype(np.int64), out=ptr[1:])
    keys, rows = np.empty(values.size, values.dtype), empty_rows(values.size)
    carried = None if beside is None else np.empty_like(beside)
    _deal(values, beside, low, shift, pack_of_bin, ptr, keys, rows, carried)
    return Packs(ptr, keys, rows, carried)


@njit(cache=True, nogil=True)
def _bin(value: int, low: int, shift: int) -> np.uint64:
    return (np.uint64(np.int64(value)) - np.uint64(low)) >> np.uint64(shift)  # unsigned: the span may exceed 2**63


@njit(cache=True, nogil=True)
def _count_bins(values: Array, low: int, shift: int) -> Array:
    count = np.zeros(1 << BIN_BITS, np.int64)
    for i in range(values.size):
        count[_bin(values[i], low, shift)] += 1
    return count


@njit(cache=True, nogil=True)
def _deal(
    values: Array,
    beside: Array | None,
    low: int,
    shift: int,
    pack_of_bin: Array,
    ptr: Array,
    keys: Array,
    rows: Array,
    carried: Array | None,
) -> None:
    cursor = ptr[:-1].copy()
    for i in range(values.size):
        pack = np.uint64(pack_of_bin[_bin(values[i], low, shift)])
        slot = np.uint64(cursor[pack])
        cursor[pack] += 1
        keys[slot] = values[i]
        rows[slot] = i
        if beside is not None and carried is not None:
            carried[slot] = beside[i]


@njit(cache=True, nogil=True)
def dense_codes(values: Array, low: int, span: int, codes: Array) -> Array:
    """Codes by value of integers in ``[low, low + span)``: fills ``codes``, returns the distinct values, sorted."""
    code_of = np.full(span, -1, np.int32)
    for i in range(values.size):
        code_of[np.uint64(values[i] - low)] = 0
    n_distinct = 0
    for j in range(span):
        if code_of[j] == 0:
            code_of[j] = n_distinct
            n_distinct += 1
    distinct = np.empty(n_distinct, values.dtype)
    for j in range(span):
        if code_of[j] >= 0:
            distinct[code_of[j]] = low + j
    for i in range(values.size):
        codes[i] = code_of[np.uint64(values[i] - low)]
    return distinct


@njit(cache=True, nogil=True)
def run_codes(values: Array, codes: Array) -> Array:
    """Codes of ascending integers: fills ``codes``, returns the distinct values."""
    distinct = np.empty(values.size, values.dtype)
    code = -1
    for i in range(values.size):
        if i == 0 or values[i] != values[i - 1]:
            code += 1
            distinct[code] = values[i]
        codes[i] = code
    return distinct[: code + 1].copy()


@njit(cache=True, nogil=True)
def number_packs(ptr: Array, keys: Array, codes: Array) -> Array:
    """Number the integers of packs in the order they appear: fills ``codes`` and returns the distinct integers.

    Every pack has its own hash table with open addressing, of twice as many slots as the pack has members.
    """
    largest = 0
    for pack in range(ptr.size - 1):
        largest = max(largest, ptr[pack + 1] - ptr[pack])
    slots = np.empty(1 << _table_bits(largest), np.int32)
    distinct = np.empty(keys.size, keys.dtype)  # untouched memory costs nothing
    n_distinct = 0
    for pack in range(ptr.size - 1):
        low, high = ptr[pack], ptr[pack + 1]
        bits = _table_bits(high - low)
        n_distinct = _number_pack(keys[low:high], bits, slots[: 1 << bits], codes[low:high], distinct, n_distinct)
    return distinct[:n_distinct].copy()


@njit(cache=True, nogil=True)
def _table_bits(n: int) -> int:
    bits = 1
    while 1 << bits < 2 * n:
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def _number_pack(keys: Array, bits: int, table: Array, codes: Array, distinct: Array, n_distinct: int) -> int:
    table[:] = -1
    mask = np.uint64(table.size - 1)
    for i in range(keys.size):
        key = keys[i]
        slot = _slot(key, bits)
        code = table[slot]
        while code >= 0 and distinct[np.uint64(code)] != key:
            slot = (slot + np.uint64(1)) & mask
            code = table[slot]
        if code < 0:
            code = n_distinct
            table[slot] = code
            distinct[n_distinct] = key
            n_distinct += 1
        codes[i] = code
    return n_distinct


@njit(cache=True, nogil=True)
def rank_codes(codes: Array, rank: Array) -> None:
    """Replace each code by its rank."""
    for i in range(codes.size):
        codes[i] = rank[np.uint64(codes[i])]


@njit(cache=True, nogil=True)
def return_codes(dealt: Array, rows: Array, codes: Array) -> None:
    """Fill ``codes`` with dealt codes in the order of the input rows."""
    for i in range(dealt.size):
        codes[np.uint64(rows[i])] = dealt[i]


@njit(cache=True, nogil=True)
def _slot(value: int, bits: int) -> np.uint64:
    """Fibonacci hashing (Knuth, vol. 3, 6.4): the top bits of a product with 2**64 over the golden ratio."""
    return (np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
