"""From a solved problem to the rows a user reads: zero-points, stars, terms, and one value per measurement."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import erf

from calib.covariance import ZeropointCovariance
from calib.model.anchors import Anchors
from calib.model.by_magnitude import MAGNITUDE_COLUMNS
from calib.model.calibrator import LATENT_SEEING, SURFACE_COLUMNS, Calibrator
from calib.model.camera import FLAT
from calib.model.flags import join_flags
from calib.model.problem import Problem
from calib.model.statistics import ROWS, of_nodes, star_sums, stars_per_node
from calib.model.tails import MULTIPLES
from calib.solve import by_magnitude
from calib.solve.anchoring import anchored_by_catalogue, anchored_by_stars
from calib.solve.begin import chosen_terms
from calib.solve.conditions import conditions_of
from calib.solve.differential import surface_of
from calib.solve.influence import influence, stability
from calib.solve.methods import Solved
from calib.solve.shared import shared_errors
from calib.solve.unchecked import unchecked_variance
from calib.tables.errors import count
from calib.tables.measurements import Measurements
from calib.terms import term_rows

Array = NDArray[np.float64]

FIVE_SIGMA = 0.2
"""Error, mag, of a five-sigma detection: what limiting_mag is the magnitude of."""
NOTHING_SOLVED = "no exposure could be solved: no two share a star, and every zeropoint is NaN; see `calib check`"
"""The warning of a solution without any zero-point."""
BENT = 2.0
"""Times what is allowed for, beyond which a bend of the zero-points against the references is told."""
GOOD_ENOUGH = 0.01
"""A zero-point's quality is the probability that it is right to this many mag."""

@dataclass
class PerMeasurement:
    """One value per input row, in input order."""

    calibrated_mag: Array
    calibrated_mag_err: NDArray[np.float32]
    residual: NDArray[np.float32]
    weight: NDArray[np.float32]
    outlier_probability: NDArray[np.float32]
    used: NDArray[np.bool_]
    influence: NDArray[np.float32] | None = None

    def columns(self, part: slice = slice(None)) -> dict[str, NDArray[Any]]:
        """What there is of some rows, by name."""
        every = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: values[part] for name, values in every.items() if values is not None}


@dataclass
class Outcome:
    """Everything a solution says, as frames, and what covariances of its zero-points are made of."""

    zeropoints: pl.DataFrame
    stars: pl.DataFrame
    terms: pl.DataFrame
    measurements: PerMeasurement
    components: list[dict[str, Any]]
    model: dict[str, Any]
    warnings: list[str]
    covariance: ZeropointCovariance


