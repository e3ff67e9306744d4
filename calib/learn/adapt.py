"""How tightly the ties hold in the survey at hand, judged by its own stars.

The networks say a factor on each tie, of a zero-point to its night and of a surface to its illumination; a survey of
another kind than those trained on may want all of a kind tighter or looser. The stars are dealt to four groups, and
each is solved alone. Under shifts q a group's ties are ``ln tie_k + q_k``, and the zero-points z_A(q) of one group are
held against those of another, z_B, that no network has touched and no night holds,

    l(q) = sum_e h[(z_A(q) - z_B)_e^2 / (v_A + v_B)_e] + 1/2 sum_k (q_k / SCATTER)^2,   h half of Huber's square,

whose mean is, but for a constant, the squared error of z_A(q): B stays as it is, so that nothing can be made to agree
by leaning on the prior that both have. Gauss-Newton steps minimise it on two groups against each other and it is judged
on the other two, then the other way round; what does not better stars that it has not seen by more than chance is not
kept.

Only ties are adapted. Weights fitted in this way agree better between groups of stars and are further from the truth
(docs/learned.md): what all stars of an exposure have in common no dealing of them shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import Config
from calib.learn.engine import Heard, heard
from calib.learn.exact import LearnedEquations
from calib.model.problem import Problem
from calib.solve.methods import refit
from calib.solve.robust import RobustFit
from calib.solve.select import deciding_part, subset

if TYPE_CHECKING:
    from calib.learn.ensemble import Ensemble

Array = NDArray[np.float64]

ADAPT_MEASUREMENTS, ADAPT_EXPOSURES = 5_000, 40
"""Smaller surveys are left as they are: their quarters could not tell."""
SCATTER = 0.7
"""Of shifts between surveys; a prior, for surveys whose exposures are few to say otherwise."""
STEPS = 4
CHANGE = 0.05
"""Of a shift, to see what it does."""
CORNER = 3.0
UNTIED = 1e-4
"""Factor on the ties of nights in what is held against: as good as none, and the night's own terms stay solved."""
SURE = 2.0
"""Standard errors by which stars not seen have to be bettered."""


@dataclass(frozen=True)
class Adaptation:
    """What was found.

    Attributes
    ----------
    shift
        Added to the logarithms of the ties' factors: jitter, plane, quadratic; zero where it is not kept.
    gain, significance
        In the log likelihood of stars not seen, and over its standard error.
    kept
        Whether it is used.
    """

    shift: tuple[float, float, float]
    gain: float
    significance: float
    kept: bool

    def json(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)


@dataclass
class Group:
    """Some of the stars: their solve, what the networks say of it, and the answer without either, (E,)."""

    job: LearnedEquations
    factors: tuple[Array, Array, Array]
    variance: Array
    free: Array
    free_variance: Array

    @classmethod
    def of(cls, fit: RobustFit, said: Heard) -> Group:
        """Solve once without networks and without nights."""
        job = LearnedEquations(fit)
        n, top = job.design.n_nodes, job.topology
        tie = np.ones((n, 3))
        tie[:, 0] = UNTIED
        ones = np.ones(job.design.n_measurements), tie, np.ones(job.design.n_stars)
        free = job.equations(*ones).estimate().theta[:n, 0].copy()
        free[top.size[top.component] < 2] = np.nan
        variance = job.equations(*ones, scale=job.loss).spread().node[:n, 0, 0]
        return cls(job, said.factors(), fit.spread.node[:n, 0, 0], free, variance)

    def zeropoints(self, shift: Array) -> Array:
        """Under shifts of the ties."""
        weight, tie, response = self.factors
        theta = self.job.equations(weight, tie * np.exp(shift), response).estimate().theta
        return np.asarray(theta[: self.job.design.n_nodes, 0])


class Pair:
    """One group under shifts against another without networks and nights."""

    def __init__(self, a: Group, b: Group) -> None:
        self.a, self.b = a, b
        variance = a.variance + b.free_variance
        node = np.flatnonzero(np.isfinite(b.free) & np.isfinite(a.free) & (variance > 0))
        first, second = a.job.topology.component[node], b.job.topology.component[node]
        both = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
        _, component, count = np.unique(both, return_inverse=True, return_counts=True)
        keep = count[component] >= 3
        self.node, self.error = node[keep], np.sqrt(variance[node[keep]])
        _, self.component = np.unique(component[keep], return_inverse=True)
        self.total = np.bincount(self.component, self.error**-2.0)

    def pulls(self, shift: Array) -> Array:
        """Differences over their errors, each two components on a common scale."""
        difference = self.a.zeropoints(shift)[self.node] - self.b.free[self.node]
        mean = np.bincount(self.component, difference / self.error**2) / self.total
        return np.asarray((difference - mean[self.component]) / self.error)


