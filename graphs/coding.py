"""Loops that number integers: by a look-up table where they are dense, by a hash table where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from graphs.kernels import grown

Array = NDArray[Any]


@njit(cache=True)
def dense_codes(values: Array, low: int, span: int) -> tuple[Array, Array]:
    """Codes by value of integers in ``[low, low + span)``: (codes int32, sorted distinct values)."""
    code_of = np.full(span, -1, np.int32)
    for i in range(values.size):
        code_of[values[i] - low] = 0
    n_distinct = 0
    for j in range(span):
        if code_of[j] == 0:
            code_of[j] = n_distinct
            n_distinct += 1
    distinct = np.empty(n_distinct, values.dtype)
    for j in range(span):
        if code_of[j] >= 0:
            distinct[code_of[j]] = low + j
    codes = np.empty(values.size, np.int32)
    for i in range(values.size):
        codes[i] = code_of[values[i] - low]
    return codes, distinct


@njit(cache=True)
def hash_codes(values: Array) -> tuple[Array, Array]:
    """Codes of integers in the order they first appear: (codes int32, distinct values), by open addressing."""
    bits = 16
    slots = np.full(1 << bits, -1, np.int32)
    distinct = np.empty(1 << (bits - 1), values.dtype)
    codes = np.empty(values.size, np.int32)
    n_distinct = 0
    for i in range(values.size):
        slot = _slot(values[i], bits)
        while slots[slot] >= 0 and distinct[slots[slot]] != values[i]:
            slot = (slot + 1) & ((1 << bits) - 1)
        if slots[slot] < 0:
            if n_distinct == distinct.size:
                bits += 1
                slots = np.full(1 << bits, -1, np.int32)
                distinct = grown(distinct, n_distinct, 1 << (bits - 1))
                for code in range(n_distinct):
                    slot = _slot(distinct[code], bits)
                    while slots[slot] >= 0:
                        slot = (slot + 1) & ((1 << bits) - 1)
                    slots[slot] = code
                slot = _slot(values[i], bits)
                while slots[slot] >= 0:
                    slot = (slot + 1) & ((1 << bits) - 1)
            slots[slot] = n_distinct
            distinct[n_distinct] = values[i]
            n_distinct += 1
        codes[i] = slots[slot]
    return codes, distinct[:n_distinct].copy()


@njit(cache=True)
def _slot(value: int, bits: int) -> np.int64:
    """Fibonacci hashing (Knuth, vol. 3, 6.4): the top bits of a product with 2**64 over the golden ratio."""
    return np.int64((np.uint64(value) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