def outcome(
    problem: Problem, measurements: Measurements, unused: pl.DataFrame, solved: Solved, reference: pl.DataFrame | None
) -> Outcome:
    """All tables of a solution, anchored where reference stars allow.

    ``unused`` holds the measurements' rows that were kept out of the solve; they are calibrated all the same.
    """
    fit, top = solved.fit, solved.equations.topology
    n_nodes = fit.design.n_nodes
    star_ptr, node = problem.graph.star_ptr, problem.graph.exposure
    n_used = np.diff(star_ptr)
    star_component = np.where(n_used > 0, top.component[node[np.minimum(star_ptr[:-1], max(node.size - 1, 0))]], -1)
    star_component = star_component.astype(np.int32)
    centred = solved.equations.centred(fit.estimate.theta)
    shift = centred[:n_nodes, 0] - fit.estimate.theta[:n_nodes, 0]
    component_shift = np.zeros(top.n_components)
    component_shift[top.component] = shift
    mag = fit.estimate.stars[:, 0] + np.where(star_component >= 0, component_shift[star_component], np.nan)

    functional: Array | None
    if problem.n_catalogue:
        anchors, functional = anchored_by_catalogue(problem, solved)
    else:
        anchors, functional = anchored_by_stars(problem, solved, mag, star_component, reference)
    spread = solved.spread if functional is None else solved.equations.spread(functional)
    solvable = (top.size > 1) | anchors.anchored
    linked = solvable[top.component]
    unlinked = (star_component < 0) | ~solvable[star_component]
    mag[unlinked] = np.nan
    faint = fit.faint_blends
    # where nothing else sets the scale the mean of the zero-points stays zero, and stars take the rest
    level = np.where(anchors.anchored, 0.0, np.bincount(top.component, faint, top.n_components) / top.size)
    z = np.where(linked, centred[:n_nodes, 0] + faint - level[top.component] + anchors.offset[top.component], np.nan)
    mag = mag + np.where(star_component >= 0, anchors.offset[star_component] - level[star_component], 0.0)
    grow2 = solved.inflation**2
    shared = shared_errors(problem, solved, star_component, anchors)
    unchecked = unchecked_variance(fit, solved.equations, solved.spread)
    beyond = solved.beyond + np.where(anchors.anchored[top.component], unchecked.anchored, unchecked.about_mean)
    covariance = ZeropointCovariance(
        solved.equations, functional, top.component, solved.inflation[top.component], anchors.variance,
        top.about_mean(fit.common_response_error), beyond, linked, shared.zeropoints,
    )  # fmt: skip
    z_err = np.sqrt(covariance.diagonal(spread.node[:n_nodes, 0, 0]))
    star_variance = np.maximum(spread.star[:, 0], 0.0)
    at = np.maximum(star_component, 0)
    star_variance = star_variance * grow2[at] + anchors.variance[at] + shared.star_variance
    mag_err = np.where(np.isfinite(mag), np.sqrt(star_variance), np.nan)

    per, base = _per_measurement_noise(problem, solved)
    zeropoints = _zeropoints(problem, measurements, solved, anchors, z, z_err, mag, per, reference is not None)
    zeropoints = zeropoints.head(problem.n_exposures)
    stars = _stars(problem, solved, mag, mag_err, star_component, unlinked, base)
    model, terms = _model(problem, solved), term_rows(problem, solved)
    calibrator = Calibrator.of(zeropoints, model, terms)
    values = _measurements(problem, measurements, unused, solved, calibrator, mag, per)
    zeropoints = zeropoints.with_columns(_limiting_mag(problem, measurements, zeropoints, problem.n_exposures))
    components, warnings = _components(problem, top, anchors, star_component, reference is not None)
    if shared.bend > BENT:
        warnings.append(
            f"zero-points bend away from the reference stars by {shared.bend:.1f} times what flat_gradient allows:"
            " errors are larger for it; where stars lie in the field (x, y or ra, dec) would let surfaces be solved for"
        )
    return Outcome(
        zeropoints.select([c for c in _ORDER if c in zeropoints.columns]), stars, terms, values,
        components, model, warnings, covariance,
    )  # fmt: skip


_ORDER = (
    "exposure_id", "band", "detector", "component", "anchored", "n_stars", "n_measurements", "zeropoint",
    "zeropoint_err", "mjd", "airmass", "seeing", "sky", "exptime", "ra", "dec", "cloud_extinction",
    "cloud_extinction_err", "photometric_probability", "extinction_coefficient", "excess_noise", "error_scale",
    LATENT_SEEING, *SURFACE_COLUMNS, *MAGNITUDE_COLUMNS, "limiting_mag", "quality", "flag",
    "stability",
)  # fmt: skip


def _responses(solved: Solved) -> Array:
    """(S,), each star's response to seeing, with what all have in common, mag."""
    prior = solved.fit.terms.response
    return np.asarray(solved.fit.estimate.stars[:, 1] + (0.0 if prior is None else prior.common))


@dataclass
class _Sorted:
    """One value per measurement of the solve, sorted by star."""

    weight: NDArray[np.floating]
    outlier: NDArray[np.float32]
    influence: NDArray[np.float32] | None


def _per_measurement_noise(problem: Problem, solved: Solved) -> tuple[_Sorted, NDArray[np.float32]]:
    """Weights, outlier probabilities and influences; and the variance of each measurement's noise."""
    fit = solved.fit
    base = fit.noise.base(problem.graph.exposure, fit.err)
    outlier = fit.outlier_probability(base) if solved.outlier is None else solved.outlier
    return _Sorted(np.asarray(fit.equations.w), outlier, influence(fit)), base


