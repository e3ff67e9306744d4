"""On which detector every measurement was made, and in what colour of star: what terms of the instrument need.

A camera of one detector has the cells of a grid over its field in place of detectors: its offsets are a star flat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.rows import ROWS, Rows

KINDS = ("detector_offset", "detector_color")
"""Terms of the instrument by the name that terms.ecsv gives them: mag, and mag per mag of colour."""
FLAT = "flat"
"""Offset of a cell of the field by the name that terms.ecsv gives it, mag."""
CELLS = 8
"""Cells of the field along each side."""
STIRRED = 0.2
"""Share of measurements that must lie in another cell than their star's first, for cells to be told apart."""
FAR_COLOR = 4.0
"""Colours count as no further from the median than this many times half the range of the middle two thirds."""


@dataclass(frozen=True)
class ColorScale:
    """How colours are counted: from their median, and no further than a limit.

    Attributes
    ----------
    zero, limit
        mag.
    """

    zero: float
    limit: float

    @classmethod
    def of(cls, color: NDArray[np.floating]) -> ColorScale | None:
        """From all colours; None where they are not known or all alike."""
        known = color[np.isfinite(color)]
        if known.size < 3:
            return None
        low, zero, high = np.quantile(known, (1 / 6, 0.5, 5 / 6))
        return cls(float(zero), float(FAR_COLOR * 0.5 * (high - low))) if high > low else None

    def __call__(self, color: NDArray[np.floating]) -> NDArray[np.float32]:
        """Colours (n,) as the terms take them, mag; 0 where unknown."""
        return np.asarray(np.nan_to_num(np.clip(color - self.zero, -self.limit, self.limit)), np.float32)


