"""The learned method: the robust fit, what the networks say of it, and the exact solve with that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calib.learn.exact import LearnedEquations
from calib.learn.features import features_of
from calib.learn.logits import outlier_logit
from calib.model.problem import Problem
from calib.solve import kernels
from calib.solve.methods import Solved, stated
from calib.solve.normal import Estimate, NormalEquations
from calib.solve.robust import RobustFit
from calib.workers import asked, torch_threads

if TYPE_CHECKING:
    from calib.learn.ensemble import Ensemble, Scene

Array = NDArray[np.float64]

FAR = 0.7
"""Robust errors by which networks may move a zero-point of a survey of a hundred: further, what the robust fit had
settled comes loose. Chosen on the surveys held out of training, where few move as far. Of more, the largest is larger
by chance (`believed`)."""
HALVINGS = 4
"""What moves one further is believed by half, and half again; after so many times, not at all."""


@dataclass(frozen=True)
class Heard:
    """What the members say of a survey, tempered.

    Attributes
    ----------
    weight, tie, response
        Logarithms of factors, (members, n), (members, E, 3), (members, S).
    outlier
        (n,), added to the robust logits: the members' mean.
    temperature
        Factor on stated errors.
    scene
        What ties are said from, for whoever teaches the members to say them otherwise.
    """

    weight: NDArray[np.float32]
    tie: NDArray[np.float32]
    response: NDArray[np.float32]
    outlier: NDArray[np.float32]
    temperature: float
    scene: Scene | None = None

    def factors(self) -> tuple[Array, Array, Array]:
        """The geometric means over members."""
        w, t, r = (np.exp(x.mean(0, dtype=float)) for x in (self.weight, self.tie, self.response))
        return w, t, r

    def times(self, share: float) -> Heard:
        """What is left when a share of it is believed."""
        believed = {name: getattr(self, name) * share for name in ("weight", "tie", "response", "outlier")}
        return replace(self, **believed)


def heard(problem: Problem, fit: RobustFit, ensemble: Ensemble | None = None, device: str = "auto") -> Heard:
    """Ask the networks about a robust fit; arguments as for `solve_learned`."""
    import torch

    from calib.learn.ensemble import Scene, chosen, shipped

    ensemble, device = ensemble or shipped(), chosen(device)
    data = features_of(problem, fit).to_hetero_data().to(device)
    with torch_threads(asked()):
        said = ensemble.to(device).listen(data)

    def values(name: str) -> NDArray[np.float32]:
        """(members, ...)."""
        return np.asarray(torch.stack([getattr(s, name) for s in said]).cpu().numpy())

    weight, tie, response = (values(name) for name in ("weight", "tie", "response"))
    return Heard(weight, tie, response, values("outlier").mean(0), ensemble.temperature, Scene.of(data, said))


def unchanged(said: Heard) -> Heard:
    """Of networks as trained."""
    return said


def solve_learned(
    problem: Problem, robust: Solved, seed: int, ensemble: Ensemble | None = None, device: str = "auto",
    adapted: Callable[[Heard], Heard] = unchanged,
) -> Solved:  # fmt: skip
    """Solve with what the networks believe.

    Parameters
    ----------
    robust
        The robust method's answer to the same problem.
    ensemble
        The shipped one when not given.
    device
        ``cpu``, ``cuda`` or ``auto``, for the networks; the solve runs on the CPU.
    adapted
        What the survey at hand changes in what networks say (`calib.learn.adapt`).
    """
    fit = robust.fit
    said = adapted(heard(problem, fit, ensemble, device))
    job = LearnedEquations(fit)
    said, equations, estimate = believed(job, fit, said)
    informed = job.equations(*said.factors(), scale=job.loss)
    found = replace(
        fit, equations=equations, estimate=estimate, spread=informed.spread(), prior=equations.prior, stated=informed,
        # variable stars stay those of the robust fit: the networks know them no better (docs/learned.md)
        weighted=replace(fit.weighted, w=equations.w),
    )  # fmt: skip
    solved = stated(found, robust.trials, problem.err, seed)
    disagreement = ensemble_variance(job, equations, estimate, said.weight, said.tie, said.response)
    return replace(
        solved, inflation=solved.inflation * said.temperature, beyond=solved.beyond + disagreement,
        outlier=_probability(outlier_logit(fit) + said.outlier).astype(np.float32),
    )  # fmt: skip


def believed(job: LearnedEquations, fit: RobustFit, said: Heard) -> tuple[Heard, NormalEquations, Estimate]:
    """As much of what is said as moves no zero-point far from the robust one, and the solve with it."""
    top, n = fit.equations.topology, fit.design.n_nodes
    before = top.about_mean(fit.estimate.theta[:n, 0])
    error = np.sqrt(np.maximum(fit.spread.node[:n, 0, 0], 0.0))
    known = (top.size[top.component] > 1) & (error > 0)
    most = FAR * np.sqrt(np.log(max(int(known.sum()), 2)) / np.log(100.0))
    for k in range(HALVINGS + 1):
        equations = job.equations(*said.factors())
        estimate = equations.estimate()
        moved = np.abs(top.about_mean(estimate.theta[:n, 0]) - before)
        if np.all(moved[known] <= most * error[known]):
            break
        said = said.times(0.5 if k < HALVINGS - 1 else 0.0)
    return said, equations, estimate


def ensemble_variance(
    job: LearnedEquations, equations: NormalEquations, estimate: Estimate,
    weight: NDArray[np.floating], tie: NDArray[np.floating], response: NDArray[np.floating],
) -> Array:  # fmt: skip
    """(E,), variance of zero-points over the members, mag^2, to first order about their mean.

    ``H dx = sum dw_i r_i A_i - sum dpi_t c_t (c_t . x - mu_t) + sum dtau_s (mean_s - b_s)``, the last for the stars'
    responses: one right-hand side a member, on the solve's factor.
    """
    design, n = job.design, job.design.n_nodes
    members = weight.shape[0]
    if members < 2:
        return np.zeros(n)
    xy, centre, seeing = design.arrays
    place = (xy, design.block, centre, design.star_block, seeing)
    star_ptr, node, star = design.graph.star_ptr, design.graph.exposure, design.graph.star()
    rhs = np.zeros((*equations.prior.rhs.shape, members))
    ties, gap = job.ties, job.ties.away(estimate.theta)
    residual, inverse = np.nan_to_num(np.asarray(estimate.residual, float)), equations.star_inverse
    alone, held = np.zeros_like(inverse), np.zeros(0)
    if design.star_block == 2:
        mean = 0.0 if job.prior.star_mean is None else job.prior.star_mean
        held = equations.prior.star * (mean - np.nan_to_num(estimate.stars[:, 1]))
    mean_weight, mean_tie, mean_response = (x.mean(0, dtype=float) for x in (weight, tie, response))
    for k in range(members):
        out = np.zeros(equations.prior.rhs.shape)
        pulled = residual * (weight[k] - mean_weight)
        kernels.right_hand_side(star_ptr, node, pulled, equations.w, inverse, *place, out)
        if held.size:
            moved = inverse * (held * (response[k] - mean_response))[:, None]
            shift = -(moved[star, 1] + seeing[node] * moved[star, 2])
            # the stars have moved already: without their inverse they do not move again
            kernels.right_hand_side(star_ptr, node, shift, equations.w, alone, *place, out)
        change = ties.precision * np.exp(ties.factors(mean_tie)) * ties.factors(tie[k] - mean_tie)
        for j in range(ties.unknown.shape[1]):
            np.add.at(out, (ties.unknown[:, j], ties.component[:, j]), -change * gap * ties.coefficient[:, j])
        rhs[..., k] = out
    drawn = job.centring(equations.factor.solve(rhs)[:n, 0])
    return np.asarray((drawn**2).sum(1) / (members - 1), float)


def _probability(logit: NDArray[np.floating]) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(np.asarray(logit, float), -30.0, 30.0))), float)
