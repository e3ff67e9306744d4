"""Symbolic factorisation: an order of elimination, the elimination tree and its supernodes.

Nested dissection (METIS) keeps the factor of a survey's graph nearly as sparse as the sky is flat. The rest follows
Davis, "Direct Methods for Sparse Linear Systems" (2006), chapter 4, and Liu (1990) for the tree.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

RELAXED_COLUMNS = 24
"""Supernodes of fewer columns than this are joined to their parent when that adds few explicit zeros."""
RELAXED_ZEROS = 0.25
"""Largest share of explicit zeros in a supernode made by joining."""


@dataclass(frozen=True)
class Supernodes:
    """The columns eliminated together, in order of elimination, children before parents.

    Attributes
    ----------
    order
        int64 (E,): ``order[k]`` is the node eliminated k-th.
    start
        int64 (n_super + 1,): supernode q owns columns ``start[q]:start[q+1]`` of the permuted matrix.
    row_ptr, rows
        The rows below its columns that supernode q touches, ascending, in permuted numbering.
    parent
        int64 (n_super,): supernode that takes its update; -1 at a root.
    """

    order: NDArray[np.int64]
    start: NDArray[np.int64]
    row_ptr: NDArray[np.int64]
    rows: NDArray[np.int32]
    parent: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of supernodes."""
        return self.parent.size

    @property
    def n_entries(self) -> int:
        """Node pairs stored by the factor."""
        width = np.diff(self.start)
        return int((width * (width + np.diff(self.row_ptr))).sum())


@njit(cache=True)
def adjacency(indptr, indices):
    """Both triangles of an upper-triangular pattern: ptr, neighbour, its link, and whether its row is this node."""
    n = indptr.size - 1
    ptr = np.zeros(n + 1, np.int64)
    for e in range(n):
        for k in range(indptr[e], indptr[e + 1]):
            ptr[e + 1] += 1
            ptr[indices[k] + 1] += 1
    for e in range(n):
        ptr[e + 1] += ptr[e]
    adj = np.empty(ptr[n], np.int32)
    link = np.empty(ptr[n], np.int64)
    up = np.empty(ptr[n], np.bool_)
    fill = ptr[:-1].copy()
    for e in range(n):
        for k in range(indptr[e], indptr[e + 1]):
            f = indices[k]
            adj[fill[e]] = f
            link[fill[e]] = k
            up[fill[e]] = True
            fill[e] += 1
            adj[fill[f]] = e
            link[fill[f]] = k
            up[fill[f]] = False
            fill[f] += 1
    return ptr, adj, link, up


@njit(cache=True)
def _etree(ptr, adj, order, rank):
    # parent in the elimination tree of the permuted matrix (Liu, with path compression)
    n = order.size
    parent = np.full(n, -1, np.int64)
    ancestor = np.full(n, -1, np.int64)
    for k in range(n):
        v = order[k]
        for q in range(ptr[v], ptr[v + 1]):
            j = rank[adj[q]]
            while j != -1 and j < k:
                up = ancestor[j]
                ancestor[j] = k
                if up == -1:
                    parent[j] = k
                j = up
    return parent


@njit(cache=True)
def _postorder(parent):
    n = parent.size
    head = np.full(n, -1, np.int64)
    nxt = np.full(n, -1, np.int64)
    for k in range(n - 1, -1, -1):
        if parent[k] >= 0:
            nxt[k] = head[parent[k]]
            head[parent[k]] = k
    post = np.empty(n, np.int64)
    stack = np.empty(n, np.int64)
    count = 0
    for root in range(n):
        if parent[root] >= 0:
            continue
        top = 0
        stack[0] = root
        while top >= 0:
            v = stack[top]
            child = head[v]
            if child == -1:
                post[count] = v
                count += 1
                top -= 1
            else:
                head[v] = nxt[child]
                top += 1
                stack[top] = child
    return post


