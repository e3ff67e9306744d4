# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""The noise model: a variance of four parts under learned tails, estimated by restricted maximum likelihood.

    scale_i^2 = c_e^2 sigma_i^2 + f^2 + v_e + u_s

with c_e the error scale of the node, f a floor, v_e the node's excess variance and u_s the star's variability; the
shape about that scale is in tails.py. The first two take Fisher-scoring steps in their logarithm on expected squared
residuals r^2 + Var(prediction), which makes the likelihood the restricted one (Patterson & Thompson 1971, Biometrika
58, 545). Exposures' excess and contamination and stars' variability have no formula: each takes values on a grid whose
shares are learned (empirical Bayes, Laird 1978).

Residuals are held against 1 - h of their variance, h = w Var(prediction) the leverage, and count as 1 - h of a
measurement: a star seen once says nothing, and what was believed at the last pass does not come back as evidence.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.model.stride import Stride
from calib.model.tails import CONTAMINATIONS, OUTLIER, Tails, look, spot, tail_histogram
from calib.workers import cut, dealt, each, summed

Array = NDArray[np.float64]

VARIABILITY_GRID = np.concatenate([[0.0], (0.004 * 2.0 ** np.arange(9)) ** 2])
"""u_s in mag^2: none, then 4 mmag to 1 mag in steps of two."""
SCALE_STRENGTH = 40.0
"""Measurements' worth of belief that an exposure's error scale is the survey's."""
EXCESS_GRID = np.concatenate([[0.0], (0.002 * 2.0 ** np.arange(10)) ** 2])
"""v_e in mag^2: none, then 2 mmag to 1 mag in steps of two: thick clouds across a wide field."""
USUAL_EXCESS: Array = np.asarray(0.5 ** np.arange(EXCESS_GRID.size) / (2.0 - 0.5 ** (EXCESS_GRID.size - 1)), float)
"""Shares of that grid before any data: each doubling of the excess is half as common."""
USUAL_EXPOSURES = 4.0
"""Exposures' worth of belief in them: surveys of few exposures learn little of their own."""
CONTAMINATION_LEVELS: NDArray[np.int8] = np.arange(0, 13, 2, dtype=np.int8)
"""Places on `CONTAMINATIONS` that exposures' likelihoods are asked for: none, 10, 20 to 60 per cent."""
USUAL_CONTAMINATION: Array = np.r_[0.999, np.full(6, 0.001 / 6)]
"""Shares of those before any data: one exposure in a thousand."""
RARELY_CONTAMINATED = 100.0
"""Exposures' worth of belief in them: a few wrong measurements of a small exposure are not yet a share of their own."""
NOISY_EXCESS = 1e-4
"""v_e, mag^2 (10 mmag), beyond which measurements of anything else could hide under a noisy exposure."""
TINY = 1e-10
"""Variance, mag^2, below which a part counts as absent (0.01 mmag)."""
PERCEPTIBLE = 0.1
"""Variability, over the variance of one measurement, that counts half as perceptible; less where many show less."""
ORDINARY_STARS = 0.8
"""Where most stars scatter by more than their noise, variable are those beyond what this share of them does."""
LARGE = 2_000_000
"""Measurements from which weights are kept in single precision."""
LEAST_FREE = 1e-3
"""Share of a measurement below which its residual is rounding."""


