"""Supernodal Cholesky factor of a block Laplacian, with its selected inverse.

Multifrontal factorisation (Liu 1992, SIAM Review 34, 82): every supernode is one dense matrix, so the work is LAPACK's.
The selected inverse (Takahashi 1973; Erisman & Tinney 1975, CACM 18, 177) gives every covariance on the pattern of the
matrix, hence exact errors, at about twice the cost of the factor.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from calib.solve.ordering import Supernodes, adjacency, analyse

Array = NDArray[np.float64]


_NOTHING = (np.zeros((0, 0), order="F"), np.zeros(0, np.int64))


class NotPositiveDefinite(ValueError):
    """The matrix has no Cholesky factor: a component is without gauge, or a weight is not finite."""


@njit(cache=True)
def _fill_front(front, first, width, order, rank, sym_ptr, sym_adj, sym_link, sym_up, diagonal, blocks, local, K):
    # the matrix's own entries in the columns of a supernode; local maps permuted rows to rows of the front
    for c in range(width):
        v = order[first + c]
        for a in range(K):
            for b in range(K):
                front[c * K + a, c * K + b] += diagonal[v, a, b]
        for q in range(sym_ptr[v], sym_ptr[v + 1]):
            r = rank[sym_adj[q]]
            if r <= first + c:
                continue
            i = local[r]
            k = sym_link[q]
            # blocks[k] is the block (e, f) with e < f in the numbering of nodes; the front holds row i, column c
            if sym_up[q]:
                for a in range(K):
                    for b in range(K):
                        front[i * K + a, c * K + b] += blocks[k, b, a]
            else:
                for a in range(K):
                    for b in range(K):
                        front[i * K + a, c * K + b] += blocks[k, a, b]


@njit(cache=True)
def _extend_add(front, rest, update, where, K):
    # lower triangle of update added at [where, where]: to the supernode's own columns (front) or those beyond (rest)
    m = where.size
    width = front.shape[1]
    for j in range(m):
        cj = where[j] * K
        for i in range(j, m):
            ri = where[i] * K
            for b in range(K):
                for a in range(K):
                    if cj < width:
                        front[ri + a, cj + b] += update[i * K + a, j * K + b]
                    else:
                        rest[ri - width + a, cj - width + b] += update[i * K + a, j * K + b]


@njit(cache=True)
def _mirror(a):
    # the upper triangle from the lower
    for j in range(a.shape[1]):
        for i in range(j):
            a[i, j] = a[j, i]


@njit(cache=True)
def _gather(parent_inverse, where, out, K):
    m = where.size
    for j in range(m):
        cj = where[j] * K
        for i in range(m):
            ri = where[i] * K
            for b in range(K):
                for a in range(K):
                    out[i * K + a, j * K + b] = parent_inverse[ri + a, cj + b]


@njit(cache=True)
def _store_inverse(inverse, first, width, order, rank, sym_ptr, sym_adj, sym_link, sym_up, local, K, diagonal, blocks):
    for c in range(width):
        v = order[first + c]
        for a in range(K):
            for b in range(K):
                diagonal[v, a, b] = inverse[c * K + a, c * K + b]
        for q in range(sym_ptr[v], sym_ptr[v + 1]):
            r = rank[sym_adj[q]]
            if r <= first + c:
                continue
            i = local[r]
            k = sym_link[q]
            if sym_up[q]:
                for a in range(K):
                    for b in range(K):
                        blocks[k, b, a] = inverse[i * K + a, c * K + b]
            else:
                for a in range(K):
                    for b in range(K):
                        blocks[k, a, b] = inverse[i * K + a, c * K + b]


class Symbolic:
    """What depends on the pattern alone: kept while weights change from one pass to the next."""

    def __init__(self, indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> None:
        self.adjacency: tuple[Any, ...] = adjacency(indptr, indices)
        self.supernodes: Supernodes = analyse(*self.adjacency[:2])
        tree = self.supernodes
        self.n_nodes = indptr.size - 1
        self.rank = np.empty(self.n_nodes, np.int64)
        self.rank[tree.order] = np.arange(self.n_nodes)
        # where the rows of each supernode stand in its parent's front
        self.where: list[NDArray[np.int64]] = []
        for q in range(tree.n):
            rows = tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]
            p = tree.parent[q]
            if p < 0:
                self.where.append(np.zeros(0, np.int64))
                continue
            first, stop = tree.start[p], tree.start[p + 1]
            above = tree.rows[tree.row_ptr[p] : tree.row_ptr[p + 1]]
            inside = rows < stop
            at = np.where(inside, rows - first, (stop - first) + np.searchsorted(above, rows))
            self.where.append(at.astype(np.int64))


@dataclass(frozen=True)
class Selected:
    """Covariances on the pattern of L: ``diagonal`` (E, K, K) and ``blocks`` (links, K, K)."""

    diagonal: Array
    blocks: Array


class Factor:
    """Cholesky factor of the symmetric positive definite block matrix (diagonal, blocks) on a pattern.

    Parameters
    ----------
    symbolic
        Of the pattern.
    diagonal
        float64 (E, K, K).
    blocks
        float64 (links, K, K); block k of row e is the entry (e, indices[k]), e < indices[k].

    Raises
    ------
    NotPositiveDefinite
        When a pivot is not positive.
    """

    def __init__(self, symbolic: Symbolic, diagonal: Array, blocks: Array) -> None:
        self.symbolic = symbolic
        self.block = K = diagonal.shape[1]
        tree = symbolic.supernodes
        ptr, adj, link, up = symbolic.adjacency
        local = np.empty(symbolic.n_nodes, np.int64)
        self._pivots: list[Array] = []
        self._below: list[Array] = []
        updates: list[list[tuple[Array, NDArray[np.int64]]]] = [[] for _ in range(tree.n)]
        log_det = 0.0
        for q in range(tree.n):
            first, stop = tree.start[q], tree.start[q + 1]
            rows = tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]
            width = stop - first
            local[first:stop] = np.arange(width)
            local[rows] = width + np.arange(rows.size)
            m = width * K
            front = np.zeros((m + rows.size * K, m), order="F")
            rest = np.zeros((rows.size * K,) * 2, order="F")
            _fill_front(front, first, width, tree.order, symbolic.rank, ptr, adj, link, up, diagonal, blocks, local, K)
            for k in range(len(updates[q])):
                _extend_add(front, rest, *updates[q][k], K)
                updates[q][k] = _NOTHING  # room for the next
            # a root's front, the largest, is factored where it stands
            pivot, info = lapack.dpotrf(front[:m], lower=1, clean=1, overwrite_a=not rows.size)
            if info != 0:
                raise NotPositiveDefinite(f"pivot {info} of supernode {q} is not positive")
            log_det += 2.0 * float(np.log(np.diagonal(pivot)).sum())
            self._pivots.append(pivot)
            if rows.size:
                below = blas.dtrsm(1.0, pivot, front[m:], side=1, lower=1, trans_a=1)
                update = blas.dsyrk(-1.0, below, beta=1.0, c=rest, lower=1, overwrite_c=1)
                updates[tree.parent[q]].append((update, symbolic.where[q]))
                self._below.append(below)
                del update
            else:
                self._below.append(np.zeros((0, m)))
            del front, rest  # before the next is made
        if not np.isfinite(log_det):  # LAPACK lets NaN pass
            raise NotPositiveDefinite("the matrix holds values that are not finite: mask measurements without a weight")
        self.log_det = log_det

    def solve(self, rhs: Array) -> Array:
        """``L^-1 rhs`` for rhs (E, K) or (E, K, r)."""
        tree, K = self.symbolic.supernodes, self.block
        shape = rhs.shape
        x = np.asfortranarray(rhs.reshape(shape[0], K, -1)[tree.order].reshape(shape[0] * K, -1))
        expanded = []
        for q in range(tree.n):
            a, b = tree.start[q] * K, tree.start[q + 1] * K
            y = blas.dtrsm(1.0, self._pivots[q], x[a:b], lower=1)
            x[a:b] = y
            rows = tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]
            at = (rows.astype(np.int64)[:, None] * K + np.arange(K)).ravel()
            expanded.append(at)
            if at.size:
                x[at] -= self._below[q] @ y
        for q in range(tree.n - 1, -1, -1):
            a, b = tree.start[q] * K, tree.start[q + 1] * K
            y = x[a:b] - self._below[q].T @ x[expanded[q]] if expanded[q].size else x[a:b]
            x[a:b] = blas.dtrsm(1.0, self._pivots[q], y, lower=1, trans_a=1)
        out = np.empty((shape[0], K, x.shape[1]))
        out[tree.order] = x.reshape(shape[0], K, -1)
        return out.reshape(shape)

    def times_root(self, x: Array) -> Array:
        """``R x`` for x (E, K), R the factor in the order of elimination: ``R R'`` is the matrix."""
        tree, K = self.symbolic.supernodes, self.block
        y = np.ascontiguousarray(x).ravel()
        permuted = np.zeros(y.size)
        for q in range(tree.n):
            a, b = tree.start[q] * K, tree.start[q + 1] * K
            permuted[a:b] += np.tril(self._pivots[q]) @ y[a:b]
            rows = tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]
            if rows.size:
                permuted[(rows.astype(np.int64)[:, None] * K + np.arange(K)).ravel()] += self._below[q] @ y[a:b]
        out = np.empty((tree.order.size, K))
        out[tree.order] = permuted.reshape(-1, K)
        return out

    def selected_inverse(self) -> Selected:
        """Entries of the inverse on the pattern of the matrix, exact."""
        return self._selected([*self._pivots], [*self._below], keep=True)

    def last_selected_inverse(self) -> Selected:
        """The same, forgetting the factor on the way: it takes no more room, and solves nothing afterwards."""
        pivots, belows = self._pivots, self._below
        self._pivots, self._below = [], []
        return self._selected(pivots, belows, keep=False)

    def _selected(self, pivots: list[Array], belows: list[Array], *, keep: bool) -> Selected:
        """Selected inverse from the root down, each supernode's part of the factor taken off the lists' ends; pivots
        are kept as they are, or written over.
        """
        symbolic, K = self.symbolic, self.block
        tree = symbolic.supernodes
        ptr, adj, link, up = symbolic.adjacency
        diagonal = np.empty((symbolic.n_nodes, K, K))
        blocks = np.empty((adj.size // 2, K, K))
        local = np.empty(symbolic.n_nodes, np.int64)
        waiting = np.bincount(tree.parent[tree.parent >= 0], minlength=tree.n)
        fronts: dict[int, Array] = {}
        for q in range(tree.n - 1, -1, -1):
            first, stop = tree.start[q], tree.start[q + 1]
            rows = tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]
            width = stop - first
            local[first:stop] = np.arange(width)
            local[rows] = width + np.arange(rows.size)
            m, pivot, below = width * K, pivots.pop(), belows.pop()
            if rows.size:
                inverse = np.empty((m + rows.size * K,) * 2, order="F")
                parent = int(tree.parent[q])
                z22 = inverse[m:, m:]
                _gather(fronts[parent], symbolic.where[q], z22, K)
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    del fronts[parent]
                g = blas.dtrsm(1.0, pivot, below, side=1, lower=1)
                own, _ = lapack.dpotri(pivot, lower=1, overwrite_c=not keep)
                _mirror(own)
                z21 = -(z22 @ g)
                inverse[m:, :m] = z21
                inverse[:m, m:] = z21.T
                own -= g.T @ z21
                inverse[:m, :m] = own
                del z22, g, z21, own
            else:
                inverse, _ = lapack.dpotri(pivot, lower=1, overwrite_c=not keep)
                _mirror(inverse)
            del pivot, below
            _store_inverse(
                inverse, first, width, tree.order, symbolic.rank, ptr, adj, link, up, local, K, diagonal, blocks
            )
            if waiting[q] > 0:
                fronts[q] = inverse
            del inverse  # before the next is made
        return Selected(diagonal, blocks)
