"""Loops over measurements: counting sorts, the transpose and the product that makes exposure links.

Every kernel is O(measurements) or O(pairs of measurements of one star), and deterministic on any number of threads.
Time goes into cache misses and into what the compiler cannot prove, hence the rules: where a loop jumps, what is near
in time is near in memory; indices are unsigned, which spares numba's test for negative ones; an array is not made anew
in the function whose loop uses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(cache=True)
def count_codes(codes: Array, ptr: Array) -> int:
    """Count codes into ``ptr[code + 1]`` and accumulate; return the first row whose code is out of range, or -1."""
    n_groups = ptr.size - 1
    for i in range(codes.size):
        code = codes[i]
        if code < 0 or code >= n_groups:
            return i
        ptr[code + 1] += 1
    for group in range(n_groups):
        ptr[group + 1] += ptr[group]
    return -1


@njit(cache=True, nogil=True)
def place_rows(codes: Array, values: Array | None, ptr: Array, out: Array) -> None:
    """Fill ``out`` with the values of each group, or the rows without ``values``: the second half of a counting sort.

    What is in a group keeps its order.
    """
    cursor = ptr[:-1].copy()
    for i in range(codes.size):
        code = np.uint64(codes[i])
        out[np.uint64(cursor[code])] = i if values is None else values[i]
        cursor[code] += 1


@njit(cache=True, nogil=True)
def is_ascending(values: Array) -> bool:
    """Whether no value is less than the one before."""
    for i in range(1, values.size):  # noqa: SIM110  (numba knows no all())
        if values[i] < values[i - 1]:
            return False
    return True


@njit(cache=True)
def is_distinct(star_ptr: Array, exposure: Array) -> bool:
    """Whether every star has its exposures sorted and each once."""
    for s in range(star_ptr.size - 1):
        for p in range(star_ptr[s] + 1, star_ptr[s + 1]):
            if exposure[p] <= exposure[p - 1]:
                return False
    return True


@njit(cache=True, nogil=True)
def _sort(values: Array) -> None:
    if values.size > 48:
        values.sort()
        return
    for i in range(1, values.size):  # insertion
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@njit(cache=True, nogil=True)
def sort_visits(star_ptr: Array, exposure: Array) -> bool:
    """Sort each star's exposures in place; return whether each is there once."""
    distinct = True
    for s in range(star_ptr.size - 1):
        low, high = star_ptr[s], star_ptr[s + 1]
        _sort(exposure[low:high])
        for p in range(low + 1, high):
            distinct &= exposure[p] != exposure[p - 1]
    return distinct


