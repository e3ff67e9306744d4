"""Assembly of the Laplacian: stars are walked in an order in which neighbouring nodes find them in cache.

``L = blockdiag(sum w phi phi') - B' D^-1 B`` costs one product for every pair of measurements of a star. Node by node
each row of links has one owner, so sums need no search; but stars numbered at random would be fetched from memory once
a measurement. Stars are therefore copied in the order of their first node, their measurements by node: then a node
meets its stars in a few dozen contiguous runs. The walk depends on the pattern alone and is kept.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve.dense import DenseFields, assemble_dense
from calib.solve.kernels import has_magnitude_term
from calib.workers import each, shared

Array = NDArray[np.float64]

# ruff: noqa: D103 - each kernel's one line stands in its comment


@dataclass(frozen=True)
class Walk:
    """Measurements in the order of assembly: by the first node of their star, then star, then node.

    Attributes
    ----------
    stars
        int32 (S,): the stars in this order.
    star_ptr
        int64 (S + 1,): their runs.
    source
        int32 (n,): position of each measurement in the arrays sorted by star.
    marked
        int32 (n,): its node, complemented where it is the last of its star.
    node_ptr, slot
        int64 (E + 1,), int32 (n,): the measurements of each node, as positions in this order.
    """

    stars: NDArray[np.int32]
    star_ptr: NDArray[np.int64]
    source: NDArray[np.int32]
    marked: NDArray[np.int32]
    node_ptr: NDArray[np.int64]
    slot: NDArray[np.int32]

    @classmethod
    def of(cls, star_ptr: NDArray[np.int64], node: NDArray[np.int32], n_nodes: int) -> Walk:
        """Walk of measurements sorted by star."""
        return cls(*_walk(star_ptr, node, n_nodes))

    @property
    def nodes(self) -> NDArray[np.int32]:
        """int32 (n,): the node of each measurement in this order, ascending within a star."""
        return np.where(self.marked < 0, ~self.marked, self.marked)

    def star(self) -> NDArray[np.int32]:
        """int32 (n,): the star of each measurement in this order."""
        return np.repeat(self.stars, np.diff(self.star_ptr))


@njit(cache=True)
def _walk(star_ptr, node, n_nodes):
    S = star_ptr.size - 1
    n = node.size
    # stars by their first node: a counting sort
    first = np.empty(S, np.int32)
    start = np.zeros(n_nodes + 2, np.int64)
    node_ptr = np.zeros(n_nodes + 1, np.int64)
    for s in range(S):
        low = n_nodes
        for i in range(star_ptr[s], star_ptr[s + 1]):
            low = min(low, node[i])
            node_ptr[node[i] + 1] += 1
        first[s] = low
        start[low + 1] += 1
    for e in range(n_nodes + 1):
        start[e + 1] += start[e]
    for e in range(n_nodes):
        node_ptr[e + 1] += node_ptr[e]
    stars = np.empty(S, np.int32)
    for s in range(S):
        stars[start[first[s]]] = s
        start[first[s]] += 1
    # their measurements by node
    ptr = np.zeros(S + 1, np.int64)
    source = np.empty(n, np.int32)
    marked = np.empty(n, np.int32)
    slot = np.empty(n, np.int32)
    fill = node_ptr[:-1].copy()
    filled = 0
    for q in range(S):
        s = stars[q]
        begin = star_ptr[s]
        length = star_ptr[s + 1] - begin
        if length > 48:
            by_node = np.argsort(node[begin : begin + length], kind="mergesort")
            for j in range(length):
                source[filled + j] = begin + by_node[j]
        else:  # insertion
            for j in range(length):
                i = begin + j
                k = filled + j
                while k > filled and node[source[k - 1]] > node[i]:
                    source[k] = source[k - 1]
                    k -= 1
                source[k] = i
        for j in range(filled, filled + length):
            e = node[source[j]]
            marked[j] = e
            slot[fill[e]] = j
            fill[e] += 1
        filled += length
        if length > 0:
            marked[filled - 1] = ~marked[filled - 1]
        ptr[q + 1] = filled
    return stars, ptr, source, marked, node_ptr, slot


@njit(cache=True, nogil=True)
def _roots(inv, P):
    # R (S, 3) with D^-1 = R R': [0, 0], [1, 0], [1, 1]
    out = np.zeros((inv.shape[0], 3))
    for s in range(inv.shape[0]):
        r00 = np.sqrt(inv[s, 0])
        out[s, 0] = r00
        if P == 2 and r00 > 0.0:
            r10 = inv[s, 1] / r00
            out[s, 1] = r10
            out[s, 2] = np.sqrt(max(inv[s, 2] - r10 * r10, 0.0))
    return out


# A measurement's half is v = w R' u: two of one star multiply to their share of a link, and w - v . v is left to its
# own node. Halves are made as they are met: kept, they would be the largest arrays of a solve.


@njit(cache=True, nogil=True)
def _scalar_rows(rows, marked, node_ptr, slot, w, star, root, indptr, indices, diagonal, blocks):
    # K = P = 1, rows of the nodes from one to before another: added to diagonal (E, 1, 1); blocks (links, 1, 1)
    # overwritten; w and star (n) in the order of the walk
    E = node_ptr.size - 1
    summed = np.zeros(E)
    for e in range(rows[0], rows[1]):
        own = 0.0
        for k in range(node_ptr[e], node_ptr[e + 1]):
            j = slot[k]
            r = root[star[j], 0]
            wi = np.float64(w[j])
            s = wi * r
            own += wi - s**2
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                summed[f if f >= 0 else ~f] += s * (np.float64(w[j]) * r)
        diagonal[e, 0, 0] += own - 2.0 * summed[e]
        summed[e] = 0.0
        for k in range(indptr[e], indptr[e + 1]):
            f = indices[k]
            if f < E:
                blocks[k, 0, 0] = -summed[f]
                summed[f] = 0.0
            else:
                blocks[k, 0, 0] = 0.0


@njit(cache=True, forceinline=True)
def _add(out, at, g, x, y, z, K):
    # g phi added to a row, phi in scalars: through an array the compiler would have to fear aliasing
    out[at] += g
    if K > 2:
        out[at + 1] += g * x
        out[at + 2] += g * y
    if K > 4:
        out[at + 3] += g * x * x
        out[at + 4] += g * x * y
        out[at + 5] += g * y * y
    if has_magnitude_term(K):
        out[at + K - 1] += g * z


@njit(cache=True, forceinline=True)
def _add_outer(out, at, g, px, py, pz, x, y, z, K):
    # g phi(px, py, pz) phi(x, y, z)' added to a block, means not yet taken off
    _add(out, at, g, x, y, z, K)
    if K > 2:
        _add(out, at + K, g * px, x, y, z, K)
        _add(out, at + 2 * K, g * py, x, y, z, K)
    if K > 4:
        _add(out, at + 3 * K, g * px * px, x, y, z, K)
        _add(out, at + 4 * K, g * px * py, x, y, z, K)
        _add(out, at + 5 * K, g * py * py, x, y, z, K)
    if has_magnitude_term(K):
        _add(out, at + (K - 1) * K, g * pz, x, y, z, K)


@njit(cache=True)
def _shift(block, centre):
    # T block T' with phi = T (1, x, y, x^2, x y, y^2, g), T taking each one's mean off
    K = centre.size
    for a in range(1, K):
        for b in range(K):
            block[a, b] -= centre[a] * block[0, b]
    for b in range(1, K):
        for a in range(K):
            block[a, b] -= centre[b] * block[a, 0]


@njit(cache=True, nogil=True, forceinline=True)
def _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, K, P):
    # rows of the nodes from one to before another: added to diagonal (E, K, K); blocks (links, K, K) overwritten; w,
    # star and places in the order of the walk
    E = node_ptr.size - 1
    summed = np.zeros(E * K * K)
    own = np.zeros(K * K)
    block = np.empty((K, K))
    x = px = y = py = z = pz = r10 = r11 = v1 = 0.0
    for e in range(rows[0], rows[1]):
        own[:] = 0.0
        for k in range(node_ptr[e], node_ptr[e + 1]):
            j = slot[k]
            r00 = root[star[j], 0]
            wi = np.float64(w[j])
            if P == 2:
                r10 = root[star[j], 1]
                r11 = root[star[j], 2]
                v0 = wi * (r00 + r10 * h[e])
                v1 = wi * r11 * h[e]
                rest = wi - v0**2 - v1**2
            else:
                v0 = wi * r00
                rest = wi - v0**2
            if K > 2:
                px = np.float64(places[j, 0])
                py = np.float64(places[j, 1])
            if has_magnitude_term(K):
                pz = np.float64(places[j, 2])
            _add_outer(own, 0, rest, px, py, pz, px, py, pz, K)
            f = marked[j]
            while f >= 0:
                j += 1
                f = marked[j]
                to = f if f >= 0 else ~f
                wi = np.float64(w[j])
                g = v0 * (wi * (r00 + r10 * h[to] if P == 2 else r00))
                if P == 2:
                    g += v1 * (wi * r11 * h[to])
                if K > 2:
                    x = np.float64(places[j, 0])
                    y = np.float64(places[j, 1])
                if has_magnitude_term(K):
                    z = np.float64(places[j, 2])
                _add_outer(summed, to * K * K, g, px, py, pz, x, y, z, K)
        at = e * K * K
        for a in range(K):
            for b in range(K):
                block[a, b] = own[a * K + b] - summed[at + a * K + b] - summed[at + b * K + a]
        summed[at : at + K * K] = 0.0
        _shift(block, centre)
        diagonal[e] += block
        for k in range(indptr[e], indptr[e + 1]):
            blocks[k] = 0.0
            if indices[k] >= E:
                continue
            at = indices[k] * K * K
            for a in range(K):
                for b in range(K):
                    blocks[k, a, b] = -summed[at + a * K + b]
            summed[at : at + K * K] = 0.0
            _shift(blocks[k], centre)


@njit(cache=True, nogil=True)
def _rows_1_2(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 1, 2)


@njit(cache=True, nogil=True)
def _rows_2_1(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 2, 1)


@njit(cache=True, nogil=True)
def _rows_2_2(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 2, 2)


@njit(cache=True, nogil=True)
def _rows_3_1(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 3, 1)


@njit(cache=True, nogil=True)
def _rows_3_2(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 3, 2)


@njit(cache=True, nogil=True)
def _rows_4_1(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 4, 1)


@njit(cache=True, nogil=True)
def _rows_4_2(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 4, 2)


@njit(cache=True, nogil=True)
def _rows_6_1(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 6, 1)


@njit(cache=True, nogil=True)
def _rows_6_2(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 6, 2)


@njit(cache=True, nogil=True)
def _rows_7_1(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 7, 1)


@njit(cache=True, nogil=True)
def _rows_7_2(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks):
    _rows(rows, marked, node_ptr, slot, w, star, root, h, places, centre, indptr, indices, diagonal, blocks, 7, 2)


_ROWS = {
    (1, 2): _rows_1_2, (2, 1): _rows_2_1, (2, 2): _rows_2_2,
    (3, 1): _rows_3_1, (3, 2): _rows_3_2, (4, 1): _rows_4_1, (4, 2): _rows_4_2,
    (6, 1): _rows_6_1, (6, 2): _rows_6_2, (7, 1): _rows_7_1, (7, 2): _rows_7_2,
}
"""Compiled for each K and P, so that inner loops unroll."""


def assemble(
    walk: Walk,
    node: NDArray[np.int32],
    w: NDArray[np.floating[Any]],
    star_inverse: Array,
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    place: tuple[NDArray[np.float32], int, Array, int, Array],
    diagonal: Array,
    blocks: Array,
    dense: DenseFields | None = None,
) -> None:
    """Add L to its diagonal and write its off-diagonal blocks.

    Parameters
    ----------
    walk
        Of the pattern.
    node, w
        (n,), nodes and weights (mag^-2) of the measurements, sorted by star.
    star_inverse
        (S, 3), packed ``D_s^-1``.
    indptr, indices
        Upper triangle of the pattern; columns beyond the nodes (hubs) are set to zero.
    place
        (xy, K, centre, P, response) of the design.
    diagonal
        float64 (E or more, K, K), added to.
    blocks
        float64 (links, K, K), overwritten.
    dense
        Components whose pairs are taken all at once.
    """
    xy, K, centre, P, response = place
    others = walk if dense is None else dense
    weight, star, root = w[walk.source], walk.star(), _roots(star_inverse, P)
    order = (walk.marked, others.node_ptr, others.slot, weight, star, root)
    places = xy[walk.source] if K > 1 else xy

    def job(first: int, stop: int) -> None:
        if K == 1 and P == 1:
            _scalar_rows((first, stop), *order, indptr, indices, diagonal, blocks)
        else:
            _ROWS[K, P]((first, stop), *order, response, places, centre, indptr, indices, diagonal, blocks)

    each(job, shared(others.node_ptr))
    if dense is not None:
        assemble_dense(
            dense, walk.star_ptr, walk.nodes, weight, star, root, indptr, indices, (places, K, centre, P, response),
            diagonal, blocks,
        )  # fmt: skip
