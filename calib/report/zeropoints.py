"""Zero-points: in time, their errors, on the sky."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.report import marks, style
from calib.report.material import Material
from calib.report.style import Picture
from calib.report.timeline import timeline

Array = NDArray[np.float64]

TWO_NIGHTS = (style.SERIES[0], style.SERIES[4])


def in_time(material: Material) -> Picture | None:
    """Zero-points with errors, a panel for each band."""
    z, err = material.column("zeropoint"), material.column("zeropoint_err")
    line = timeline(material)
    shown = np.isfinite(z) & np.isfinite(line.x)
    bands = marks.panel_bands(material, shown)
    if not bands:
        return None
    flagged = (material.zeropoints["flag"].fill_null("") != "").to_numpy()
    night = material.column("night")
    odd = np.zeros(z.size, bool)
    known = np.isfinite(night)
    odd[known] = np.unique(night[known], return_inverse=True)[1] % 2 == 1
    figure = style.new_figure(style.WIDE, 0.5 + (1.75 if len(bands) < 4 else 1.35) * len(bands))
    panels = figure.subplots(len(bands), 1, sharex=True, squeeze=False)[:, 0]
    for axes, band in zip(panels, bands, strict=True):
        here = shown & material.of_band(band)
        axes.set_ylim(*marks.limits(z[here]))
        for part, color in ((~odd, TWO_NIGHTS[0]), (odd, TWO_NIGHTS[1])):
            at = here & part & ~flagged
            marks.error_bars(axes, line.x[at], z[at], err[at], color)
            marks.dots(axes, line.x[at], z[at], color)
        at = here & flagged
        if at.any():
            marks.error_bars(axes, line.x[at], z[at], err[at], style.WARN)
            marks.dots(axes, line.x[at], z[at], style.WARN, size=4.2, marker="D", label="flagged")
            axes.legend(loc="best")
        axes.set_ylabel("zero-point (mag)")
        axes.set_title(style.plain(material.band_name(band)))
        line.dress(axes, last=axes is panels[-1])
    nights = " The two blues tell one night from the next." if known.any() else ""
    missing = int((np.isfinite(z) & ~np.isfinite(line.x)).sum())
    return Picture(
        f"Zero-points {line.how.split(',')[0]}",
        style.to_svg(figure, "time", f"Zero-points of the exposures {line.how}, one panel for each band."),
        f"Zero-points of {int(shown.sum())} exposures {line.how}.",
        f"Zero-points {line.how}; bars are one standard error.{nights} A smooth curve through a night is extinction; "
        "downward dips are cloud; a jump is the instrument. Orange diamonds carry a flag; triangles at an edge lie "
        "beyond it."
        + (f" {missing} without a time are not drawn." if missing else "")
        + marks.left_out(material, bands),
        wide=True,
    )  # fmt: skip


def errors(material: Material) -> Picture | None:
    """Histogram of zero-point errors."""
    err = material.column("zeropoint_err") * 1e3
    good = np.isfinite(err) & (err > 0)
    bands = marks.panel_bands(material, good)
    if not bands:
        return None
    low, high = np.quantile(err[good], [0.001, 0.999])
    edges = np.geomspace(low / 1.25, high * 1.25, 36)
    figure = style.new_figure(style.HALF, 3.0)
    axes = figure.subplots()
    for band in bands:
        here = err[good & material.of_band(band)]
        color = marks.band_color(material, band)
        counts, _ = np.histogram(np.clip(here, edges[0], edges[-1]), edges)
        axes.stairs(counts, edges, color=color, lw=1.4)
        axes.stairs(counts, edges, color=color, fill=True, alpha=0.15)
        middle = float(np.median(here))
        name = style.plain(f"{material.band_name(band)}, median {middle:.3g}")
        axes.axvline(middle, color=color, lw=1.0, ls=(0, (4, 2)), label=name)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    style.log_axis(axes.xaxis)
    axes.set_xlabel("zero-point error (mmag)")
    axes.set_ylabel("exposures")
    axes.legend()
    return Picture(
        "Errors of the zero-points",
        style.to_svg(figure, "errors", "Histogram of zero-point errors, mmag."),
        "Histogram of zero-point errors.",
        "One standard error of each zero-point, in its gauge; dashed lines are medians. A long tail to the right is "
        "exposures that few stars tie to the rest." + marks.left_out(material, bands),
    )


def on_sky(material: Material) -> Picture | None:
    """Exposures on the sky, coloured by the zero-point minus its night's median, or by its error."""
    ra, dec, z = material.column("ra"), material.column("dec"), material.column("zeropoint")
    value, label, what = _night_residual(material) * 1e3, "zero-point − night's median (mmag)", "residual"
    if np.isfinite(value).sum() < 0.5 * np.isfinite(z).sum() or not np.isfinite(value).any():
        value, label, what = material.column("zeropoint_err") * 1e3, "zero-point error (mmag)", "error"
    good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(value)
    bands = marks.panel_bands(material, good)[:4]
    if not bands or good.sum() < 2:
        return None
    sky = marks.Sky(np.where(good, ra, np.nan), np.where(good, dec, np.nan))
    figure, panels, wide = marks.sky_panels(sky, len(bands))
    if what == "residual":
        bound = max(float(np.quantile(np.abs(value[good]), 0.95)), 1e-3)
        looks = {"cmap": style.colormap("diverging"), "vmin": -bound, "vmax": bound}
    else:
        low, high = (float(q) for q in np.quantile(value[good], [0.02, 0.98]))
        looks = {"cmap": style.colormap("rising"), "vmin": low, "vmax": max(high, low + 1e-6)}
    artist = None
    for axes, band in zip(panels, bands, strict=True):
        here = good & material.of_band(band)
        x, y, middle = marks.cell_medians(sky.x[here], sky.y[here], value[here], sky.extent / marks.MAP_CELLS)
        size = float(np.clip(9000.0 / len(bands) / max(x.size, 1), 5.0, 70.0))
        artist = axes.scatter(x, y, c=middle, s=size, lw=0, rasterized=x.size > style.MANY, **looks)
        axes.set_title(style.plain(material.band_name(band)))
    marks.color_scale(figure, artist, panels, label)
    look = (
        "Each mark is a pointing, coloured by the median over its exposures of the zero-point minus the median of its "
        "night. Look for patterns that follow the sky rather than the night: a gradient across the survey would be a "
        "weak large-scale mode."
        if what == "residual"
        else "Each mark is a pointing, coloured by the median error of its zero-points. Errors grow where fields "
        "overlap little."
    )
    return Picture(
        "Exposures on the sky",
        style.to_svg(figure, "sky", f"Map of the exposures on the sky, coloured by {label}."),
        "Map of the exposures on the sky.",
        look + marks.left_out(material, bands),
        wide=wide,
    )


def _night_residual(material: Material) -> Array:
    """Zero-point minus the median of its band and night, mag; NaN without a night of three exposures."""
    frame = material.zeropoints.select("band", "night", pl.Series("z", material.column("zeropoint")).fill_nan(None))
    group = ["band", "night"]
    value = (
        pl.when(pl.col("night").is_finite() & (pl.col("z").count().over(group) >= 3))
        .then(pl.col("z") - pl.col("z").median().over(group))
        .otherwise(None)
    )
    return frame.select(value.alias("v"))["v"].fill_null(np.nan).to_numpy()
