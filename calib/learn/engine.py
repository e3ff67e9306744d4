"""The learned method: the robust fit, what the networks say of it, and the exact solve with that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calib.learn.exact import LearnedEquations
from calib.learn.features import features_of
from calib.learn.logits import outlier_logit
from calib.model.problem import Problem
from calib.solve import kernels
from calib.solve.methods import Solved, stated
from calib.solve.normal import NormalEquations

if TYPE_CHECKING:
    from calib.learn.ensemble import Ensemble

Array = NDArray[np.float64]


def solve_learned(
    problem: Problem, robust: Solved, seed: int, ensemble: Ensemble | None = None, device: str = "auto"
) -> Solved:
    """Solve with what the networks believe.

    Parameters
    ----------
    robust
        The robust method's answer to the same problem.
    ensemble
        The shipped one when not given.
    device
        ``cpu``, ``cuda`` or ``auto``, for the networks; the solve runs on the CPU.
    """
    import torch

    from calib.learn.ensemble import shipped

    ensemble = ensemble or shipped()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    fit = robust.fit
    said = ensemble.to(device).listen(features_of(problem, fit).to_hetero_data().to(device))

    def values(name: str) -> NDArray[np.float32]:
        """(members, ...)."""
        return np.asarray(torch.stack([getattr(s, name) for s in said]).cpu().numpy())

    job = LearnedEquations(fit)
    weight, tie, response = (values(name) for name in ("weight", "tie", "response"))
    outlier = values("outlier").mean(0)
    factors = _factors(weight), _factors(tie), _factors(response)
    equations = job.equations(*factors)
    estimate, informed = equations.estimate(), job.equations(*factors, scale=job.loss)
    found = replace(
        fit, equations=equations, estimate=estimate, spread=informed.spread(), prior=equations.prior, stated=informed,
        # variable stars stay those of the robust fit: the networks know them no better (docs/learned.md)
        weighted=replace(fit.weighted, w=equations.w),
    )  # fmt: skip
    solved = stated(found, robust.trials, seed)
    disagreement = ensemble_variance(job, equations, estimate.residual, estimate.theta, weight, tie)
    return replace(
        solved, inflation=solved.inflation * ensemble.temperature, beyond=solved.beyond + disagreement,
        outlier=_probability(outlier_logit(problem, fit) + outlier).astype(np.float32),
    )  # fmt: skip


def ensemble_variance(
    job: LearnedEquations, equations: NormalEquations, residual: NDArray[np.floating], theta: Array,
    weight: NDArray[np.floating], tie: NDArray[np.floating],
) -> Array:  # fmt: skip
    """(E,), variance of zero-points over the members, mag^2, to first order about their mean.

    ``H dx = sum dw_i r_i A_i - sum dpi_t c_t (c_t . x)``: one right-hand side a member on the factor of the solve.
    """
    design, n = job.design, job.design.n_nodes
    members = weight.shape[0]
    if members < 2:
        return np.zeros(n)
    xy, centre, response = design.arrays
    place = (xy, design.block, centre, design.star_block, response)
    rhs = np.zeros((*equations.prior.rhs.shape, members))
    ties, gap = job.ties, job.ties.gap(theta)
    residual = np.nan_to_num(np.asarray(residual, float))
    mean_weight, mean_tie = weight.mean(0, dtype=float), tie.mean(0, dtype=float)
    for k in range(members):
        out = np.zeros(equations.prior.rhs.shape)
        pulled = residual * (weight[k] - mean_weight)
        kernels.right_hand_side(
            design.graph.star_ptr, design.graph.exposure, pulled, equations.w, equations.star_inverse, *place, out
        )
        change = ties.precision * np.exp(ties.factors(mean_tie)) * ties.factors(tie[k] - mean_tie)
        for j in range(4):
            np.add.at(out, (ties.unknown[:, j], ties.component), -change * gap * ties.coefficient[:, j])
        rhs[..., k] = out
    drawn = job.centring(equations.factor.solve(rhs)[:n, 0])
    return np.asarray((drawn**2).sum(1) / (members - 1), float)


def _factors(logarithms: NDArray[np.float32]) -> Array:
    """The geometric mean over members."""
    return np.asarray(np.exp(logarithms.mean(0, dtype=float)))


def _probability(logit: NDArray[np.floating]) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(np.asarray(logit, float), -30.0, 30.0))), float)
