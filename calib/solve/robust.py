"""The robust solve: weights, variances and local terms in turn, each from the exact posterior of the last solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.model.cores import settle_on_cores
from calib.model.errors import freed_errors
from calib.model.noise import LARGE, NoiseModel, Weighted, weigh
from calib.model.outliers import outlier_probability
from calib.solve.border import Border
from calib.solve.design import Design
from calib.solve.instrument import Instrument
from calib.solve.normal import Estimate, NormalEquations, Prior, Spread, Topology
from calib.solve.terms import Terms

Array = NDArray[np.float64]


FREEING_PASSES = (2, 4, 7)
"""Passes after which reported errors are freed anew from their own noise."""
CLEAN_PASSES = 2
"""Passes in which no exposure counts as contaminated, where the tails that all share are not known yet."""
CORE_PASSES = (3, 6)
"""Passes after which noisy exposures are asked whether they are contaminated ones."""
FREE_PASSES = 15
"""Passes after which contaminated exposures stay what they are: a few could change sides for ever."""
WHOLE_STEPS = 8
"""Passes after which weights, exposures' excess and jitters go half the way: what one explains, another would explain
too, and with whole steps a few measurements and exposures run in circles for ever."""
HALF = 0.5
"""Share of the way that they go from there on."""
LEAST_INFORMATION = 0.55
"""In a scoring step, over that of a normal. A step twice as long as the weights' own goes as far beyond the minimum as
it came from where noise is wider than its scale says, as magnitudes without noise let it be, and longer ones diverge.
Noise of ordinary tails has 0.6 and more."""

SETTLED = 0.02
"""Largest change of the logarithm of a survey's variance in a pass that counts as quiet."""
DEAF = 0.25
"""Share of the tolerance below which zero-points that move no more count as deaf to what variances still do."""
DEAF_ERRORS = 2e-3
"""Root mean square change of the logarithm of their errors below which errors are deaf to it as well: scales of terms
far below what zero-points feel can wander for dozens of passes."""
QUIET_PASSES = 2
"""Quiet passes one after the other that end the fit: a slow drift along a ridge can pause for one."""


@dataclass
class RobustFit:
    """Where the robust solve came to rest.

    ``equations`` have the expected weights, of which the estimate is the minimum; ``stated`` those that carry as much
    information as the noise does, of which ``spread`` is the inverse.
    """

    design: Design
    noise: NoiseModel
    terms: Terms
    prior: Prior
    weighted: Weighted
    err: NDArray[np.float32]
    error_coupling: float
    equations: NormalEquations
    estimate: Estimate
    spread: Spread
    evidence: float
    passes: int
    converged: bool
    change: float
    stated: NormalEquations | None = None
    instrument: Instrument | None = None

    @property
    def resisting(self) -> NDArray[np.floating]:
        """(n,), the weights whose inverse the spread is, 1/mag^2; times a prediction's variance, its leverage."""
        information = self.noise.information
        if self.stated is not None or np.all(information == 1.0):
            return (self.stated or self.equations).w
        return np.asarray(information[self.design.graph.exposure] * self.equations.w)

    def outlier_probability(self, base: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n,), that a measurement's noise is an outlier's, whose variance is ``base`` (n,), mag2."""
        return outlier_probability(
            self.noise, self.design.graph.star_ptr, self.design.graph.exposure, base, self.weighted.variability,
            self.estimate.residual, self.spread.prediction, self.resisting,
        )  # fmt: skip

    @property
    def faint_blends(self) -> Array:
        """(E,), mag, what is added to zero-points for blends too faint to be seen one by one, the same for all stars.

        ``m = M + (b_s + b) h_e - z_e`` with a response b common to all stars leaves ``z_e - b h_e`` as the zero-point.
        """
        prior, response = self.terms.response, self.design.response
        if prior is None or response is None:
            return np.zeros(self.design.n_nodes)
        return np.asarray(prior.common * response)

    @property
    def common_response_error(self) -> Array:
        """(E,), mag, s: standard error of what all stars' responses have in common, of all zero-points together."""
        prior, response = self.terms.response, self.design.response
        if prior is None or response is None:
            return np.zeros(self.design.n_nodes)
        return np.asarray(np.hypot(prior.common, prior.unsettled) * response)


