"""Nights: zero-points of one night are tied by extinction, as tightly as that night's own scatter allows.

    z_e = a_night - k_night (X_e - 1) - d_night t_e X_e + s q_e + jitter_e
    a_night ~ t(a_band, S_a),  k_night ~ N(k_band, S_k),  d_night ~ N(0, S_d)

with X the airmass, t the hours since the middle of the night's exposures, and q the logarithm of the seeing (light lost
from an aperture). d is the drift of extinction through the night, as in the ubercalibration of Padmanabhan et al. 2008
(ApJ 674, 1217), there one number for the survey; it is carried where exposures have times. A photometric night
has a small scatter and ties its exposures even where they share no star; a cloudy one has a large scatter and ties
nothing. Which is which is learned (calib/model/jitter.py); nothing is listed by hand.

Where detectors have zero-points of their own, each detector of a band is as a band here (`Problem.channels`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from calib.model.jitter import JITTER_GRID, JitterPrior
from calib.model.priors import GroupPrior

Array = NDArray[np.float64]
Ints = NDArray[np.int32]

USUAL_EXTINCTION = (0.15, 0.3)
"""Mean and standard deviation of k_band before any data, mag per airmass."""
USUAL_SEEING_SLOPE = 0.1
"""Standard deviation of s before any data, mag per unit of ln(seeing)."""
USUAL_SLOPE = 0.03
"""Standard deviation of a night's k about its band's before any data, mag per airmass."""
USUAL_DRIFT = 0.001
"""Standard deviation of d before any data, mag per airmass and hour: a judgement, a hundredth in a night of ten."""
TIGHT = 0.01**2
"""Variance of the jitter, mag^2, up to which a night tells its own extinction from its clouds."""
SMALLEST_NIGHT = 3


Place = tuple[Ints, int]
"""Hubs and which of their coefficients: an index into arrays (E + H, K)."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of coefficients that the night model couples; several may be of the same two blocks.

    Attributes
    ----------
    row, column
        int32, the smaller node or hub and the larger.
    of_row, of_column
        int64, which of their coefficients.
    ties
        bool, whether a pair ties levels of zero-points.
    """

    row: Ints
    column: Ints
    of_row: NDArray[np.int64]
    of_column: NDArray[np.int64]
    ties: NDArray[np.bool_]

    def among(self, which: NDArray[np.bool_]) -> Pairs:
        """Some of them."""
        return Pairs(
            self.row[which], self.column[which], self.of_row[which], self.of_column[which], self.ties[which]
        )  # fmt: skip


@dataclass(frozen=True)
class NightLevels:
    """Hubs of the night model and how nodes hang on them.

    A band has a, k and s; a night of a band a, k and, where times are known, d. A hub holds as many of them as a node
    has coefficients, so that with surfaces a night is one hub and not three: the factor is the smaller for it.

    Attributes
    ----------
    first, n_bands, n_groups
        Number of the first hub; bands; nights of a band.
    n_of_night
        Unknowns of a night: 2, or 3 with the drift.
    block
        K, coefficients of a hub.
    node, group, band
        int32, the nodes that have a night model, each one's night, and each night's band.
    airmass, seeing, path
        X - 1, q and t X of those nodes; hours times airmass.
    """

    first: int
    n_bands: int
    n_groups: int
    n_of_night: int
    block: int
    node: Ints
    group: Ints
    band: Ints
    airmass: Array
    seeing: Array
    path: Array

    @cached_property
    def unknown(self) -> Ints:
        """(N, J), the node and the hubs that a jitter is a sum of coefficients of."""
        return np.stack([self.node, *(hub for hub, _ in self._of_jitter)], axis=1)

    @cached_property
    def component(self) -> NDArray[np.int64]:
        """(J,), which coefficient of each."""
        return np.array([0, *(k for _, k in self._of_jitter)])

    @property
    def _of_jitter(self) -> list[Place]:
        places = [self.level(self.group), self.slope(self.group), self.band_hub(2, self.band[self.group])]
        return [*places, self.drift(self.group)] if self.drifts else places

    @cached_property
    def coefficient(self) -> Array:
        """(N, J), of each in ``jitter = sum_j coefficient_j theta[unknown_j, component_j]``."""
        ones = np.ones(self.node.size)
        each = [ones, -ones, self.airmass, -self.seeing, *([self.path] if self.drifts else [])]
        return np.stack(each, axis=1)

    @cached_property
    def all_pairs(self) -> Pairs:
        """All that the prior couples: each two of a jitter, node by node; then levels and slopes with their band's."""
        places: list[Place] = [(self.node, 0), *self._of_jitter]
        nights = np.arange(self.n_groups)
        found = list(combinations(places, 2))
        found.append((self.band_hub(0, self.band), self.level(nights)))
        found.append((self.band_hub(1, self.band), self.slope(nights)))
        one, other = (np.concatenate([p[k][0] for p in found]).astype(np.int32) for k in (0, 1))
        of_one, of_other = (np.concatenate([np.full(p[k][0].size, p[k][1]) for p in found]) for k in (0, 1))
        tie = np.isin(np.arange(len(found)), (0, len(found) - 2))  # a node and its night's level, that and its band's
        ties = np.repeat(tie, [p[0][0].size for p in found])
        turned = one > other
        return Pairs(
            np.where(turned, other, one), np.where(turned, one, other), np.where(turned, of_other, of_one),
            np.where(turned, of_one, of_other), ties,
        )  # fmt: skip

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which of all pairs are of one hub's own coefficients."""
        return np.asarray(self.all_pairs.row == self.all_pairs.column)

    @cached_property
    def pairs(self) -> Pairs:
        """Those of two blocks, in their order."""
        return self.all_pairs.among(~self.inside)

    @cached_property
    def own_pairs(self) -> Pairs:
        """Those of one hub's own coefficients."""
        return self.all_pairs.among(self.inside)

    @property
    def row(self) -> Ints:
        """The smaller node or hub of every pair of blocks."""
        return self.pairs.row

    @property
    def column(self) -> Ints:
        """The larger."""
        return self.pairs.column

    @property
    def ties(self) -> NDArray[np.bool_]:
        """Which pairs are ties."""
        return self.pairs.ties

    @property
    def n_unknowns(self) -> int:
        """Three a band, and those of nights."""
        return 3 * self.n_bands + self.n_of_night * self.n_groups

    @property
    def n_hubs(self) -> int:
        """Hubs that hold them."""
        return self._hubs(3) * self.n_bands + self._hubs(self.n_of_night) * self.n_groups

    def _hubs(self, n_unknowns: int) -> int:
        return -(-n_unknowns // self.block)

    @property
    def drifts(self) -> bool:
        """Whether nights have a drift."""
        return self.n_of_night == 3

    @classmethod
    def of(
        cls, band: Ints, night: NDArray[np.int64], airmass: Array, log_seeing: Array, first: int,
        mjd: Array | None = None, block: int = 1,
    ) -> NightLevels | None:  # fmt: skip
        """Night model of the nodes whose night and airmass are known; None where no night has exposures enough."""
        known = (night >= 0) & np.isfinite(airmass)
        keys, which, counts = np.unique(np.c_[band, night][known], axis=0, return_inverse=True, return_counts=True)
        which = which.ravel()
        good = counts >= SMALLEST_NIGHT
        if not good.any():
            return None
        inside = good[which]
        node = np.flatnonzero(known)[inside].astype(np.int32)
        group = (np.cumsum(good) - 1)[which[inside]].astype(np.int32)
        group_band, n_groups = keys[good, 0].astype(np.int32), int(good.sum())
        hours = np.zeros(node.size) if mjd is None else _hours(mjd[node], group, n_groups)
        return cls(
            first, int(group_band.max()) + 1, n_groups, 3 if hours.any() else 2, block, node, group, group_band,
            airmass[node] - 1.0, log_seeing[node], hours * airmass[node],
        )  # fmt: skip

    def band_hub(self, which: int, band: Ints) -> Place:
        """A band's a (0), k (1) or s (2)."""
        hub, k = divmod(which, self.block)
        return (self.first + self._hubs(3) * band + hub).astype(np.int32), k

    def level(self, group: NDArray[np.integer]) -> Place:
        """A night's a."""
        return self._of_night(0, group)

    def slope(self, group: NDArray[np.integer]) -> Place:
        """A night's k."""
        return self._of_night(1, group)

    def drift(self, group: NDArray[np.integer]) -> Place:
        """A night's d."""
        return self._of_night(2, group)

    def _of_night(self, which: int, group: NDArray[np.integer]) -> Place:
        hub, k = divmod(which, self.block)
        first = self.first + self._hubs(3) * self.n_bands
        return (first + self._hubs(self.n_of_night) * group + hub).astype(np.int32), k

    def jitter(self, theta: Array) -> Array:
        """(N,), how far nodes lie from their night, of coefficients (E + H, K)."""
        return np.asarray(np.einsum("nj,nj->n", self.coefficient, theta[self.unknown, self.component]))


def _hours(mjd: Array, group: Ints, n_groups: int) -> Array:
    """Hours since the mean time of each group; 0 where the time is not known, and in groups longer than a day."""
    known = np.isfinite(mjd)
    start, end = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(start, group[known], mjd[known])
    np.maximum.at(end, group[known], mjd[known])
    known &= (end - start < 1.0)[group]
    hours = np.where(known, 24.0 * (mjd - start[group]), 0.0)
    count = np.bincount(group[known], minlength=n_groups)
    mean = np.bincount(group, hours, n_groups) / np.maximum(count, 1)
    return np.where(known, hours - mean[group], 0.0)


@dataclass
class Quadratic:
    """Sparse quadratic form in coefficients of nodes and hubs.

    Attributes
    ----------
    diagonal
        (E + H, K, K), precisions of their blocks.
    pair
        (pairs,), of the pairs of two blocks.
    rhs
        (E + H, K).
    """

    diagonal: Array
    pair: Array
    rhs: Array


def _alike(usual: float, strength: float) -> GroupPrior:
    """Of what no night has far more of than others, and tight nights alone say how much.

    A cloud that comes up while the airmass changes would be taken for extinction, and be gone from the clouds.
    """
    return GroupPrior(1, usual**2, strength=strength, usual=usual**2, alike=True)


@dataclass
class LevelPriors:
    """Learned variances of the night model."""

    levels: NightLevels
    level: GroupPrior = field(default_factory=lambda: GroupPrior(1, 0.03**2, 3.0, strength=2.0, usual=0.03**2))
    slope: GroupPrior = field(default_factory=lambda: _alike(USUAL_SLOPE, 6.0))
    drift: GroupPrior = field(default_factory=lambda: _alike(USUAL_DRIFT, 9.0))
    jitter: JitterPrior = field(init=False)
    last: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.jitter = JitterPrior(self.levels.group, self.levels.n_groups)

    @property
    def groups(self) -> dict[str, GroupPrior]:
        """Priors by name: of nights' levels and slopes about their band's, of drifts about none."""
        drift = {"drift": self.drift} if self.levels.drifts else {}
        return {"level": self.level, "slope": self.slope} | drift

    @property
    def tight(self) -> Array:
        """(nights,), probability that a night's own scatter is small; nothing is known of it before it was observed."""
        posterior = self.jitter.posterior
        return np.ones(self.levels.n_groups) if posterior is None else posterior[:, JITTER_GRID <= TIGHT].sum(1)

    def observe(self, theta: Array, covariance: Array, of_pairs: Array, step: float = 1.0) -> None:
        """Residuals of the night model after a solve.

        Parameters
        ----------
        theta, covariance
            (E + H, K) and (E + H, K, K), the coefficients and the covariance of each block's.
        of_pairs
            (pairs,), covariances of the pairs of two blocks.
        step
            Share of the way that jitters' sites go.
        """
        h = self.levels
        n, c, night = h.node.size, h.coefficient, np.arange(h.n_groups)
        variance = np.einsum("ekk->ek", covariance)
        residual = h.jitter(theta)
        spread = np.einsum("nj,nj->n", c**2, variance[h.unknown, h.component])
        own, both_of = h.own_pairs, np.empty(h.inside.size)
        both_of[~h.inside] = of_pairs
        both_of[h.inside] = covariance[own.row, own.of_row, own.of_column]
        *of_jitters, of_bands = np.split(both_of, n * np.arange(1, comb(c.shape[1], 2) + 1))
        for (i, j), both in zip(combinations(range(c.shape[1]), 2), of_jitters, strict=True):
            spread += 2.0 * c[:, i] * c[:, j] * both
        of_levels, of_slopes = of_bands.reshape(2, -1)
        self.last = {"jitter": (residual**2, np.maximum(spread, 0.0))}
        for name, hub, band, both in (
            ("level", h.level(night), h.band_hub(0, h.band), of_levels),
            ("slope", h.slope(night), h.band_hub(1, h.band), of_slopes),
        ):
            gap2, apart = (theta[hub] - theta[band]) ** 2, variance[hub] + variance[band] - 2.0 * both
            self.last[name] = (gap2, np.maximum(apart, 0.0))
        if h.drifts:
            self.last["drift"] = (theta[h.drift(night)] ** 2, variance[h.drift(night)])
        self.jitter.observe(residual, np.maximum(spread, 0.0), step)

    def update(self) -> float:
        """One step of every variance; returns the largest change of a log variance that matters."""
        everyone = np.ones(self.levels.n_groups, bool)
        change = max(
            prior.update(*self.last[name], everyone if name == "level" else self.tight > 0.5)
            for name, prior in self.groups.items()
        )
        self.jitter.update()
        return change

    def quadratic(self, n_all: int) -> Quadratic:
        """The prior as a quadratic form over all n_all nodes and hubs."""
        h, c = self.levels, self.levels.coefficient
        lam, pull = self.jitter.precision, self.jitter.precision * self.jitter.mean
        diagonal, rhs = np.zeros((n_all, h.block)), np.zeros((n_all, h.block))
        for j, k in enumerate(h.component):
            diagonal[:, k] += np.bincount(h.unknown[:, j], weights=lam * c[:, j] ** 2, minlength=n_all)
            rhs[:, k] += np.bincount(h.unknown[:, j], weights=pull * c[:, j], minlength=n_all)
        night = np.arange(h.n_groups)
        tight = {
            name: prior.precision(*self.last[name]) if name in self.last else np.full(h.n_groups, 1.0 / prior.scale)
            for name, prior in self.groups.items()
        }
        hubs = [
            (h.level(night), "level"), (h.band_hub(0, h.band), "level"), (h.slope(night), "slope"),
            (h.band_hub(1, h.band), "slope"),
        ]  # fmt: skip
        if h.drifts:
            hubs.append((h.drift(night), "drift"))
        for (hub, k), name in hubs:
            diagonal[:, k] += np.bincount(hub, weights=tight[name], minlength=n_all)
        bands = np.arange(h.n_bands, dtype=np.int32)
        # a band without a night has a level that nothing speaks of
        diagonal[h.band_hub(0, bands)] += np.bincount(h.band, minlength=h.n_bands) == 0
        mean, width = USUAL_EXTINCTION
        diagonal[h.band_hub(1, bands)] += 1.0 / width**2
        rhs[h.band_hub(1, bands)] += mean / width**2
        diagonal[h.band_hub(2, bands)] += 1.0 / USUAL_SEEING_SLOPE**2
        jitters = [lam * c[:, i] * c[:, j] for i, j in combinations(range(c.shape[1]), 2)]
        both = np.concatenate([*jitters, -tight["level"], -tight["slope"]])
        blocks, own = diagonal[:, :, None] * np.eye(h.block), h.own_pairs
        np.add.at(blocks, (own.row, own.of_row, own.of_column), both[h.inside])
        np.add.at(blocks, (own.row, own.of_column, own.of_row), both[h.inside])
        return Quadratic(blocks, both[~h.inside], rhs)

    def log_density(self) -> float:
        """Log density of the jitters and of what nights have of their own at their estimates."""
        nights = sum(float(prior.log_density(self.last[name][0]).sum()) for name, prior in self.groups.items())
        return self.jitter.log_sites + nights