def _numbered(bands: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the bands, and the number of each."""
    names = bands.cast(pl.String).unique().sort().to_list()
    numbers = bands.cast(pl.String).replace_strict(names, list(range(len(names))), return_dtype=pl.Int64)
    return names, numbers.to_numpy()


@dataclass(frozen=True)
class DetectorTerms:
    """Solved terms of the instrument, ready to be added to magnitudes.

    Attributes
    ----------
    detectors
        Their names.
    value
        (E, kinds, D + 1), of the band of each node, mag; the last detector is one that was not solved.
    scale
        Of colours, where they are asked for.
    """

    detectors: list[str]
    value: NDArray[np.float64]
    scale: ColorScale | None

    @classmethod
    def of(cls, terms: pl.DataFrame, bands: pl.Series, scale: ColorScale | None) -> DetectorTerms | None:
        """From a table of terms and the band of each node; None where it has none of detectors."""
        if "name" not in terms.columns:
            return None
        kinds = KINDS if scale is not None else KINDS[:1]
        terms = terms.filter(pl.col("name").is_in(kinds))
        if not terms.height:
            return None
        detectors = terms["detector"].unique().sort().to_list()
        names, place = _numbered(bands)
        table = np.zeros((len(names), len(kinds), len(detectors) + 1))
        for name, band, detector, value in terms.select("name", "band", "detector", "value").iter_rows():
            if band in names:
                table[names.index(band), kinds.index(name), detectors.index(detector)] = value
        return cls(detectors, table[place], scale)

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns of a measurement that they take."""
        return ("detector",) if self.scale is None else ("detector", "color")

    def __call__(self, frame: pl.DataFrame, node: NDArray[np.integer]) -> NDArray[np.float64]:
        """What is added to the magnitudes of rows of these nodes, (n,), mag."""
        known = pl.DataFrame({"detector": self.detectors}).with_row_index("at")
        named = frame.select(pl.col("detector").cast(pl.String))
        at = named.join(known, on="detector", how="left", maintain_order="left")["at"]
        d = at.fill_null(len(self.detectors)).to_numpy()
        out = self.value[node, 0, d]
        if self.scale is not None:
            out = out + self.value[node, 1, d] * self.scale(frame["color"].to_numpy())
        return np.asarray(out)


def cells(xy: NDArray[np.float32], side: int = CELLS) -> NDArray[np.uint8]:
    """Cell (n,) of places in the field (n, 2), which are in half fields, of a grid of so many cells a side, 16 at most.

    ``side`` times the column and the row, from the side of small x and y.
    """
    out = np.empty(xy.shape[0], np.uint8)
    for start in range(0, xy.shape[0], ROWS):
        part = slice(start, start + ROWS)
        at = np.clip((xy[part] + np.float32(1.0)) * np.float32(0.5 * side), 0, side - 1).astype(np.uint8)
        out[part] = at[:, 0] * np.uint8(side) + at[:, 1]
    return out


CELL_NAMES = [f"{i},{j}" for i in range(CELLS) for j in range(CELLS)]
"""Column and row of every cell, from the side of small x and y."""


@dataclass(frozen=True)
class Flat:
    """A solved star flat, ready to be added to magnitudes: value (E, cells), of the band of each node, mag."""

    value: NDArray[np.float64]

    @classmethod
    def of(cls, terms: pl.DataFrame, bands: pl.Series) -> Flat | None:
        """From a table of terms and the band of each node; None where it has none."""
        terms = terms.filter(pl.col("name") == FLAT) if "name" in terms.columns else terms.clear()
        if not terms.height:
            return None
        names, place = _numbered(bands)
        table = np.zeros((len(names), len(CELL_NAMES)))
        for band, cell, value in terms.select("band", "detector", "value").iter_rows():
            if band in names:
                table[names.index(band), CELL_NAMES.index(cell)] = value
        return cls(table[place])

    def __call__(self, xy: NDArray[np.float32], node: NDArray[np.integer]) -> NDArray[np.float64]:
        """What is added to the magnitudes of rows of these nodes at these places, (n,), mag."""
        return np.asarray(self.value[node, cells(xy)])


@dataclass(frozen=True)
class Camera:
    """Of every measurement of the solve, sorted by star.

    Attributes
    ----------
    names
        Of the detectors, two or more, or of the cells of the field of one.
    detector
        Small integers (n,), place among the names; their number for a row that no detector made.
    color
        float32 (n,), colour of the star, mag, counted as ``scale`` says; None where unknown.
    scale
        Of colours; None where unknown.
    """

    names: list[str]
    detector: NDArray[np.unsignedinteger]
    color: NDArray[np.float32] | None = None
    scale: ColorScale | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of its terms."""
        return (FLAT,) if self.names is CELL_NAMES else KINDS

    @classmethod
    def of_field(cls, xy: NDArray[np.float32], star_ptr: NDArray[np.int64]) -> Camera | None:
        """Cells of one detector's field; None where stars stay in theirs, so that nothing tells them apart."""
        at = cells(xy)
        seen = np.diff(star_ptr)
        first = at[np.minimum(star_ptr[:-1], max(at.size - 1, 0))]
        stirred = at.size and np.mean(at != np.repeat(first, seen)) > STIRRED
        return cls(CELL_NAMES, at) if stirred else None

    @classmethod
    def of(cls, frame: pl.DataFrame, take: NDArray[np.integer], rows: Rows) -> Camera | None:
        """Of the rows ``take``; None where there are not two detectors."""
        if rows.detectors is None or rows.detector is None or len(rows.detectors) < 2:
            return None
        names = rows.detectors.cast(pl.String).to_list()
        detector = rows.detector[take].astype(np.min_scalar_type(len(names)))
        color, scale = None, None
        if "color" in frame.columns:
            given = frame["color"].to_numpy()
            scale = ColorScale.of(given[:: max(given.size // ROWS, 1)])
            color = None if scale is None else scale(given[take])
        return cls(names, detector, color, scale)

    def __getitem__(self, keep: NDArray[np.bool_]) -> Camera:
        """Of some measurements only."""
        return replace(self, detector=self.detector[keep], color=None if self.color is None else self.color[keep])

    def with_catalogue(self, place: NDArray[np.integer]) -> Camera:
        """With rows of a catalogue before each of these places."""
        color = None if self.color is None else np.insert(self.color, place, 0.0)
        return replace(self, detector=np.insert(self.detector, place, len(self.names)), color=color)
