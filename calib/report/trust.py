"""Whether to believe the errors: star-split pulls; and the noise of each exposure."""

from __future__ import annotations

from typing import Any

import numpy as np

from calib.report import marks, style
from calib.report.material import Material
from calib.report.style import Picture
from calib.report.timeline import timeline


def pulls(material: Material) -> Picture | None:
    """Histogram of star-split pulls of the method chosen, and of the others, against the unit normal."""
    scores: dict[str, Any] = material.run.get("scores") or {}
    chosen = material.run.get("method")
    histograms = {}
    for name, score in scores.items():
        histogram = (score or {}).get("pull_histogram") or {}
        edges, counts = np.asarray(histogram.get("edges", []), float), np.asarray(histogram.get("counts", []), float)
        if edges.size == counts.size + 1 and counts.sum() > 0:
            histograms[name] = (edges, counts / counts.sum() / np.diff(edges), counts.sum())
    if not histograms:
        return None
    figure = style.new_figure(style.HALF, 3.0)
    axes = figure.subplots()
    for i, (name, (edges, density, n)) in enumerate(sorted(histograms.items(), key=lambda item: item[0] == chosen)):
        if n < 400 and density.size % 2 == 0:  # few exposures: wider bins
            density, edges = 0.5 * (density[::2] + density[1::2]), edges[::2]
        if name == chosen:
            axes.stairs(density, edges, color=style.SERIES[0], fill=True, alpha=0.28)
            axes.stairs(density, edges, color=style.SERIES[0], lw=1.5, label=style.plain(f"{name}, chosen"))
        else:
            axes.stairs(density, edges, color=style.SERIES[1 + i % 4], lw=0.9, label=style.plain(name))
    x = np.linspace(-6, 6, 241)
    axes.plot(x, np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), color=style.INK, lw=1.0, ls=(0, (4, 2)), label="unit normal")
    axes.set_xlim(-6, 6)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("difference of the halves / its error")
    axes.set_ylabel("density")
    axes.legend()
    return Picture(
        "Pulls between two halves of the stars",
        style.to_svg(figure, "pulls", "Histogram of star-split pulls against the unit normal."),
        "Histogram of star-split pulls against the unit normal.",
        "The stars are parted in two at random and each half is solved alone; the histogram is of "
        "the differences between "
        "their zero-points, in units of the error claimed. True errors give the dashed curve: a wider histogram means "
        "errors too small, a narrower one errors too large. All beyond 6 is in the outermost bins.",
    )


def exposures(material: Material) -> Picture | None:
    """Outlier fraction, excess noise and error scale of each exposure, along the axis of the zero-points."""
    line = timeline(material)
    columns = [
        (100.0 * material.column("outlier_fraction"), "outliers (%)", True),
        (1e3 * material.column("excess_noise"), "excess noise (mmag)", True),
        (material.column("error_scale"), "error scale", False),
    ]
    drawn = []
    for value, label, zero in columns:
        good = np.isfinite(value) & np.isfinite(line.x)
        if good.sum() > 1 and float(np.ptp(value[good])) > 1e-9:
            drawn.append((np.where(good, value, np.nan), label, zero))
    if not drawn:
        return None
    figure = style.new_figure(style.WIDE, 0.6 + 1.3 * len(drawn))
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    bands = marks.panel_bands(material)
    for axes, (value, label, zero) in zip(panels, drawn, strict=True):
        axes.set_ylim(*marks.limits(value, zero=zero))
        for band in bands:
            here = material.of_band(band)
            name = style.plain(material.band_name(band)) if len(bands) > 1 else ""
            marks.dots(axes, line.x[here], value[here], marks.band_color(material, band), label=name, size=2.8)
        axes.set_ylabel(label)
        line.dress(axes, last=axes is panels[-1])
    if len(bands) > 1:
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(bands), markerscale=1.5
        )
    said = " · ".join(label for _, label, _ in drawn)
    return Picture(
        "Each exposure's noise",
        style.to_svg(figure, "noise", f"For each exposure, {line.how}: {said}."),
        "Noise of each exposure.",
        "Outliers are measurements more likely wrong than not; excess noise is what an exposure has "
        "beyond its reported "
        "errors and the survey's floor; the error scale is what reported errors are multiplied by. A night that stands "
        "out had poor seeing, moonlight, or a pipeline that knew its noise badly." + marks.left_out(material, bands),
        wide=True,
    )