@njit(cache=True)
def merge_visits(star_ptr: Array, exposure: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Sort each star's exposures and merge its repeats within one exposure; entries of zero weight vanish.

    Returns
    -------
    ptr : (n_stars + 1,) int64
    exposure : (n_distinct,) int32
        Sorted and distinct within a star.
    merged : (n_distinct,) float
        Weight of the star in that exposure, summed over repeats.
    """
    n_stars = star_ptr.size - 1
    ptr = np.zeros(n_stars + 1, np.int64)
    out = np.empty(exposure.size, np.int32)
    merged = np.empty(exposure.size, weight.dtype)
    filled = 0
    for s in range(n_stars):
        start = filled
        low, high = star_ptr[s], star_ptr[s + 1]
        if high - low > 48:
            by_exposure = np.argsort(exposure[low:high], kind="mergesort")
            for j in by_exposure:
                if weight[low + j] != 0:
                    filled = _put(out, merged, start, filled, exposure[low + j], weight[low + j])
        else:  # insertion
            for p in range(low, high):
                if weight[p] == 0:
                    continue
                q = filled
                while q > start and out[q - 1] > exposure[p]:
                    q -= 1
                if q > start and out[q - 1] == exposure[p]:
                    merged[q - 1] += weight[p]
                    continue
                for r in range(filled, q, -1):
                    out[r] = out[r - 1]
                    merged[r] = merged[r - 1]
                out[q] = exposure[p]
                merged[q] = weight[p]
                filled += 1
        ptr[s + 1] = filled
    return ptr, out[:filled].copy(), merged[:filled].copy()


@njit(cache=True)
def _put(out: Array, merged: Array, start: int, filled: int, exposure: int, weight: float) -> int:
    if filled > start and out[filled - 1] == exposure:
        merged[filled - 1] += weight
        return filled
    out[filled] = exposure
    merged[filled] = weight
    return filled + 1


@njit(cache=True)
def count_tying(ptr: Array, exposure: Array, n_exposures: int) -> Array:
    """For each exposure the number of its stars that are in another exposure too; exposures distinct within a star."""
    n_tying = np.zeros(n_exposures, np.int32)
    for s in range(ptr.size - 1):
        if ptr[s + 1] - ptr[s] > 1:
            for p in range(ptr[s], ptr[s + 1]):
                n_tying[exposure[p]] += 1
    return n_tying


@njit(cache=True, nogil=True)
def by_first_exposure(ptr: Array, exposure: Array, n_exposures: int) -> Array:
    """Stars that have a visit, (n,) int32, in the order of their first exposure; exposures sorted within a star."""
    start = np.zeros(n_exposures + 2, np.int64)
    for s in range(ptr.size - 1):
        if ptr[s] < ptr[s + 1]:
            start[exposure[ptr[s]] + 2] += 1
    for e in range(n_exposures):
        start[e + 2] += start[e + 1]
    stars = np.empty(start[n_exposures + 1], np.int32)
    for s in range(ptr.size - 1):
        if ptr[s] < ptr[s + 1]:
            e = exposure[ptr[s]]
            stars[start[e + 1]] = s
            start[e + 1] += 1
    return stars


@njit(cache=True, nogil=True)
def copy_runs(
    stars: Array, ptr: Array, exposure: Array, weight: Array | None, marked: Array, copied: Array | None
) -> int:
    """Copy the visits of ``stars``, one star after the other: the exposures to ``marked``, the weights to ``copied``.

    The last exposure of each star becomes its complement, so that a run ends without its ptr. The stars lie anywhere:
    of each block of them the first visit is touched before they are copied, so that the cache misses overlap. The
    number returned means nothing, and keeps the compiler from leaving that out.
    """
    q = np.uint64(0)
    warm = 0
    for start in range(0, stars.size, 64):
        stop = min(start + 64, stars.size)
        for j in range(start, stop):
            low = np.uint64(ptr[np.uint64(stars[j])])
            warm += exposure[low]
            if weight is not None:
                warm += np.int64(weight[low] > 0)
        for j in range(start, stop):
            s = np.uint64(stars[j])
            for p in range(np.uint64(ptr[s]), np.uint64(ptr[s + np.uint64(1)])):
                marked[q] = exposure[p]
                if weight is not None and copied is not None:
                    copied[q] = weight[p]
                q += np.uint64(1)
            marked[q - np.uint64(1)] = ~marked[q - np.uint64(1)]
    return warm


@njit(cache=True, nogil=True)
def place_visits(marked: Array, weight: Array | None, exposure_ptr: Array, position: Array, share: Array) -> None:
    """Fill ``position`` with the entries of each exposure in ``marked``, ascending, and ``share`` with their ``w / D``.

    D is the sum of the star's weights. What `link_exposures` reads first of an entry thus lies in the order it is read.
    """
    cursor = exposure_ptr[:-1].copy()
    high = np.uint64(0)
    while high < marked.size:
        low = high
        total = 0.0
        while True:
            total += 1.0 if weight is None else weight[high]
            high += np.uint64(1)
            if marked[high - np.uint64(1)] < 0:
                break
        for q in range(low, high):
            row = np.uint64(marked[q] ^ (marked[q] >> 31))  # undoes the complement
            slot = np.uint64(cursor[row])
            cursor[row] += 1
            position[slot] = q
            share[slot] = (1.0 if weight is None else weight[q]) / total


@njit(cache=True, nogil=True)
def _sum_row(
    position: Array,
    share: Array,
    marked: Array,
    weight: Array | None,
    n_shared: Array,
    summed: Array,
    touched: Array,
) -> int:
    """Add what follows each entry in its star to dense accumulators; list what was touched and return how much."""
    n_touched = 0
    for j in range(position.size):
        q = np.uint64(position[j])
        own = share[j]
        f = marked[q]
        while f >= 0:
            q += np.uint64(1)
            f = marked[q]
            other = np.uint64(f ^ (f >> 31))
            if n_shared[other] == 0:
                touched[np.uint64(n_touched)] = other
                n_touched += 1
            n_shared[other] += 1
            summed[other] += own if weight is None else own * weight[q]
    return n_touched


@njit(cache=True, nogil=True)
def _sort_touched(touched: Array, n_shared: Array) -> None:
    low, high = touched.min(), touched.max()
    if touched.size > 48 and high - low < 32 * touched.size:  # scanning the accumulator is cheaper than sorting
        j = 0
        for f in range(low, high + 1):
            if n_shared[f] > 0:
                touched[j] = f
                j += 1
    else:
        _sort(touched)


@njit(cache=True, nogil=True)
def link_exposures(
    exposure_ptr: Array, position: Array, share: Array, marked: Array, weight: Array | None, first: int, last: int
) -> tuple[Array, Array, Array, Array]:
    """Rows ``first:last`` of the upper triangle of B' D^-1 B, one exposure after the other (Gustavson 1978).

    Exposures of a star are sorted, so that row e needs only what follows e in each of its stars. Where the stars lie
    in the order of their first exposure, those of a row lie in few stretches, which stay in the cache.

    Returns
    -------
    n_links : (last - first,) int64
        Links of each row.
    indices : (n_links,) int32
        Sorted within a row, all greater than the row.
    n_shared : (n_links,) int32
    link_weight : (n_links,) float64
    """
    n_exposures = exposure_ptr.size - 1
    n_links = np.zeros(last - first, np.int64)
    n_entries = exposure_ptr[last] - exposure_ptr[first]
    capacity = max(1024, min(n_entries // 4, (last - first) * n_exposures))
    indices = np.empty(capacity, np.int32)
    n_shared = np.empty(capacity, np.int32)
    link_weight = np.empty(capacity, np.float64)

    count = np.zeros(n_exposures, np.int32)
    summed = np.zeros(n_exposures, np.float64)
    touched = np.empty(n_exposures, np.int32)
    filled = 0
    for e in range(first, last):
        own = slice(exposure_ptr[e], exposure_ptr[e + 1])
        n_touched = _sum_row(position[own], share[own], marked, weight, count, summed, touched)
        if filled + n_touched > capacity:
            capacity = max(2 * capacity, filled + n_touched)
            indices = grown(indices, filled, capacity)
            n_shared = grown(n_shared, filled, capacity)
            link_weight = grown(link_weight, filled, capacity)
        if n_touched > 1:
            _sort_touched(touched[:n_touched], count)
        for j in range(n_touched):
            f = touched[j]
            indices[filled] = f
            n_shared[filled] = count[f]
            link_weight[filled] = summed[f]
            count[f] = 0
            summed[f] = 0.0
            filled += 1
        n_links[e - first] = n_touched
    return n_links, indices[:filled].copy(), n_shared[:filled].copy(), link_weight[:filled].copy()


@njit(cache=True)
def grown(values: Array, filled: int, capacity: int) -> Array:
    """Copy of the first ``filled`` values with room for ``capacity``."""
    out = np.empty(capacity, values.dtype)
    out[:filled] = values[:filled]
    return out


@njit(cache=True)
def find_root(parent: Array, node: int) -> int:
    """Root of ``node``, halving the path on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True)
