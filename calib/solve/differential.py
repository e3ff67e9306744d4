"""Taking differential extinction off: the surfaces that it puts over exposures, and the extinction they are of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import Config
from calib.model.differential import Site, airmass, site_of
from calib.model.field import tangent_offsets
from calib.model.problem import Problem
from calib.model.rows import ROWS
from calib.solve.kernels import basis
from calib.solve.normal import Topology
from calib.solve.robust import absolute_start
from calib.solve.select import deciding_part, design_of

Array = NDArray[np.float64]

USUAL, SPREAD = 0.13, 0.06
"""Extinction, mag per airmass, and its standard deviation, before any exposure is looked at: a judgement, over the
optical bands."""
LEAST_ERROR = 0.03
"""mag per airmass; what nights cannot tell of it better than: clouds come and go with the hour."""
FAR_APART = 0.08
"""Airmass by which two exposures of a night differ that say what it is."""
SAME_FIELD = 0.5
"""Half fields within which two exposures look at the same stars."""
MOST_OF_NIGHT = 500
"""Exposures of a night that are looked at."""
LEAST_OF_PLANE, LEAST_OF_QUADRATIC = 8, 20
"""Measurements of an exposure that say how the airmass goes over its field."""
WELL = 1e5
"""Condition of their least squares up to which they do."""
LEAST_NIGHTS = 3
"""Nights that must tell it."""
LEAST = 5e-5
"""mag over the half field; smaller surfaces are not taken off."""


@dataclass(frozen=True)
class Differential:
    """What was taken off.

    Attributes
    ----------
    site
        Longitude to the east and latitude, deg.
    coefficient
        Extinction by band, mag per airmass.
    """

    site: Site
    coefficient: dict[str, float]


def without_differential_extinction(
    problem: Problem, frame: pl.DataFrame, config: Config
) -> tuple[Problem, Differential | None]:
    """The problem with the surfaces of differential extinction taken off; as it was where they are not known."""
    given = ("ra", "dec", "mjd", *(() if config.site else ("airmass",)))
    nodes, n = problem.nodes, problem.n_exposures
    if config.extinction == "off" or config.method == "wls" or problem.xy is None:
        return problem, None
    if not set(given) <= set(nodes.columns) or not {"ra", "dec"} <= set(frame.columns):
        return problem, None
    ra, dec, mjd, *x = (nodes[c].cast(pl.Float64).fill_null(np.nan).to_numpy()[:n] for c in given)
    site = (float(config.site[0]), float(config.site[1])) if config.site else site_of(ra, dec, mjd, x[0])
    if site is None:
        return problem, None
    over, half = across_fields(problem, frame, ra, dec, mjd, site)
    if not USUAL * np.abs(over).max(initial=0.0) > LEAST:
        return problem, None
    k, k_err = extinction(problem, SAME_FIELD * half)
    band = problem.band[:n]
    tilt = -k[band, None] * over
    m = problem.m.copy()
    for start in range(0, m.size, ROWS):
        part = slice(start, start + ROWS)
        m[part] += surface_of(problem, tilt, part)
    # what an error of k leaves in all exposures alike passes for a gradient of the flat field
    left = np.abs([(k_err[b] * over[band == b, :2]).mean(0) for b in np.unique(band)]).max()
    named = {str(b): float(v) for b, v in zip(problem.bands, k, strict=True)}
    found = replace(problem, m=m, tilt=tilt, flat_gradient=float(np.hypot(problem.flat_gradient, left)))
    return found, Differential(site, named)


def surface_of(problem: Problem, coefficients: Array, part: slice | NDArray[np.integer]) -> Array:
    """What surfaces of such coefficients (E, 5) are at some of the measurements, mag."""
    assert problem.xy is not None
    return np.asarray(
        (coefficients[problem.graph.exposure[part]] * basis(problem.xy[part], 6, problem.centre)[:, 1:]).sum(1)
    )


def across_fields(
    problem: Problem, frame: pl.DataFrame, ra: Array, dec: Array, mjd: Array, site: Site
) -> tuple[Array, float]:
    """(E, 5), airmass over each field, coefficients of x, y, x^2, x y, y^2 less their means; and half a field, deg.

    By least squares over the places of an exposure's stars, however its field was turned; of few stars, a plane, of
    fewer, nothing. ``frame`` has the stars' ra and dec, the exposures' are (E,).
    """
    assert problem.xy is not None
    n, node, take = mjd.size, problem.graph.exposure, problem.graph.order
    star_ra, star_dec = (frame[c].to_numpy() for c in ("ra", "dec"))
    normal, side, count = np.zeros((n, 6, 6)), np.zeros((n, 6)), np.zeros(n)
    radii: list[float] = []
    for start in range(0, node.size, ROWS):
        part = slice(start, start + ROWS)
        at, row = node[part], take[part]
        x = airmass(star_ra[row], star_dec[row], mjd[at], site)
        radius = np.hypot(*tangent_offsets(star_ra[row], star_dec[row], ra[at], dec[at]))
        radii.append(float(np.median(radius[np.isfinite(radius)])) if np.isfinite(radius).any() else 0.0)
        good = np.isfinite(x)
        at, b = at[good], basis(problem.xy[part][good], 6, problem.centre)
        count += np.bincount(at, minlength=n)
        for j in range(6):
            side[:, j] += np.bincount(at, b[:, j] * x[good], n)
            for k in range(j, 6):
                normal[:, j, k] += np.bincount(at, b[:, j] * b[:, k], n)
    normal += np.triu(normal, 1).transpose(0, 2, 1)
    out = np.zeros((n, 5))
    for size, least in ((3, LEAST_OF_PLANE), (6, LEAST_OF_QUADRATIC)):
        part_of = normal[:, :size, :size]
        told = (count >= least) & (np.linalg.cond(part_of + 1e-9 * np.eye(size)) < WELL)
        if told.any():
            out[told, : size - 1] = np.linalg.solve(part_of[told], side[told, :size, None])[:, 1:, 0]
    # half of a square's measurements lie within 0.8 of half its side
    return out, max(radii, default=0.0) / 0.8


def extinction(problem: Problem, near: float) -> tuple[Array, Array]:
    """(bands,) twice, extinction of each band and its standard error, mag per airmass, of all nights together.

    The median slope with airmass of the zero-points of a night's exposures that look within ``near`` deg of each other
    (Theil 1950; Sen 1968, J. Am. Stat. Assoc. 63, 1379), as far as nights agree on it, and else the usual one. Over
    fields beside each other zero-points follow the airmass of the stars that they share, and not the exposures'.
    """
    part = deciding_part(problem)
    out, error = np.full(len(problem.bands), USUAL), np.full(len(problem.bands), SPREAD)
    if part.night is None or part.airmass is None:
        return out, error
    design = design_of(part, 0)
    z = absolute_start(design, part.m, part.err, Topology(design)).theta[: part.n_exposures, 0]
    ra, dec = (part.nodes[c].cast(pl.Float64).fill_null(np.nan).to_numpy() for c in ("ra", "dec"))
    for b in range(len(problem.bands)):
        slopes, weights = [], []
        for night in np.unique(part.night[part.night >= 0]):
            at = np.flatnonzero((part.night == night) & (part.band == b) & np.isfinite(part.airmass))
            at = at[:: max(1, -(-at.size // MOST_OF_NIGHT))]
            i, j = (at[k] for k in np.triu_indices(at.size, 1))
            apart = part.airmass[i] - part.airmass[j]
            xi, eta = tangent_offsets(ra[i], dec[i], ra[j], dec[j])
            far = (np.abs(apart) > FAR_APART) & (np.hypot(xi, eta) < near)
            if far.any():
                slopes.append(float(np.median((z[j] - z[i])[far] / apart[far])))
                weights.append(float(np.sqrt(far.sum())))
        if len(slopes) < LEAST_NIGHTS:
            continue
        s, w = np.array(slopes), np.array(weights)
        shown = float(np.average(s, weights=w))
        error2 = float(np.average((s - shown) ** 2, weights=w)) / len(slopes) + LEAST_ERROR**2
        error[b] = (1.0 / error2 + 1.0 / SPREAD**2) ** -0.5
        out[b] = error[b] ** 2 * (shown / error2 + USUAL / SPREAD**2)
    return out, error
