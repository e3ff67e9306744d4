"""The border of the Laplacian: hubs that many exposures share, gathered from every kind of term that needs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.model.problem import Problem
from calib.solve.illumination import Illumination
from calib.solve.nights import NightLevels
from calib.solve.normal import Hubs


@dataclass(frozen=True)
class Border:
    """All hubs and the parts that own them.

    Attributes
    ----------
    hubs
        Of all parts, as the normal equations take them.
    illumination, levels
        The parts; None where absent.
    illumination_at, levels_at
        For every pair of a part, its place among the hubs' pairs.
    flat_gradient
        As in `calib.config.Config`, mag.
    """

    hubs: Hubs
    illumination: Illumination | None
    levels: NightLevels | None
    illumination_at: NDArray[np.int64]
    levels_at: NDArray[np.int64]
    flat_gradient: float

    @classmethod
    def of(cls, problem: Problem, *, surfaces: bool, levels: bool, block: int = 1) -> Border:
        """The hubs that surfaces and night levels of a problem need, of as many coefficients as a node has."""
        first, channel = problem.band.size, problem.channels.of_node
        light = Illumination.of(channel, problem.night, first) if surfaces else None
        first += 0 if light is None else light.n_hubs
        nights = None
        if levels and problem.night is not None and problem.airmass is not None:
            nights = NightLevels.of(
                channel, problem.night, problem.airmass, problem.log_seeing, first, problem.mjd, block
            )
            first += 0 if nights is None else nights.n_hubs
        empty = np.zeros(0, np.int32)
        parts = [p for p in (light, nights) if p is not None]
        row = np.concatenate([empty, *(p.row for p in parts)])
        column = np.concatenate([empty, *(p.column for p in parts)])
        ties = np.concatenate([np.zeros(0, bool), *(p.ties for p in parts)])
        key = row.astype(np.int64) * (first + 1) + column
        unique, start, place = np.unique(key, return_index=True, return_inverse=True)
        hubs = Hubs(first - problem.band.size, row[start], column[start], np.zeros(unique.size, bool))
        np.logical_or.at(hubs.ties, place, ties)
        n_light = 0 if light is None else light.row.size
        return cls(hubs, light, nights, place[:n_light], place[n_light:], problem.flat_gradient)
