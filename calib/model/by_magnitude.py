"""What an exposure does to stars by how bright they are, beside its zero-point:

    calibrated magnitude = m + z_e + ... + b_e g(M_s - M_0)

with M_s the magnitude of the star and M_0 that of a star of middling, faint or bright magnitude, as the shape asks:

background
    g(x) = 10^(0.4 x): a sky subtraction that is wrong by a little adds the same flux B_e to every star's aperture.
slope
    g(x) = x: the magnitude equation of photographic plates; the zero-point is that of the middling star.
nonlinearity
    g(x) = 10^(-0.4 x): a detector, or an aperture, that loses a share of the light which grows with the light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calib.tables.units import AB_NJY, MAG_PER_RELATIVE_FLUX
from graphs import MeasurementGraph

Array = NDArray[np.float64]

BACKGROUND, SLOPE, NONLINEARITY = "background", "slope", "nonlinearity"
FLUX_OF_ZERO = 10 ** (0.4 * AB_NJY)
"""Flux of magnitude 0 on the AB scale, nJy."""
NJY_PER_MJY = 1e6
MOST = 0.5
"""Of a star's flux, or mag: a magnitude is not corrected further for its brightness."""
MOST_FLUX = 6.0
"""g of fluxes counts as no more than this: stars two magnitudes beyond M_0 say nothing anyway, or are saturated."""
STEEPEST = 4.0
"""Magnitudes from M_0 beyond which a star counts as no brighter or fainter."""


@dataclass(frozen=True)
class Shape:
    """One way in which an exposure can depend on magnitude.

    Attributes
    ----------
    name
        As run.json and the report call it.
    quantile
        M_0 is this quantile of the magnitudes of a component's measurements.
    g, x
        Of M - M_0, mag, before it is bounded; and M - M_0 of g.
    bound
        Largest absolute value of g.
    """

    name: str
    quantile: float
    g: Callable[[Array], Array]
    x: Callable[[Array], Array]
    bound: float

    def __call__(self, x: Array) -> Array:
        """G of M - M_0, bounded; 0 where that is unknown."""
        return np.clip(np.nan_to_num(self.g(x), nan=0.0), -self.bound, self.bound)


SHAPES = {
    BACKGROUND: Shape("background", 0.84, lambda x: 10.0 ** (0.4 * x), lambda g: 2.5 * np.log10(g), MOST_FLUX),
    SLOPE: Shape("slope with magnitude", 0.5, lambda x: x, lambda g: g, STEEPEST),
    NONLINEARITY: Shape("nonlinearity", 0.16, lambda x: 10.0 ** (-0.4 * x), lambda g: -2.5 * np.log10(g), MOST_FLUX),
}


@dataclass(frozen=True)
class ByMagnitude:
    """One shape, and g of every measurement, float32 (n,), sorted by star."""

    shape: str
    g: NDArray[np.float32]

    @classmethod
    def of(cls, shape: str, graph: MeasurementGraph, mag: Array) -> ByMagnitude:
        """From magnitudes (S,) of the stars."""
        at, mag = SHAPES[shape], mag[graph.star()]
        pivot = _of_components(graph, np.isfinite(mag), lambda rows: float(np.quantile(mag[rows], at.quantile)))
        return cls(shape, at(mag - pivot[graph.exposure]).astype(np.float32))

    def at(self, rows: NDArray[np.integer]) -> ByMagnitude:
        """Of some of the measurements."""
        return replace(self, g=self.g[rows])

    def pivot(self, graph: MeasurementGraph, mag: Array) -> Array:
        """M_0 (E,) of each node's component on the scale of these magnitudes (S,); NaN where nothing tells."""
        at = SHAPES[self.shape]
        mag, g = mag[graph.star()], self.g.astype(float)
        told = np.isfinite(mag) & (np.abs(g) < at.bound) & (g != 0.0)
        return _of_components(graph, told, lambda rows: float(np.median(mag[rows] - at.x(g[rows]))))


def _of_components(
    graph: MeasurementGraph, use: NDArray[np.bool_], value: Callable[[NDArray[np.intp]], float]
) -> Array:
    """(E,), of each node's component what ``value`` makes of its rows that are of use; NaN without any."""
    component = graph.components()
    rows = np.flatnonzero(use)
    label = component[graph.exposure[rows]]
    order = np.argsort(label, kind="stable")
    found = np.full(int(component.max(initial=-1)) + 1, np.nan)
    ends = np.cumsum(np.bincount(label, minlength=found.size))
    for c, mine in enumerate(np.split(rows[order], ends[:-1]) if found.size else []):
        if mine.size:
            found[c] = value(mine)
    return np.asarray(found[component])


MAGNITUDE_COLUMNS = ("background", "magnitude_slope", "slope_pivot", "nonlinearity")


@dataclass(frozen=True)
class MagnitudeTerms:
    """The same as the table of zero-points has them, (E,) each, 0 where not solved.

    Attributes
    ----------
    background
        Flux in every aperture, nJy where magnitudes are AB.
    magnitude_slope, slope_pivot
        Magnitudes a magnitude, and the magnitude M_0 at which the slope adds nothing.
    nonlinearity
        Magnitudes that a star of 1 mJy has lost; a brighter one more in the ratio of the fluxes.
    """

    background: Array
    magnitude_slope: Array
    slope_pivot: Array
    nonlinearity: Array

    @classmethod
    def of(cls, column: Callable[[str], Array]) -> MagnitudeTerms:
        """From what gives the columns of a table by their names, NaN where they are absent or null."""
        return cls(*(np.nan_to_num(column(name)) for name in MAGNITUDE_COLUMNS))

    @staticmethod
    def columns(shape: str, size: Array, pivot: Array) -> Mapping[str, Array]:
        """Columns of b_e (E,), mag, of one shape whose M_0 is the pivot (E,), mag."""
        flux = FLUX_OF_ZERO * np.power(10.0, -0.4 * pivot)
        if shape == BACKGROUND:
            return {"background": size / MAG_PER_RELATIVE_FLUX * flux}
        if shape == SLOPE:
            return {"magnitude_slope": size, "slope_pivot": pivot}
        return {"nonlinearity": size * NJY_PER_MJY / flux}

    def __call__(self, value: Array, at: NDArray[np.integer]) -> Array | float:
        """What is added to a calibrated magnitude that has all other terms, mag, at a node ``at``."""
        added: Array | float = 0.0
        if self.background.any():
            share = self.background[at] / FLUX_OF_ZERO * np.power(10.0, 0.4 * value)
            added = added + MAG_PER_RELATIVE_FLUX * np.clip(np.nan_to_num(share), -MOST, MOST)
        if self.magnitude_slope.any():
            x = np.nan_to_num(value - self.slope_pivot[at])
            added = added + self.magnitude_slope[at] * np.clip(x, -STEEPEST, STEEPEST)
        if self.nonlinearity.any():
            lost = self.nonlinearity[at] / NJY_PER_MJY * FLUX_OF_ZERO * np.power(10.0, -0.4 * value)
            added = added + np.clip(np.nan_to_num(lost), -MOST, MOST)
        return added
