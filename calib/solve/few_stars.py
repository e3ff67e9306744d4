# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Stares: a few stars in very many exposures, solved through the stars.

The whole system of stars x and of nodes and hubs theta is

    [ D  -C' ] [  x  ]
    [ -C   A ] [theta]

with D block diagonal in stars. The usual factor is of ``L = A - C D^-1 C'``, dense where every star is in every node.
Without its hubs A is block diagonal too, so that nodes may be eliminated instead of stars: what is left is a matrix M
of stars and hubs, ``L^-1`` of a block diagonal and a product of the rank of M, and a prediction's variance a sum of
squares (Woodbury 1950). Everything is exact, and what took the cube of the nodes' unknowns takes their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from calib.solve import kernels
from calib.solve.factor import NotPositiveDefinite, Selected

if TYPE_CHECKING:
    from calib.solve.normal import NormalEquations

Array = NDArray[np.float64]

FEWER = 3
"""Times as many unknowns must the nodes have as stars and hubs."""
LEAST_UNKNOWNS = 600
"""Of the nodes: fewer are quickly solved either way."""
LARGEST = 40_000_000
"""Numbers in the matrix of nodes by stars and hubs."""
PANEL = 64
"""Nodes whose covariances with all others are made at a time."""

# ruff: noqa: D103 - each kernel's one line stands in its comment


def worth_it(n_nodes: int, n_hubs: int, n_stars: int, K: int, P: int) -> bool:
    """Whether the stars' system is so much the smaller that it pays."""
    nodes, rest = n_nodes * K, n_stars * P + n_hubs * K
    return nodes >= LEAST_UNKNOWNS and nodes >= FEWER * rest and nodes * rest <= LARGEST


@njit(cache=True, nogil=True)
def _gathered(star_ptr, node, w, xy, K, centre, P, h, A, W):
    # A (E, K, K) += sum w phi phi'; W (E, K, S P) -= w phi u'
    p = np.empty(K)
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            wi = np.float64(w[i])
            if wi == 0.0:
                continue
            e = node[i]
            kernels.phi(xy, i, K, centre, p)
            for a in range(K):
                W[e, a, s * P] -= wi * p[a]
                if P == 2:
                    W[e, a, s * P + 1] -= wi * p[a] * h[e]
                for b in range(K):
                    A[e, a, b] += wi * p[a] * p[b]


@njit(cache=True, nogil=True)
def _predicted(star_ptr, node, xy, K, centre, P, h, own, R, Rs, inv, out):
    # out (n), variances of u . star - phi . theta: own (E, K, K) of the nodes alone, R (E, K, m) and Rs (S, P, m) roots
    # of what is shared
    p = np.empty(K)
    row = np.empty(R.shape[2])
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            if inv[s, 0] <= 0.0:
                out[i] = np.nan
                continue
            e = node[i]
            kernels.phi(xy, i, K, centre, p)
            total = 0.0
            row[:] = Rs[s, 0]
            if P == 2:
                row += h[e] * Rs[s, 1]
            for a in range(K):
                for b in range(K):
                    total += p[a] * own[e, a, b] * p[b]
                row -= p[a] * R[e, a]
            out[i] = total + (row * row).sum()


class StarFactor:
    """Inverse of L by the system of stars and hubs; what `calib.solve.factor.Factor` answers, it answers too."""

    def __init__(self, equations: NormalEquations) -> None:
        design, prior, top = equations.design, equations.prior, equations.topology
        E, K, P, S = design.n_nodes, design.block, design.star_block, design.n_stars
        H = top.hubs.n
        self._equations, self._shape = equations, (E, H, K, S, P)
        xy, centre, response = design.arrays
        star_ptr, node = design.graph.star_ptr, design.graph.exposure
        A, W = prior.diagonal[:E].copy(), np.zeros((E, K, S * P + H * K))
        of_stars, of_hubs = slice(0, S * P), slice(S * P, None)
        _gathered(star_ptr, node, equations.w, xy, K, centre, P, response, A, W)
        M = np.zeros((S * P + H * K, S * P + H * K))
        inverse, D = _star_blocks(equations.star_inverse, P)
        at = np.arange(S)[:, None] * P + np.arange(P)
        M[at[:, :, None], at[:, None, :]] = D
        W[:, :, of_stars][:, :, ~_determined(equations.star_inverse, P)] = 0.0  # solved without
        row, column = top.hubs.row, top.hubs.column
        hubs = np.zeros((H, K, H, K))
        hubs[np.arange(H), :, np.arange(H)] = prior.diagonal[E:]
        of_node = row < E
        by_hub = W[:, :, of_hubs].reshape(E, K, H, K)
        by_hub[row[of_node], :, column[of_node] - E] += prior.coupling[of_node]
        W[:, :, of_hubs] = by_hub.reshape(E, K, H * K)
        r, c = row[~of_node] - E, column[~of_node] - E
        hubs[r, :, c] += prior.coupling[~of_node]
        hubs[c, :, r] += prior.coupling[~of_node].transpose(0, 2, 1)
        k, h = np.arange(K), np.arange(H)
        stiff = hubs[h[:, None], k, h[:, None], k]
        hubs[h[:, None], k, h[:, None], k] = np.where(stiff > 0, stiff * (1.0 + 1e-12), 1.0)
        M[of_hubs, of_hubs] = hubs.reshape(H * K, H * K)
        # the ground is that of L, so that determinants are those of the usual factor
        g = top.grounded
        to_stars = W[g, 0, of_stars].reshape(g.size, S, P)
        beside = np.einsum("gsp,spq,gsq->g", to_stars, inverse, to_stars, optimize=True)
        level = A[g, 0, 0] - beside
        A[g, 0, 0] += np.where(level > 1e-12 * A[g, 0, 0], level, 1.0)
        stiff = A[:, k, k]
        A[:, k, k] = np.where(stiff > 0, stiff * (1.0 + 1e-12), 1.0)
        try:
            lower = np.linalg.cholesky(A)
            self._own = np.linalg.inv(A)
            self._U = np.einsum("eab,ebm->eam", self._own, W, optimize=True)
            flat = (E * K, M.shape[0])
            M -= W.reshape(flat).T @ self._U.reshape(flat)
            self._root = cholesky(M, lower=True, overwrite_a=True)
        except (np.linalg.LinAlgError, ValueError) as error:
            raise NotPositiveDefinite(f"stars and hubs: {error}") from None
        diagonals = (np.einsum("ekk->ek", lower), np.diagonal(self._root))
        self.log_det = float(2.0 * sum(np.log(d).sum() for d in diagonals) + np.linalg.slogdet(inverse)[1].sum())
        self._shared: Array | None = None

    def solve(self, rhs: Array) -> Array:
        """``L^-1 rhs`` for rhs (E + H, K) or (E + H, K, r)."""
        E, H, K, S, P = self._shape
        sides = rhs.reshape(E + H, K, -1)
        r = sides.shape[2]
        small = np.zeros((S * P + H * K, r))
        small[S * P :] = sides[E:].reshape(H * K, r)
        U = self._U.reshape(E * K, -1)
        small -= U.T @ sides[:E].reshape(E * K, r)
        y = solve_triangular(self._root, small, lower=True)
        y = solve_triangular(self._root, y, lower=True, trans=1, overwrite_b=True)
        out = np.empty((E + H, K, r))
        out[:E] = np.einsum("eab,ebr->ear", self._own, sides[:E]) - (U @ y).reshape(E, K, r)
        out[E:] = y[S * P :].reshape(H, K, r)
        return out.reshape(rhs.shape)

    @property
    def _roots(self) -> tuple[Array, Array]:
        """R ((E + H), K, m) and (S, P, m): ``L^-1 = diag(A^-1, 0) + R R'``, and R R' of stars what they have."""
        E, H, K, S, P = self._shape
        if self._shared is None:
            m = self._root.shape[0]
            inverse = solve_triangular(self._root, np.eye(m), lower=True).T  # M^-1 is this times its transpose
            self._shared = np.empty(((E + H) * K + S * P, m))
            np.matmul(self._U.reshape(E * K, m), inverse, out=self._shared[: E * K])
            np.negative(self._shared[: E * K], out=self._shared[: E * K])
            self._shared[E * K : (E + H) * K] = inverse[S * P :]
            self._shared[(E + H) * K :] = inverse[: S * P]
        nodes = self._shared[: (E + H) * K].reshape(E + H, K, -1)
        return nodes, self._shared[(E + H) * K :].reshape(S, P, -1)

    def own_blocks(self) -> Array:
        """(E + H, K, K), covariance of every node's and hub's unknowns."""
        E = self._shape[0]
        R = self._roots[0]
        out = np.asarray(np.einsum("eam,ebm->eab", R, R, optimize=True))
        out[:E] += self._own
        return out

    def pairs(self, row: NDArray[np.integer], column: NDArray[np.integer]) -> Array:
        """(pairs, K, K), covariances between different nodes or hubs."""
        R = self._roots[0]
        out = np.empty((row.size, *[self._shape[2]] * 2))
        step = max(1_000_000 // max(R[0].size, 1), 1)
        for first in range(0, row.size, step):
            part = slice(first, first + step)
            out[part] = R[row[part]] @ R[column[part]].transpose(0, 2, 1)
        return out

    def predictions(self, gauge: Array) -> tuple[Array, Array, Array]:
        """As `calib.solve.predictions.prediction_variance`, of the same covariances."""
        equations, (E, _, K, S, P) = self._equations, self._shape
        design, inverse = equations.design, equations.star_inverse
        xy, centre, response = design.arrays
        star_ptr, node = design.graph.star_ptr, design.graph.exposure
        R, Rs = self._roots
        variance = np.empty(node.size)
        _predicted(star_ptr, node, xy, K, centre, P, response, self._own, R[:E], Rs, inverse, variance)
        weighted = inverse[:, 0] > 0
        cov = np.einsum("spm,sqm->spq", Rs, Rs)
        star, star_gauge = np.zeros((S, 3)), np.full((S, P), np.nan)
        star[:, 0] = cov[:, 0, 0]
        if P == 2:
            star[:, 1], star[:, 2] = cov[:, 0, 1], cov[:, 1, 1]
        star[~weighted] = np.nan
        # x = D^-1 C' theta and noise of its own
        along, stars = np.empty(node.size), np.empty((S, P))
        kernels.back_substitute(
            star_ptr, node, np.zeros(node.size), equations.w, inverse, xy, K, centre, P, response,
            np.ascontiguousarray(gauge), stars, along,
        )  # fmt: skip
        star_gauge[weighted] = stars[weighted]
        return variance, star, star_gauge

    def selected_inverse(self) -> Selected:
        """Entries of the inverse on the pattern of L."""
        E, H, K, _, _ = self._shape
        top, R = self._equations.topology, self._roots[0]
        indptr, indices = top.indptr, top.indices
        blocks = np.empty((indices.size, K, K))
        every = R.reshape((E + H) * K, -1)
        for first in range(0, E + H, PANEL):
            stop = min(first + PANEL, E + H)
            product = (every[first * K : stop * K] @ every[first * K :].T).reshape(stop - first, K, E + H - first, K)
            for e in range(first, stop):
                mine = slice(indptr[e], indptr[e + 1])
                blocks[mine] = product[e - first][:, indices[mine] - first].transpose(1, 0, 2)
        return Selected(self.own_blocks(), blocks)


def _determined(inverse: Array, P: int) -> NDArray[np.bool_]:
    """(S P,), stars' unknowns that their measurements and their prior determine."""
    return np.asarray(inverse[:, [0, 2][:P]].ravel() > 0)


def _star_blocks(inverse: Array, P: int) -> tuple[Array, Array]:
    """D^-1 and D (S, P, P) of the packed inverses (S, 3), 1 for what is not determined."""
    out = np.zeros((inverse.shape[0], P, P))
    known = _determined(inverse, P).reshape(-1, P)
    out[:, 0, 0] = np.where(known[:, 0], inverse[:, 0], 1.0)
    if P == 2:
        out[:, 0, 1] = out[:, 1, 0] = inverse[:, 1] * known.all(1)
        out[:, 1, 1] = np.where(known[:, 1], inverse[:, 2], 1.0)
    return out, np.asarray(np.linalg.inv(out), float)
