"""A fit of all measurements that begins where an older solution of part of them came to rest.

All is solved for as from nothing, and comes to the same answer; residuals, scales and variances to begin from are the
older solution's, which saves the trials of terms and some passes. Variances that have vanished there begin a little
above nothing, from which they could not grow again; and the shares of the noise's mixtures begin as they always do, for
the same reason: of what a few exposures showed nothing of they would long see nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import Config
from calib.model.calibrator import Calibrator
from calib.model.camera import FLAT
from calib.model.noise import NoiseModel
from calib.model.priors import MATTERS
from calib.model.problem import Problem
from calib.model.rows import ROWS
from calib.solve.by_magnitude import by_magnitude
from calib.solve.design import Design
from calib.solve.latent import latent_seeing, refreshed
from calib.solve.normal import Estimate, Topology
from calib.solve.robust import RobustFit, absolute_start, fit, start_noise
from calib.solve.select import (
    Trial,
    border_of,
    candidates,
    design_of,
    instrument_of,
    kinds_of_instrument,
    with_latent,
)  # fmt: skip
from calib.solve.terms import Terms

Array = NDArray[np.float64]

SURFACES, INSTRUMENTS = ("off", "plane", "quadratic"), ("off", "offset", "color")
"""Values of the configuration by degree and by number of kinds."""
LEAST_FLOOR = 1e-6
"""Variance, mag^2 (1 mmag), that floors begin with at least."""


def chosen_terms(fit: RobustFit) -> dict[str, str]:
    """Keys and values of the configuration that ask for the terms of a fit, and no others."""
    design = fit.design
    return {
        "surface": SURFACES[design.degree],
        "seeing_response": "on" if design.star_block == 2 else "off",
        "magnitude_term": "off" if design.by_magnitude is None else design.by_magnitude.shape,
        "instrument": INSTRUMENTS[0 if fit.instrument is None else fit.instrument.columns.n_kinds],
    }


@dataclass(frozen=True)
class Beginning:
    """What an older solution says of a problem that holds its measurements and more.

    Attributes
    ----------
    model, terms
        Of run.json, and the table.
    error_scale2, excess
        (E,), of the problem's nodes, mag^2; NaN of new ones.
    levelled
        (rows,), magnitudes with all terms of the older solution but the zero-point, in input order; NaN where unknown.
    residual
        (rows,), of them with the zero-point from the star's magnitude there; NaN where unknown.
    """

    model: dict[str, Any]
    terms: pl.DataFrame
    error_scale2: Array
    excess: Array
    levelled: Array
    residual: Array

    @classmethod
    def of(
        cls, problem: Problem, frame: pl.DataFrame, zeropoints: pl.DataFrame, stars: pl.DataFrame,
        terms: pl.DataFrame, model: dict[str, Any],
    ) -> Beginning:  # fmt: skip
        """From the tables of the older solution and the measurements (rows,) of the problem."""
        node = _places(problem.nodes, zeropoints, ("exposure_id", "band", "detector"))
        # names of stars that were told by position are made anew
        named = problem.rows.place is None
        star = _places(problem.stars, stars, ("star_id", "band")) if named else np.full(problem.stars.height, -1)
        mag, response = _of(stars, "mag", star), np.nan_to_num(_of(stars, "seeing_response", star))
        calibrator = Calibrator.of(zeropoints, model, terms)
        levelled, residual = np.full((2, frame.height), np.nan)
        if set(calibrator.needs) <= set(frame.columns):
            node_code, star_code = problem.node_code, problem.star_code
            zeropoint = _of(zeropoints, "zeropoint", node)
            for first in range(0, frame.height, ROWS):
                part = slice(first, first + ROWS)
                at, of = node_code[part], star_code[part]
                value, _ = calibrator(frame[part], node[at], response[of])
                levelled[part], residual[part] = value - zeropoint[at], value - mag[of]
        scale, excess = (_of(zeropoints, name, node) ** 2 for name in ("error_scale", "excess_noise"))
        return cls(model, terms, scale, excess, levelled, residual)

    def start(self, problem: Problem, design: Design) -> Estimate:
        """Least absolute deviations from what is known; what is new finds its place there."""
        order, own = problem.graph.order, np.arange(problem.m.size)[problem.own]
        m, residual = problem.m.copy(), np.full(problem.m.size, np.nan)
        levelled = self.levelled[order[own]]
        m[own] = np.where(np.isfinite(levelled), levelled, m[own])
        residual[own] = self.residual[order[own]]
        return absolute_start(design, m, problem.err, Topology(design), residual=residual)

    def noise(self, problem: Problem, design: Design, start: Estimate) -> NoiseModel:
        """That of the older solution; new exposures have their band's, new bands the one that the start suggests."""
        noise = start_noise(design, problem.err, start.residual, problem.band)
        for b, name in enumerate(problem.bands):
            scale, floor = (self.model[key].get(name) for key in ("error_scale", "floor_mag"))
            if scale and floor is not None:
                noise.survey_scale2[b], noise.floor[b] = scale**2, max(floor**2, LEAST_FLOOR)
                noise.error_scale2[problem.band == b] = scale**2
        n = self.error_scale2.size  # a catalogue's nodes are behind them
        for values, known in ((noise.error_scale2, self.error_scale2), (noise.excess, self.excess)):
            values[:n] = np.where(np.isfinite(known), known, values[:n])
        return noise

    def like_it(self, terms: Terms) -> Terms:
        """Begin from the variances and shares of its terms."""
        said = self.model["start"]
        scales = {name: [max(scale, MATTERS), dof] for name, (scale, dof) in said["scales"].items()}
        return terms.begin(said | {"scales": scales})


