# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Approximate inverses of L, one for each engine; conjugate gradients do the rest.

An exact factor is the best of them: one iteration, and a second that repairs its rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

from calib.solve.design import Design
from calib.solve.factor import Factor, NotPositiveDefinite
from calib.solve.normal import NormalEquations, Prior, Topology
from calib.solve.system import System
from graphs import MeasurementGraph
from graphs.kernels import label_runs

Array = NDArray[np.float64]
Preconditioner = Callable[[Array], Array]

SAMPLED_PER_NODE = 40.0
"""Measurements of stars that a node keeps, in expectation, in the sampled system."""
CLIQUE = 6
"""Visits of a star that are linked with each other in the sampled system."""
FLOOR = {"direct": 0.5, "cholespy": 0.5, "multigrid": 1e-2, "sampled": 1e-3, "jacobi": 1e-6}
"""Smallest eigenvalue of the preconditioned matrix that each kind is trusted to leave."""
LARGEST_FILL = 4.0e7
"""Entries of a sampled system's factor above which block Jacobi is used instead."""


def supernodal(system: System) -> Preconditioner:
    """Our own factor of L, shared with the exact errors."""
    return system.factor.solve


def cholespy(system: System) -> Preconditioner:
    """CHOLMOD's factor, by cholespy: of L as a scalar matrix.

    Raises
    ------
    NotPositiveDefinite
        L is not positive definite, as far as a solve shows.
    """
    from cholespy import CholeskySolverD, MatrixType

    top = system.equations.topology
    n, K = system.shape
    full = _scalar_matrix(system.grounded, system.equations.blocks[1], top.indptr, top.indices).tocsc()
    if not np.isfinite(full.data).all():
        raise NotPositiveDefinite("the matrix holds values that are not finite: mask measurements without a weight")
    try:
        solver = CholeskySolverD(
            n * K, full.indptr.astype(np.int32), full.indices.astype(np.int32), full.data, MatrixType.CSC
        )
    except ValueError as error:
        raise NotPositiveDefinite(str(error)) from error

    def solve(r: Array) -> Array:
        out = np.empty(n * K)
        solver.solve(np.ascontiguousarray(r).ravel(), out)
        return out.reshape(n, K)

    return solve


def multigrid(system: System) -> Preconditioner:
    """Ruge-Stuben multigrid on the zero-points, block Jacobi on the coefficients of the surfaces."""
    from pyamg import ruge_stuben_solver

    top = system.equations.topology
    n, K = system.shape
    blocks = system.equations.blocks[1]
    # grounded: the coarsest level is then regular, where a pseudo-inverse would have to guess which modes are free
    z = _scalar_matrix(system.grounded[:, :1, :1], blocks[:, :1, :1], top.indptr, top.indices)
    levels = ruge_stuben_solver(z, max_coarse=200, coarse_solver="pinv")
    cycle = levels.aspreconditioner(cycle="V")
    rest = _inverses(system.grounded[:, 1:, 1:]) if K > 1 else None

    def solve(r: Array) -> Array:
        out = np.empty((n, K))
        out[:, 0] = cycle @ r[:, 0]
        if rest is not None:
            out[:, 1:] = np.einsum("eab,eb->ea", rest, r[:, 1:])
        return out

    return solve


def jacobi(system: System) -> Array:
    """(E + H, K, K), inverses of the diagonal blocks."""
    return _inverses(system.grounded)


@njit(cache=True, nogil=True)
def _useful(ptr, w, s):
    # number of measurements with weight, or none when a star has but one
    count = 0
    for i in range(ptr[s], ptr[s + 1]):
        count += w[i] > 0
    return count if count > 1 else 0


@njit(cache=True, nogil=True)
def _count_useful(ptr, node, w, degree):
    for s in range(ptr.size - 1):
        if _useful(ptr, w, s) > 0:
            for i in range(ptr[s], ptr[s + 1]):
                degree[node[i]] += w[i] > 0


@njit(cache=True, nogil=True)
def _keep(ptr, node, w, wanted, probability):
    # of each star, what the most needy of its nodes wants
    for s in range(ptr.size - 1):
        probability[s] = 0.0
        if _useful(ptr, w, s) > 0:
            for i in range(ptr[s], ptr[s + 1]):
                if w[i] > 0:
                    probability[s] = max(probability[s], wanted[node[i]])


@njit(cache=True, nogil=True)
def _positions(ptr, w, kept):
    # the measurements with weight of the stars kept, and their star
    n = 0
    for s in range(kept.size):
        if kept[s]:
            n += _useful(ptr, w, s)
    at = np.empty(n, np.int64)
    star = np.empty(n, np.int64)
    n = 0
    for s in range(kept.size):
        if kept[s] and _useful(ptr, w, s) > 0:
            for i in range(ptr[s], ptr[s + 1]):
                if w[i] > 0:
                    at[n] = i
                    star[n] = s
                    n += 1
    return at, star


@njit(cache=True, nogil=True)
def _joining(ptr, node, w, label):
    # stars whose measurements lie in more than one component
    out = np.zeros(ptr.size - 1, np.bool_)
    for s in range(ptr.size - 1):
        first = -1
        for i in range(ptr[s], ptr[s + 1]):
            if w[i] > 0:
                if first < 0:
                    first = label[node[i]]
                elif label[node[i]] != first:
                    out[s] = True
                    break
    return out


