# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""``L theta = t`` as a solver needs it: an operator, its free directions, and which solution is meant.

Stars fix zero-points only up to a constant, and nothing fixes a node that no weight reaches. For any right-hand side
the solution meant is ``P L^- P' t``, where P takes the mean off the zero-points of every group that floats: covariances
in that gauge are then solves like any other.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from calib.solve.factor import Factor
from calib.solve.kernels import phi
from calib.solve.normal import NormalEquations
from graphs.kernels import label_runs

Array = NDArray[np.float64]
FREE = 1e-11
"""A group floats when what holds its zero-points is less than this share of its weight."""

# ruff: noqa: D103 - each kernel's one line stands in its comment


@njit(cache=True, nogil=True)
def _apply(diagonal, blocks, indptr, indices, x, out):
    # out (E, K) = L x from its upper triangle
    E, K = x.shape
    for e in range(E):
        for a in range(K):
            t = 0.0
            for b in range(K):
                t += diagonal[e, a, b] * x[e, b]
            out[e, a] = t
    for e in range(E):
        for k in range(indptr[e], indptr[e + 1]):
            f = indices[k]
            for a in range(K):
                for b in range(K):
                    out[e, a] += blocks[k, a, b] * x[f, b]
                    out[f, b] += blocks[k, a, b] * x[e, a]


@njit(cache=True, nogil=True)
def _own_blocks(star_ptr, node, w, inv, xy, centre, P, h, out):
    # out (E, K, K) += sum (w - w^2 u' D^-1 u) phi phi'
    K = out.shape[1]
    p = np.ones(K)
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            wi = np.float64(w[i])
            g = inv[s, 0]
            if P == 2:
                g += h[e] * (2.0 * inv[s, 1] + h[e] * inv[s, 2])
            g = wi - wi * wi * g
            phi(xy, i, K, centre, p)
            for a in range(K):
                for b in range(K):
                    out[e, a, b] += g * p[a] * p[b]


