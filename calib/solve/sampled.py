# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Variances by solves alone, where a factor would be too large, and covariances between chosen nodes.

A right-hand side drawn with covariance L solves to a draw of the unknowns (Papandreou & Yuille 2010, NIPS).
Averaging squares of r draws leaves a relative error of sqrt(2 / r). Given its neighbours, though, a node's unknowns are
known to ``L_ee^-1``, so that only the variance of their conditional mean need be sampled (Rao-Blackwell):

    Cov(theta_e) = G L_ee^-1 G' + Cov_draws(theta_e - G L_ee^-1 (L theta)_e),   G = I - n^-1 e_z e_z'

with G the node's own share in the mean that the gauge takes off. Stars and predictions likewise, given all nodes.

The gauge is that of `NormalEquations.spread`: a functional of each component of the stars' links, its mean zero-point
when none is given, is held. Hubs, which components may share, are in the gauge of their whole group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve import kernels, preconditioners
from calib.solve.engines import Engine, Solver
from calib.solve.factor import Factor, Symbolic
from calib.solve.normal import NormalEquations
from calib.solve.system import System

Array = NDArray[np.float64]


class NotConverged(RuntimeError):
    """A solve that errors would stand on did not converge."""


@dataclass(frozen=True)
class SampledSpread:
    """Estimated variances, mag^2, in the gauge of zero mean over every component.

    Attributes
    ----------
    node
        (E + H, K, K), covariance of each node's unknowns.
    star
        (S, 3), packed covariance of each star's unknowns; NaN without weight.
    prediction
        (n,), variance of ``u . star - phi . theta``; NaN without weight.
    draws
        How many solves they come from.
    """

    node: Array
    star: Array
    prediction: Array
    draws: int


@njit(cache=True, nogil=True)
def _perturb(rng, star_ptr, node, w, inv, star_precision, P, h, along):
    # along (n): w u . s - sqrt(w) eps, which phi gathers into a draw with the covariance of L without its prior
    eps = np.empty(0)
    for s in range(star_ptr.size - 1):
        low = star_ptr[s]
        m = star_ptr[s + 1] - low
        if eps.size < m:
            eps = np.empty(m)
        y0 = 0.0
        y1 = 0.0
        for i in range(m):
            eps[i] = np.sqrt(np.float64(w[low + i])) * rng.standard_normal()
            y0 += eps[i]
            if P == 2:
                y1 += eps[i] * h[node[low + i]]
        if P == 2:
            y1 += np.sqrt(star_precision[s]) * rng.standard_normal()
        s0 = inv[s, 0] * y0 + inv[s, 1] * y1
        s1 = inv[s, 1] * y0 + inv[s, 2] * y1
        for i in range(m):
            seen = s0 + (s1 * h[node[low + i]] if P == 2 else 0.0)
            along[low + i] = np.float64(w[low + i]) * seen - eps[i]


class Perturbation:
    """Draws of right-hand sides with the covariance L, priors included."""

    def __init__(self, equations: NormalEquations, seed: int = 0) -> None:
        self.equations = equations
        self.rng = np.random.default_rng(seed)
        self._prior = self._prior_root()

    def _prior_root(self) -> Factor | None:
        """Factor of the prior's precision, which couples nodes through hubs only."""
        prior, hubs = self.equations.prior, self.equations.topology.hubs
        largest = float(np.abs(prior.diagonal).max(initial=0.0))
        if largest == 0.0:
            return None
        n, K = prior.rhs.shape
        indptr = np.searchsorted(hubs.row, np.arange(n + 1)).astype(np.int64)
        k = np.arange(K)
        diagonal = prior.diagonal.copy()
        diagonal[:, k, k] += np.maximum(1e-10 * diagonal[:, k, k], 1e-14 * largest)
        return Factor(Symbolic(indptr, hubs.column.astype(np.int32)), diagonal, prior.coupling)

    def draw(self) -> Array:
        """One right-hand side, (E + H, K)."""
        eq = self.equations
        design, (xy, centre, response) = eq.design, eq.design.arrays
        node, K = design.graph.exposure, design.block
        along = np.empty(design.n_measurements)
        _perturb(
            self.rng, design.graph.star_ptr, node, eq.w, eq.star_inverse, eq.prior.star, design.star_block, response,
            along,
        )  # fmt: skip
        out = np.zeros(eq.prior.rhs.shape)
        if self._prior is not None:
            out += self._prior.times_root(self.rng.standard_normal(out.shape))
        phi = kernels.basis(xy, K, centre) if K > 1 else np.ones((along.size, 1))
        for a in range(K):
            out[: design.n_nodes, a] += np.bincount(node, phi[:, a] * along, design.n_nodes)
        return out


