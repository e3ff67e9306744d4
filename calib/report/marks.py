"""What several figures share: points that become an image where there are many, limits, panels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.report import style
from calib.report.material import Material

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_PANELS = 6
"""Bands beyond so many are not drawn."""
LONG = 2.2
"""A survey that is so many times longer in RA than in Dec is drawn as a strip over the whole page."""
MAP_CELLS = 70
"""Cells across a map of the sky."""


def limits(values: Array, *, zero: bool = False) -> tuple[float, float]:
    """Bounds that show all but the wildest 1 % of values."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(values, [0.005, 0.995])
    room = 0.35 * (high - low)
    low, high = max(float(values.min()), low - room), min(float(values.max()), high + room)
    if high - low < 1e-9:
        low, high = low - max(1e-3, 0.05 * abs(low)), high + max(1e-3, 0.05 * abs(high))
    if zero:
        low = min(0.0, low)
    pad = 0.06 * (high - low)
    return low - (0.3 * pad if zero else pad), high + pad


def dots(axes: Any, x: Array, y: Array, color: str, *, size: float = 3.0, marker: str = "o", label: str = "") -> None:
    """Points; those outside the vertical limits are small triangles at the edge. Limits must be set before."""
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    low, high = axes.get_ylim()
    many = x.size > style.MANY
    inside = (y >= low) & (y <= high)
    looks: dict[str, Any] = {"ls": "none", "color": color, "mew": 0, "rasterized": many}
    axes.plot(x[inside], y[inside], marker=marker, ms=size, label=label or "_", alpha=0.75 if many else 0.95, **looks)
    for beyond, edge, shape in ((y > high, high, "^"), (y < low, low, "v")):
        if beyond.any():
            axes.plot(x[beyond], np.full(int(beyond.sum()), edge), marker=shape, ms=4, clip_on=False, **looks)


def error_bars(axes: Any, x: Array, y: Array, err: Array, color: str) -> None:
    """Thin bars of one standard error, where there are few enough to see."""
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(err)
    if good.any() and good.sum() <= style.MANY:
        axes.vlines(x[good], (y - err)[good], (y + err)[good], color=color, lw=0.7, alpha=0.6)


def panel_bands(material: Material, needed: Bools | None = None) -> list[str]:
    """Bands that have something to draw, the largest first, at most `MOST_PANELS`; in the order of the table."""
    bands = [b for b in material.bands if needed is None or bool((material.of_band(b) & needed).any())]
    return sorted(bands[:MOST_PANELS])


def band_color(material: Material, band: str) -> str:
    """Colour of a band, the same in all figures."""
    return style.SERIES[sorted(material.bands).index(band) % len(style.SERIES)]


def left_out(material: Material, shown: list[str]) -> str:
    """What a caption adds where bands are not drawn."""
    more = len(material.bands) - len(shown)
    return f" {more} more band{'s are' if more > 1 else ' is'} not drawn." if more > 0 else ""


class Sky:
    """Equal-area map about the centre of positions: x = (ra - ra0) cos dec, y = dec, deg.

    Parameters
    ----------
    ra, dec
        (n,), deg; NaN where unknown.
    """

    def __init__(self, ra: Array, dec: Array) -> None:
        good = np.isfinite(ra) & np.isfinite(dec)
        angle = np.radians(ra[good])
        self.ra0 = float(np.round(np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360.0, 1))
        self.x, self.y = self.place(ra, dec)
        x, y = (self.x[good], self.y[good]) if good.any() else (np.zeros(1), np.zeros(1))
        self.extent = float(max(np.ptp(x), np.ptp(y), 1e-3))
        # a strip is drawn in a box that is not much thinner than a seventh of its length
        self.half = tuple(max(0.5 * float(np.ptp(v)), 0.07 * self.extent) + 0.04 * self.extent for v in (x, y))
        self.middle = tuple(0.5 * float(v.min() + v.max()) for v in (x, y))

    def place(self, ra: Array, dec: Array) -> tuple[Array, Array]:
        """Positions on the map; x grows to the east."""
        x = ((ra - self.ra0 + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec))
        return np.where(np.isfinite(dec), x, np.nan), np.where(np.isfinite(ra), dec, np.nan)

    def dress(self, axes: Any, *, left: bool = True) -> None:
        """Sky axes: east to the left, equal scales."""
        axes.set_xlabel(f"(RA − {self.ra0:g}°) cos Dec (deg)")
        if left:
            axes.set_ylabel("Dec (deg)")
        (x, y), (across, up) = self.middle, self.half
        axes.set_xlim(x + across, x - across)
        axes.set_ylim(y - up, y + up)
        axes.set_aspect("equal", adjustable="box")
        axes.locator_params(nbins=5)
        if not left:
            axes.tick_params(labelleft=False)


def sky_panels(sky: Sky, n: int) -> tuple[Any, list[Any], bool]:
    """Figure with n maps, shaped as the survey is: side by side, or long strips one above the other.

    Returns
    -------
    figure
    panels
    wide
        Whether it takes the whole width of the page.
    """
    ratio = sky.half[0] / sky.half[1]
    strip = ratio > LONG
    wide = strip or n > 1
    width = style.WIDE if wide else style.HALF
    across = (width - 1.2) / (1 if strip else n)
    height = float(np.clip(across / ratio, 1.0, 3.4)) + 0.75
    figure = style.new_figure(width, height * n if strip else height)
    panels = figure.subplots(n if strip else 1, 1 if strip else n, squeeze=False).ravel().tolist()
    for k, axes in enumerate(panels):
        sky.dress(axes, left=strip or k == 0)
    return figure, panels, wide


def cell_medians(x: Array, y: Array, value: Array, size: float, least: int = 1) -> tuple[Array, Array, Array]:
    """Mean place and median value of each square cell of side ``size`` with at least ``least`` values."""
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(value)
    x, y, value = x[good], y[good], value[good]
    key = np.stack([np.floor(x / size), np.floor(y / size)], 1).astype(np.int64)
    _, cell, counts = np.unique(key, axis=0, return_inverse=True, return_counts=True)
    cell = cell.ravel()
    order = np.lexsort((value, cell))
    ends = np.cumsum(counts)
    middle = 0.5 * (value[order][ends - counts + (counts - 1) // 2] + value[order][ends - counts + counts // 2])
    keep = counts >= least
    return (
        (np.bincount(cell, x) / counts)[keep] if x.size else x,
        (np.bincount(cell, y) / counts)[keep] if x.size else y,
        middle[keep],
    )


def color_scale(figure: Any, artist: Any, axes: Any, label: str) -> None:
    """A slim colour bar."""
    bar = figure.colorbar(artist, ax=axes, fraction=0.035, pad=0.02, aspect=28, extend="both")
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.ax.grid(False)
