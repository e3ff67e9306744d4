"""Residuals: against magnitude, on the sky, and what weights were made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.report import marks, style
from calib.report.material import Material
from calib.report.style import Picture

Array = NDArray[np.float64]

LEAST = 30
"""Measurements that a bin or a cell needs to be drawn."""
SPREAD = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""
MOST_LEVERAGE = 0.8
"""Measurements that make more of their star's magnitude than this say little of their own noise."""


def _free(material: Material) -> pl.DataFrame:
    """Sampled measurements whose residual is free to differ, with what it would be were the star's magnitude known."""
    sample = material.sample
    if "leverage" not in sample.columns:
        return sample.head(0)
    freed = pl.col("residual") / (1.0 - pl.col("leverage")).sqrt()
    sample = sample.filter(pl.col("leverage") < MOST_LEVERAGE, pl.col("mag").is_finite())
    return sample.with_columns(freed.alias("free"))


def against_magnitude(material: Material) -> Picture | None:
    """Binned median of the residuals, and their robust scatter beside what the noise model expects."""
    free = _free(material)
    if free.height < 2 * LEAST:
        return None
    low, high = (float(q) for q in np.quantile(free["mag"].to_numpy(), [0.001, 0.999]))
    edges = np.linspace(low, high + 1e-6, 25)
    bands = [b for b in marks.panel_bands(material) if (free["band"] == b).sum() >= 2 * LEAST]
    if not bands:
        return None
    figure = style.new_figure(style.HALF, 4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.25])
    reach, floor, ceiling = 0.3, np.inf, 0.0
    for band in bands:
        color = marks.band_color(material, band)
        table = _binned(free.filter(pl.col("band") == band), edges)
        if not table.height:
            continue
        x, middle, error = (table[c].to_numpy() for c in ("x", "middle", "error"))
        scatter, model = table["scatter"].to_numpy(), table["model"].to_numpy()
        top.fill_between(x, middle - error, middle + error, color=color, alpha=0.2, lw=0)
        top.plot(x, middle, color=color, marker="o", ms=2.6)
        name = style.plain(material.band_name(band))
        bottom.plot(x, scatter, color=color, marker="o", ms=3, ls="none", label=name)
        bottom.plot(x, model, color=color, lw=1.1)
        reach = max(reach, float(1.4 * np.abs(middle).max()))
        both = np.concatenate([scatter, model])
        floor, ceiling = min(floor, float(both[both > 0].min(initial=np.inf))), max(ceiling, float(both.max()))
    if not np.isfinite(floor):
        return None
    top.axhline(0, color=style.MUTED, lw=0.8)
    top.set_ylim(-reach, reach)
    top.set_ylabel("median (mmag)")
    bottom.plot([], [], color=style.MUTED, lw=1.1, label="noise model")
    bottom.set_yscale("log")
    bottom.set_ylim(0.7 * floor, 1.4 * ceiling)
    style.log_axis(bottom.yaxis)
    bottom.set_ylabel("scatter (mmag)")
    bottom.set_xlabel("calibrated magnitude of the star (mag)")
    bottom.legend()
    return Picture(
        "Residuals against magnitude",
        style.to_svg(figure, "magnitude", "Median and robust scatter of the residuals in bins of magnitude."),
        "Median and scatter of residuals in bins of magnitude.",
        "Above, the median residual and its error: a slope at either end means a detector that is not linear, or "
        "a background subtracted wrongly. Below, the robust scatter (points) on the noise model (lines): points above "
        f"the line are noise that the model does not know. {_sampled(material)}" + marks.left_out(material, bands),
    )


def _binned(free: pl.DataFrame, edges: Array) -> pl.DataFrame:
    """Rows of x (mag), middle, error, scatter, model (mmag), one for each bin with enough measurements."""
    which = np.searchsorted(edges, free["mag"].to_numpy(), side="right") - 1
    value, n = pl.col("free"), pl.len()
    scatter = SPREAD * (value - value.median()).abs().median()
    return (
        free.with_columns(pl.Series("bin", which))
        .filter(pl.col("bin").is_between(0, edges.size - 2))
        .group_by("bin")
        .agg(
            pl.col("mag").median().alias("x"), (value.median() * 1e3).alias("middle"), (scatter * 1e3).alias("scatter"),
            (1.2533 * scatter / n.sqrt() * 1e3).alias("error"), (pl.col("noise").median() * 1e3).alias("model"),
            n.alias("n"),
        )
        .filter(pl.col("n") >= LEAST)
        .sort("bin")
    )  # fmt: skip


