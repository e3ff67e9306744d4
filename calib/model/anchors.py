"""Reference stars: the absolute scale of each component, by an offset that wrong references cannot move.

The relative solution is not bent: references set one number per component, M_ref - M averaged over its reference stars
with Student-t weights and an excess scatter of their own (Mandel & Paule 1970, Anal. Chem. 42, 1194, for the scatter).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import gamma

Array = NDArray[np.float64]

DOF = 3.0
"""Degrees of freedom of the references' Student-t."""
USUALLY_WRONG = 0.05
"""Share of references that are wrong altogether, before any is looked at."""
WRONG_STRENGTH = 4.0
"""References' worth of belief in that share."""
WRONG_REACH = 1.0
"""Wrong ones lie anywhere within this many mag, or the range of all."""
MOST_STEPS = 300
MANY_REFERENCES = 10
"""Reference stars from which they show how zero-points bend."""
TILT_STEPS = 20
"""Reweightings in which it is found."""
SURE = 3.0
"""Standard errors by which they must lie along a pattern before it counts."""


@dataclass(frozen=True)
class Anchors:
    """What the references say.

    Attributes
    ----------
    offset
        (components,), mag to add to zero-points and magnitudes; 0 where there is no reference.
    anchored
        bool (components,).
    variance
        (components,), of the offset, from the references' own errors and scatter and the stars' own noise.
    weight
        (S,), each star's share in its component's offset; they sum to one in an anchored component.
    scatter
        (components,), excess scatter of the references, mag.
    gap, tension
        (S,), M_ref - M - offset, mag, and that over its error; NaN for stars that are no reference.
    """

    offset: Array
    anchored: NDArray[np.bool_]
    variance: Array
    weight: Array
    scatter: Array
    gap: Array
    tension: Array


def anchor(
    stars: pl.DataFrame, mag: Array, own_variance: Array, component: NDArray[np.int32], n_components: int,
    reference: pl.DataFrame | None,
) -> Anchors:  # fmt: skip
    """Offset of every component.

    Parameters
    ----------
    stars
        star_id, band of each star.
    mag, own_variance
        (S,), relative magnitudes, and their variance at given zero-points, mag and mag^2.
    component
        (S,), -1 for a star outside all.
    reference
        star_id, band (empty: any), mag, mag_err; None for none.
    """
    S = mag.size
    result = Anchors(
        np.zeros(n_components), np.zeros(n_components, bool), np.zeros(n_components), np.zeros(S),
        np.zeros(n_components), np.full(S, np.nan), np.full(S, np.nan),
    )  # fmt: skip
    if reference is None or not reference.height:
        return result
    ref_mag, ref_err = match(stars, reference)
    good = np.isfinite(ref_mag) & np.isfinite(mag) & (component >= 0)
    for c in np.unique(component[good]):
        at = np.flatnonzero(good & (component == c))
        gap = ref_mag[at] - mag[at]
        variance = ref_err[at] ** 2 + own_variance[at]
        offset, scatter2, omega = robust_mean(gap, variance)
        result.offset[c], result.anchored[c], result.scatter[c] = offset, True, np.sqrt(scatter2)
        result.weight[at] = omega
        # own errors, enlarged where references scatter by more than they say; theirs and the stars' noise are both in
        information = (DOF + 1.0) / (DOF + 3.0) if at.size > 2 else 1.0
        result.variance[c] = float((omega**2 * (variance + scatter2)).sum()) / information
        result.gap[at] = gap - offset
        result.tension[at] = (gap - offset) / np.sqrt(variance + scatter2)
    return result