@dataclass
class NoiseModel:
    """Parameters of the noise, in mag and mag^2.

    Attributes
    ----------
    error_scale2, excess
        (E,), c_e^2 and v_e.
    floor
        (B,), f^2 of each band.
    band
        int (E,), each node's band.
    survey_scale2
        (B,), what c_e^2 shrinks to.
    tails
        Shape of the noise about its scale.
    shares, excess_shares, contamination_shares
        Learned shares of the grids of variability, of excess and of contamination.
    level
        int8 (E,), place on `CONTAMINATIONS` of each node's share of measurements of anything but their stars.
    floor_stride, scale_stride
        How far the last steps of the floor, and of nodes' error scales, went.
    """

    error_scale2: Array
    excess: Array
    floor: Array
    band: NDArray[np.int32]
    survey_scale2: Array
    tails: Tails = field(default_factory=Tails)
    shares: Array = field(default_factory=lambda: np.r_[0.9, np.full(VARIABILITY_GRID.size - 1, 0.1 / 9)])
    excess_shares: Array = field(default_factory=lambda: USUAL_EXCESS.copy())
    contamination_shares: Array = field(default_factory=lambda: USUAL_CONTAMINATION.copy())
    level: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    floor_stride: Stride = field(default_factory=Stride)
    scale_stride: Stride = field(default_factory=Stride)

    def __post_init__(self) -> None:
        """Nodes are not contaminated unless said."""
        if not self.level.size:
            self.level = np.zeros(self.band.size, np.int8)

    @classmethod
    def start(cls, band: NDArray[np.int32], scale2: Array, floor: float = 0.004) -> NoiseModel:
        """One error scale a band (scale2, (B,)), a floor in mag, no excess."""
        n_bands = scale2.size
        return cls(
            error_scale2=scale2[band].copy(),
            excess=np.full(band.size, 1e-6),
            floor=np.full(n_bands, floor**2),
            band=band,
            survey_scale2=scale2.copy(),
        )

    def copy(self) -> NoiseModel:
        """An independent copy."""
        return deepcopy(self)

    def at(self, nodes: NDArray[np.integer]) -> NoiseModel:
        """An independent copy for some of the nodes."""
        part = self.copy()
        part.error_scale2, part.excess, part.band = self.error_scale2[nodes], self.excess[nodes], self.band[nodes]
        part.level, part.scale_stride = self.level[nodes], Stride()
        return part

    def spread_over(self, band: NDArray[np.int32]) -> NoiseModel:
        """The survey's values for other nodes of the same bands."""
        fresh = NoiseModel.start(band, self.survey_scale2)
        fresh.floor, fresh.tails, fresh.shares = self.floor.copy(), self.tails, self.shares.copy()
        fresh.excess_shares, fresh.contamination_shares = self.excess_shares.copy(), self.contamination_shares.copy()
        fresh.excess[:] = float(self.excess_shares @ np.sqrt(EXCESS_GRID)) ** 2
        return fresh

    @property
    def information(self) -> Array:
        """(E,), of the noise about its location, over that of a normal with the expected weights."""
        levels = np.unique(self.level)
        of_level = np.zeros(CONTAMINATIONS.size)
        of_level[levels] = [self.tails.contaminated(CONTAMINATIONS[k]).information for k in levels]
        return np.asarray(of_level[self.level])

    @property
    def beyond_ordinary(self) -> int:
        """First place on the variability grid that is not ordinary: 1 unless many stars scatter beyond their noise."""
        return min(int(np.searchsorted(np.cumsum(self.shares), ORDINARY_STARS)) + 1, VARIABILITY_GRID.size - 1)

    def base(self, node: NDArray[np.int32], err: NDArray[np.float32]) -> NDArray[np.float32]:
        """c_e^2 sigma_i^2 + f^2 + v_e of every measurement, (n,)."""
        return np.asarray(_base(node, err, self.error_scale2, self.floor[self.band] + self.excess), np.float32)

    def suspects(self, far: Array, count: Array) -> NDArray[np.bool_]:
        """Nodes (E,) that may be contaminated: too many of their measurements are far off, or they pass for noisy."""
        usual = self.tails.beyond * count
        return np.asarray((far > usual + 2.0 * np.sqrt(usual) + 1.0) | (self.excess > NOISY_EXCESS) | (self.level > 0))

    def update(self, sums: NodeSums, step_length: float = 1.0, *, settled: bool = False) -> float:
        """One step of every part from sums over measurements; returns the largest change of a survey's part, in log.

        Nodes' excess goes ``step_length`` of its way.
        Settled, which exposures are contaminated, and how far, stays as it is: a few could change sides for ever.
        """
        band, n_bands = self.band, self.floor.size
        loss = self.tails.scale_information

        def pooled(x: Array) -> Array:
            return np.asarray(np.bincount(band, weights=x, minlength=n_bands), float)

        c2, s2 = self.error_scale2, self.survey_scale2
        belief = s2[band] / c2
        step = _step(
            c2 * (sums.score_sigma - sums.rate_sigma) + SCALE_STRENGTH * (belief - 1.0),
            loss * c2**2 * sums.information_sigma + SCALE_STRENGTH * belief,
        )
        self.error_scale2 = c2 * np.exp(self.scale_stride(step))
        known = np.maximum(sums.count, 1e-9)
        self.survey_scale2 = np.exp(pooled(np.log(self.error_scale2) * known) / pooled(known))
        f = self.floor
        step = _step(pooled(sums.score_one - sums.rate_one) * f, loss * f**2 * pooled(sums.information_one))
        self.floor = np.maximum(f * np.exp(self.floor_stride(step)), TINY)
        if sums.excess_likelihood is not None:
            joint = sums.excess_likelihood  # written over: of large surveys it is large
            levels = joint.shape[2]
            joint += np.log(self.excess_shares)[:, None] + np.log(self.contamination_shares[:levels])
            if settled and levels > 1:
                own = (self.level[:, None, None].astype(np.int64) + 1) // 2  # the next of `CONTAMINATION_LEVELS`
                joint = np.take_along_axis(joint, own, axis=2)
            joint -= joint.max(axis=(1, 2), keepdims=True)
            np.exp(joint, out=joint)
            joint /= joint.sum(axis=(1, 2), keepdims=True)
            self.excess = self.excess + step_length * (joint.sum(2) @ EXCESS_GRID - self.excess)
            told = np.einsum("e,ekc->kc", (sums.count > LEAST_FREE).astype(float), joint)
            self.excess_shares = _learned(told.sum(1), USUAL_EXPOSURES * USUAL_EXCESS)
            if levels > 1 and not settled:
                share = joint.sum(1) @ CONTAMINATIONS[CONTAMINATION_LEVELS]
                self.level = np.rint(share / CONTAMINATIONS[1]).astype(np.int8)
                self.contamination_shares = _learned(told.sum(0), RARELY_CONTAMINATED * USUAL_CONTAMINATION)
        self.shares = sums.shares / sums.shares.sum()
        if sums.tails is not None:
            self.tails = self.tails.learned(*sums.tails)
        change = float(np.abs(np.log(self.survey_scale2 / s2)).max())
        felt = (self.floor > 1e-6) | (f > 1e-6)
        return max(change, float(np.abs(np.log(self.floor / f))[felt].max(initial=0.0)))