def _solution(solver: Solver, rhs: Array, tolerance_sigma: float) -> Array:
    solved = solver.solve(rhs, tolerance_sigma=tolerance_sigma)
    if not solved.converged:
        raise NotConverged(f"engine {solved.engine}, {solved.error_sigma:.1e} sigma left: {solved.why.value}")
    return solved.theta


def sampled_spread(
    equations: NormalEquations,
    *,
    draws: int = 128,
    seed: int = 0,
    engine: Engine = "auto",
    tolerance_sigma: float = 0.02,
) -> SampledSpread:
    """Variances from perturb-and-solve draws, Rao-Blackwellised.

    Parameters
    ----------
    equations
        Weighted normal equations.
    draws
        How many; the relative error of a variance is at most sqrt(2 / draws), half that where nodes are well linked.
    seed
        Of the draws.
    engine, tolerance_sigma
        Of the solves. A draw needs only be solved to a small part of its own sigma.

    Raises
    ------
    NotConverged
        A solve did not reach the tolerance.
    """
    solver = Solver(equations, engine)
    system, design = solver.system, equations.design
    gauge = _Gauge(equations)
    perturbation = Perturbation(equations, seed)
    inverse = preconditioners.jacobi(system)
    inverse[system.empty[:, 0], 0, :] = 0.0
    own = gauge.own_share
    reduced = own[:, :, None] * inverse  # G L_ee^-1, G diagonal
    node = np.zeros_like(inverse)
    star = np.zeros((design.n_stars, 3))
    prediction = np.zeros(design.n_measurements)
    for _ in range(draws):
        rhs = system.consistent(perturbation.draw())
        theta = gauge.fixed(_solution(solver, rhs, tolerance_sigma))
        mean = theta - np.einsum("eab,eb->ea", reduced, rhs)
        node += mean[:, :, None] * mean[:, None, :]
        at_star, off = _stars(equations, theta)
        star[:, 0] += at_star[:, 0] ** 2
        if design.star_block == 2:
            star[:, 1] += at_star[:, 0] * at_star[:, 1]
            star[:, 2] += at_star[:, 1] ** 2
        prediction += off**2
    node = node / draws + reduced * own[:, None, :]
    node[system.empty] = 0.0
    star = star / draws + equations.star_inverse
    star[equations.star_inverse[:, 0] <= 0.0] = np.nan
    return SampledSpread(node, star, prediction / draws + _given_nodes(equations), draws)


class _Gauge:
    """``P theta``: what a functional of its component says is taken off every node's zero-point.

    Parameters
    ----------
    equations
        Weighted normal equations.
    functional
        (E + H, K), coefficients of theta, those of a component summing to one over its zero-points; their mean when
        not given.
    """

    def __init__(self, equations: NormalEquations, functional: Array | None = None) -> None:
        self._component = equations.topology.component
        self._functional = equations.mean_functional if functional is None else functional

    @property
    def own_share(self) -> Array:
        """(E + H, K), the diagonal of G where the functional is of zero-points alone."""
        return np.where(np.arange(self._functional.shape[1]) == 0, 1.0 - self._functional, 1.0)

    def fixed(self, theta: Array) -> Array:
        """``P theta`` for theta (E + H, K)."""
        n, out = self._component.size, theta.copy()
        held = np.bincount(self._component, (self._functional * theta)[:n].sum(1))
        out[:n, 0] -= held[self._component]
        return out

    def unit(self, node: int, coefficient: int) -> Array:
        """The right-hand side ``P' e`` of one unknown, (E + H, K)."""
        out = np.zeros(self._functional.shape)
        n = self._component.size
        if coefficient == 0 and node < n:
            mine = self._component == self._component[node]
            out[:n][mine] = -self._functional[:n][mine]
        out[node, coefficient] += 1.0
        return out