def _zeropoints(
    problem: Problem, measurements: Measurements, solved: Solved, anchors: Anchors, z: Array, z_err: Array,
    mag: Array, per: _Sorted, with_reference: bool,
) -> pl.DataFrame:  # fmt: skip
    fit, top = solved.fit, solved.equations.topology
    n, K = fit.design.n_nodes, fit.design.surface_block
    node = problem.graph.exposure
    n_measurements = np.bincount(node, minlength=n)
    n_stars, n_tying = stars_per_node(problem)
    linked = np.isfinite(z)
    with np.errstate(invalid="ignore", divide="ignore"):
        outliers = np.bincount(node, weights=per.outlier > 0.5, minlength=n) / n_measurements
        quality = np.where(linked, erf(GOOD_ENOUGH / np.sqrt(2.0) / z_err), 0.0)
    excess = np.sqrt(np.maximum(fit.noise.excess, 0.0))
    median_err2 = of_nodes(problem, lambda at: problem.err[at] ** 2, pl.col("v").median())
    usual = fit.noise.survey_scale2[problem.band] * median_err2 + fit.noise.floor[problem.band]
    total = fit.noise.error_scale2 * median_err2 + fit.noise.floor[problem.band] + fit.noise.excess
    typical = np.median(z_err[linked]) if linked.any() else np.nan
    flags = join_flags(
        {
            "no_measurements": n_measurements == 0,
            "isolated": ~linked & (n_measurements > 0),
            "reference_only": linked & (top.size[top.component] == 1),
            "few_stars": linked & (n_tying < 5),
            "outlier_rich": linked & (np.nan_to_num(outliers) > 0.25),
            "excess_noise": linked & (total > 4.0 * usual),
            "uncertain": linked & (np.nan_to_num(z_err) > 3.0 * typical),
            "unanchored": linked & with_reference & ~anchors.anchored[top.component],
        }
    )
    columns: dict[str, Any] = {
        "component": top.component.astype(np.int64),
        "anchored": anchors.anchored[top.component],
        "n_stars": np.where(linked, n_stars, 0),
        "n_measurements": np.where(linked, n_measurements, 0),
        "zeropoint": z,
        "zeropoint_err": z_err,
        "excess_noise": excess,
        "error_scale": np.sqrt(fit.noise.error_scale2),
        "quality": quality,
        "flag": flags,
    }
    if per.influence is not None:
        columns["stability"] = np.where(linked, stability(node, per.influence, n), np.nan)
    if fit.design.response is not None and problem.response is None:
        columns[LATENT_SEEING] = fit.design.response
    for k in range(1, K if problem.tilt is None else len(SURFACE_COLUMNS) + 1):
        surface = fit.estimate.theta[:n, k] if k < K else np.zeros(n)
        if problem.tilt is not None:
            surface = surface + problem.tilt[:n, k - 1]
        columns[SURFACE_COLUMNS[k - 1]] = np.where(linked, surface, np.nan)
    columns |= {name: np.where(linked, v, np.nan) for name, v in by_magnitude.columns(fit, mag).items()}
    levels = fit.terms.border.levels
    if levels is not None:
        slope = np.full(n, np.nan)
        slope[levels.node] = fit.estimate.theta[levels.slope(levels.group)]
        columns["extinction_coefficient"] = slope
    clouds = conditions_of(problem, fit)
    if clouds is not None:
        columns["cloud_extinction"] = clouds.cloud
        columns["cloud_extinction_err"] = clouds.cloud_err
        columns["photometric_probability"] = clouds.photometric
    drop: list[str] = [c for c in ("night",) if c in problem.nodes.columns]
    conditions = ("mjd", "airmass", "seeing", "sky", "exptime", "ra", "dec")
    given: list[str] = [c for c in conditions if c in problem.nodes.columns]
    empty = [c for c in given if problem.nodes[c].null_count() == problem.nodes.height]
    return problem.nodes.drop(drop + empty).with_columns(
        pl.col("band").cast(pl.String), *(pl.Series(k, v) for k, v in columns.items())
    )


