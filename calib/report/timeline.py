"""Exposures along a horizontal axis: nights side by side, time, or order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.report.material import Material
from calib.report.style import RULE

Array = NDArray[np.float64]

SIDE_BY_SIDE = 18
"""Up to so many nights are drawn side by side, without the days between them."""
LEAST_NIGHT = 0.035
"""Width of a night with few exposures, of the whole."""
LABEL_ROOM = 0.055
"""Width that the label of a night needs, of the whole."""


@dataclass(frozen=True)
class Timeline:
    """Where each exposure is drawn.

    Attributes
    ----------
    x
        (n,), NaN where the time is unknown.
    label
        Of the axis.
    how
        For the caption: how exposures are ordered.
    ticks
        (position, text) of each night, or None for plain numbers.
    edges
        Between nights.
    """

    x: Array
    label: str
    how: str
    ticks: list[tuple[float, str]] | None = None
    edges: tuple[float, ...] = ()

    def dress(self, axes: Any, *, last: bool = True) -> None:
        """Give axes this horizontal axis; only the last of a column has its numbers."""
        if self.ticks is not None:
            axes.set_xticks([t for t, _ in self.ticks], [text for _, text in self.ticks])
            axes.grid(False, axis="x")
            for edge in self.edges:
                axes.axvline(edge, color=RULE, lw=0.8, zorder=0)
        if last:
            axes.set_xlabel(self.label)
        else:
            axes.tick_params(labelbottom=False)


def timeline(material: Material) -> Timeline:
    """The axis that suits the survey: its times where half are known, otherwise the order of the table."""
    mjd, night = material.column("mjd"), material.column("night")
    known = np.isfinite(mjd)
    n = mjd.size
    if known.sum() < max(1, 0.5 * n):
        _, order = np.unique(material.zeropoints["exposure_id"].to_numpy(), return_inverse=True)
        return Timeline(order.astype(float), "exposure, in order of its identifier", "in order of exposure_id")
    nights = np.unique(night[known])
    if nights.size > SIDE_BY_SIDE:
        return Timeline(np.where(known, mjd, np.nan), "MJD", "in time")
    if nights.size == 1:
        start = mjd[known].min()
        return Timeline((mjd - start) * 24.0, f"hours since MJD {start:.4f}", "in time, through the one night")
    return _side_by_side(mjd, night, nights)


def _side_by_side(mjd: Array, night: Array, nights: Array) -> Timeline:
    spans = np.array([np.ptp(mjd[night == v]) for v in nights])
    whole = max(float(spans.sum()), 1e-3)
    widths = np.maximum(spans, LEAST_NIGHT * whole)
    gap = 0.25 * LEAST_NIGHT * widths.sum()
    starts = np.concatenate([[0.0], np.cumsum(widths + gap)[:-1]])
    x = np.full(mjd.size, np.nan)
    for value, start, width, span in zip(nights, starts, widths, spans, strict=True):
        inside = night == value
        x[inside] = start + 0.5 * (width - span) + mjd[inside] - mjd[inside].min()
    ticks: list[tuple[float, str]] = []
    least = LABEL_ROOM * float(starts[-1] + widths[-1])
    for start, width, value in zip(starts, widths, nights, strict=True):
        at = float(start + 0.5 * width)
        shown = [t for t, text in ticks if text]
        ticks.append((at, f"{value:.0f}" if not shown or at - shown[-1] > least else ""))
    edges = tuple(float(s - 0.5 * gap) for s in starts[1:])
    return Timeline(x, "night (MJD)", "in time, nights side by side", ticks, edges)