def begun_fit(
    problem: Problem, config: Config, beginning: Beginning, progress: Callable[[str, int, float], None] | None = None
) -> tuple[RobustFit, list[Trial]]:
    """The robust solve with the terms that the configuration asks for, and what it is as a trial."""
    (degree, *_), (responds, *_) = candidates(problem, config)
    kinds = kinds_of_instrument(problem, config)[0]
    design = design_of(problem, degree, problem.response if responds else None)
    start = beginning.start(problem, design)
    if config.magnitude_term != "off":
        design = design.with_terms(degree, design.response, by_magnitude(config.magnitude_term, problem, start))
    border = border_of(problem, design, config)
    instrument = instrument_of(problem, design, None, kinds)
    if instrument is not None:
        instrument.begin(beginning.terms, problem.bands)
    step = (lambda n, change: progress("all measurements", n, change)) if progress else None
    found = fit(
        design, problem.m, problem.err, problem.band, border, start=start,
        noise=beginning.noise(problem, design, start), terms=beginning.like_it(Terms(design, border)),
        instrument=instrument, max_passes=config.max_passes, tolerance=config.tolerance, progress=step,
    )  # fmt: skip
    del start
    response = "seeing response" if responds else ""
    seeing = None
    if config.seeing_response == "on" and problem.response is None:
        seeing = latent_seeing(found)
    if seeing is not None:
        response = "response to a latent seeing"
        found = with_latent(problem, found, seeing, config, step)
        found = with_latent(problem, found, refreshed(found), config, step)
    shape = "" if found.design.by_magnitude is None else found.design.by_magnitude.shape
    flat = problem.camera is not None and instrument is not None and FLAT in problem.camera.kinds
    return found, [Trial(degree, response, found.evidence, kinds, shape, flat=flat)]


def _places(ours: pl.DataFrame, theirs: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Row of each of ours among theirs, -1 where it is new; ids that are text in one are text in both."""
    on = [pl.col(name).cast(pl.String) for name in names if name in ours.columns and name in theirs.columns]
    known = theirs.select(*on, pl.int_range(pl.len(), dtype=pl.Int64).alias("_row"))
    keys = ours.select(on)
    return keys.join(known, on=keys.columns, how="left", maintain_order="left")["_row"].fill_null(-1).to_numpy()


def _of(table: pl.DataFrame, name: str, row: NDArray[np.integer]) -> Array:
    """Values of a column at rows, NaN at -1 and where it is not."""
    if name not in table.columns or not table.height:
        return np.full(row.size, np.nan)
    values = table[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.where(row >= 0, values[np.maximum(row, 0)], np.nan)