def sampled(system: System, seed: int = 0) -> Factor | None:
    """Cholesky factor of a Laplacian of fewer stars, spectrally close to the whole and cheap to assemble.

    Each star is kept with a probability that leaves every node some measurements, at a weight that keeps the
    expectation; stars of nodes that have few are all kept, so that faint links survive. A star of many visits is cut
    into random groups of a few, since the whole would link all of its exposures (as in the sampled cliques of Kyng &
    Sachdeva 2016, FOCS, 573). None when its factor would be large: such graphs are close to complete, and block Jacobi
    does well on them.
    """
    eq = system.equations
    design, graph, rng = eq.design, eq.design.graph, np.random.default_rng(seed)
    ptr, node = graph.star_ptr, graph.exposure
    degree = np.zeros(design.n_nodes)
    _count_useful(ptr, node, eq.w, degree)
    keep_star = np.empty(design.n_stars)
    _keep(ptr, node, eq.w, np.minimum(SAMPLED_PER_NODE / np.maximum(degree, 1.0), 1.0), keep_star)
    kept = rng.random(design.n_stars) < keep_star
    at, star = _positions(ptr, eq.w, kept)
    # stars that alone join what the others leave apart are kept too
    while at.size:
        runs = np.flatnonzero(np.concatenate([[True], np.diff(star) != 0, [True]]))
        joins = _joining(ptr, node, eq.w, label_runs(runs, node[at], False, design.n_nodes))
        if not joins.any():
            break
        kept |= joins
        keep_star[joins] = 1.0
        at, star = _positions(ptr, eq.w, kept)
    # groups of a few visits: pseudo-stars, weighed so that the expected link is the star's
    order = np.lexsort((rng.random(at.size), star))
    at = at[order]
    first = np.searchsorted(star, star)
    count = np.searchsorted(star, star, side="right") - first
    n_groups = np.maximum(count // CLIQUE, 1)
    pseudo = np.cumsum(np.concatenate([[True], np.diff(star) != 0]).astype(np.int64)) if at.size else star
    group = pseudo * (int(n_groups.max(initial=1)) + 1) + (np.arange(at.size) - first) % n_groups
    ids, code = np.unique(group, return_inverse=True)
    small = MeasurementGraph.from_codes(code.astype(np.int32), node[at], ids.size, design.n_nodes)
    at, star, count = at[small.order], star[small.order], count[small.order]
    in_group = np.repeat(np.diff(small.star_ptr), np.diff(small.star_ptr))
    # a pair of n visits shares a group with probability (q - 1) / (n - 1), and its link there is w w' / (sum of q)
    total = np.bincount(star, eq.w[at], design.n_stars)[star]
    group_total = np.bincount(small.star(), eq.w[at], small.n_stars)[small.star()]
    scale = (count - 1) / np.maximum(in_group - 1, 1) * group_total / np.maximum(total, 1e-300)
    scale = np.where(in_group > 1, scale, 0.0) / keep_star[star]
    w = eq.w[at] * scale
    smaller = Design(
        small, None if design.xy is None else design.xy[at], design.degree, design.centre, design.response,
        None if design.by_magnitude is None else design.by_magnitude.at(at),
    )  # fmt: skip
    owner = star[np.minimum(small.star_ptr[:-1], max(at.size - 1, 0))]
    factor_of_star = scale[np.minimum(small.star_ptr[:-1], max(at.size - 1, 0))]
    prior = Prior(eq.prior.diagonal, eq.prior.coupling, eq.prior.rhs, eq.prior.star[owner] * factor_of_star)
    topology = Topology(smaller, eq.topology.hubs)
    if topology.symbolic.supernodes.n_entries * design.block**2 > LARGEST_FILL:
        return None
    approximation = System(NormalEquations(smaller, np.zeros(at.size), w, prior, topology))
    # what the sample does not reach keeps the diagonal it has
    mine, whole = approximation.diagonal, system.diagonal
    k = np.arange(design.block)
    lost = mine[:, k, k] <= 1e-6 * whole[:, k, k]
    mine[:, k, k] += np.where(lost, whole[:, k, k], 0.0)
    return approximation.factor


def _inverses(blocks: Array) -> Array:
    """Inverses of symmetric positive blocks, pseudo-inverses where they are singular."""
    values, vectors = np.linalg.eigh(blocks)
    floor = 1e-12 * np.maximum(values[:, -1:], 1e-300)
    return np.asarray(np.einsum("eak,ek,ebk->eab", vectors, 1.0 / np.maximum(values, floor), vectors))


def _scalar_matrix(diagonal: Array, blocks: Array, indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> Any:
    """CSR of the whole symmetric matrix, ((E + H) K)^2."""
    n, K = diagonal.shape[:2]
    k = np.arange(K)
    row = np.repeat(np.arange(n), np.diff(indptr))
    r = np.broadcast_to((row[:, None] * K + k)[:, :, None], blocks.shape).ravel()
    c = np.broadcast_to((indices[:, None].astype(np.int64) * K + k)[:, None, :], blocks.shape).ravel()
    d = np.arange(n)[:, None] * K + k
    dr = np.broadcast_to(d[:, :, None], diagonal.shape).ravel()
    dc = np.broadcast_to(d[:, None, :], diagonal.shape).ravel()
    values = np.concatenate([diagonal.ravel(), blocks.ravel(), blocks.ravel()])
    out = csr_array((values, (np.concatenate([dr, r, c]), np.concatenate([dc, c, r]))), shape=(n * K, n * K))
    out.sort_indices()
    out.indptr, out.indices = out.indptr.astype(np.int32), out.indices.astype(np.int32)
    return out