def absolute_start(
    design: Design, m: Array, err: NDArray[np.float32], topology: Topology, floor: float = 0.005, passes: int = 12,
    residual: Array | None = None,
) -> Estimate:  # fmt: skip
    """Least absolute deviations by reweighting: convex, so no exposure can be clipped away by a bad beginning.

    Weights never exceed 1 / (sigma^2 + floor^2), with the corner rounded more finely from pass to pass. Where residuals
    (n,) are known beforehand, NaN where not, fewer passes do: it ends when the corner is as fine as it gets.
    """
    plain = design.with_terms(0, None)
    none = Prior.none(plain)
    scale: NDArray[np.floating] = np.sqrt((err if m.size >= LARGE else err.astype(float)) ** 2 + floor**2)
    w = 1.0 / scale**2
    if residual is not None:
        _round_corner(scale, np.nan_to_num(residual), 1.0, w)
    estimate = NormalEquations(plain, m, w, none, topology).estimate()
    again = _seen_again(design)
    rough = np.abs(estimate.residual[again]) / scale[again]
    corner = max(1.0, float(np.quantile(rough, 0.9))) if rough.size else 1.0
    for _ in range(passes):
        _round_corner(scale, estimate.residual, corner, w)
        del estimate
        estimate = NormalEquations(plain, m, w, none, topology).estimate()
        if residual is not None and corner == 1.0:
            break
        corner = max(1.0, 0.5 * corner)
    return estimate


@njit(cache=True, nogil=True)
def _round_corner(scale, residual, corner, w):  # type: ignore[no-untyped-def]
    for i in range(w.size):
        t = residual[i] / scale[i]
        w[i] = 1.0 / (scale[i] * scale[i] * np.sqrt(corner * corner + t * t))


def _seen_again(design: Design) -> NDArray[np.bool_]:
    """(n,), measurements of stars with others: only their residuals say anything."""
    visits = np.diff(design.graph.star_ptr)
    return np.repeat(visits > 1, visits)


def start_noise(design: Design, err: NDArray[np.float32], residual: Array, band: NDArray[np.int32]) -> NoiseModel:
    """Error scale of each band from the median absolute residual; only a start, all is estimated afterwards."""
    of = band[design.graph.exposure]
    n_bands = int(band.max()) + 1
    scale2 = np.ones(n_bands)
    z, again = np.abs(residual) / np.sqrt(err.astype(float) ** 2 + 0.004**2), _seen_again(design)
    for b in range(n_bands):
        inside = z[(of == b) & again]
        if inside.size:
            scale2[b] = np.clip(1.4826 * np.median(inside), 0.3, 30.0) ** 2
    return NoiseModel.start(band, scale2)


