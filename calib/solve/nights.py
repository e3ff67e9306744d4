"""Nights: zero-points of one night are tied by extinction, as tightly as that night's own scatter allows.

    z_e = a_night - k_night (X_e - 1) + s q_e + jitter_e
    a_night ~ t(a_band, S_a),  k_night ~ t(k_band, S_k)

with X the airmass and q the logarithm of the seeing (light lost from an aperture). A photometric night has a small
scatter and ties its exposures even where they share no star; a cloudy one has a large scatter and ties nothing. Which
is which is learned (calib/model/jitter.py); nothing is listed by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calib.model.jitter import JitterPrior
from calib.model.priors import GroupPrior

Array = NDArray[np.float64]
Ints = NDArray[np.int32]

USUAL_EXTINCTION = (0.15, 0.3)
"""Mean and standard deviation of k_band before any data, mag per airmass."""
USUAL_SEEING_SLOPE = 0.1
"""Standard deviation of s before any data, mag per unit of ln(seeing)."""
SMALLEST_NIGHT = 3


@dataclass(frozen=True)
class NightLevels:
    """Hubs of the night model and how nodes hang on them.

    Hubs of a band: a, k, s; hubs of a night of a band: a, k. Every pair couples their first coefficients.

    Attributes
    ----------
    first, n_bands, n_groups
        Number of the first hub; bands; nights of a band.
    node, group, band
        int32, the nodes that have a night model, each one's night, and each night's band.
    airmass, seeing
        X - 1 and q of those nodes.
    row, column, ties
        All pairs; ties are those between zero-points' levels.
    """

    first: int
    n_bands: int
    n_groups: int
    node: Ints
    group: Ints
    band: Ints
    airmass: Array
    seeing: Array
    row: Ints
    column: Ints
    ties: NDArray[np.bool_]

    @property
    def n_hubs(self) -> int:
        """Three a band and two a night."""
        return 3 * self.n_bands + 2 * self.n_groups

    @classmethod
    def of(
        cls, band: Ints, night: NDArray[np.int64], airmass: Array, log_seeing: Array, first: int
    ) -> NightLevels | None:
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
        group_band = keys[good, 0].astype(np.int32)
        n_bands = int(group_band.max()) + 1
        self = cls(
            first, n_bands, int(good.sum()), node, group, group_band, airmass[node] - 1.0, log_seeing[node],
            np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool),
        )  # fmt: skip
        a, k = self.level(group), self.slope(group)
        s = self.band_hub(2, group_band[group])
        groups = np.arange(self.n_groups)
        ga, gk, gs = self.level(groups), self.slope(groups), self.band_hub(2, group_band)
        pairs = [
            (node, a, True), (node, k, False), (node, s, False), (ga, gk, False), (gs, ga, False), (gs, gk, False),
            (self.band_hub(0, group_band), ga, True), (self.band_hub(1, group_band), gk, False),
        ]  # fmt: skip
        row = np.concatenate([p[0] for p in pairs]).astype(np.int32)
        column = np.concatenate([p[1] for p in pairs]).astype(np.int32)
        ties = np.concatenate([np.full(p[0].size, p[2]) for p in pairs])
        return cls(
            first, n_bands, self.n_groups, node, group, group_band, self.airmass, self.seeing, row, column, ties
        )

    def band_hub(self, which: int, band: Ints) -> Ints:
        """Hub of a band's a (0), k (1) or s (2)."""
        return (self.first + 3 * band + which).astype(np.int32)

    def level(self, group: NDArray[np.integer]) -> Ints:
        """Hub of a night's a."""
        return (self.first + 3 * self.n_bands + 2 * group).astype(np.int32)

    def slope(self, group: NDArray[np.integer]) -> Ints:
        """Hub of a night's k."""
        return (self.first + 3 * self.n_bands + 2 * group + 1).astype(np.int32)


@dataclass
class Quadratic:
    """Sparse quadratic form in the first coefficients: precisions on the diagonal of nodes and hubs, of pairs, rhs."""

    diagonal: Array
    pair: Array
    rhs: Array