@njit(cache=True)
def _structures(ptr, adj, order, rank, parent):
    # rows below the diagonal of every column of the factor, ascending: adjacency joined with the children's rows
    n = order.size
    counts = np.zeros(n + 1, np.int64)
    # number of rows: walk row subtrees (Davis 4.4), marking each column once a row
    mark = np.full(n, -1, np.int64)
    for k in range(n):
        mark[k] = k
        v = order[k]
        for q in range(ptr[v], ptr[v + 1]):
            j = rank[adj[q]]
            while j < k and mark[j] != k:
                counts[j + 1] += 1
                mark[j] = k
                j = parent[j]
    for k in range(n):
        counts[k + 1] += counts[k]
    rows = np.empty(counts[n], np.int32)
    fill = counts[:-1].copy()
    mark[:] = -1
    for k in range(n):
        mark[k] = k
        v = order[k]
        for q in range(ptr[v], ptr[v + 1]):
            j = rank[adj[q]]
            while j < k and mark[j] != k:
                rows[fill[j]] = k
                fill[j] += 1
                mark[j] = k
                j = parent[j]
    return counts, rows


@njit(cache=True)
def _supernodes(col_ptr, parent, relaxed_columns, relaxed_zeros):
    # first column of every supernode; a supernode may join the one before it when that is its last child
    n = parent.size
    start = np.empty(n + 1, np.int64)
    zeros = np.zeros(n, np.float64)
    m = 0
    k = 0
    n_children = np.zeros(n, np.int64)
    for j in range(n):
        if parent[j] >= 0:
            n_children[parent[j]] += 1
    while k < n:
        # a fundamental supernode from column k
        first = k
        while (
            k + 1 < n
            and parent[k] == k + 1
            and n_children[k + 1] == 1
            and col_ptr[k + 2] - col_ptr[k + 1] == col_ptr[k + 1] - col_ptr[k] - 1
        ):
            k += 1
        k += 1
        start[m] = first
        zeros[m] = 0.0
        # join with supernodes before it while they are its children and the zeros stay few
        while m > 0 and parent[start[m] - 1] >= start[m] and parent[start[m] - 1] < k:
            a = start[m - 1]
            b = start[m]
            child_columns = b - a
            rows_child = col_ptr[b] - col_ptr[b - 1]
            rows_last = col_ptr[k] - col_ptr[k - 1]
            rows_new = (k - b) + rows_last
            total = 0.5 * (k - a) * (k - a + 1) + (k - a) * rows_last
            new_zeros = zeros[m - 1] + zeros[m] + child_columns * (rows_new - rows_child)
            small = child_columns < relaxed_columns and k - b < relaxed_columns
            if new_zeros == 0.0 or (small and new_zeros < 0.6 * total) or new_zeros < relaxed_zeros * total * 0.2:
                if not small and new_zeros > relaxed_zeros * total:
                    break
                zeros[m - 1] = new_zeros
                m -= 1
            else:
                break
        m += 1
    start[m] = n
    return start[: m + 1].copy()


def analyse(ptr: NDArray[np.int64], adj: NDArray[np.int32]) -> Supernodes:
    """Order the nodes of a symmetric pattern, both triangles, and find the supernodes of its factor."""
    n = ptr.size - 1
    order = _dissection(ptr, adj)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    post = _postorder(_etree(ptr, adj, order, rank))
    order = order[post]
    rank[order] = np.arange(n)
    parent = _etree(ptr, adj, order, rank)
    col_ptr, rows = _structures(ptr, adj, order, rank, parent)
    start = _supernodes(col_ptr, parent, RELAXED_COLUMNS, RELAXED_ZEROS)
    last = start[1:] - 1
    counts = np.diff(col_ptr)[last]
    row_ptr = np.concatenate([[0], np.cumsum(counts)])
    own = np.concatenate([rows[col_ptr[c] : col_ptr[c + 1]] for c in last]) if n else np.zeros(0, np.int32)
    of_column = np.repeat(np.arange(start.size - 1), np.diff(start))
    above = parent[last]
    return Supernodes(order, start, row_ptr, own.astype(np.int32), np.where(above >= 0, of_column[above], -1))


def _dissection(ptr: NDArray[np.int64], adj: NDArray[np.int32]) -> NDArray[np.int64]:
    n = ptr.size - 1
    if adj.size == 0 or n < 3:
        return np.arange(n)
    import pymetis

    perm, _ = pymetis.nested_dissection(pymetis.CSRAdjacency(ptr.astype(np.int32), adj))
    return np.asarray(perm, np.int64)
