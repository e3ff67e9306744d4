"""One interface to every solver: the structure of the problem chooses, and the answer says which and how well.

``direct`` assembles L and factors it, with our supernodal factor, which also gives the exact errors; ``cholespy`` is
the same with CHOLMOD, ``multigrid`` iterates with Ruge-Stuben multigrid on the assembled L, ``matrix_free`` never
assembles it. All of them end in conjugate gradients whose error is known in sigmas (`calib.solve.krylov`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from calib.solve import preconditioners
from calib.solve.factor import NotPositiveDefinite
from calib.solve.krylov import Iterated, Reason, conjugate_gradients
from calib.solve.normal import NormalEquations
from calib.solve.system import System

Array = NDArray[np.float64]
Engine = Literal["auto", "direct", "cholespy", "multigrid", "matrix_free"]

MANY_VISITS = 300
"""Visits a star, as their weighted mean, beyond which assembly costs more than iterating without it."""
LARGEST_DIRECT = 200_000
"""Nodes to which a factor is the fastest."""
LARGEST_FACTOR = 2.5e8
"""Entries of a factor that are still taken: 2 GB."""


@dataclass(frozen=True)
class Solved:
    """The answer of a solve.

    Attributes
    ----------
    theta
        (E + H, K), mag; zero mean of the zero-points over every group that floats, zero where no weight reaches.
    engine, choice
        Which engine, and why.
    iterations
        Of conjugate gradients; one or two with an exact factor.
    converged
        Whether error_sigma is at most the tolerance.
    error_sigma
        Bound on the error of every zero-point (and every other combination of unknowns), in units of its own sigma.
    why
        Why the solve ended.
    """

    theta: Array
    engine: str
    choice: str
    iterations: int
    converged: bool
    error_sigma: float
    why: Reason


def choose(equations: NormalEquations) -> tuple[Engine, str]:
    """The engine for these equations and the reason, as a user may read it."""
    design = equations.design
    visits = np.diff(design.graph.star_ptr).astype(float)
    mean = float((visits**2).sum() / max(visits.sum(), 1.0))
    if mean > MANY_VISITS:
        return (
            "matrix_free",
            f"stars have {mean:.0f} visits: their pairs would cost more than iterating",
        )
    n = design.n_nodes
    if n > LARGEST_DIRECT:
        return "multigrid", f"{n} exposures, more than the {LARGEST_DIRECT} to which a factor is fastest"
    fill = equations.topology.symbolic.supernodes.n_entries * design.block**2
    if fill > LARGEST_FACTOR:
        return "multigrid", f"a factor would have {fill:.1e} entries, {8e-9 * fill:.1f} GB"
    return "direct", f"{n} exposures, {fill:.1e} entries in the factor"


class Solver:
    """An engine made ready for one set of normal equations, to be used for as many right-hand sides as wanted.

    Parameters
    ----------
    equations
        Weighted normal equations.
    engine
        By name; auto chooses by structure.
    device
        torch device of the matrix-free engine.

    Raises
    ------
    ValueError
        The engine is unknown.
    """

    def __init__(self, equations: NormalEquations, engine: Engine = "auto", *, device: str = "cpu") -> None:
        if engine not in get_args(Engine):
            raise ValueError(f"engine is {engine!r}, expected one of {', '.join(get_args(Engine))}")
        self.equations, self.device = equations, device
        self.engine, self.choice = choose(equations) if engine == "auto" else (engine, "asked for")
        self.system = System(equations, assembled=self.engine != "matrix_free")
        self.failure: Reason | None = None
        self._precondition: Any = None
        self._floor = preconditioners.FLOOR.get(self.engine, preconditioners.FLOOR["sampled"])
        if not np.isfinite(equations.w).all() or not np.isfinite(equations.prior.diagonal).all():
            self.failure = Reason.NOT_FINITE
            return
        own = np.einsum("ekk->ek", self.system.diagonal)
        if (own[~self.system.empty] < 0.0).any():
            self.failure = Reason.NOT_POSITIVE_DEFINITE
            return
        try:
            self._precondition = self._prepare()
        except NotPositiveDefinite:
            self.failure = Reason.NOT_POSITIVE_DEFINITE

    def _prepare(self) -> Any:
        if self.engine == "direct":
            return preconditioners.supernodal(self.system)
        if self.engine == "cholespy":
            return preconditioners.cholespy(self.system)
        if self.engine == "multigrid":
            return preconditioners.multigrid(self.system)
        small = preconditioners.sampled(self.system)
        if small is not None:
            return small.solve
        self._floor = preconditioners.FLOOR["jacobi"]
        inverse = preconditioners.jacobi(self.system)
        return lambda r: np.einsum("eab,eb->ea", inverse, r)

    def reweighted(self, equations: NormalEquations) -> Solver:
        """The same preconditioner for other weights: a few more iterations, and nothing to factor.

        Meant for weights that have changed little; the bound on the error holds whatever they are.
        """
        other = Solver.__new__(Solver)
        other.equations, other.device, other.engine = equations, self.device, self.engine
        other.choice = f"{self.choice}; prepared for earlier weights"
        other.system = System(equations, assembled=self.system.assembled)
        other.failure, other._precondition = self.failure, self._precondition
        ratio = float(np.min(equations.w[self.equations.w > 0] / self.equations.w[self.equations.w > 0], initial=1.0))
        other._floor = self._floor * min(max(ratio, 1e-6), 1.0)
        if not np.isfinite(equations.w).all():
            other.failure = Reason.NOT_FINITE
        return other

    def solve(self, rhs: Array | None = None, *, tolerance_sigma: float = 1e-3, max_iterations: int = 1000) -> Solved:
        """``L theta = rhs``, in the gauge where the zero-points of every floating group have zero mean.

        Parameters
        ----------
        rhs
            (E + H, K); that of the measurements when not given. What it asks of a free direction is left out.
        tolerance_sigma
            Largest error of any zero-point in units of its sigma.
        max_iterations
            Of conjugate gradients.

        Raises
        ------
        ValueError
            The shape of rhs is wrong.
        """
        rhs = self.equations.rhs if rhs is None else np.asarray(rhs, float)
        if rhs.shape != self.system.shape:
            raise ValueError(f"rhs has shape {rhs.shape}, expected {self.system.shape}")
        failure = self.failure or (None if np.isfinite(rhs).all() else Reason.NOT_FINITE)
        if failure is not None:
            nothing = np.full(self.system.shape, np.nan)
            return Solved(nothing, self.engine, self.choice, 0, False, np.inf, failure)
        found = self._iterate(self.system.consistent(rhs), tolerance_sigma, max_iterations)
        theta = self.system.centred(found.x)
        converged = found.reason is Reason.CONVERGED
        return Solved(theta, self.engine, self.choice, found.iterations, converged, found.error, found.reason)

    def _iterate(self, rhs: Array, tolerance: float, max_iterations: int) -> Iterated:
        limits = {"tolerance": tolerance, "max_iterations": max_iterations, "floor": self._floor}
        if self.engine != "matrix_free" or self.device == "cpu":  # on one core the compiled loop beats torch
            return conjugate_gradients(self.system.apply, self._precondition, rhs, **limits)  # type: ignore[arg-type]
        import torch

        from calib.solve.matrix_free import TorchOperator

        operator = TorchOperator(self.system, self.device)

        def precondition(r: Any) -> Any:
            return torch.from_numpy(self._precondition(r.cpu().numpy())).to(operator.device)

        start = torch.from_numpy(rhs).to(operator.device)
        found = conjugate_gradients(operator, precondition, start, **limits)  # type: ignore[arg-type]
        return Iterated(found.x.cpu().numpy(), found.iterations, found.error, found.reason)


def solve(
    equations: NormalEquations,
    rhs: Array | None = None,
    *,
    engine: Engine = "auto",
    tolerance_sigma: float = 1e-3,
    max_iterations: int = 1000,
    device: str = "cpu",
) -> Solved:
    """Solve weighted normal equations once; see `Solver` for many right-hand sides or changing weights.

    Parameters
    ----------
    equations, rhs, engine, tolerance_sigma, max_iterations, device
        As for `Solver` and `Solver.solve`.
    """
    solver = Solver(equations, engine, device=device)
    return solver.solve(rhs, tolerance_sigma=tolerance_sigma, max_iterations=max_iterations)