def huber(pull: Array) -> Array:
    """Half the square of pulls, growing linearly beyond the corner."""
    size = np.abs(pull)
    return np.where(size < CORNER, 0.5 * pull**2, CORNER * (size - 0.5 * CORNER))


def best_shift(pairs: list[Pair]) -> Array:
    """Minimise l(q) by Gauss-Newton steps, halved where they do not lower it."""

    def pulls(q: Array) -> Array:
        return np.concatenate([pair.pulls(q) for pair in pairs])

    def loss(q: Array, x: Array) -> float:
        return float(huber(x).sum() + 0.5 * ((q / SCATTER) ** 2).sum())

    q = np.zeros(3)
    x = pulls(q)
    now = loss(q, x)
    for _ in range(STEPS):
        slope = np.stack([(pulls(q + CHANGE * along) - x) / CHANGE for along in np.eye(3)], axis=1)
        weight = np.minimum(1.0, CORNER / np.maximum(np.abs(x), 1e-9))
        curvature = slope.T @ (weight[:, None] * slope) + np.eye(3) / SCATTER**2
        step = np.linalg.solve(curvature, -slope.T @ (weight * x) - q / SCATTER**2)
        for size in (1.0, 0.5, 0.25):
            trial = pulls(q + size * step)
            lower = loss(q + size * step, trial)
            if lower < now:
                break
        else:
            break
        q, x, gain, now = q + size * step, trial, now - lower, lower
        if gain < 0.01:
            break
    return q


def judged(groups: list[Group]) -> Adaptation:
    """Shifts from two groups each, and what the other two say of them."""
    one, two = ([Pair(a, b), Pair(b, a)] for a, b in (groups[:2], groups[2:]))
    if not all(pair.node.size for pair in one + two):
        return Adaptation((0.0, 0.0, 0.0), 0.0, 0.0, False)
    first, second = best_shift(one), best_shift(two)
    unseen = [(pair, q) for pairs, q in ((one, second), (two, first)) for pair in pairs]
    gains = np.concatenate([huber(pair.pulls(np.zeros(3))) - huber(pair.pulls(q)) for pair, q in unseen])
    gain = float(gains.sum())
    significance = gain / max(float(gains.std()) * np.sqrt(gains.size), 1e-12)
    kept = bool(significance > SURE)
    shift = 0.5 * (first + second) if kept else np.zeros(3)
    return Adaptation((float(shift[0]), float(shift[1]), float(shift[2])), gain, significance, kept)


def adapted(
    problem: Problem, fit: RobustFit, config: Config, ensemble: Ensemble | None = None, device: str = "auto"
) -> Adaptation | None:
    """Adapt to a survey, or to a part that decides for it; None where it is too small to tell, or without ties.

    Parameters
    ----------
    fit
        The robust one of the whole survey.
    ensemble
        The shipped one when not given.
    """
    part = deciding_part(problem, fit.design)
    enough = part.m.size >= ADAPT_MEASUREMENTS and part.n_exposures >= ADAPT_EXPOSURES
    if not enough or not LearnedEquations(fit).ties.precision.size:
        return None
    groups = []
    for quarter, found in solved_apart(part, fit, 4, config):
        groups.append(Group.of(found, heard(quarter, found, ensemble, device)))
    return judged(groups)


def solved_apart(problem: Problem, fit: RobustFit, groups: int, config: Config) -> Iterator[tuple[Problem, RobustFit]]:
    """Deal the stars to groups, a star's bands together, and solve each alone from what the whole has learned."""
    codes = problem.stars["star_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    group = np.random.default_rng([config.seed, 4]).integers(groups, size=int(codes.max()) + 1)
    of_row = group[codes][problem.graph.star()]
    for k in range(groups):
        part = subset(problem, of_row == k)
        yield part, refit(part, fit, config)