def _stars(equations: NormalEquations, theta: Array) -> tuple[Array, Array]:
    """Mean of the stars' unknowns and of the predictions, given theta and no magnitudes."""
    design = equations.design
    xy, centre, response = design.arrays
    stars, off = np.empty((design.n_stars, design.star_block)), np.empty(design.n_measurements)
    kernels.back_substitute(
        design.graph.star_ptr, design.graph.exposure, np.zeros(design.n_measurements), equations.w,
        equations.star_inverse, xy, design.block, centre, design.star_block, response, theta, stars, off,
    )  # fmt: skip
    return stars, off


def _given_nodes(equations: NormalEquations) -> Array:
    """``u' D^-1 u``, the variance of each prediction given theta."""
    design, inverse = equations.design, equations.star_inverse
    star = design.graph.star()
    out = inverse[star, 0]
    if design.response is not None:
        h = design.response[design.graph.exposure]
        out = out + h * (2.0 * inverse[star, 1] + h * inverse[star, 2])
    return np.where(inverse[star, 0] > 0.0, out, np.nan)


BATCH = 64
"""Right-hand sides solved at a time by a factor."""


def covariance(
    equations: NormalEquations,
    nodes: NDArray[np.integer],
    *,
    functional: Array | None = None,
    engine: Engine = "auto",
    tolerance_sigma: float = 1e-6,
) -> Array:
    """Covariance between the unknowns of any nodes, exact, by one solve for each.

    Parameters
    ----------
    equations
        Weighted normal equations.
    nodes
        (k,), which.
    functional
        (E + H, K), what the gauge holds in each component, as for `NormalEquations.spread`; the mean of its zero-points
        when not given.
    engine, tolerance_sigma
        Of the solves; each entry is right to tolerance_sigma times its unknowns' sigmas.

    Returns
    -------
    (k, K, k, K), mag^2, in the gauge; zero between nodes that nothing links.

    Raises
    ------
    NotConverged
        A solve did not reach the tolerance.
    IndexError
        There is no such node.
    """
    nodes, gauge = np.asarray(nodes), _Gauge(equations, functional)
    solver = Solver(equations, engine)
    n, K = solver.system.shape
    _check_nodes(nodes, n)
    out = np.empty((nodes.size, K, nodes.size, K))
    # a solve is right to a part of the sigmas it answers for;
    # the sigma of the unknown that is asked for, at least 1 / sqrt(L_ee), is the other factor
    own = np.einsum("ekk->ek", solver.system.diagonal)
    least = gauge.own_share / np.sqrt(np.where(own > 0.0, own, 1.0))
    for i, e in enumerate(nodes):
        for a in range(K):
            theta = _solution(solver, gauge.unit(int(e), a), tolerance_sigma * max(least[e, a], 1e-6))
            out[:, :, i, a] = gauge.fixed(theta)[nodes]
    return 0.5 * (out + out.transpose(2, 3, 0, 1))


def zeropoint_covariance(
    equations: NormalEquations, nodes: NDArray[np.integer], *, functional: Array | None = None
) -> Array:
    """Covariance between the zero-points of nodes, as `covariance` has it, for many nodes at once.

    Solved by the factor, `BATCH` right-hand sides at a time, where `covariance` would iterate on each.

    Parameters
    ----------
    equations, nodes, functional
        As for `covariance`.

    Returns
    -------
    (k, k), mag^2.

    Raises
    ------
    IndexError
        There is no such node.
    NotPositiveDefinite
        The equations have no factor.
    """
    nodes, gauge, system = np.asarray(nodes), _Gauge(equations, functional), System(equations)
    _check_nodes(nodes, system.shape[0])
    factor = system.factor
    out = np.empty((nodes.size, nodes.size))
    for start in range(0, nodes.size, BATCH):
        part = nodes[start : start + BATCH]
        sides = np.stack([system.consistent(gauge.unit(int(e), 0)) for e in part], axis=2)
        solved = factor.solve(sides)
        for i in range(part.size):
            out[:, start + i] = gauge.fixed(system.centred(solved[:, :, i]))[nodes, 0]
    return 0.5 * (out + out.T)


def _check_nodes(nodes: NDArray[np.integer], n: int) -> None:
    if nodes.size and not (nodes.min() >= 0 and nodes.max() < n):
        raise IndexError(f"nodes lie in 0 to {n - 1}, got {nodes.min()} to {nodes.max()}")