def fit(
    design: Design,
    m: Array,
    err: NDArray[np.float32],
    band: NDArray[np.int32],
    border: Border,
    *,
    topology: Topology | None = None,
    start: Estimate | None = None,
    noise: NoiseModel | None = None,
    terms: Terms | None = None,
    instrument: Instrument | None = None,
    max_passes: int = 60,
    tolerance: float = 0.02,
    progress: Callable[[int, float], None] | None = None,
) -> RobustFit:
    """Solve, spread, weigh, update, until zero-points move by less than tolerance of their errors.

    Parameters
    ----------
    m, err
        (n,), magnitudes and reported errors, mag, sorted by star.
    band
        int (E,), band of each node.
    border
        Hubs of the terms.
    topology
        Of the design with the border's hubs.
    start
        Residuals to begin from; least absolute deviations when not given.
    noise, terms
        To begin from.
    instrument
        Terms of the instrument, to begin from and to learn; none when not given.
    tolerance
        Largest root mean square change of z / sigma_z in the last pass.
    """
    topology = topology or Topology(design, border.hubs)
    star_ptr, node = design.graph.star_ptr, design.graph.exposure
    raw = m
    if instrument is not None:
        m = instrument.added_to(raw)
    if start is None:
        start = absolute_start(design, m, err, Topology(design))
    clean = CLEAN_PASSES if noise is None else 0
    noise = noise or start_noise(design, err, start.residual, band)
    terms = terms or Terms(design, border)
    prior = terms.prior(design)
    # the first weights: residuals of the start, whose predictions' variance is not known yet
    weighted = weigh(noise, star_ptr, node, err, start.residual**2)
    residual = start.residual
    del start
    reported, coupling = err, 0.0
    before: tuple[Array, Array] | None = None
    change = stirred = moved = np.inf
    converged, quiet = False, 0
    linked = topology.size[topology.component] > 1
    lone = np.zeros(0, np.int64) if linked.all() else np.flatnonzero(~linked[node])
    for n_pass in range(1, max_passes + 1):
        step = _ScoringStep(design, m, weighted.w, residual, noise.information, prior, topology)
        del residual
        estimate = step.estimate()
        if instrument is not None:
            instrument.link(n_pass, step.equations)
        spread = step.equations.spread()
        z = step.equations.centred(estimate.theta)[: design.n_nodes, 0]
        sigma = np.sqrt(np.maximum(spread.node[: design.n_nodes, 0, 0], 1e-20))
        if before is not None:
            change = _rms(((z - before[0]) / sigma)[linked])
            stirred = _rms(np.log(sigma / before[1])[linked])
        before = z, sigma
        if progress:
            progress(n_pass, change)
        step_length = 1.0 if n_pass <= WHOLE_STEPS else HALF
        terms.observe(design, estimate, spread, step_length)
        deaf = change < DEAF * tolerance and stirred < DEAF_ERRORS
        quiet = quiet + 1 if change < tolerance and (moved < SETTLED or deaf) else 0
        converged = quiet >= QUIET_PASSES and n_pass > FREEING_PASSES[-1]
        if converged or n_pass == max_passes:
            break  # what is returned is what this pass was made with
        if n_pass in FREEING_PASSES:
            err, coupling = freed_errors(node, m, reported, estimate.residual, design.n_nodes)
        residual = estimate.residual
        if instrument is not None:
            instrument.step(step.equations, residual + step.moved)
            m = instrument.added_to(raw)
        prediction, leverage = spread.prediction, step.equations.w * spread.prediction
        if lone.size:
            # of what nothing else is seen together with there is no prediction, and rounding must not pass for one
            prediction[lone], leverage[lone] = 0.0, 1.0
        if n_pass in CORE_PASSES:
            shift = settle_on_cores(noise, star_ptr, node, err, residual, leverage, weighted.variability)
            if shift.any():
                _shift(residual, node, shift)
        weighted = weigh(
            noise, star_ptr, node, err, residual**2, prediction, leverage, fit_tails=True, fit_excess=True,
            fit_contamination=n_pass > clean,
        )  # fmt: skip
        if step_length < 1.0:
            np.add(weighted.w, step.pulling(), out=weighted.w)
            np.multiply(weighted.w, HALF, out=weighted.w)
        learned = noise.update(weighted.sums, step_length, settled=n_pass > FREE_PASSES)
        moved = max(learned, terms.update(topology.degree))
        prior = terms.prior(design)
        if n_pass < max_passes:  # true here, but a linter cannot know; a large survey holds one pass at a time
            del step, estimate, spread, prediction, leverage
    # small surveys may go on trading one part of a variance for another, to which zero-points are deaf
    converged = converged or change < 0.5 * tolerance
    evidence = _evidence(design, noise, terms, step.equations, estimate, err)
    if instrument is not None:
        instrument.settle(step.equations)
        evidence += instrument.log_density()
    step.equations.moved = None  # of these the inverse alone is asked for from here on
    w = step.pulling()
    return RobustFit(
        design, noise, terms, prior, replace(weighted, w=w), err, coupling,
        NormalEquations(design, m, w, prior, topology), estimate, spread, evidence, n_pass, converged, change,
        step.equations, instrument,
    )  # fmt: skip


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


