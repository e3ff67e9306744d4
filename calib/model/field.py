"""Where in the field a measurement lies, in half fields, and the mean of the surface's basis over the field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calib.model.focalplane import Layout

Array = NDArray[np.float64]
Places = NDArray[np.float32]

CELLS = 10
"""Cells a side of the map from which the field's shape is read."""
MAPPED = 500_000
"""Measurements from which the map is made."""
ROWS = 1_000_000
"""Measurements placed at a time."""
OUTSIDE = 1.1
"""Places farther out than this many half fields are moved to there: a surface is not extrapolated."""


@dataclass(frozen=True)
class Field:
    """From pixels, or from the sky about the exposure's centre, to half fields.

    Attributes
    ----------
    kind
        ``detector``: x, y in pixel, of each detector; ``plane``: in pixel over the focal plane; ``sky``: tangent-plane
        offsets in deg.
    low, high
        (detectors, 2), bounds of each detector (one row for the plane and the sky).
    centre
        (6,), mean over the field of (0, x, y, x^2, x y, y^2): what makes surfaces average zero.
    layout
        (detectors, 2, 3), where each lies in the plane (`calib.model.focalplane`); None for the others.
    """

    kind: Literal["detector", "plane", "sky"]
    low: list[list[float]]
    high: list[list[float]]
    centre: list[float]
    layout: list[list[list[float]]] | None = None

    @property
    def n_detectors(self) -> int:
        """Detectors whose places it holds; 1 where it asks for none."""
        return len(self.low) if self.layout is None else len(self.layout)

    @classmethod
    def from_detector(
        cls, x: NDArray[np.floating], y: NDArray[np.floating], detector: NDArray[np.integer] | None
    ) -> tuple[Field, Places]:
        """Field of pixels, bounds from the quantiles that leave 1 in 2000 outside; and the places (n, 2)."""
        n = 1 if detector is None else int(detector.max()) + 1
        low, high = [], []
        for d in range(n):
            inside = slice(None) if detector is None else detector == d
            bounds = [_bounds(axis[inside]) for axis in (x, y)]
            low.append([b[0] for b in bounds])
            high.append([b[1] for b in bounds])
        field = cls("detector", low, high, [0.0] * 6)
        return field._with_centre(field.on_detector(x, y, detector))

    @classmethod
    def from_plane(
        cls, x: NDArray[np.floating], y: NDArray[np.floating], detector: NDArray[np.integer], layout: Layout
    ) -> tuple[Field, Places]:
        """Field of the pixels of several detectors that lie beside each other; and the places (n, 2)."""
        part = slice(None, None, _stride(x.size))
        bounds = [_bounds(axis) for axis in layout(x[part], y[part], detector[part])]
        low, high = [[b[0] for b in bounds]], [[b[1] for b in bounds]]
        field = cls("plane", low, high, [0.0] * 6, layout.affine.tolist())
        return field._with_centre(field.on_detector(x, y, detector))

    @classmethod
    def from_sky(
        cls, ra: Array, dec: Array, node: NDArray[np.int32], centre_ra: Array, centre_dec: Array
    ) -> tuple[Field, Places]:
        """Field of offsets from each node's centre (deg; centres (E,)); and the places (n, 2)."""
        part = slice(None, None, _stride(node.size))
        at = node[part]
        bounds = [_bounds(axis) for axis in tangent_offsets(ra[part], dec[part], centre_ra[at], centre_dec[at])]
        field = cls("sky", [[b[0] for b in bounds]], [[b[1] for b in bounds]], [0.0] * 6)
        places = np.empty((node.size, 2), np.float32)
        for start in range(0, node.size, ROWS):
            part = slice(start, start + ROWS)
            at = node[part]
            places[part] = field.on_sky(ra[part], dec[part], centre_ra[at], centre_dec[at])
        return field._with_centre(places)

    def _with_centre(self, places: Places) -> tuple[Field, Places]:
        return replace(self, centre=basis_means(places).tolist()), places

    def on_detector(
        self, x: NDArray[np.floating], y: NDArray[np.floating], detector: NDArray[np.integer] | None
    ) -> Places:
        """Places (n, 2) of pixels."""
        if self.layout is not None:
            assert detector is not None
            u, v = Layout(np.asarray(self.layout))(x, y, detector)
            return self._scaled(u, v, None)
        return self._scaled(x, y, detector)

    def on_sky(self, ra: Array, dec: Array, centre_ra: Array, centre_dec: Array) -> Places:
        """Places (n, 2) of positions about centres (n,), all deg."""
        return self._scaled(*tangent_offsets(ra, dec, centre_ra, centre_dec), None)

    def _scaled(self, x: NDArray[np.floating], y: NDArray[np.floating], which: NDArray[np.integer] | None) -> Places:
        out = np.empty((x.size, 2), np.float32)
        low, high = np.asarray(self.low), np.asarray(self.high)
        for start in range(0, x.size, ROWS):
            part = slice(start, start + ROWS)
            pick = 0 if which is None else which[part]
            for axis, values in enumerate((x[part], y[part])):
                middle, half = 0.5 * (low[pick, axis] + high[pick, axis]), 0.5 * (high[pick, axis] - low[pick, axis])
                with np.errstate(invalid="ignore", divide="ignore"):
                    out[part, axis] = (values - middle) / half
        out[~np.isfinite(out)] = 0.0
        return np.clip(out, -OUTSIDE, OUTSIDE, out=out)

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)


def tangent_offsets(ra: Array, dec: Array, centre_ra: Array, centre_dec: Array) -> tuple[Array, Array]:
    """Gnomonic offsets (xi, eta) in deg of positions about centres, all (n,) deg."""
    a, d, d0 = np.radians(ra - centre_ra), np.radians(dec), np.radians(centre_dec)
    cos = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / cos
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / cos
    return np.degrees(xi), np.degrees(eta)


def _bounds(values: NDArray[np.floating]) -> tuple[float, float]:
    sample = values[np.isfinite(values)]
    if sample.size == 0:
        return 0.0, 0.0
    sample = sample[:: _stride(sample.size)]
    low, high = np.quantile(sample, [0.0005, 0.9995])
    return float(low), float(high)


def _stride(n: int) -> int:
    """Every how many of n measurements bounds are read from."""
    return 1 if n <= 400_000 else n // 200_000


def basis_means(xy: Places) -> Array:
    """Mean of (x, y, x^2, x y, y^2) over the area of the field, after a 0 for the constant.

    The field is every cell of a coarse map that holds at least a fifth of the median cell's measurements, whatever its
    shape; its area counts, not where its stars happen to be.
    """
    xy = xy[:: max(1, xy.shape[0] // MAPPED)]
    counts, ex, ey = np.histogram2d(xy[:, 0], xy[:, 1], bins=CELLS, range=[[-1, 1], [-1, 1]])
    if counts.sum() < 20 * CELLS**2:
        filled = np.ones_like(counts, bool)
    else:
        filled = counts > 0.2 * np.median(counts[counts > 0])
    x, y = 0.5 * (ex[1:] + ex[:-1]), 0.5 * (ey[1:] + ey[:-1])
    gx, gy = (g[filled] for g in np.meshgrid(x, y, indexing="ij"))
    within = (2.0 / CELLS) ** 2 / 12.0  # variance of a coordinate inside a cell
    return np.array([0.0, gx.mean(), gy.mean(), (gx**2).mean() + within, (gx * gy).mean(), (gy**2).mean() + within])
