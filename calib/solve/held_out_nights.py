"""Held-out nights: two random halves of the nights, solved apart, must agree on their stars within the stated errors.

Held-out stars (`calib.solve.split`) share every exposure, so that what a night does to all of its stars alike is in
both halves; halves of the nights share no exposure, and that error is in what they differ by. No form of it is assumed:
how many stated errors hold 68 and 95 % of the differences is counted (split conformal prediction, Vovk, Gammerman &
Shafer 2005), where a normal would need 0.99 and 1.96.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from calib.model.problem import Problem
from calib.solve.methods import Solved
from calib.solve.select import subset, without_idle

Array = NDArray[np.float64]

LEAST_NIGHTS = 4
LEAST_STARS = 100
"""Fewer do not tell what holds 95 % of them."""
LEAST_SHARED = 10
"""Stars of a pair of components, whose common scale takes one away."""
VARIABLE = 0.5
"""Probability from which on a star is known to vary, and its differences are its own."""


@dataclass(frozen=True)
class NightSplit:
    """How well halves of the nights agree on their stars.

    Attributes
    ----------
    n_nights, n_stars
        Nights dealt out, and stars compared.
    rms_difference_mag
        Over sqrt(2), mag.
    errors_68, errors_95
        Stated errors that hold 68 and 95 % of the differences.
    inflation_68, inflation_95
        The same over what a normal needs: errors of stars times this would hold.
    """

    n_nights: int
    n_stars: int
    rms_difference_mag: float
    errors_68: float
    errors_95: float
    inflation_68: float
    inflation_95: float

    def json(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)


def conformal(size: Array, share: float) -> float:
    """What holds this share of draws exchangeable with these: their order statistic of rank ``ceil((n + 1) share)``."""
    rank = int(np.ceil((size.size + 1) * share))
    return float(np.sort(size)[rank - 1]) if rank <= size.size else float("inf")


def night_halves(problem: Problem, seed: int) -> tuple[Problem, Problem] | None:
    """Deal the nights out; None where there are too few of them."""
    if problem.night is None:
        return None
    nights = np.unique(problem.night[problem.night >= 0])
    if nights.size < LEAST_NIGHTS:
        return None
    side = np.random.default_rng([seed, 5]).permutation(nights.size) % 2
    at = np.searchsorted(nights, np.clip(problem.night, nights[0], nights[-1]))
    of_node = np.where(problem.night >= 0, side[at], -1)
    of_node[problem.n_exposures :] = -1
    node = problem.graph.exposure
    first, second = (without_idle(subset(problem, of_node[node] == k)) for k in (0, 1))
    return first, second


def compare_stars(a: pl.DataFrame, b: pl.DataFrame, n_nights: int) -> NightSplit | None:
    """Differences of stars in both after each pair of components has been brought to a common scale.

    Tables of star_id, band, mag, variance and component; None where too few stars are in both.
    """
    both = a.join(b, on=["star_id", "band"], suffix="_b").filter(
        pl.col("mag").is_finite(), pl.col("mag_b").is_finite(), pl.col("variance") + pl.col("variance_b") > 0
    )
    pair = ["component", "component_b"]
    both = both.filter(pl.len().over(pair) >= LEAST_SHARED)
    if both.height < LEAST_STARS:
        return None
    difference, variance = pl.col("mag") - pl.col("mag_b"), pl.col("variance") + pl.col("variance_b")
    # the median: blends and variable stars that nothing gave away do not move the scale
    both = both.with_columns(gap=difference - difference.median().over(pair), error=variance.sqrt())
    gap, error = both["gap"].to_numpy(), both["error"].to_numpy()
    size = np.abs(gap) / error
    held = conformal(size, 0.68), conformal(size, 0.95)
    normal = ndtri(0.5 + 0.5 * np.array([0.68, 0.95]))
    return NightSplit(
        n_nights, both.height, float(np.sqrt(np.mean(gap**2) / 2.0)), *held,
        held[0] / float(normal[0]), held[1] / float(normal[1]),
    )  # fmt: skip


def stars_of(problem: Problem, solved: Solved) -> pl.DataFrame:
    """What a solve says of its stars, those that it knows to vary left out."""
    fit, top = solved.fit, solved.equations.topology
    first = problem.graph.star_ptr[:-1]
    component = top.component[problem.graph.exposure[first]]
    variance = np.maximum(solved.spread.star[:, 0], 0.0) * solved.inflation[component] ** 2
    table = problem.stars.select("star_id", pl.col("band").cast(pl.String)).with_columns(
        mag=pl.Series(fit.estimate.stars[:, 0]), variance=pl.Series(variance),
        component=pl.Series(component.astype(np.int64)),
    )  # fmt: skip
    tied = (top.size[component] > 1) & ~(fit.weighted.variable > VARIABLE)
    return table.filter(pl.Series(tied))


def score_nights(problem: Problem, solve_part: Callable[[Problem], Solved], seed: int) -> NightSplit | None:
    """Solve both halves of the nights and compare; None where nights are unknown or too few to tell."""
    parts = night_halves(problem, seed)
    if parts is None or not all(part.m.size for part in parts):
        return None
    assert problem.night is not None
    a, b = (stars_of(part, solve_part(part)) for part in parts)
    return compare_stars(a, b, int(np.unique(problem.night[problem.night >= 0]).size))
