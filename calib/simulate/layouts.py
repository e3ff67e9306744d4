"""Where a survey points: layouts of fields on the sky and the order in which they are visited."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.simulate.spec import SpecError, SurveySpec

LATITUDE_DEG = -30.0
_MAX_HEIGHT_DEG = 70.0
_MAX_WIDTH_DEG = 320.0


@dataclass(frozen=True)
class Pointings:
    """Exposures in the order they are taken.

    Attributes
    ----------
    ra, dec : float (n_exposures,)
        Field centre, deg.
    band : int (n_exposures,)
        Index into the bands of the spec.
    group : int (n_exposures,)
        Island the exposure belongs to; -1 for a bridge, 0 in every other layout.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    band: NDArray[np.int64]
    group: NDArray[np.int64]


@dataclass(frozen=True)
class _Tiling:
    """Nominal field centres, flat degrees (n,); ``once`` fields are visited in the first pass only, undithered."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    group: NDArray[np.int64]
    once: NDArray[np.bool_]


def pointings(spec: SurveySpec, rng: np.random.Generator) -> Pointings:
    """Lay out the survey and put its exposures in order.

    Each pass visits every field in a snake from a random start, shifted by its own dither; the first pass in a
    band is not dithered, so the layout's links are there by construction.

    Raises
    ------
    SpecError
        If the fields would not fit on the observable sky.
    """
    tiling = _tiling(spec)
    n, n_bands = spec.n_exposures, len(spec.bands)
    height = np.ptp(tiling.y) + spec.fov_deg
    if height > _MAX_HEIGHT_DEG + spec.fov_deg or np.ptp(tiling.x) > _MAX_WIDTH_DEG:
        raise SpecError(
            f"{len(tiling.x)} fields of {spec.fov_deg} deg do not fit on the sky; raise visits or lower fov_deg"
        )
    repeated = np.flatnonzero(~tiling.once)
    fields, shifts, bands = [], [], []
    count = turn = 0
    while count < n:
        if turn < n_bands:
            order = np.arange(len(tiling.x))
            shift = np.zeros((len(order), 2))
        else:
            order = repeated
            shift = rng.normal(0, spec.dither * spec.fov_deg, 2) + rng.normal(0, 0.02 * spec.fov_deg, (len(order), 2))
        start = rng.integers(len(order))
        fields.append(np.roll(order, -start))
        shifts.append(shift)
        bands.append(np.full(len(order), turn % n_bands))
        count += len(order)
        turn += 1
    field = np.concatenate(fields)[:n]
    shift = np.concatenate(shifts)[:n]
    x, y = tiling.x[field] + shift[:, 0], tiling.y[field] + shift[:, 1]
    slack = max(0.0, 35.0 - height / 2)
    dec = np.clip(LATITUDE_DEG + rng.uniform(-slack, slack) + y, -80.0, 80.0)
    ra = np.mod(rng.uniform(0, 360) + x / np.cos(np.radians(dec)), 360.0)
    return Pointings(ra, dec, np.concatenate(bands)[:n].astype(np.int64), tiling.group[field])


def _tiling(spec: SurveySpec) -> _Tiling:
    n_fields = max(1, round(spec.n_exposures / spec.visits))
    step = spec.fov_deg * (1 - spec.overlap)
    if spec.layout == "deep":
        return _plain(np.zeros(1), np.zeros(1))
    if spec.layout == "strip":
        x = step * np.arange(n_fields)
        return _plain(x - x.mean(), np.zeros(n_fields))
    if spec.layout == "islands":
        return _islands(spec, n_fields, step)
    x, y = _grid(n_fields, step)
    return _plain(x, y)


def _plain(x: NDArray[np.float64], y: NDArray[np.float64]) -> _Tiling:
    return _Tiling(x, y, np.zeros(len(x), np.int64), np.zeros(len(x), np.bool_))


def _grid(n: int, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return n fields of a near-square grid in snake order, centred; wider than high where the sky ends."""
    rows = max(1, min(round(np.sqrt(n)), int(_MAX_HEIGHT_DEG / step)))
    columns = -(-n // rows)
    row, column = np.divmod(np.arange(n), columns)
    column = np.where(row % 2 == 0, column, columns - 1 - column)
    # a last row that is not full stays attached: it lies beside its neighbours of the row before
    return step * (column - (columns - 1) / 2), step * (row - (rows - 1) / 2)


def _islands(spec: SurveySpec, n_fields: int, step: float) -> _Tiling:
    """Lay groups of fields in a row; the first n_bridges gaps are spanned by fields that barely overlap."""
    fov = spec.fov_deg
    thin = 0.92 * fov
    n_chain = 2
    each = max(1, (n_fields - n_chain * spec.n_bridges) // spec.n_islands)
    gx, gy = _grid(each, step)
    width = float(np.ptp(gx))
    # from an island's last field to the next one's first: the chain's links, each overlapping by 8 %
    bridged, open_gap = thin * (n_chain + 1), max(4.0 * fov, 8 * spec.dither * fov + 2 * fov)
    xs, ys, groups, onces = [], [], [], []
    left = 0.0
    for island in range(spec.n_islands):
        xs.append(left + gx - gx.min())
        ys.append(gy)
        groups.append(np.full(each, island))
        onces.append(np.zeros(each, np.bool_))
        right = left + width
        if island < spec.n_bridges:
            row = gy[np.argmin(np.abs(gy))]
            xs.append(right + thin * (1 + np.arange(n_chain)))
            ys.append(np.full(n_chain, row))
            groups.append(np.full(n_chain, -1))
            onces.append(np.ones(n_chain, np.bool_))
            left = right + bridged
        else:
            left = right + open_gap
    x = np.concatenate(xs)
    return _Tiling(x - x.mean(), np.concatenate(ys), np.concatenate(groups).astype(np.int64), np.concatenate(onces))
