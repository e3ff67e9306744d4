"""Loops over measurements: counting sorts, the transpose and the product that makes exposure links.

Every kernel is O(measurements) or O(pairs of measurements of one star), single-threaded and deterministic.
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


@njit(cache=True)
def place_rows(codes: Array, ptr: Array, order: Array) -> None:
    """Fill ``order`` with the rows of each group in input order (the second half of a counting sort)."""
    cursor = ptr[:-1].copy()
    for i in range(codes.size):
        code = codes[i]
        order[cursor[code]] = i
        cursor[code] += 1


@njit(cache=True)
def gather(values: Array, order: Array) -> Array:
    """``values[order]`` without widening an int32 ``order`` to int64."""
    out = np.empty(order.size, values.dtype)
    for i in range(order.size):
        out[i] = values[order[i]]
    return out


@njit(cache=True)
def is_distinct(star_ptr: Array, exposure: Array) -> bool:
    """Whether every star has its exposures sorted and each once."""
    for s in range(star_ptr.size - 1):
        for p in range(star_ptr[s] + 1, star_ptr[s + 1]):
            if exposure[p] <= exposure[p - 1]:
                return False
    return True


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


@njit(cache=True)
def place_visits(
    ptr: Array, exposure: Array, weight: Array | None, exposure_ptr: Array, position: Array
) -> tuple[Array, Array]:
    """Fill ``position`` with the entries of each exposure, and prepare what `link_exposures` reads.

    Returns
    -------
    marked : (n,) int32
        ``exposure``, with the last entry of each star replaced by its complement, so that a run ends without its ptr.
    share : (n,) float64
        ``w / D`` of each entry in the order of ``position``, D the sum of its star's weights.
    """
    cursor = exposure_ptr[:-1].copy()
    marked = exposure.copy()
    share = np.empty(exposure.size, np.float64)
    for s in range(ptr.size - 1):
        low, high = ptr[s], ptr[s + 1]
        if low == high:
            continue
        marked[high - 1] = ~marked[high - 1]
        total = 0.0
        if weight is None:
            total += high - low
        else:
            for p in range(low, high):
                total += weight[p]
        for p in range(low, high):
            slot = cursor[exposure[p]]
            cursor[exposure[p]] = slot + 1
            position[slot] = p
            if weight is None:
                share[slot] = 1.0 / total
            else:
                share[slot] = weight[p] / total
    return marked, share


@njit(cache=True)
def link_exposures(
    exposure_ptr: Array, position: Array, share: Array, marked: Array, weight: Array | None
) -> tuple[Array, Array, Array, Array, int]:
    """Upper triangle of B' D^-1 B, one exposure at a time into a dense accumulator (Gustavson 1978).

    Exposures of a star are sorted, so that row e needs only what follows e in each of its stars. The time goes into
    cache misses, hence one run of ``marked`` per star and, with weights, one of those, and nothing else; each is
    touched first in a loop without branches, where the misses overlap, which halves the time of a large survey.

    Returns
    -------
    indptr : (n_exposures + 1,) int64
    indices : (n_links,) int32
        Sorted within a row, all greater than the row.
    n_shared : (n_links,) int32
    link_weight : (n_links,) float64
    touched : int
        Means nothing; returned so that the compiler keeps the loop that touches.
    """
    n_exposures = exposure_ptr.size - 1
    indptr = np.zeros(n_exposures + 1, np.int64)
    capacity = max(1024, min(marked.size // 4, n_exposures * (n_exposures - 1) // 2))
    indices = np.empty(capacity, np.int32)
    n_shared = np.empty(capacity, np.int32)
    link_weight = np.empty(capacity, np.float64)

    count = np.zeros(n_exposures, np.int32)
    summed = np.zeros(n_exposures, np.float64)
    touched = np.empty(n_exposures, np.int32)
    filled = 0
    warm = 0
    end = marked.size - 1
    for e in range(n_exposures):
        n_touched = 0
        highest = e
        for slot in range(exposure_ptr[e], exposure_ptr[e + 1]):
            q = position[slot]
            warm += marked[q] + marked[min(q + 8, end)]
            if weight is not None:
                warm += np.int64(weight[q] > weight[min(q + 6, end)])
        for slot in range(exposure_ptr[e], exposure_ptr[e + 1]):
            q = position[slot]
            own = share[slot]
            last = marked[q] < 0
            while not last:
                q += 1
                f = marked[q]
                if f < 0:
                    last = True
                    f = ~f
                if count[f] == 0:
                    touched[n_touched] = f
                    n_touched += 1
                    highest = max(highest, f)
                count[f] += 1
                if weight is None:
                    summed[f] += own
                else:
                    summed[f] += own * weight[q]
        if filled + n_touched > capacity:
            capacity = max(2 * capacity, filled + n_touched)
            indices = grown(indices, filled, capacity)
            n_shared = grown(n_shared, filled, capacity)
            link_weight = grown(link_weight, filled, capacity)
        if highest - e < 32 * n_touched:  # scanning the accumulator sorts the row, and is cheaper than sorting
            n_touched = 0
            for f in range(e + 1, highest + 1):
                if count[f] > 0:
                    touched[n_touched] = f
                    n_touched += 1
        else:
            touched[:n_touched] = np.sort(touched[:n_touched])
        for j in range(n_touched):
            f = touched[j]
            indices[filled] = f
            n_shared[filled] = count[f]
            link_weight[filled] = summed[f]
            count[f] = 0
            summed[f] = 0.0
            filled += 1
        indptr[e + 1] = filled
    return indptr, indices[:filled].copy(), n_shared[:filled].copy(), link_weight[:filled].copy(), warm


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