def match(stars: pl.DataFrame, reference: pl.DataFrame) -> tuple[Array, Array]:
    """Reference magnitude and error of each star, NaN where there is none."""
    named = reference.with_columns(pl.col("band").cast(pl.String)) if "band" in reference.columns else reference
    on = ["star_id"]
    left = stars.select("star_id", pl.col("band").cast(pl.String))
    if "band" in named.columns and (named["band"] != "").any():
        on = ["star_id", "band"]
    right = named.select(*on, pl.col("mag").alias("_mag"), pl.col("mag_err").alias("_err")).unique(
        on, keep="first", maintain_order=True
    )
    joined = left.join(right, on=on, how="left", maintain_order="left")
    return (
        joined["_mag"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        joined["_err"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
    )


def robust_mean(values: Array, variance: Array) -> tuple[float, float, Array]:
    """Student-t mean with an excess variance, among values some of which are wrong: (mean, excess, weights of sum one).

    A wrong value lies anywhere within a wide range; how many are wrong is learned, so that a third of them, all to one
    side, neither moves the mean nor passes for scatter. One or two values cannot say which is wrong.
    """
    if values.size < 3:
        omega = 1.0 / variance
        return float((omega * values).sum() / omega.sum()), 0.0, omega / omega.sum()
    mean = _weighted_median(values, 1.0 / np.sqrt(variance))
    usual = float(np.median(variance))
    spread = 1.4826 * float(np.median(np.abs(values - mean)))
    excess, wrong = max(spread**2 - usual, 0.0), USUALLY_WRONG
    anywhere = 1.0 / max(float(np.ptp(values)), WRONG_REACH, 20.0 * usual**0.5)
    omega = 1.0 / variance
    for _ in range(MOST_STEPS):
        before = mean, excess
        total = variance + excess
        sound = (1.0 - wrong) * _student((values - mean) / np.sqrt(total)) / np.sqrt(total)
        sound /= sound + wrong * anywhere
        wrong = float((1.0 - sound).sum() + USUALLY_WRONG * WRONG_STRENGTH) / (values.size + WRONG_STRENGTH)
        t = sound * (DOF + 1.0) / (DOF + (values - mean) ** 2 / total)
        omega = t / total
        mean = float((omega * values).sum() / omega.sum())
        # likelihood score of the excess, a multiplicative step
        leverage = 1.0 - omega / omega.sum()
        ratio = float((t * (values - mean) ** 2 / total**2).sum() / (sound * leverage / total).sum())
        excess = max((excess + usual) * ratio - usual, 0.0)
        if abs(mean - before[0]) < 1e-9 and abs(excess - before[1]) < 1e-6 * (usual + excess):
            break
    return mean, excess, omega / omega.sum()


def shown_along(gap: Array, tension: Array, component: NDArray[np.integer], pattern: Array) -> float:
    """How far references lie along a pattern of magnitudes, in its own size; 0 where they do not say.

    By Student-t weights about the mean of each component; where noise would hardly show as much, and then less what
    noise would show, in quadrature.

    Parameters
    ----------
    gap, tension
        (R,), of reference stars, as in `Anchors`.
    component
        int (R,).
    pattern
        (R,), mag.
    """
    if gap.size < MANY_REFERENCES:
        return 0.0
    _, label = np.unique(component, return_inverse=True)
    known = tension != 0.0
    variance = np.where(known, (gap / np.where(known, tension, 1.0)) ** 2, np.inf)
    far, square, omega = 0.0, 0.0, 1.0 / variance
    for _ in range(TILT_STEPS):
        total = np.maximum(np.bincount(label, omega), 1e-300)
        about = pattern - (np.bincount(label, omega * pattern) / total)[label]
        square = float((omega * about**2).sum())
        if square <= 0.0:
            return 0.0
        # the pattern about its mean is blind to levels
        far = float((omega * about * gap).sum()) / square
        left = gap - far * pattern
        left -= (np.bincount(label, omega * left) / total)[label]
        scale2 = variance * max((1.4826 * np.median(np.abs(left) / np.sqrt(variance))) ** 2, 1e-12)
        omega = (DOF + 1.0) / (DOF + left**2 / scale2) / scale2
    return float(np.sqrt(far**2 - 1.0 / square)) if far**2 * square > SURE**2 else 0.0


def _student(x: Array) -> Array:
    """Density of Student's t of `DOF` degrees of freedom; scipy.stats takes a second to import."""
    norm = gamma(0.5 * (DOF + 1.0)) / (gamma(0.5 * DOF) * np.sqrt(DOF * np.pi))
    return np.asarray(norm * (1.0 + x**2 / DOF) ** (-0.5 * (DOF + 1.0)))


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
