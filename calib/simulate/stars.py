"""Stars, made cell by cell of the sky from the cell's own seed, so that none need be kept."""

from __future__ import annotations

from collections import OrderedDict
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from calib.simulate.layouts import Pointings
from calib.simulate.seeds import Part, generator
from calib.simulate.spec import SurveySpec
from calib.simulate.variability import KIND_SHARE, draw_amplitude, draw_period

Floats = NDArray[np.float64]

STAR_BITS = 20
_COLUMN_BITS = 16
_CACHED_STARS = 1_000_000
_CACHED_CELLS = 100_000
_LUMINOSITY_SLOPE = 0.30
MEAN_COLOR = 0.9


class Star(IntEnum):
    """Rows of the array of stars."""

    X = 0
    Y = 1
    Z = 2
    ID = 3
    MAG = 4
    COLOR = 5
    COLOR_SEEN = 6
    BLEND_RATIO = 7
    BLEND_SEPARATION = 8
    KIND = 9
    AMPLITUDE = 10
    PERIOD = 11
    PHASE = 12
    RA = 13
    DEC = 14


class Sky:
    """The stars of a survey, by cells no larger than the field.

    Parameters
    ----------
    spec : SurveySpec
        The survey.
    seed : int
        Its seed.
    pointings : Pointings
        Where it looks; used only for the area when the spec gives n_stars.
    """

    def __init__(self, spec: SurveySpec, seed: int, pointings: Pointings) -> None:
        self.spec, self.seed = spec, seed
        per_field = spec.stars_per_exposure
        if spec.n_stars is not None:
            per_field = spec.n_stars / _footprint(pointings, spec.fov_deg) * spec.fov_deg**2
        self.density = per_field / spec.fov_deg**2
        # small cells waste few stars at the field's border, but a cell should hold some hundreds of stars
        self.cell_deg = float(np.clip(np.sqrt(400 / self.density), spec.fov_deg / 8, spec.fov_deg))
        self.cell_deg = min(self.cell_deg, np.sqrt(5e5 / self.density))
        rng = generator(seed, Part.DENSITY)
        self._waves = rng.normal(0, 1, (6, 2)) / (5 * spec.fov_deg)
        self._phases = rng.uniform(0, 2 * np.pi, 6)
        self._cache: OrderedDict[int, Floats] = OrderedDict()
        self._cached = 0

    def near(self, ra: float, dec: float, half_deg: float) -> Floats:
        """Return the stars (len(Star), n) of all cells that touch the square of half side half_deg, in cell order."""
        c = self.cell_deg
        found = []
        for row in range(int((dec - half_deg + 90) / c), int((dec + half_deg + 90) / c) + 1):
            n, cos = self._row(row)
            width = 360.0 / n
            reach = 1.02 * half_deg / cos
            for column in range(int(np.floor((ra - reach) / width)), int(np.floor((ra + reach) / width)) + 1):
                found.append(self.cell((row << _COLUMN_BITS) | (column % n)))
        return np.concatenate(found, axis=1)

    def cell(self, cell: int) -> Floats:
        """Return the stars of one cell, (len(Star), n)."""
        stars = self._cache.get(cell)
        if stars is not None:
            return stars
        stars = self._draw(cell)
        self._cache[cell] = stars
        self._cached += stars.shape[1]
        while self._cached > _CACHED_STARS or len(self._cache) > _CACHED_CELLS:
            _, gone = self._cache.popitem(last=False)
            self._cached -= gone.shape[1]
        return stars

    def _row(self, row: int) -> tuple[int, float]:
        """Return the number of cells in a row of cells and the smallest cosine of its declination."""
        c = self.cell_deg
        low = row * c - 90
        cos = float(np.cos(np.radians(max(abs(low), abs(low + c)))))
        return max(1, int(360 * np.cos(np.radians(low + c / 2)) / c)), max(cos, 0.05)

    def _draw(self, cell: int) -> Floats:
        spec, c = self.spec, self.cell_deg
        rng = generator(self.seed, Part.CELL, cell)
        row, column = cell >> _COLUMN_BITS, cell & ((1 << _COLUMN_BITS) - 1)
        n_row, _ = self._row(row)
        width = 360.0 / n_row
        dec0, ra0 = row * c - 90, column * width
        crowding = self._crowding(ra0 + width / 2, dec0 + c / 2)
        area = width * np.degrees(np.sin(np.radians(dec0 + c)) - np.sin(np.radians(dec0)))
        n = min(int(rng.poisson(self.density * crowding * area)), (1 << STAR_BITS) - 1)
        uniform = rng.random((8, n))
        normal = rng.standard_normal((3, n))
        stars = np.zeros((len(Star), n))
        ra = ra0 + width * uniform[0]
        sin_dec = np.sin(np.radians(dec0)) + np.radians(area / width) * uniform[1]
        cos_dec = np.sqrt(1 - sin_dec**2)
        stars[Star.X] = cos_dec * np.cos(np.radians(ra))
        stars[Star.Y] = cos_dec * np.sin(np.radians(ra))
        stars[Star.Z] = sin_dec
        stars[Star.RA], stars[Star.DEC] = ra, np.degrees(np.arcsin(sin_dec))
        stars[Star.ID] = (cell << STAR_BITS) + np.arange(n)
        # number counts rise as 10^(0.3 m)
        lowest = 10 ** (-_LUMINOSITY_SLOPE * (spec.mag_faint - spec.mag_bright))
        stars[Star.MAG] = spec.mag_faint + np.log10(lowest + (1 - lowest) * uniform[2]) / _LUMINOSITY_SLOPE
        # blue disc and red dwarfs, the latter fainter
        red = uniform[3] < 0.25 + 0.04 * (stars[Star.MAG] - spec.mag_bright)
        stars[Star.COLOR] = np.where(red, 1.5 + 0.35 * normal[0], 0.65 + 0.2 * normal[0])
        stars[Star.COLOR_SEEN] = stars[Star.COLOR] + (0.01 + 0.01 * np.maximum(0, stars[Star.MAG] - 18)) * normal[1]
        blended = uniform[4] < spec.blend_fraction * crowding
        stars[Star.BLEND_RATIO] = np.where(blended, 10 ** (-0.4 * (4.5 * np.sqrt(uniform[5]))), 0.0)
        stars[Star.BLEND_SEPARATION] = np.sqrt(0.8 + 17.0 * uniform[6])
        variable = np.flatnonzero(uniform[7] < spec.variable_fraction)
        kind = 1 + rng.choice(len(KIND_SHARE), len(variable), p=KIND_SHARE)
        stars[Star.KIND, variable] = kind
        stars[Star.AMPLITUDE, variable] = draw_amplitude(rng, kind)
        stars[Star.PERIOD] = 1.0
        stars[Star.PERIOD, variable] = draw_period(rng, kind)
        stars[Star.PHASE, variable] = rng.random(len(variable))
        return stars

    def _crowding(self, ra: float, dec: float) -> float:
        """Return the density at a place over the mean: six plane waves of a few fields' length."""
        phase = self._waves @ (ra * np.cos(np.radians(dec)), dec) * 2 * np.pi + self._phases
        s = self.spec.density_contrast
        return float(np.exp(s * np.sin(phase).sum() / np.sqrt(3) - s**2 / 2))


def _footprint(pointings: Pointings, fov_deg: float) -> float:
    """Return the area that a survey's fields cover, deg2, to about a percent."""
    step = fov_deg / 16
    offset = (np.arange(16) + 0.5) * step - fov_deg / 2
    dx, dy = (a.ravel() for a in np.meshgrid(offset, offset))
    seen: NDArray[np.int64] = np.empty(0, np.int64)
    x0 = (np.mod(pointings.ra - pointings.ra[0] + 180, 360) - 180) * np.cos(np.radians(pointings.dec))
    for start in range(0, len(x0), 4096):
        part = slice(start, start + 4096)
        x = np.floor((x0[part, None] + dx) / step).astype(np.int64)
        y = np.floor((pointings.dec[part, None] + dy) / step).astype(np.int64)
        seen = np.unique(np.concatenate([seen, ((x + (1 << 30)) << 31 | (y + (1 << 30))).ravel()]))
    return len(seen) * step**2