class System:
    """The operator of a set of normal equations.

    Parameters
    ----------
    equations
        Weighted normal equations.
    assembled
        Whether to assemble L; if not, it is applied from the measurements.
    """

    def __init__(self, equations: NormalEquations, *, assembled: bool = True) -> None:
        self.equations, self.assembled = equations, assembled
        self.n_nodes = equations.design.n_nodes
        self.shape = (self.n_nodes + equations.topology.hubs.n, equations.design.block)

    def apply(self, x: Array) -> Array:
        """``L x``, (E + H, K)."""
        if not self.assembled:
            return np.where(self.empty, 0.0, self.equations.apply(x))
        top, (diagonal, off) = self.equations.topology, self.equations.blocks
        out = np.empty(self.shape)
        _apply(diagonal, off, top.indptr, top.indices, np.ascontiguousarray(x), out)
        return out

    @cached_property
    def diagonal(self) -> Array:
        """(E + H, K, K), the diagonal blocks of L; without assembly, as if no star were twice in a node."""
        if self.assembled:
            return self.equations.blocks[0]
        eq = self.equations
        design, (xy, centre, response) = eq.design, eq.design.arrays
        out = eq.prior.diagonal.copy()
        _own_blocks(
            design.graph.star_ptr, design.graph.exposure, eq.w, eq.star_inverse, xy, centre, design.star_block,
            response, out,
        )  # fmt: skip
        return out

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """(E + H, K), coefficients that neither weight nor prior reaches; they stay zero."""
        own = np.einsum("ekk->ek", self.diagonal)
        nothing = own <= 0.0
        if nothing.any():
            # rounding below zero is nothing too: of the weights' sums, of which no more is left where nothing links
            weight = np.bincount(self.equations.design.graph.exposure, self.equations.w).max(initial=0.0)
            nothing &= own > -1e-9 * max(own.max(initial=1e-300), weight)
        return np.asarray(nothing)

    @cached_property
    def group(self) -> NDArray[np.int32]:
        """(E + H,), label of the nodes whose zero-points are tied to each other, by weights or by hubs' ties.

        A hub that is coupled without a tie (an extinction coefficient, a surface) does not move with the zero-points.
        """
        top, n = self.equations.topology, self.shape[0]
        hubs, coupling = top.hubs, self.equations.prior.coupling
        tied = hubs.ties & (coupling[:, 0, 0] != 0.0)
        if self.assembled:
            star = self.equations.blocks[1][:, 0, 0] != 0.0
            star[top.pair_at] = False
            row = np.concatenate([np.repeat(np.arange(n), np.diff(top.indptr))[star], hubs.row[tied]])
            column = np.concatenate([top.indices[star], hubs.column[tied]])
        else:
            label = self._star_components()
            row = np.concatenate([np.arange(self.n_nodes), hubs.row[tied]])
            column = np.concatenate([n + label, hubs.column[tied]])
            n += int(label.max(initial=-1)) + 1
        _, labels = connected_components(csr_array((np.ones(row.size), (row, column)), shape=(n, n)), directed=False)
        return np.unique(labels[: self.shape[0]], return_inverse=True)[1].astype(np.int32)

    def _star_components(self) -> NDArray[np.int32]:
        graph, used = self.equations.design.graph, self.equations.w > 0
        if used.all():
            return graph.components()
        ptr = np.concatenate([[0], np.cumsum(used)])[graph.star_ptr]
        return np.asarray(label_runs(ptr, graph.exposure[used], False, graph.n_exposures), np.int32)

    @cached_property
    def floating(self) -> NDArray[np.bool_]:
        """(groups,), which groups nothing holds: a constant can be added to their zero-points."""
        constant = np.zeros(self.shape)
        constant[:, 0] = ~self.empty[:, 0]
        energy = np.bincount(self.group, (constant * self.apply(constant))[:, 0])
        weight = np.bincount(self.group, self.diagonal[:, 0, 0])
        return np.asarray(np.abs(energy) <= FREE * weight)

    @cached_property
    def mean(self) -> tuple[Array, Array]:
        """(E + H,) twice: the functional that takes the mean of a floating group, and its constant."""
        counted = np.zeros(self.shape[0])
        counted[: self.n_nodes] = ~self.empty[: self.n_nodes, 0]
        size = np.bincount(self.group, counted)
        functional = counted / np.maximum(size, 1.0)[self.group] * self.floating[self.group]
        return functional, (self.floating[self.group] & ~self.empty[:, 0]).astype(float)

    def consistent(self, rhs: Array) -> Array:
        """``P' rhs``: what of a right-hand side the system can answer."""
        functional, constant = self.mean
        out = np.where(self.empty, 0.0, rhs)
        out[:, 0] -= functional * np.bincount(self.group, constant * out[:, 0])[self.group]
        return out

    def centred(self, theta: Array) -> Array:
        """``P theta``: zero mean over every floating group, zero where nothing is known."""
        functional, constant = self.mean
        out = np.where(self.empty, 0.0, theta)
        out[:, 0] -= constant * np.bincount(self.group, functional * out[:, 0])[self.group]
        return out

    @cached_property
    def held(self) -> NDArray[np.int64]:
        """The heaviest node of each floating group."""
        weight = self.diagonal[:, 0, 0]
        order = np.lexsort((-weight, self.group))
        heaviest = order[np.searchsorted(self.group[order], np.arange(self.floating.size))]
        return np.asarray(heaviest[self.floating])

    @cached_property
    def grounded(self) -> Array:
        """(E + H, K, K), diagonal of L with one node of each floating group held: positive definite."""
        out = self.diagonal.copy()
        out[self.held, 0, 0] *= 2.0
        k = np.arange(self.shape[1])
        out[:, k, k] = np.where(self.empty, 1.0, out[:, k, k] * (1.0 + 1e-12))
        return out

    @property
    def log_ground(self) -> float:
        """What the ground adds to the log determinant: without it, that of L with the held zero-points left out."""
        held = self.held[~self.empty[self.held, 0]]
        return float(np.log(self.diagonal[held, 0, 0]).sum())

    @cached_property
    def factor(self) -> Factor:
        """Cholesky factor of the grounded system.

        Raises
        ------
        NotPositiveDefinite
            A weight is not finite, or local terms have neither prior nor measurements enough.
        """
        top = self.equations.topology
        return Factor(top.symbolic, self.grounded, self.equations.blocks[1])
