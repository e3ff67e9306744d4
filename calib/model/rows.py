"""The input's rows once they are numbered: what the solve does not need, kept small until tables are written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.measurements import Measurements
from graphs.ids import encode_ids

ROWS = 1_000_000
"""Rows looked at at a time."""


@dataclass(frozen=True)
class Rows:
    """Of every input row, usable or not, what cannot be had from the graph.

    Attributes
    ----------
    n
        Number of rows.
    unusable, star, node
        int64 and int32 (k,), rows kept out of the solve, and the star and node of each.
    n_measurements
        int64 (S,), rows of each star.
    position
        (S, 2), mean right ascension and declination of each star's rows, deg; None where rows have none.
    detector, detectors
        Small integers (n,), and the names they stand for, sorted; None where rows have no detector.
    place
        Right ascension and declination (n,), deg, of every row, where they tell its star; otherwise None.
    """

    n: int
    unusable: NDArray[np.int64]
    star: NDArray[np.int32]
    node: NDArray[np.int32]
    n_measurements: NDArray[np.int64]
    position: NDArray[np.float64] | None = None
    detector: NDArray[np.unsignedinteger] | None = None
    detectors: pl.Series | None = None
    place: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @classmethod
    def of(
        cls, measurements: Measurements, star_code: NDArray[np.int32], node_code: NDArray[np.int32], n_stars: int
    ) -> Rows:
        """From the table and the number of each row's star and node."""
        frame = measurements.frame
        unusable = np.flatnonzero(measurements.reason)
        detector, detectors = None, None
        if "detector" in frame.columns:
            detector, detectors = detector_codes(frame)
        has_place = "ra" in frame.columns and measurements.has("ra")
        return cls(
            frame.height, unusable, star_code[unusable], node_code[unusable],
            np.bincount(star_code, minlength=n_stars), mean_positions(frame, star_code, n_stars) if has_place else None,
            detector, detectors,
            (frame["ra"].to_numpy(), frame["dec"].to_numpy()) if measurements.by_position else None,
        )  # fmt: skip


@dataclass(frozen=True)
class NamedRows:
    """The rows' names, made from numbers when they are written.

    Attributes
    ----------
    measurements
        All of the input but its frame.
    stars, nodes
        As of the problem.
    star, node
        int32 (n,), of every row.
    rows
        What else is known of them.
    """

    measurements: Measurements
    stars: pl.DataFrame
    nodes: pl.DataFrame
    star: NDArray[np.int32]
    node: NDArray[np.int32]
    rows: Rows

    def __len__(self) -> int:
        return self.rows.n

    def part(self, part: slice) -> Measurements:
        """Measurements of some of the rows that hold their keys (`Measurements.keys`), and band."""
        node = self.node[part]
        keys = [
            self.stars["star_id"].gather(self.star[part]),
            *(self.nodes[c].gather(node) for c in ("exposure_id", "band", "detector") if c in self.nodes.columns),
        ]
        if self.rows.detectors is not None and "detector" not in self.nodes.columns:
            assert self.rows.detector is not None
            keys.append(self.rows.detectors.gather(self.rows.detector[part]).alias("detector"))
        if self.rows.place is not None:
            keys += [pl.Series(c, v[part]) for c, v in zip(("ra", "dec"), self.rows.place, strict=True)]
        return replace(self.measurements, frame=pl.DataFrame(keys), reason=self.measurements.reason[part])


def detector_codes(frame: pl.DataFrame) -> tuple[NDArray[np.unsignedinteger], pl.Series]:
    """Number of each row's detector in as few bytes as will do, and the detectors' names."""
    detector = frame["detector"]
    codes, names = encode_ids(detector.cast(pl.String) if detector.dtype == pl.Enum else detector)
    return codes.astype(np.min_scalar_type(max(len(names) - 1, 0))), names


def mean_positions(frame: pl.DataFrame, code: NDArray[np.int32], n: int) -> NDArray[np.float64]:
    """Mean direction (n, 2) of each star's measurements, deg; NaN where none is known."""
    total, seen = np.zeros((3, n)), np.zeros(n, bool)
    for start in range(0, frame.height, ROWS):
        part = frame[start : start + ROWS]
        ra, dec = np.radians(part["ra"].to_numpy()), np.radians(part["dec"].to_numpy())
        good = np.isfinite(ra) & np.isfinite(dec)
        ra, dec, of = ra[good], dec[good], code[start : start + ROWS][good]
        for axis, value in enumerate((np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec))):
            total[axis] += np.bincount(of, weights=value, minlength=n)
        seen[of] = True
    x, y, z = total
    mean = np.stack([np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))], 1)
    return np.where(seen[:, None], mean, np.nan)