def _learned(counts: Array, believed: Array) -> Array:
    total = counts + believed
    return np.asarray(total / total.sum())


def _step(score: Array, information: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(information > 0, score / information, 0.0)
    return np.clip(step, -1.0, 1.0)


@dataclass
class NodeSums:
    """Sums over the measurements of each node: halves of the scores, and informations, of c_e^2 (``sigma``) and of v_e
    and f^2 (``one``). ``excess_likelihood`` (E, G, C) is minus infinity where it was not asked for.
    """

    score_sigma: Array
    rate_sigma: Array
    score_one: Array
    rate_one: Array
    information_sigma: Array
    information_one: Array
    count: Array
    shares: Array
    tails: Array | None
    log_likelihood: float
    excess_likelihood: Array | None = None


@njit(cache=True, nogil=True)
def _base(node, err, c2, rest):
    out = np.empty(node.size, np.float32)
    for i in range(node.size):
        out[i] = c2[node[i]] * np.float64(err[i]) * np.float64(err[i]) + rest[node[i]]
    return out


@njit(cache=True, nogil=True)
def _weigh(
    star_ptr, node, err, base, r2, v, free, tables, level, grid, log_shares, beyond, w, variable, perceptible, u_mean,
    sums, shares,
):
    # weights (n) and, per star, the probability that u_s is grid[beyond] or more, the same of what its measurements
    # could show, and u_s's expectation; sums (E, 7); returns the log likelihood. r2 is the squared residual, v the
    # prediction's variance, free = 1 - h. Marginalised over the grid of u_s: every quantity is an expectation over its
    # posterior.
    S = star_ptr.size - 1
    G = grid.size
    p = np.empty(G)
    total = 0.0
    for s in range(S):
        low = star_ptr[s]
        high = star_ptr[s + 1]
        if high == low:
            variable[s] = np.exp(log_shares[beyond:]).sum()
            perceptible[s] = 0.0
            u_mean[s] = 0.0
            continue
        # the share of the star's measurements that its own fit left free
        kept = 0.0
        noise = 0.0
        for i in range(low, high):
            kept += free[i]
            noise += np.float64(base[i])
        least = min(PERCEPTIBLE, 2.0 / max(kept, LEAST_FREE)) * (noise / (high - low) + grid[beyond - 1])
        kept /= high - low
        for k in range(G):
            # products of a few terms at a time, one logarithm each
            like = 0.0
            prod = 1.0
            for i in range(low, high):
                s2 = np.float64(base[i]) + grid[k]
                like += look(tables, level[node[i]], 0, r2[i] / (max(free[i], LEAST_FREE) * s2))
                prod *= s2
                if prod < 1e-200 or prod > 1e200:
                    like -= 0.5 * np.log(prod)
                    prod = 1.0
            like -= 0.5 * np.log(prod)
            p[k] = kept * like + log_shares[k]
        top = p.max()
        norm_p = 0.0
        for k in range(G):
            p[k] = np.exp(p[k] - top)
            norm_p += p[k]
        total += top + np.log(norm_p)
        u = 0.0
        for k in range(G):
            p[k] /= norm_p
            u += p[k] * grid[k]
            if kept > LEAST_FREE:
                shares[k] += p[k]
        variable[s] = min(p[beyond:].sum(), 1.0)
        perceptible[s] = 0.0
        for k in range(beyond, G):
            perceptible[s] += p[k] * grid[k] / (grid[k] + least)
        u_mean[s] = u
        for i in range(low, high):
            e = node[i]
            wi = 0.0
            score = 0.0
            rate = 0.0
            info = 0.0
            for k in range(G):
                if p[k] < 1e-7:
                    continue
                s2 = np.float64(base[i]) + grid[k]
                t = p[k] * look(tables, level[e], 1, (r2[i] + v[i]) / s2) / s2
                wi += t
                score += t * r2[i] / s2
                rate += p[k] / s2
                info += p[k] / (s2 * s2)
            rate *= free[i]
            info *= np.float64(free[i]) * free[i]
            w[i] = wi
            sg = np.float64(err[i]) * np.float64(err[i])
            sums[e, 0] += sg * score
            sums[e, 1] += sg * rate
            sums[e, 2] += score
            sums[e, 3] += rate
            sums[e, 4] += sg * sg * info
            sums[e, 5] += info
            sums[e, 6] += free[i]
    return total


@njit(cache=True, nogil=True)
def _far(star_ptr, node, base, r2, free, u_mean, out):
    # out (E): measurements, each as far as it is free, whose noise is an outlier's by its size
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            if r2[i] > OUTLIER * (np.float64(base[i]) + u_mean[s]) * max(free[i], LEAST_FREE):
                out[node[i]] += free[i]


@njit(cache=True, nogil=True)
def _excess_likelihood(first, stop, star_ptr, node, base, excess, r2, free, u_mean, densities, levels, grid, out):
    # out (E, G, C): log likelihood of the values of v_e from first to stop and of the first levels (E) of
    # contamination; densities (POINTS, C)
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            rest = np.float64(base[i]) - excess[e] + u_mean[s]
            z = r2[i] / max(free[i], LEAST_FREE)
            for k in range(first, stop):
                s2 = rest + grid[k]
                scale = 0.5 * np.log(s2)
                j, part = spot(z / s2)
                for c in range(levels[e]):
                    like = densities[j, c] + part * (densities[j + 1, c] - densities[j, c])
                    out[e, k, c] += free[i] * (like - scale)


@dataclass(frozen=True)
class Weighted:
    """Weights and what is learned of stars.

    Attributes
    ----------
    w
        (n,), 1/mag^2.
    variable
        (S,), probability that u_s is beyond what is ordinary.
    perceptible
        (S,), probability that it is, and by as much as the star's measurements could show: an amount u counts by
        ``u / (u + q s^2)``, with s^2 their mean variance and q the smaller of `PERCEPTIBLE` and 2 over their number.
        A star too faint to tell has the share of all stars in ``variable``, and next to nothing here.
    variability
        (S,), expected u_s, mag^2.
    sums
        For the update.
    """

    w: NDArray[np.floating]
    variable: Array
    perceptible: Array
    variability: Array
    sums: NodeSums


def weigh(
    model: NoiseModel,
    star_ptr: NDArray[np.int64],
    node: NDArray[np.int32],
    err: NDArray[np.float32],
    squared_residual: Array,
    variance: Array | None = None,
    leverage: Array | None = None,
    *,
    fit_tails: bool = False,
    fit_excess: bool = False,
    fit_contamination: bool = False,
) -> Weighted:
    """Expected weights under the model, and the sums its update needs.

    Parameters
    ----------
    squared_residual
        (n,), mag^2.
    variance, leverage
        (n,), of the prediction, mag^2, and the same times the weight that it was made with; none when not given.
    fit_tails
        Whether the histogram that tails are learned from is wanted too.
    fit_excess, fit_contamination
        Whether the likelihood of every node's excess is, and that of its contamination with it.
    """
    n_nodes, n_stars = model.band.size, star_ptr.size - 1
    base = model.base(node, err)
    v = np.zeros(node.size) if variance is None else variance
    free = np.ones(node.size, np.float32)
    if leverage is not None:
        np.clip(1.0 - leverage, 0.0, 1.0, out=free, casting="same_kind")
    w: NDArray[np.floating] = np.empty(node.size, np.float64 if node.size < LARGE else np.float32)
    variable, perceptible, u = np.empty((3, n_stars))
    sums, shares = np.zeros((n_nodes, 7)), np.full(VARIABILITY_GRID.size, 1e-3)
    shares[0] += 1.0
    tables = model.tails.tables if model.level.any() else model.tails.table[None]
    log_shares = np.log(model.shares)

    def weigh_run(s: int, t: int, sums: Array, shares: Array) -> float:
        return float(_weigh(
            star_ptr[s : t + 1], node, err, base, squared_residual, v, free, tables, model.level, VARIABILITY_GRID,
            log_shares, model.beyond_ordinary, w, variable[s:t], perceptible[s:t], u[s:t], sums, shares,
        ))  # fmt: skip

    runs = cut(star_ptr)
    log_likelihood = float(sum(summed(weigh_run, runs, sums, shares)))
    tails = None
    if fit_tails:
        tails = tail_histogram(
            star_ptr, node, model.level, base, squared_residual + v, free, u, max(1, node.size // 300_000)
        )
    excess = None
    if fit_excess:
        levels = CONTAMINATION_LEVELS if fit_contamination else CONTAMINATION_LEVELS[:1]
        densities = model.tails.densities(levels)
        excess = np.zeros((n_nodes, EXCESS_GRID.size, levels.size))
        asked = np.ones(n_nodes, np.int64)
        if fit_contamination:
            far = np.zeros(n_nodes)
            summed(
                lambda s, t, far: _far(star_ptr[s : t + 1], node, base, squared_residual, free, u[s:t], far), runs, far
            )
            suspect = model.suspects(far, sums[:, 6])
            excess[~suspect, :, 1:] = -np.inf
            asked[suspect] = levels.size
        of_all = (star_ptr, node, base, model.excess, squared_residual, free, u, densities, asked, EXCESS_GRID, excess)
        each(lambda k, after: _excess_likelihood(k, after, *of_all), dealt(EXCESS_GRID.size, node.size))
    score_sigma, rate_sigma, score_one, rate_one, information_sigma, information_one, count = sums.T
    found = NodeSums(
        score_sigma, rate_sigma, score_one, rate_one, information_sigma, information_one, count,
        shares, tails, log_likelihood, excess,
    )  # fmt: skip
    return Weighted(w, variable, perceptible, u, found)
