"""Supernodal Cholesky factor of a block Laplacian, with its selected inverse.

Multifrontal factorisation (Liu 1992, SIAM Review 34, 82): every supernode is one dense matrix, so the work is LAPACK's.
The selected inverse (Takahashi 1973; Erisman & Tinney 1975, CACM 18, 177) gives every covariance on the pattern of the
matrix, hence exact errors, at about twice the cost of the factor.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from calib.solve.ordering import Supernodes, adjacency, analyse
from calib.workers import down

Array = NDArray[np.float64]


BRANCHES = 3
"""Branches of the tree of elimination that are gone down side by side, at most: the longest is half of all work."""
MANY_ENTRIES = 1_000_000
"""Numbers of a factor from which threads are worth their while."""
_NOTHING = (np.zeros((0, 0), order="F"), np.zeros(0, np.int64))


class NotPositiveDefinite(ValueError):
    """The matrix has no Cholesky factor: a component is without gauge, or a weight is not finite."""


@njit(cache=True)
def _coupled(diagonal, blocks, ptr, adj, link, up, out):
    # out (E, K): which coefficients meet any other; those that do not are factored by themselves
    K = diagonal.shape[1]
    for v in range(diagonal.shape[0]):
        for a in range(K):
            for b in range(K):
                if a != b and diagonal[v, a, b] != 0.0:
                    out[v, a] = True
                    out[v, b] = True
        for q in range(ptr[v], ptr[v + 1]):
            if not up[q]:
                continue
            f = adj[q]
            for a in range(K):
                for b in range(K):
                    if blocks[link[q], a, b] != 0.0:
                        out[v, a] = True
                        out[f, b] = True


@njit(cache=True)
def _fill_front(front, first, width, order, rank, slot, sym_ptr, sym_adj, sym_link, sym_up, diagonal, blocks, local, K):
    # the matrix's own entries in the columns of a supernode; local maps permuted nodes to rows of the front, slot
    # (E, K) a node's coefficients to those that follow, -1 for none
    for c in range(width):
        v = order[first + c]
        column = local[first + c]
        for a in range(K):
            for b in range(K):
                if slot[v, a] >= 0 and slot[v, b] >= 0:
                    front[column + slot[v, a], column + slot[v, b]] += diagonal[v, a, b]
        for q in range(sym_ptr[v], sym_ptr[v + 1]):
            f = sym_adj[q]
            if rank[f] <= first + c:
                continue
            row = local[rank[f]]
            k = sym_link[q]
            # blocks[k] is the block (e, f) with e < f in the numbering of nodes
            for a in range(K):
                for b in range(K):
                    if slot[f, a] >= 0 and slot[v, b] >= 0:
                        entry = blocks[k, b, a] if sym_up[q] else blocks[k, a, b]
                        front[row + slot[f, a], column + slot[v, b]] += entry


@njit(cache=True)
def _extend_add(front, rest, update, where):
    # lower triangle of update added at [where, where]: to the supernode's own columns (front) or those beyond (rest)
    width = front.shape[1]
    for j in range(where.size):
        column = where[j]
        if column < width:
            for i in range(j, where.size):
                front[where[i], column] += update[i, j]
        else:
            for i in range(j, where.size):
                rest[where[i] - width, column - width] += update[i, j]


@njit(cache=True, nogil=True)
def _mirror(a):
    # the upper triangle from the lower
    for j in range(a.shape[1]):
        for i in range(j):
            a[i, j] = a[j, i]


@njit(cache=True, nogil=True)
def _gather(parent_inverse, where, out):
    for j in range(where.size):
        for i in range(where.size):
            out[i, j] = parent_inverse[where[i], where[j]]


@njit(cache=True, nogil=True)
def _store_inverse(
    inverse, first, width, order, rank, slot, sym_ptr, sym_adj, sym_link, sym_up, local, K, diagonal, blocks
):
    for c in range(width):
        v = order[first + c]
        column = local[first + c]
        for a in range(K):
            for b in range(K):
                if slot[v, a] >= 0 and slot[v, b] >= 0:
                    diagonal[v, a, b] = inverse[column + slot[v, a], column + slot[v, b]]
        for q in range(sym_ptr[v], sym_ptr[v + 1]):
            f = sym_adj[q]
            if rank[f] <= first + c:
                continue
            row = local[rank[f]]
            k = sym_link[q]
            for a in range(K):
                for b in range(K):
                    if slot[f, a] >= 0 and slot[v, b] >= 0:
                        value = inverse[row + slot[f, a], column + slot[v, b]]
                        if sym_up[q]:
                            blocks[k, b, a] = value
                        else:
                            blocks[k, a, b] = value


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
        coupled = np.zeros(diagonal.shape[:2], bool)
        _coupled(diagonal, blocks, ptr, adj, link, up, coupled)
        self._alone = np.nonzero(~coupled)
        self._alone_pivot = np.einsum("ekk->ek", diagonal)[self._alone]
        if not (self._alone_pivot > 0).all():
            raise NotPositiveDefinite("a coefficient that meets no other has no positive pivot")
        self._slot = np.where(coupled, np.cumsum(coupled, axis=1) - 1, -1)
        # scalars in the order of elimination: those of the k-th node are base[k]:base[k + 1]
        self._base = np.concatenate([[0], np.cumsum(coupled.sum(1)[tree.order])])
        node, self._coefficient = np.nonzero(coupled[tree.order])
        self._node = tree.order[node]
        local = np.empty(symbolic.n_nodes, np.int64)
        self._pivots: list[Array] = []
        self._below: list[Array] = []
        updates: list[list[tuple[Array, NDArray[np.int64]]]] = [[] for _ in range(tree.n)]
        log_det = float(np.log(self._alone_pivot).sum())
        for q in range(tree.n):
            first, width, m, size = self._shape(q, local)
            front = np.zeros((m + size, m), order="F")
            rest = np.zeros((size, size), order="F")
            _fill_front(
                front, first, width, tree.order, symbolic.rank, self._slot, ptr, adj, link, up, diagonal, blocks,
                local, K,
            )  # fmt: skip
            for k in range(len(updates[q])):
                _extend_add(front, rest, *updates[q][k])
                updates[q][k] = _NOTHING  # room for the next
            pivot, below = front[:m], front[m:]
            if m:
                # a root's front, the largest, is factored where it stands
                pivot, info = lapack.dpotrf(pivot, lower=1, clean=1, overwrite_a=not size)
                if info != 0:
                    raise NotPositiveDefinite(f"pivot {info} of supernode {q} is not positive")
                log_det += 2.0 * float(np.log(np.diagonal(pivot)).sum())
            if m and size:
                below = blas.dtrsm(1.0, pivot, below, side=1, lower=1, trans_a=1)
                rest = blas.dsyrk(-1.0, below, beta=1.0, c=rest, lower=1, overwrite_c=1)
            if size:
                updates[tree.parent[q]].append((rest, self._where(q)))
            self._pivots.append(pivot)
            self._below.append(below)
            del front, rest, pivot, below  # before the next are made
        if not np.isfinite(log_det):  # LAPACK lets NaN pass
            raise NotPositiveDefinite("the matrix holds values that are not finite: mask measurements without a weight")
        self.log_det = log_det

    def _rows(self, q: int) -> NDArray[np.int32]:
        tree = self.symbolic.supernodes
        return tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]

    def _shape(self, q: int, local: NDArray[np.int64]) -> tuple[int, int, int, int]:
        """First node, nodes, scalars and scalars below of a supernode; local takes each node's place in its front."""
        start, base, rows = self.symbolic.supernodes.start, self._base, self._rows(q)
        first, stop = int(start[q]), int(start[q + 1])
        m = int(base[stop] - base[first])
        local[first:stop] = base[first:stop] - base[first]
        sizes = base[rows + 1] - base[rows]
        local[rows] = m + np.cumsum(sizes) - sizes
        return first, stop - first, m, int(sizes.sum())

    def _where(self, q: int) -> NDArray[np.int64]:
        """Where the scalars below a supernode stand in its parent's front."""
        base, rows, parent = self._base, self._rows(q), int(self.symbolic.supernodes.parent[q])
        if parent < 0:
            return np.zeros(0, np.int64)
        start, above = self.symbolic.supernodes.start, self._rows(parent)
        sizes = np.concatenate([np.diff(base[start[parent] : start[parent + 1] + 1]), base[above + 1] - base[above]])
        place = (np.cumsum(sizes) - sizes)[self.symbolic.where[q]]
        return _runs(place, base[rows + 1] - base[rows])

    def _below_at(self, q: int) -> NDArray[np.int64]:
        """The scalars below a supernode."""
        rows = self._rows(q)
        return _runs(self._base[rows], self._base[rows + 1] - self._base[rows])

    def solve(self, rhs: Array) -> Array:
        """``L^-1 rhs`` for rhs (E, K) or (E, K, r)."""
        tree, base = self.symbolic.supernodes, self._base
        shape = rhs.shape
        sides = rhs.reshape(shape[0], shape[1], -1)
        x = np.asfortranarray(sides[self._node, self._coefficient])
        expanded = [self._below_at(q) for q in range(tree.n)]
        for q in range(tree.n):
            a, b = base[tree.start[q]], base[tree.start[q + 1]]
            if a == b:
                continue
            y = blas.dtrsm(1.0, self._pivots[q], x[a:b], lower=1)
            x[a:b] = y
            if expanded[q].size:
                x[expanded[q]] -= self._below[q] @ y
        for q in range(tree.n - 1, -1, -1):
            a, b = base[tree.start[q]], base[tree.start[q + 1]]
            if a == b:
                continue
            y = x[a:b] - self._below[q].T @ x[expanded[q]] if expanded[q].size else x[a:b]
            x[a:b] = blas.dtrsm(1.0, self._pivots[q], y, lower=1, trans_a=1)
        out = np.empty(sides.shape)
        out[self._node, self._coefficient] = x
        out[self._alone] = sides[self._alone] / self._alone_pivot[:, None]
        return out.reshape(shape)

    def times_root(self, x: Array) -> Array:
        """``R x`` for x (E, K), R the factor in the order of elimination: ``R R'`` is the matrix."""
        tree, base = self.symbolic.supernodes, self._base
        y = x[self._slot >= 0]
        permuted = np.zeros(base[-1])
        for q in range(tree.n):
            a, b = base[tree.start[q]], base[tree.start[q + 1]]
            if a == b:
                continue
            permuted[a:b] += np.tril(self._pivots[q]) @ y[a:b]
            at = self._below_at(q)
            if at.size:
                permuted[at] += self._below[q] @ y[a:b]
        out = np.empty((tree.order.size, self.block))
        out[self._node, self._coefficient] = permuted
        out[self._alone] = np.sqrt(self._alone_pivot) * x[self._alone]
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
        """Selected inverse from the root down, each supernode's part of the factor taken off the lists; pivots are
        kept as they are, or written over.

        Branches of the tree go side by side, where room is no concern: each has fronts of its own.
        """
        symbolic, K = self.symbolic, self.block
        tree = symbolic.supernodes
        ptr, adj, link, up = symbolic.adjacency
        diagonal = np.zeros((symbolic.n_nodes, K, K))
        blocks = np.zeros((adj.size // 2, K, K))
        waiting = np.bincount(tree.parent[tree.parent >= 0], minlength=tree.n)
        fronts: dict[int, Array] = {}
        counting = Lock()

        def invert(q: int) -> None:
            local = np.empty(symbolic.n_nodes, np.int64)
            first, width, m, size = self._shape(q, local)
            pivot, below = pivots[q], belows[q]
            pivots[q] = belows[q] = _NOTHING[0]
            inverse = np.empty((m + size, m + size), order="F")
            parent = int(tree.parent[q])
            if size:
                _gather(fronts[parent], self._where(q), inverse[m:, m:])
            if parent >= 0:
                with counting:
                    waiting[parent] -= 1
                    if waiting[parent] == 0:
                        del fronts[parent]
            if m and size:
                g = blas.dtrsm(1.0, pivot, below, side=1, lower=1)
                z21 = -(inverse[m:, m:] @ g)
                inverse[m:, :m] = z21
                inverse[:m, m:] = z21.T
                own, _ = lapack.dpotri(pivot, lower=1, overwrite_c=not keep)
                _mirror(own)
                own -= g.T @ z21
                inverse[:m, :m] = own
                del g, z21, own
            elif m:
                inverse, _ = lapack.dpotri(pivot, lower=1, overwrite_c=not keep)
                _mirror(inverse)
            del pivot, below
            _store_inverse(
                inverse, first, width, tree.order, symbolic.rank, self._slot, ptr, adj, link, up, local, K, diagonal,
                blocks,
            )  # fmt: skip
            if waiting[q] > 0:
                fronts[q] = inverse

        large = tree.n_entries * K**2 > MANY_ENTRIES
        down(invert, tree.parent, BRANCHES if keep and large else 1)
        node, coefficient = self._alone
        diagonal[node, coefficient, coefficient] = 1.0 / self._alone_pivot
        return Selected(diagonal, blocks)


def _runs(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """``start[k], start[k] + 1, ...``, length[k] of them, one run after the other."""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(int(length.sum()))