def on_sky(material: Material) -> Picture | None:
    """Robust scatter of residuals over the noise model, in cells of the sky."""
    free = _free(material)
    if not {"ra", "dec"} <= set(free.columns):
        return None
    free = free.filter(pl.col("ra").is_finite(), pl.col("dec").is_finite())
    if free.height < 20 * LEAST:
        return None
    sky = marks.Sky(free["ra"].to_numpy(), free["dec"].to_numpy())
    size = np.abs(free["free"].to_numpy() / free["noise"].to_numpy())
    # as many cells as hold enough measurements
    cells = int(np.clip(np.sqrt(free.height / (2.0 * LEAST)), 8, marks.MAP_CELLS))
    column, row, middle = marks.cell_medians(sky.x, sky.y, size, sky.extent / cells, LEAST // 2)
    if middle.size < 4:
        return None
    figure, (axes,), wide = marks.sky_panels(sky, 1)
    ratio = np.log2(np.maximum(SPREAD * middle, 1e-3))
    column, row = (np.floor(v * cells / sky.extent).astype(int) for v in (column, row))
    left, low = int(column.min()), int(row.min())
    image = np.full((int(row.max()) - low + 1, int(column.max()) - left + 1), np.nan)
    image[row - low, column - left] = ratio
    bound = float(np.clip(np.quantile(np.abs(ratio), 0.98), 0.3, 2.0))
    edges = [
        (start + np.arange(n + 1)) * sky.extent / cells for start, n in zip((left, low), image.T.shape, strict=True)
    ]
    artist = axes.pcolormesh(
        *edges, image, vmin=-bound, vmax=bound, cmap=style.colormap("diverging"), rasterized=True
    )  # fmt: skip
    marks.color_scale(figure, artist, axes, "scatter / noise model")
    ticks = np.linspace(-bound, bound, 5)
    bar = figure.axes[-1]
    bar.set_yticks(ticks, [f"{2.0**t:.2f}" for t in ticks])
    return Picture(
        "Residuals on the sky",
        style.to_svg(figure, "residualsky", "Map of the scatter of residuals over the noise model on the sky."),
        "Map of residual scatter on the sky.",
        "Robust scatter of the residuals over what the noise model expects, by the stars' place: 1 is as expected. "
        f"Orange patches are crowded fields, nebulosity, or edges where only bad exposures reach. {_sampled(material)}",
        wide=wide,
    )


def weights(material: Material) -> Picture | None:
    """The error that a measurement's weight stands for, against the error that was reported."""
    sample = _weighed(material)
    if sample is None:
        return None
    reported = sample["reported_err"].to_numpy() * 1e3
    believed = 1e3 / np.sqrt(sample["weight"].cast(pl.Float64).to_numpy())
    low, high = (float(q) for q in np.quantile(reported, [0.002, 0.998]))
    if not high > low * 1.001:
        return None
    edges = np.geomspace(low, high * (1 + 1e-9), 26)
    which = np.searchsorted(edges, reported, side="right") - 1
    rows = []
    for cell in range(edges.size - 1):
        here = believed[which == cell]
        if here.size >= LEAST:
            rows.append((np.sqrt(edges[cell] * edges[cell + 1]), *np.quantile(here, [0.025, 0.16, 0.5, 0.84, 0.975])))
    if len(rows) < 2:
        return None
    x, q2, q16, q50, q84, q97 = np.array(rows).T
    figure = style.new_figure(style.HALF, 3.1)
    axes = figure.subplots()
    color = style.SERIES[0]
    axes.fill_between(x, q2, q97, color=color, alpha=0.14, lw=0, label="95 % of measurements")
    axes.fill_between(x, q16, q84, color=color, alpha=0.28, lw=0, label="68 %")
    axes.plot(x, q50, color=color, lw=1.6, label="median")
    axes.plot([x[0], x[-1]], [x[0], x[-1]], color=style.MUTED, lw=1.0, ls=(0, (4, 2)), label="as reported")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(0.8 * min(x[0], q2.min()), 1.2 * min(q97.max(), 50.0 * q50.max()))
    for axis in (axes.xaxis, axes.yaxis):
        style.log_axis(axis)
    axes.set_xlabel("reported error (mmag)")
    axes.set_ylabel("error believed (mmag)")
    axes.legend(loc="upper left")
    return Picture(
        "Weights against reported errors",
        style.to_svg(figure, "weights", "Error that the weights stand for against the reported error."),
        "Error that the weights stand for, against the reported error.",
        "What a measurement's weight says of its error, weight to the power −½, against the error "
        "that came with it. On "
        "the dashed line errors are believed as they came; the level part at the left is the floor, and the width is "
        f"what was learned of single exposures, variable stars and outliers. {_sampled(material)}",
    )


def weight_ratios(material: Material) -> Picture | None:
    """How weights are spread about those of the reported errors, which are all one."""
    sample = _weighed(material)
    if sample is None:
        return None
    error = sample["reported_err"].to_numpy().astype(float)
    ratio = np.log10(sample["weight"].to_numpy().astype(float) * error**2)
    low, high = (float(q) for q in np.quantile(ratio, [0.002, 0.998]))
    middle, spread = float(np.median(ratio)), float(np.subtract(*np.quantile(ratio, [0.84, 0.16])))
    low, high = min(low, -0.1), max(high, 0.1)
    figure = style.new_figure(style.HALF, 3.1)
    axes = figure.subplots()
    edges = np.linspace(low, high, 61)
    share = np.histogram(np.clip(ratio, low, high), edges)[0] / ratio.size
    axes.stairs(100.0 * share, edges, fill=True, color=style.SERIES[0], alpha=0.35)
    axes.stairs(100.0 * share, edges, color=style.SERIES[0], lw=1.2)
    axes.axvline(0.0, color=style.MUTED, lw=1.0, ls=(0, (4, 2)), label="as reported")
    axes.axvline(middle, color=style.SERIES[0], lw=1.2, label="median")
    whole = np.arange(np.ceil(low), np.floor(high) + 1)
    ticks = whole if whole.size > 1 else np.round(np.linspace(low, high, 4), 1)
    axes.set_xticks(ticks, [f"{10.0**t:.3g}" for t in ticks])
    axes.set_xlim(low, high)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("weight over that of the reported error")
    axes.set_ylabel("measurements (%)")
    axes.legend(loc="upper left")
    return Picture(
        "How much weights vary",
        style.to_svg(figure, "weightratios", "Histogram of weights over those of the reported errors."),
        "Histogram of weights over those of the reported errors.",
        "Were reported errors believed, every measurement would stand at 1. The median weight is "
        f"{10.0**middle:.2g} of that, and the middle two thirds spread over a factor of {10.0**spread:.2g}: what was "
        f"learned of floors, exposures, variable stars and outliers. {_sampled(material)}",
    )


def _weighed(material: Material) -> pl.DataFrame | None:
    """The sampled measurements that have a weight and a reported error; None where they are few."""
    sample = material.sample
    if "reported_err" not in sample.columns:
        return None
    sample = sample.filter(pl.col("reported_err").is_finite(), pl.col("reported_err") > 0, pl.col("weight") > 0)
    return sample if sample.height >= 4 * LEAST else None


def _sampled(material: Material) -> str:
    if material.every == 1:
        return ""
    return f"From one star in {material.every}, chosen at random."


def share_beyond(material: Material, times: float) -> Any:
    """Share of free residuals beyond ``times`` the noise model; None where there are too few."""
    free = _free(material)
    if free.height < 20 * LEAST:
        return None
    return float((free["free"].abs() > times * free["noise"]).mean())  # type: ignore[arg-type]
