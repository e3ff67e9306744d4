"""Rows of terms.ecsv: what the solve found that many exposures share."""

from __future__ import annotations

import numpy as np
import polars as pl

from calib.model.problem import Problem
from calib.solve.methods import Solved

SCHEMA = {
    "name": pl.String, "band": pl.String, "detector": pl.String, "night": pl.Int64, "value": pl.Float64,
    "err": pl.Float64,
}  # fmt: skip

Row = tuple[str, str, str, int | None, float, float]


def term_rows(problem: Problem, solved: Solved) -> pl.DataFrame:
    """Extinction and its drift of every night and band, slope with seeing of every band, terms of detectors.

    Errors of the first three are enlarged as those of the zero-points are that they rest on, by the mean over these
    exposures.
    """
    rows = _of_nights(problem, solved) + _of_instrument(problem, solved)
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _of_nights(problem: Problem, solved: Solved) -> list[Row]:
    levels = solved.fit.terms.border.levels
    if levels is None:
        return []
    theta = solved.fit.estimate.theta
    variance = np.einsum("ekk->ek", solved.spread.node)
    night = problem.night
    assert night is not None
    channels = problem.channels
    named = [(problem.bands[b], name) for b, name in zip(channels.band, channels.detector, strict=True)]
    grow2 = solved.inflation[solved.equations.topology.component[levels.node]] ** 2
    night_grow2 = np.bincount(levels.group, grow2) / np.bincount(levels.group)
    of_band = levels.band[levels.group]
    n_of_band = np.bincount(of_band, minlength=levels.n_bands)
    band_grow2 = np.bincount(of_band, grow2, levels.n_bands) / np.maximum(n_of_band, 1)
    rows: list[Row] = []
    first = np.unique(levels.group, return_index=True)[1]
    nights, bands = np.arange(levels.n_groups), np.arange(levels.n_bands, dtype=np.int32)
    slope, drift, seeing = levels.slope(nights), levels.drift(nights), levels.band_hub(2, bands)
    slope_error = np.sqrt(variance[slope] * night_grow2)
    drift_error = np.sqrt(variance[drift] * night_grow2) if levels.drifts else None
    for g in range(levels.n_groups):
        which, of_night = named[levels.band[g]], int(night[levels.node[first[g]]])
        rows.append(("extinction", *which, of_night, float(theta[slope][g]), float(slope_error[g])))
        if drift_error is not None:
            rows.append(("extinction_drift", *which, of_night, float(theta[drift][g]), float(drift_error[g])))
    for b in range(levels.n_bands):
        error = np.sqrt(variance[seeing][b] * (band_grow2[b] if n_of_band[b] else 1.0))
        rows.append(("seeing", *named[b], None, float(theta[seeing][b]), float(error)))
    return rows


def _of_instrument(problem: Problem, solved: Solved) -> list[Row]:
    instrument = solved.fit.instrument
    if instrument is None:
        return []
    camera, error, seen = instrument.columns.camera, instrument.error, instrument.measured
    bands = problem.bands[: len(problem.bands) - problem.n_catalogue]
    return [
        (kind, band, name, None, float(instrument.value[b, f, d]), float(error[b, f, d]))
        for f, kind in enumerate(camera.kinds[: instrument.columns.n_kinds])
        for b, band in enumerate(bands)
        for d, name in enumerate(camera.names)
        if seen[b, d]
    ]
