"""Preconditioned conjugate gradients that know how far they are, in sigmas.

For an error e of the solution of ``L theta = t``, every combination ``c . theta`` is wrong by at most

    |c . e| <= sqrt(c' L^-1 c) sqrt(e' L e) = sigma_c |e|_L,

so that the energy norm of the error bounds the error of each zero-point in units of its own sigma. The norm is bounded
from above by Gauss-Radau quadrature (Meurant & Tichy 2013, Numer. Algorithms 62, 163). Its lower bound on the spectrum
of the preconditioned matrix is the smallest Ritz value, halved, or the preconditioner's floor where that is lower: a
mode softer than any seen so far would hide in a small residual. What rounding adds is measured on the true residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

SAFETY = 0.5
PATIENCE = 60
"""Iterations without halving the residual before they are called stagnant."""


class Reason(Enum):
    """Why a solve ended, and what to try."""

    CONVERGED = "converged"
    ITERATIONS = "iterations ran out while the error was still falling: allow more, or use engine='direct'"
    STAGNATED = "the error has stopped falling: use engine='direct', and check the range of the weights"
    NOT_FINITE = "weights, magnitudes or prior hold values that are not finite: mask those measurements (weight 0)"
    NOT_POSITIVE_DEFINITE = "no Cholesky factor: give local terms a prior, or remove negative weights"


@dataclass(frozen=True)
class Iterated:
    """Outcome of conjugate gradients: solution, iterations, bound on the error's energy norm, and why it ended."""

    x: Any
    iterations: int
    error: float
    reason: Reason


class _Bound:
    """Gauss-Radau upper bound of the squared energy norm of the error, from the coefficients of the iteration."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.ritz: list[float] = []

    def step(self, alpha: float, beta: float, rz: float) -> float:
        self.alpha.append(alpha)
        self.beta.append(beta)
        a, b = np.array(self.alpha), np.array(self.beta)
        diagonal = 1.0 / a
        diagonal[1:] += b[:-1] / a[:-1]
        if a.size == 1:
            smallest = diagonal[0]
        else:
            off = np.sqrt(b[:-1]) / a[:-1]
            smallest = eigh_tridiagonal(diagonal, off, eigvals_only=True, select="i", select_range=(0, 0))[0]
        self.ritz.append(max(float(smallest), 1e-300))
        mu = min(SAFETY * self.ritz[-1], self.floor)
        g = 1.0 / mu
        for alpha_k, beta_k in zip(self.alpha, self.beta, strict=True):
            gap = max(g - alpha_k, 0.0)
            g = gap / (mu * gap + beta_k) if gap > 0 else 0.0
        return g * rz

    @property
    def settled(self) -> bool:
        """Whether the smallest Ritz value has stopped falling."""
        return len(self.ritz) > 2 and self.ritz[-1] > 0.8 * self.ritz[-3]


def conjugate_gradients(
    apply: Callable[[Any], Any],
    precondition: Callable[[Any], Any],
    rhs: Any,
    *,
    tolerance: float,
    floor: float = 1e-6,
    max_iterations: int = 1000,
    start: Any = None,
) -> Iterated:
    """Solve a positive (semi-)definite system to an error of tolerance in the energy norm.

    Parameters
    ----------
    apply, precondition
        ``x -> L x`` and ``r -> M^-1 r``, on arrays of numpy or tensors of torch alike.
    rhs
        In the range of L.
    tolerance
        Of ``sqrt(e' L e)``: at most so many sigmas for every combination of unknowns.
    floor
        Smallest eigenvalue of ``M^-1 L`` to be reckoned with.
    """
    x = 0.0 * rhs if start is None else start
    r = rhs if start is None else rhs - apply(x)
    done = 0
    previous = np.inf
    for _restart in range(4):
        x, spent, bound, estimate, reason, recurred = _iterate(
            apply, precondition, x, r, tolerance, floor, max_iterations - done
        )
        done += spent
        if reason in (Reason.NOT_FINITE, Reason.NOT_POSITIVE_DEFINITE):
            return Iterated(x, done, np.inf, reason)
        # what the recurrence does not know: rounding
        r = rhs - apply(x)
        drift = r - recurred
        smallest = SAFETY * bound.ritz[-1] if bound.ritz else SAFETY
        error = np.sqrt(estimate) + np.sqrt(max(float((drift * precondition(drift)).sum()), 0.0) / smallest)
        if not np.isfinite(error):
            return Iterated(x, done, np.inf, Reason.NOT_FINITE)
        if error <= tolerance:
            return Iterated(x, done, float(error), Reason.CONVERGED)
        if reason is not Reason.CONVERGED or error > 0.25 * previous:
            return Iterated(x, done, float(error), Reason.STAGNATED if reason is Reason.CONVERGED else reason)
        previous = error
    return Iterated(x, done, float(error), Reason.STAGNATED)


def _iterate(
    apply: Callable[[Any], Any],
    precondition: Callable[[Any], Any],
    x: Any,
    r: Any,
    tolerance: float,
    floor: float,
    limit: int,
) -> tuple[Any, int, _Bound, float, Reason, Any]:
    bound = _Bound(floor)
    z = precondition(r)
    rz = float((r * z).sum())
    estimate = abs(rz) / min(SAFETY, floor)
    if not np.isfinite(rz):
        return x, 0, bound, np.inf, Reason.NOT_FINITE, r
    if rz <= 0.0:
        exact = bool(float((r * r).sum()) == 0.0)
        return x, 0, bound, 0.0, Reason.CONVERGED if exact else Reason.NOT_POSITIVE_DEFINITE, r
    best, since = rz, 0
    p = z
    for k in range(1, limit + 1):
        q = apply(p)
        curvature = float((p * q).sum())
        if not np.isfinite(curvature):
            return x, k, bound, np.inf, Reason.NOT_FINITE, r
        if curvature <= 0.0:  # an indefinite matrix, or rounding has the last word
            indefinite = curvature < -1e-8 * float((p * p).sum() * (q * q).sum()) ** 0.5
            why = Reason.NOT_POSITIVE_DEFINITE if indefinite else Reason.STAGNATED
            return x, k, bound, estimate, why, r
        alpha = rz / curvature
        x = x + alpha * p
        r = r - alpha * q
        z = precondition(r)
        after = float((r * z).sum())
        if not np.isfinite(after):
            return x, k, bound, np.inf, Reason.NOT_FINITE, r
        after = max(after, 0.0)
        beta = after / rz
        estimate = bound.step(alpha, beta, after)
        rz = after
        if estimate <= tolerance**2 and (bound.settled or estimate <= 1e-6 * tolerance**2):
            return x, k, bound, estimate, Reason.CONVERGED, r
        if rz < 0.5 * best:
            best, since = rz, 0
        else:
            since += 1
            if since > PATIENCE:
                return x, k, bound, estimate, Reason.STAGNATED, r
        p = z + beta * p
    return x, limit, bound, estimate, Reason.ITERATIONS, r