def label_runs(ptr: Array, members: Array, first_is_row: bool, n_nodes: int) -> Array:
    """Components of a graph given as rows whose members belong together, by union-find.

    With ``first_is_row`` the row's own number belongs with its members (the exposure graph); without, only the
    members do (stars as rows). Labels are int32 and count up in the order of each component's lowest node.
    """
    parent = np.arange(n_nodes)
    for row in range(ptr.size - 1):
        if ptr[row] == ptr[row + 1]:
            continue
        root = find_root(parent, row if first_is_row else members[ptr[row]])
        for p in range(ptr[row], ptr[row + 1]):
            other = find_root(parent, members[p])
            if other < root:
                parent[root] = other
                root = other
            elif root < other:
                parent[other] = root
    label = np.empty(n_nodes, np.int32)
    n_labels = 0
    for node in range(n_nodes):  # a root is the lowest node of its component, and so met first
        root = find_root(parent, node)
        if root == node:
            label[node] = n_labels
            n_labels += 1
        else:
            label[node] = label[root]
    return label


@njit(cache=True)
def is_upper_triangle(indptr: Array, indices: Array) -> bool:
    """Whether row e holds columns above e, strictly ascending and below the number of rows."""
    n = indptr.size - 1
    for row in range(n):
        below = row
        for j in range(indptr[row], indptr[row + 1]):
            if indices[j] <= below or indices[j] >= n:
                return False
            below = indices[j]
    return True
