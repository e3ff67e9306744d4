"""The camera: detectors, and what its optics and flat fields do to magnitudes across them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.simulate.screens import smooth_map
from calib.simulate.spec import SurveySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PIXELS = 129
_GAP = 0.03
N_NIGHT_MAPS = 3
STATIC, COLOR, EDGE = 0, 1, 2
N_MAPS = 3 + N_NIGHT_MAPS


@dataclass(frozen=True)
class FocalPlane:
    """A square field, u and v from -1 to 1, cut in detectors.

    Attributes
    ----------
    columns, rows : int
        Detectors along u and v.
    side_pixels : int
        Pixels along a detector's side.
    maps : float32 (_PIXELS**2, N_MAPS)
        Static flat-field error, radial colour term, edge loss, then the patterns whose strength changes from night
        to night; each of zero mean over the detectors' area.
    edge_mean : float
        Mean of the edge loss before it was taken out.
    offset, color_offset : float (columns * rows,)
        Zero-point (mag) and colour term (mag per mag) of each detector, of zero mean.
    bad_column : float (columns * rows, n_bad)
        Pixel x of each bad column.
    bad_depth : float (columns * rows, n_bad)
        Magnitudes lost on it.
    grid_u, grid_v : float (n_grid,)
        Points that cover the detectors evenly: field averages are taken over these.
    grid_maps : float (n_grid, N_MAPS)
        The maps there, detectors' offsets included in the static one.
    """

    columns: int
    rows: int
    side_pixels: int
    maps: NDArray[np.float32]
    edge_mean: float
    offset: Floats
    color_offset: Floats
    bad_column: Floats
    bad_depth: Floats
    grid_u: Floats
    grid_v: Floats
    grid_maps: Floats

    @classmethod
    def draw(cls, spec: SurveySpec, rng: np.random.Generator) -> FocalPlane:
        """Draw the camera of a survey.

        The static flat-field error is mostly radial (scattered light and pupil ghosts; illumination corrections of
        mosaic cameras, Regnault et al. 2009) with smooth structure of all scales down to a twentieth of the field.
        """
        columns, rows = spec.ccds
        line = np.linspace(-1, 1, _PIXELS)
        u, v = np.meshgrid(line, line)
        r2 = (u**2 + v**2) / 2
        radial = np.cos(np.pi * r2 * rng.uniform(0.8, 1.3) + rng.uniform(0, 1))
        radial = (radial - radial.mean()) / radial.std()
        static = spec.flat * (0.8 * radial + 0.6 * smooth_map(rng, _PIXELS, 3.0, 0.6))
        color = 0.5 * spec.color_term * (r2 - r2.mean()) / r2.std()
        edge = np.maximum(0, np.sqrt(2 * r2) - 0.75) ** 2 / 0.4
        nightly = [spec.flat_night * smooth_map(rng, _PIXELS, 3.6, 0.8) for _ in range(N_NIGHT_MAPS)]
        maps = np.stack([static, color, edge, *nightly], axis=-1).reshape(-1, N_MAPS).astype(np.float32)

        n = columns * rows
        offset = rng.standard_normal(n) * (spec.ccd_offset if n > 1 else 0.0)
        color_offset = rng.standard_normal(n) * (spec.color_term if n > 1 else 0.0)
        side = 4096 if n == 1 else 2048
        bad_column = rng.uniform(0, side, (n, spec.bad_columns))
        bad_depth = rng.uniform(0.05, 0.4, (n, spec.bad_columns))

        each = -(-40 // max(columns, rows))
        centre = (np.arange(each) + 0.5) / each
        grid_u = _to_field(np.repeat(np.arange(columns), each), np.tile(centre, columns), columns)
        grid_v = _to_field(np.repeat(np.arange(rows), each), np.tile(centre, rows), rows)
        gu, gv = (a.ravel() for a in np.meshgrid(grid_u, grid_v))
        draft = cls(
            columns, rows, side, maps, 0.0, offset - offset.mean(), color_offset - color_offset.mean(),
            bad_column, bad_depth, gu, gv, np.empty((0, N_MAPS)),
        )  # fmt: skip
        return draft._centred()

    def _centred(self) -> FocalPlane:
        """Return the camera with maps whose mean over the grid is zero."""
        mean = self.at(self.grid_u, self.grid_v).mean(axis=0)
        maps = self.maps - mean.astype(np.float32)
        centred = FocalPlane(**{**self.__dict__, "maps": maps, "edge_mean": float(mean[EDGE])})
        grid_maps = centred.at(self.grid_u, self.grid_v)
        detector, _, _ = self.detector(self.grid_u, self.grid_v)
        grid_maps[:, STATIC] += self.offset[detector]
        return FocalPlane(**{**centred.__dict__, "grid_maps": grid_maps})

    def at(self, u: Floats, v: Floats) -> Floats:
        """Interpolate all maps at u, v (n,); returns (n, N_MAPS)."""
        half = (_PIXELS - 1) / 2
        x, y = (u + 1) * half, (v + 1) * half
        column, row = x.astype(np.int32), y.astype(np.int32)
        np.minimum(column, _PIXELS - 2, out=column)
        np.minimum(row, _PIXELS - 2, out=row)
        fx, fy = (x - column).astype(np.float32)[:, None], (y - row).astype(np.float32)[:, None]
        i = row * _PIXELS + column
        low = np.take(self.maps, i, axis=0)
        low += fx * (np.take(self.maps, i + 1, axis=0) - low)
        i += _PIXELS
        high = np.take(self.maps, i, axis=0)
        high += fx * (np.take(self.maps, i + 1, axis=0) - high)
        high -= low
        high *= fy
        high += low
        return high.astype(np.float64)

    def detector(self, u: Floats, v: Floats) -> tuple[Ints, Floats, Floats]:
        """Return the detector (n,), -1 in a gap, and the pixel x, y on it."""
        column, x = _to_detector(u, self.columns)
        row, y = _to_detector(v, self.rows)
        lost = (x < 0) | (x >= 1) | (y < 0) | (y >= 1)
        index = np.where(lost, -1, row * self.columns + column)
        return index, x * self.side_pixels, y * self.side_pixels

    def bad_column_loss(self, detector: Ints, x: Floats) -> Floats:
        """Return the magnitudes lost on bad columns, four pixels wide, of detector (n,) at pixel x (n,)."""
        loss = np.zeros(len(x))
        for column, depth in zip(self.bad_column.T, self.bad_depth.T, strict=True):
            hit = np.flatnonzero(np.abs(x - column[detector]) < 2)
            loss[hit] += depth[detector[hit]]
        return loss


def _active(n: int) -> tuple[float, float]:
    """Return pitch and active side of one of n detectors across the field from -1 to 1."""
    pitch = 2.0 / n if n == 1 else (2.0 + _GAP) / n
    return pitch, 2.0 if n == 1 else pitch - _GAP


def _to_detector(u: Floats, n: int) -> tuple[Ints, Floats]:
    pitch, side = _active(n)
    index = np.clip(((u + 1) / pitch).astype(np.int64), 0, n - 1)
    return index, (u + 1 - index * pitch) / side


def _to_field(index: Ints, fraction: Floats, n: int) -> Floats:
    pitch, side = _active(n)
    return index * pitch + fraction * side - 1