class _ScoringStep:
    """One step of Fisher scoring (Lange, Little & Taylor 1989, JASA 84, 881, for the Student-t).

    A measurement pulls with its expected weight w and resists with the information, a share of w: the normal equations
    of weights ``information * w`` and of magnitudes moved on by ``(1 / information - 1)`` of the last residuals. It
    rests where reweighting does; its inverse is the variance of the estimate, where that of the weights is too small.
    The information counts as `LEAST_INFORMATION` where it is less: a step is one over it as long as the weights' own.
    """

    def __init__(
        self, design: Design, m: Array, w: NDArray[np.floating], residual: NDArray[np.floating],
        information: Array, prior: Prior, topology: Topology,
    ) -> None:  # fmt: skip
        self.information = information = np.maximum(information, LEAST_INFORMATION)
        node = design.graph.exposure
        self.moved: NDArray[np.floating] = _times(residual, node, 1.0 / information - 1.0, np.empty_like(residual))
        _times(w, node, information, w)
        self.equations = NormalEquations(design, m, w, prior, topology, self.moved)

    def pulling(self) -> NDArray[np.floating]:
        """(n,), the expected weights."""
        w = self.equations.w
        return np.asarray(_times(w, self.equations.design.graph.exposure, 1.0 / self.information, np.empty_like(w)))

    def estimate(self) -> Estimate:
        """Of the magnitudes as they are."""
        found = self.equations.estimate()
        residual = found.residual
        residual -= self.moved.astype(residual.dtype, copy=False)
        return found


@njit(cache=True, nogil=True)
def _times(x, node, factor, out):  # type: ignore[no-untyped-def]
    # out (n) = x times its node's factor (E)
    for i in range(x.size):
        out[i] = x[i] * factor[node[i]]
    return out


@njit(cache=True, nogil=True)
def _shift(x, node, by):  # type: ignore[no-untyped-def]
    # x (n) plus its node's part of by (E), in place
    for i in range(x.size):
        x[i] += by[node[i]]


def score_test(fit: RobustFit, group: NDArray[np.integer], g: NDArray[np.floating] | float = 1.0) -> float:
    """Score test of the variance of coefficients of g (n,), one a group (n,), leverage allowed for, in its deviations.

    Large where residuals vary with g from group to group by more than their noise.
    """
    w = np.asarray(fit.resisting, float)
    free = np.clip(1.0 - w * np.nan_to_num(fit.spread.prediction, nan=np.inf), 0.0, 1.0)
    score = np.bincount(group, w * g * fit.estimate.residual)
    information = np.bincount(group, w * g**2 * free)
    return float((score**2 - information).sum() / np.sqrt(max(2.0 * float((information**2).sum()), 1e-300)))


def _evidence(
    design: Design, noise: NoiseModel, terms: Terms, equations: NormalEquations, estimate: Estimate,
    err: NDArray[np.float32],
) -> float:  # fmt: skip
    """Log marginal likelihood by Laplace's method; differences between surfaces are what counts.

    NaN with responses to seeing, whose mixture has a gain of its own.
    """
    if design.star_block == 2:
        return float("nan")
    weighted = weigh(noise, design.graph.star_ptr, design.graph.exposure, err, estimate.residual**2)
    visits = np.diff(design.graph.star_ptr)
    measured = int((visits > 0).sum())
    border = terms.border
    hubs = 0 if border.illumination is None else border.illumination.n_hubs * (design.surface_block - 1)
    hubs += 0 if border.levels is None else border.levels.n_unknowns
    n_unknowns = design.n_nodes * design.block + hubs + measured
    value = weighted.sums.log_likelihood + terms.log_density()
    return value + 0.5 * n_unknowns * float(np.log(2 * np.pi)) - 0.5 * equations.log_det


def stated_spread(fit: RobustFit) -> tuple[NormalEquations, Spread]:
    """Variances with the weights that carry as much information as the noise does.

    Expected weights say how to average; their inverse is too small a variance (Lange, Little & Taylor 1989, JASA 84,
    881).
    """
    if fit.stated is not None:
        return fit.stated, fit.spread
    information = fit.noise.information
    if np.all(information == 1.0):
        return fit.equations, fit.spread
    w = fit.equations.w * information[fit.design.graph.exposure]
    equations = NormalEquations(fit.design, fit.equations.m, w, fit.prior, fit.equations.topology)
    return equations, equations.spread()