@dataclass
class LevelPriors:
    """Learned variances of the night model."""

    levels: NightLevels
    level: GroupPrior = field(default_factory=lambda: GroupPrior(1, 0.03**2, 3.0, strength=2.0, usual=0.03**2))
    slope: GroupPrior = field(default_factory=lambda: GroupPrior(1, 0.03**2, 3.0, strength=2.0, usual=0.03**2))
    jitter: JitterPrior = field(init=False)
    last: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.jitter = JitterPrior(self.levels.group, self.levels.n_groups)

    def observe(self, theta: Array, variance: Array, covariance: Array) -> None:
        """Residuals of the night model after a solve.

        Parameters
        ----------
        theta, variance
            (E + H,), first coefficients and their variances.
        covariance
            (pairs of the levels,), covariances of the pairs' first coefficients.
        """
        h = self.levels
        n, g = h.node.size, h.n_groups
        bounds = np.cumsum([0, n, n, n, g, g, g, g, g])
        ea, ek, es, ak, sa, sk, ba, bk = (covariance[i:j] for i, j in zip(bounds[:-1], bounds[1:], strict=True))
        groups = np.arange(g)
        a, k = h.level(h.group), h.slope(h.group)
        s = h.band_hub(2, h.band[h.group])
        x, q, of = h.airmass, h.seeing, h.group
        residual = theta[h.node] - theta[a] + x * theta[k] - q * theta[s]
        spread = (
            variance[h.node] + variance[a] + x**2 * variance[k] + q**2 * variance[s]
            - 2 * ea + 2 * x * ek - 2 * q * es - 2 * x * ak[of] + 2 * q * sa[of] - 2 * x * q * sk[of]
        )  # fmt: skip
        ga, gk = h.level(groups), h.slope(groups)
        ta, tk = h.band_hub(0, h.band), h.band_hub(1, h.band)
        self.last = {
            "jitter": (residual**2, np.maximum(spread, 0.0)),
            "level": ((theta[ga] - theta[ta]) ** 2, np.maximum(variance[ga] + variance[ta] - 2 * ba, 0.0)),
            "slope": ((theta[gk] - theta[tk]) ** 2, np.maximum(variance[gk] + variance[tk] - 2 * bk, 0.0)),
        }
        self.jitter.observe(residual, np.maximum(spread, 0.0))

    def update(self) -> float:
        """One step of every variance; returns the largest change of a log variance that matters."""
        before = self.level.scale, self.slope.scale
        everyone = np.ones(self.levels.n_groups, bool)
        self.level.update(*self.last["level"], everyone)
        self.slope.update(*self.last["slope"], everyone)
        self.jitter.update()
        return float(max(abs(np.log(self.level.scale / before[0])), abs(np.log(self.slope.scale / before[1]))))

    def quadratic(self, n_all: int) -> Quadratic:
        """The prior as a quadratic form over all n_all nodes and hubs."""
        h = self.levels
        lam, pull = self.jitter.precision, self.jitter.precision * self.jitter.mean
        a, k, s = h.level(h.group), h.slope(h.group), h.band_hub(2, h.band[h.group])
        x, q, g = h.airmass, h.seeing, h.n_groups
        diagonal, rhs = np.zeros(n_all), np.zeros(n_all)
        for hub, c in ((h.node, np.ones(x.size)), (a, -np.ones(x.size)), (k, x), (s, -q)):
            diagonal += np.bincount(hub, weights=lam * c**2, minlength=n_all)
            rhs += np.bincount(hub, weights=pull * c, minlength=n_all)

        def grouped(values: Array) -> Array:
            return np.asarray(np.bincount(h.group, weights=values, minlength=g), float)

        groups = np.arange(g)
        if "level" in self.last:
            la, lk = self.level.precision(*self.last["level"]), self.slope.precision(*self.last["slope"])
        else:
            la, lk = np.full(g, 1.0 / self.level.scale), np.full(g, 1.0 / self.slope.scale)
        for hub, value in (
            (h.level(groups), la), (h.band_hub(0, h.band), la), (h.slope(groups), lk), (h.band_hub(1, h.band), lk)
        ):  # fmt: skip
            diagonal += np.bincount(hub, weights=value, minlength=n_all)
        bands = np.arange(h.n_bands, dtype=np.int32)
        # a band without a night has a level that nothing speaks of
        diagonal[h.band_hub(0, bands)] += np.bincount(h.band, minlength=h.n_bands) == 0
        mean, width = USUAL_EXTINCTION
        diagonal[h.band_hub(1, bands)] += 1.0 / width**2
        rhs[h.band_hub(1, bands)] += mean / width**2
        diagonal[h.band_hub(2, bands)] += 1.0 / USUAL_SEEING_SLOPE**2
        pair = np.concatenate(
            [-lam, lam * x, -lam * q, grouped(-lam * x), grouped(lam * q), grouped(-lam * x * q), -la, -lk]
        )
        return Quadratic(diagonal, pair, rhs)

    def log_density(self) -> float:
        """Log density of the jitters and of the nights' levels and slopes at their estimates."""
        total = self.jitter.log_sites + float(self.level.log_density(self.last["level"][0]).sum())
        return total + float(self.slope.log_density(self.last["slope"][0]).sum())
