"""Held-out stars: two random halves of the stars, solved apart, must agree within their errors.

The score of a method is the mean over exposures of 1/2 [log(vA + vB) + (zA - zB)^2 / (vA + vB)], the negative log
likelihood of the difference. It sees every error but one common to both halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.problem import Problem
from calib.solve.select import subset

Array = NDArray[np.float64]

LARGEST_PULL = 6.0
"""Differences count as at most this many errors, so that one exposure does not decide."""
ENOUGH_EXPOSURES = 300
"""Surveys of fewer are split several times: the exposures of one split share its luck."""
MOST_SPLITS = 8


@dataclass(frozen=True)
class Half:
    """Zero-points, their errors and components from one half of the stars; NaN where a half does not reach."""

    zeropoint: Array
    error: Array
    component: NDArray[np.int32]


@dataclass(frozen=True)
class SplitScore:
    """How well the halves agree.

    Attributes
    ----------
    score
        Mean negative log likelihood of the differences; smaller is better.
    pull
        (nodes compared,), differences over their errors, split after split.
    rms
        Root mean square difference over sqrt(2), mag.
    node
        Which nodes were compared.
    each
        (nodes compared,), the negative log likelihoods that the score is the mean of.
    """

    score: float
    pull: Array
    rms: float
    node: NDArray[np.int64]
    each: Array

    def beyond(self, other: SplitScore) -> float:
        """Standard error of the difference of two scores, from exposures that both compared; NaN from fewer than two.

        A zero-point's part of the difference is its mean over splits: these share its luck.
        """
        theirs, ours = other._of_nodes(), self._of_nodes()
        gap = np.array([ours[e] - theirs[e] for e in sorted(ours.keys() & theirs.keys())])
        return float(gap.std(ddof=1) / np.sqrt(gap.size)) if gap.size > 1 else float("nan")

    def _of_nodes(self) -> dict[int, float]:
        nodes, which, counts = np.unique(self.node, return_inverse=True, return_counts=True)
        return dict(zip(nodes.tolist(), (np.bincount(which, self.each) / counts).tolist(), strict=True))

    def summary(self) -> dict[str, float | int]:
        """For run.json."""
        p = np.abs(self.pull)
        return {
            "score": self.score,
            "n_exposures": int(np.unique(self.node).size),
            "rms_difference_mag": self.rms,
            "pull_std": float(np.sqrt(np.mean(self.pull**2))) if p.size else float("nan"),
            "coverage_68": float(np.mean(p < 1.0)) if p.size else float("nan"),
            "coverage_95": float(np.mean(p < 1.96)) if p.size else float("nan"),
        }


NOT_COMPARED = SplitScore(float("nan"), np.zeros(0), float("nan"), np.zeros(0, np.int64), np.zeros(0))
"""Where no exposure was solved by both halves."""


def halves(problem: Problem, seed: int | list[int]) -> tuple[Problem, Problem]:
    """Split the stars in two; a star's bands stay together."""
    rng = np.random.default_rng(seed)
    codes = (
        problem.stars["star_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
        if problem.stars.height
        else np.zeros(0, int)
    )
    side = rng.random(int(codes.max()) + 1 if codes.size else 0) < 0.5
    first = side[codes][problem.graph.star()]
    return subset(problem, first), subset(problem, ~first)


def compare_halves(a: Half, b: Half) -> SplitScore:
    """Differences after each pair of components has been brought to a common scale."""
    good = np.isfinite(a.zeropoint) & np.isfinite(b.zeropoint) & (a.error > 0) & (b.error > 0)
    node = np.flatnonzero(good)
    pair = a.component[node].astype(np.int64) * (int(b.component.max(initial=0)) + 1) + b.component[node]
    _, group, counts = np.unique(pair, return_inverse=True, return_counts=True)
    keep = counts[group] >= 3
    node, group = node[keep], group[keep]
    if node.size == 0:
        return NOT_COMPARED
    difference = a.zeropoint[node] - b.zeropoint[node]
    variance = a.error[node] ** 2 + b.error[node] ** 2
    n = np.bincount(group)
    known = n > 0
    offset = np.zeros(n.size)
    offset[known] = np.bincount(group, weights=difference)[known] / n[known]
    difference = difference - offset[group]
    pull = difference / np.sqrt(variance)
    likelihood = 0.5 * (np.log(variance) + np.minimum(pull**2, LARGEST_PULL**2))
    return SplitScore(float(likelihood.mean()), pull, float(np.sqrt(np.mean(difference**2) / 2.0)), node, likelihood)


def score(problem: Problem, solve_half: Callable[[Problem], Half], seed: int) -> SplitScore:
    """Solve both halves and compare; surveys of few exposures several times, split anew."""
    found: list[SplitScore] = []
    splits = int(np.clip(ENOUGH_EXPOSURES // max(problem.graph.n_exposures, 1), 1, MOST_SPLITS))
    for k in range(splits):
        first, second = halves(problem, [seed, k] if k else seed)
        if first.m.size and second.m.size:
            found.append(compare_halves(solve_half(first), solve_half(second)))
    found = [s for s in found if s.node.size]
    if not found:
        return NOT_COMPARED
    count = np.array([s.node.size for s in found])
    return SplitScore(
        float(np.average([s.score for s in found], weights=count)),
        np.concatenate([s.pull for s in found]),
        float(np.sqrt(np.average([s.rms**2 for s in found], weights=count))),
        np.concatenate([s.node for s in found]), np.concatenate([s.each for s in found]),
    )  # fmt: skip
