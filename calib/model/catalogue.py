"""The catalogue as one more exposure: where references must tie what no star ties, they enter the solve itself.

Fields that share no star are tied by nothing but references, so that an extinction law over them needs the references
beside the stars, not after them:

    mag_ref = M_s + noise

is a measurement of star s in an exposure whose zero-point is 0 by choice of gauge, with a noise of its own: error
scale, floor and excess are estimated as any exposure's are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.anchors import match
from calib.model.problem import Problem
from graphs import MeasurementGraph

NOISE_OF = "reference"
"""What follows a band's name in the name of its catalogue's noise."""


def with_catalogue(problem: Problem, reference: pl.DataFrame) -> Problem:
    """The problem with one node more at the end for each band that has reference stars, and a row for each of these.

    Parameters
    ----------
    problem
        Without catalogue.
    reference
        star_id, band (empty: any), mag, mag_err.
    """
    graph = problem.graph
    mag, err = match(problem.stars, reference)
    star = np.flatnonzero(np.isfinite(mag) & (err > 0) & (np.diff(graph.star_ptr) > 0))
    if not star.size:
        return problem
    of_band = problem.stars["band"].to_physical().to_numpy().astype(np.int32)[star]
    bands, which = np.unique(of_band, return_inverse=True)
    n_nodes, more = graph.n_exposures, bands.size
    added = np.zeros(graph.n_stars + 1, np.int64)
    added[star + 1] = 1
    place = graph.star_ptr[star + 1]  # each follows its star's own measurements
    extended = MeasurementGraph(
        graph.star_ptr + np.cumsum(added),
        np.insert(graph.exposure, place, (n_nodes + which).astype(np.int32)),
        np.insert(graph.order, place, 0),
        n_nodes + more,
    )
    names = pl.DataFrame({"band": pl.Series([problem.bands[b] for b in bands], dtype=problem.nodes["band"].dtype)})
    return replace(
        problem,
        graph=extended,
        n_catalogue=more,
        m=np.insert(problem.m, place, mag[star]),
        err=np.insert(problem.err, place, err[star].astype(np.float32)),
        nodes=pl.concat([problem.nodes, names], how="diagonal"),
        band=_longer(problem.band, len(problem.bands) + np.arange(more)),
        bands=[*problem.bands, *(f"{problem.bands[b]} {NOISE_OF}".strip() for b in bands)],
        night=_longer(problem.night, np.full(more, -1)),
        xy=None if problem.xy is None else np.insert(problem.xy, place, 0.0, axis=0),
        response=_longer(problem.response, np.zeros(more)),
        airmass=_longer(problem.airmass, np.full(more, np.nan)), mjd=_longer(problem.mjd, np.full(more, np.nan)),
        log_seeing=_longer(problem.log_seeing, np.zeros(more)),
        camera=None if problem.camera is None else problem.camera.with_catalogue(place),
        tilt=_longer(problem.tilt, np.zeros((more, 5))),
    )


def _longer(values: NDArray[Any] | None, extra: NDArray[Any]) -> Any:
    return None if values is None else np.concatenate([values, extra.astype(values.dtype)])
