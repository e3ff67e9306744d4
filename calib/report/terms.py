"""Terms at work: the mean surface across the field, extinction by night."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.model.camera import CELL_NAMES, FLAT, cells
from calib.report import marks, style
from calib.report.material import Material
from calib.report.style import Picture

SURFACES = ("surface_x", "surface_y", "surface_xx", "surface_xy", "surface_yy")
GRID = 41
"""Points a side of the map of the mean surface."""


def surface(material: Material) -> Picture | None:
    """Mean over exposures of the surfaces across the field, with the star flat, a map for each band."""
    coefficients = np.stack([material.column(c) for c in SURFACES], 1)
    solved = np.isfinite(coefficients[:, :2]).all(1)
    coefficients = np.nan_to_num(coefficients)
    bands = marks.panel_bands(material, solved & (coefficients != 0).any(1))[:4]
    if not bands:
        return None
    field = (material.run.get("model") or {}).get("field") or {}
    centre = np.asarray(field.get("centre") or [0.0, 0.0, 0.0, 1 / 3, 0.0, 1 / 3], float)[1:]
    axis = np.linspace(-1, 1, GRID)
    x, y = np.meshgrid(axis, axis)
    basis = np.stack([x, y, x * x, x * y, y * y], -1) - centre
    maps, spreads = [], []
    for band in bands:
        here = coefficients[material.of_band(band) & solved]
        maps.append(1e3 * (basis @ here.mean(0) + _flat(material, band, x, y)))
        # mean over the field of b' C b, with b the basis and C the coefficients' covariance over exposures
        covariance = (here - here.mean(0)).T @ (here - here.mean(0)) / len(here)
        spreads.append(1e3 * float(np.sqrt(np.sum(covariance * np.einsum("ijk,ijl->kl", basis, basis)) / GRID**2)))
    bound = max(max(float(np.abs(m).max()) for m in maps), 0.1)
    width, height = {1: (style.HALF, 3.4), 2: (style.HALF, 2.45), 3: (style.WIDE, 3.2)}.get(
        len(bands), (style.WIDE, 2.7)
    )
    figure = style.new_figure(width, height)
    panels = figure.subplots(1, len(bands), sharex=True, sharey=True, squeeze=False)[0]
    artist = None
    for axes, band, values in zip(panels, bands, maps, strict=True):
        artist = axes.imshow(
            values, origin="lower", extent=(-1, 1, -1, 1), aspect="equal", vmin=-bound, vmax=bound,
            cmap=style.colormap("diverging"), interpolation="bilinear",
        )  # fmt: skip
        levels = np.linspace(-bound, bound, 9)
        axes.contour(axis, axis, values, levels=levels, colors=style.INK, linewidths=0.4, alpha=0.5)
        axes.grid(False)
        axes.set_title(style.plain(material.band_name(band)))
        axes.set_xlabel("x (half field)")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
    panels[0].set_ylabel("y (half field)")
    marks.color_scale(figure, artist, list(panels), "added to magnitudes (mmag)")
    said = ", ".join(f"{material.band_name(b)} {s:.2g}" for b, s in zip(bands, spreads, strict=True))
    return Picture(
        "Mean surface across the field",
        style.to_svg(figure, "surface", "Map of the mean surface across the field of view, mmag."),
        "Map of the mean surface across the field.",
        "The mean over exposures of what is added to magnitudes across the field, surfaces and star flat: what a "
        f"better flat would take away. Around it single exposures vary by (rms, mmag): {said}."
        + marks.left_out(material, bands),
        wide=len(bands) > 2,
    )


def _flat(material: Material, band: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The star flat of a band at places of the field, mag; 0 where there is none."""
    terms = material.terms
    out = np.zeros(len(CELL_NAMES))
    if {"name", "band", "detector", "value"} <= set(terms.columns):
        rows = terms.filter(pl.col("name") == FLAT, pl.col("band") == band)
        for cell, value in rows.select("detector", pl.col("value").cast(pl.Float64)).iter_rows():
            if cell in CELL_NAMES and value is not None:
                out[CELL_NAMES.index(cell)] = value
    at = cells(np.stack([x.ravel(), y.ravel()], 1).astype(np.float32))
    return out[at].reshape(x.shape)


def extinction(material: Material) -> Picture | None:
    """Extinction coefficient of each night and band, with errors."""
    terms = material.terms
    if not {"name", "band", "night", "value", "err"} <= set(terms.columns):
        return None
    rows = terms.filter(
        pl.col("name") == "extinction", pl.col("night").is_not_null(), pl.col("value").cast(pl.Float64).is_finite()
    )
    if not rows.height:
        return None
    nights = np.unique(rows["night"].to_numpy())
    few = nights.size <= 24
    bands = sorted(rows["band"].unique().to_list())[: marks.MOST_PANELS]
    figure = style.new_figure(style.HALF if nights.size <= 10 else style.WIDE, 2.75)
    axes = figure.subplots()
    values = rows["value"].cast(pl.Float64).to_numpy()
    err = rows["err"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    axes.set_ylim(*marks.limits(np.concatenate([values - np.nan_to_num(err), values + np.nan_to_num(err)])))
    for i, band in enumerate(bands):
        color = marks.band_color(material, band) if band in material.bands else style.SERIES[i]
        here = (rows["band"] == band).to_numpy()
        night = rows["night"].to_numpy()[here]
        x = np.searchsorted(nights, night) + 0.12 * (i - 0.5 * (len(bands) - 1)) if few else night.astype(float)
        middle = float(np.median(values[here]))
        name = style.plain(f"{material.band_name(band)}, median {middle:.3f}")
        axes.axhline(middle, color=color, lw=0.8, ls=(0, (4, 2)))
        marks.error_bars(axes, x, values[here], err[here], color)
        marks.dots(axes, x, values[here], color, size=4.0, label=name)
    if few:
        turned = {"rotation": 45, "ha": "right"} if nights.size > 6 else {}
        axes.set_xticks(range(nights.size), [f"{n}" for n in nights], **turned)
        axes.grid(False, axis="x")
    axes.set_xlabel("night")
    axes.set_ylabel("extinction (mag per airmass)")
    axes.legend()
    return Picture(
        "Extinction by night",
        style.to_svg(figure, "extinction", "Extinction coefficient of each night, with errors, by band."),
        "Extinction coefficient of each night.",
        "Magnitudes lost per unit of airmass, with one standard error; dashed lines are each band's "
        "median. Bluer bands "
        "lie higher; nights with little range in airmass have long bars and say little.",
        wide=nights.size > 10,
    )