def _stars(
    problem: Problem, solved: Solved, mag: Array, mag_err: Array,
    component: NDArray[np.int32], unlinked: NDArray[np.bool_], base: NDArray[np.float32],
) -> pl.DataFrame:  # fmt: skip
    fit, own = solved.fit, problem.own
    star = problem.graph.star()[own]
    n_stars = fit.design.n_stars
    n_used = np.where(unlinked, 0, np.bincount(star, minlength=n_stars))
    del star
    # leverage under the weights of the fit: a variable star's prediction is as uncertain as its base noise and more
    chi2, freedom = star_sums(
        problem.graph.star_ptr, problem.graph.exposure, problem.n_exposures, fit.estimate.residual, base,
        fit.resisting, fit.spread.prediction,
    )  # fmt: skip
    variable = np.where(n_used > 1, fit.weighted.perceptible, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        chi2_dof = np.where(n_used > 1, chi2 / freedom, np.nan)
    columns: dict[str, Any] = {
        "component": component.astype(np.int64),
        "mag": mag,
        "mag_err": mag_err,
        "n_measurements": problem.rows.n_measurements,
        "n_used": n_used,
        "chi2_dof": chi2_dof,
        "variability_probability": variable,
    }
    if fit.design.star_block == 2:
        columns["seeing_response"] = _responses(solved)
    if problem.rows.position is not None:
        columns["ra"], columns["dec"] = problem.rows.position.T
    return problem.stars.with_columns(pl.col("band").cast(pl.String), *(pl.Series(k, v) for k, v in columns.items()))


_TAILS = [f"{m**0.5:g} sigma" for m in MULTIPLES]


def _model(problem: Problem, solved: Solved) -> dict[str, Any]:
    """What `apply` needs besides the tables, and what was learned of the noise and the terms."""
    fit = solved.fit
    noise = fit.noise
    detectors: list[str] = []
    if problem.field is not None and problem.field.n_detectors > 1:
        assert problem.rows.detectors is not None
        detectors = problem.rows.detectors.cast(pl.String).to_list()
    terms = fit.terms
    flat = fit.instrument is not None and FLAT in fit.instrument.columns.camera.kinds
    kinds = {"surface": terms.surfaces, "night_illumination": terms.night, "survey_illumination": terms.band}
    learned: dict[str, Any] = {
        f"{kind}_degree_{g}_mag": p.scale**0.5 for kind, priors in kinds.items() for g, p in priors.items()
    }
    if fit.instrument is not None:
        for kind, prior in zip(fit.instrument.columns.camera.kinds, fit.instrument.priors, strict=False):
            learned[f"{kind}_mag"] = prior.scale**0.5
    if fit.design.by_magnitude is not None and terms.by_magnitude is not None:
        learned[f"{fit.design.by_magnitude.shape}_mag"] = terms.by_magnitude.scale**0.5
    if terms.response is not None:
        learned["single_star_share"] = float(terms.response.shares[0])
    if terms.levels is not None:
        learned |= {f"night_{name}_mag": prior.scale**0.5 for name, prior in terms.levels.groups.items()}
    bands = problem.bands[: len(problem.bands) - problem.n_catalogue]  # the catalogues' noise is told by component
    placed = fit.design.degree > 0 or flat or problem.tilt is not None
    return {
        "field": problem.field.to_json() if problem.field is not None and placed else None,
        "detectors": detectors,
        "seeing_scale": None if fit.design.star_block == 1 or problem.seeing_scale is None else [*problem.seeing_scale],
        "floor_mag": {b: float(np.sqrt(f)) for b, f in zip(bands, noise.floor, strict=False)},
        "error_scale": {b: float(np.sqrt(c)) for b, c in zip(bands, noise.survey_scale2, strict=False)},
        "tail_shares": None if noise.tails.is_normal else dict(zip(_TAILS, noise.tails.shares.tolist(), strict=True)),
        "variable_share": None if noise.tails.is_normal else float(1.0 - noise.shares[0]),
        "error_flux_coupling": fit.error_coupling,
        "surface_degree": fit.design.degree,
        "color_scale": _color_scale(solved),
        "seeing_response": fit.design.star_block == 2,
        "learned": learned,
        "terms": chosen_terms(fit),
        "start": terms.learned(),
    }


def _color_scale(solved: Solved) -> list[float] | None:
    """Zero and limit, mag, of the colours that slopes of detectors multiply; None without these."""
    instrument = solved.fit.instrument
    if instrument is None or instrument.columns.n_kinds < 2:
        return None
    scale = instrument.columns.camera.scale
    return None if scale is None else [scale.zero, scale.limit]


def _measurements(
    problem: Problem, measurements: Measurements, unused: pl.DataFrame, solved: Solved, calibrator: Calibrator,
    mag: Array, per: _Sorted,
) -> PerMeasurement:  # fmt: skip
    n = problem.rows.n
    b = np.zeros(mag.size) if solved.fit.design.star_block == 1 else np.nan_to_num(_responses(solved))
    out = PerMeasurement(
        np.empty(n), np.empty(n, np.float32), np.empty(n, np.float32), np.zeros(n, np.float32),
        np.full(n, np.nan, np.float32), np.zeros(n, bool),
        None if per.influence is None else np.full(n, np.nan, np.float32),
    )  # fmt: skip

    def put(rows: NDArray[np.integer[Any]], star: NDArray[np.int32], value: Array, err: Array) -> None:
        out.calibrated_mag[rows] = value
        out.calibrated_mag_err[rows] = err
        out.residual[rows] = value - mag[star]

    graph, star_of = problem.graph, problem.graph.star()
    xy = problem.xy if solved.fit.design.degree > 0 or problem.tilt is not None else None
    shifted = solved.fit.equations.m  # with the terms of the instrument
    solvable = np.isfinite(calibrator.zeropoint)
    for start in range(0, problem.m.size, ROWS):
        at: Any = slice(start, start + ROWS)
        if problem.n_catalogue:
            at = start + np.flatnonzero(graph.exposure[at] < problem.n_exposures)
        row, star, node = graph.order[at], star_of[at], graph.exposure[at]
        places = None if xy is None else xy[at]
        m = shifted[at] if problem.tilt is None else shifted[at] - surface_of(problem, problem.tilt, at)
        put(row, star, *calibrator.at_places(m, problem.err[at], node, places, b[star]))
        out.weight[row] = np.where(solvable[node], per.weight[at], 0.0)
        out.outlier_probability[row] = per.outlier[at]
        out.used[row] = solvable[node]
        if out.influence is not None and per.influence is not None:
            out.influence[row] = np.where(solvable[node], per.influence[at], np.nan)
    left = problem.rows
    for start in range(0, left.unusable.size, ROWS):
        part = slice(start, start + ROWS)
        put(left.unusable[part], left.star[part], *calibrator(unused[part], left.node[part], b[left.star[part]]))
    return out


def _limiting_mag(problem: Problem, measurements: Measurements, zeropoints: pl.DataFrame, n: int) -> pl.Series:
    """Calibrated magnitude at which a star's error is `FIVE_SIGMA`.

    Under the sky's noise err grows as 10^(0.4 m); brighter stars are noisier than that says, so the upper decile of
    what the single measurements give is the faint stars' answer.
    """
    scale = zeropoints["error_scale"].to_numpy()
    node = problem.graph.exposure

    def depth(at: NDArray[np.integer[Any]]) -> Array:
        return np.asarray(problem.m[at] + 2.5 * np.log10(FIVE_SIGMA / (scale[node[at]] * problem.err[at])))

    out = of_nodes(problem, depth, pl.col("v").quantile(0.9))[:n]
    return pl.Series("limiting_mag", out + zeropoints["zeropoint"].to_numpy())


def _components(
    problem: Problem, top: Any, anchors: Anchors, star_component: NDArray[np.int32], with_reference: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    stars = np.bincount(star_component[star_component >= 0], minlength=top.n_components)
    band = np.zeros(top.n_components, np.int32)
    band[top.component[: problem.n_exposures]] = problem.band[: problem.n_exposures]
    size = np.bincount(top.component[: problem.n_exposures], minlength=top.n_components)
    rows: list[dict[str, Any]] = []
    for c in range(top.n_components):
        anchored = bool(anchors.anchored[c])
        row: dict[str, Any] = {
            "component": c,
            "band": problem.bands[band[c]],
            "anchored": anchored,
            "n_exposures": int(size[c]),
            "n_stars": int(stars[c]),
            "gauge": "reference stars"
            if anchored
            else "mean of zeropoints is 0"
            if top.size[c] > 1
            else "none: isolated",
        }
        if anchored:
            inside = (star_component == c) & np.isfinite(anchors.tension)
            row |= {
                "n_reference": int(inside.sum()),
                "offset_mag": float(anchors.offset[c]),
                "offset_err_mag": float(np.sqrt(anchors.variance[c])),
                "reference_scatter_mag": float(anchors.scatter[c]),
                "reference_tension": float(np.sqrt(np.mean(anchors.tension[inside] ** 2))),
                "n_discrepant_reference": int((np.abs(anchors.tension[inside]) > 4.0).sum()),
            }
        rows.append(row)
    linked = [r for r in rows if r["n_exposures"] > 1 or r["anchored"]]
    warnings = []
    lonely = len(rows) - len(linked)
    if not linked:
        warnings.append(NOTHING_SOLVED)
    elif lonely:
        warnings.append(f"{count(lonely, 'exposure')} without a star in common with any other: zeropoint is NaN")
    per_band: dict[str, int] = {}
    for r in linked:
        per_band[r["band"]] = per_band.get(r["band"], 0) + 1
    for name, n in per_band.items():
        if n > 1:
            label = f"band {name}" if name else "the survey"
            warnings.append(f"{label} falls into {n} components, each with a scale of its own; see `calib check`")
    if with_reference:
        missing = sum(not r["anchored"] for r in linked)
        if missing:
            warnings.append(f"{missing} components hold no reference star: their scale is relative")
    return rows, warnings
