"""Stars of a survey dealt to groups that say how right each other's zero-points are, without any truth.

Each group is solved alone. The zero-points of one, under what networks believe, are held against those of another that
no network has touched and no night holds. Those stay as they are, so that nothing can be made to agree by leaning on
the prior that both have: but for a constant, the mean squared difference is the squared error of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.config import Config
from calib.learn.engine import Heard
from calib.learn.ensemble import Scene
from calib.learn.exact import LearnedEquations, TiedEquations
from calib.model.problem import Problem
from calib.solve.methods import refit
from calib.solve.robust import RobustFit
from calib.solve.select import subset

Array = NDArray[np.float64]

UNTIED = 1e-4
"""Factor on the ties of nights in what is held against: as good as none, and the night's own terms stay solved."""
CORNER = 3.0
"""Pulls beyond which a loss grows linearly."""


@dataclass
class Group:
    """Some of the stars: their solve, what the networks say of it, and the answer without either, (E,).

    Attributes
    ----------
    tied
        The solve with the networks' weights, to be had under any ties.
    said
        (E, 3), logarithms of the factors on ties, the members' mean.
    scene
        What they were said from, where networks were asked.
    variance
        Of the robust zero-points, mag^2.
    free, free_variance
        Zero-points without networks and nights, NaN where they are alone, and their variance.
    """

    tied: TiedEquations
    said: Array
    scene: Scene | None
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
        weight, _, response = said.factors()
        ties = said.tie.mean(0, dtype=float)
        tied = TiedEquations(job, weight, response)
        return cls(tied, ties, said.scene, fit.spread.node[:n, 0, 0], free, variance)

    @property
    def component(self) -> NDArray[np.int32]:
        """(E,)."""
        return self.tied.job.topology.component

    def zeropoints(self, shift: Array) -> Array:
        """Under shifts of the ties."""
        theta = self.tied.solve(np.exp(self.said + shift))[1]
        return np.asarray(theta[: self.said.shape[0], 0])


class Pair:
    """One group under some ties against another without networks and nights.

    ``node`` are the exposures that can be compared, R of them.
    """

    def __init__(self, a: Group, b: Group) -> None:
        self.a, self.b = a, b
        variance = a.variance + b.free_variance
        node = np.flatnonzero(np.isfinite(b.free) & np.isfinite(a.free) & (variance > 0))
        first, second = a.component[node], b.component[node]
        both = first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second
        _, component, count = np.unique(both, return_inverse=True, return_counts=True)
        keep = count[component] >= 3
        self.node, self.error = node[keep], np.sqrt(variance[node[keep]])
        _, component = np.unique(component[keep], return_inverse=True)
        total = np.bincount(component, self.error**-2.0)
        self._at, self._component, self._total, self._error, self._free = (
            torch.from_numpy(x) for x in (self.node, component, total, self.error, b.free[self.node])
        )

    def pulls(self, z: Tensor) -> Tensor:
        """Differences of zero-points of the first group (E,) over their errors, each two components on one scale."""
        difference = z[self._at] - self._free
        weighted = torch.zeros_like(self._total).index_add(0, self._component, difference / self._error**2)
        return (difference - (weighted / self._total)[self._component]) / self._error

    def shifted(self, shift: Array) -> Array:
        """Pulls under shifts of the ties, (R,)."""
        return np.asarray(self.pulls(torch.from_numpy(self.a.zeropoints(shift))).numpy())


def huber(pull: Array) -> Array:
    """Half the square of pulls, growing linearly beyond the corner."""
    size = np.abs(pull)
    return np.where(size < CORNER, 0.5 * pull**2, CORNER * (size - 0.5 * CORNER))


def solved_apart(problem: Problem, fit: RobustFit, groups: int, config: Config) -> Iterator[tuple[Problem, RobustFit]]:
    """Deal the stars to groups, a star's bands together, and solve each alone from what the whole has learned."""
    codes = problem.stars["star_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    group = np.random.default_rng([config.seed, 4]).integers(groups, size=int(codes.max()) + 1)
    of_row = group[codes][problem.graph.star()]
    for k in range(groups):
        part = subset(problem, of_row == k)
        yield part, refit(part, fit, config)
