"""Tables of exposures and stars that need a look."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from calib.model.camera import FLAT
from calib.model.flags import FLAGS
from calib.report.material import Material
from calib.report.text import Table, count, fixed, mmag, number


def flagged(material: Material, most: int = 30) -> Table | None:
    """Flagged exposures, the most uncertain first."""
    zeropoints = material.zeropoints.with_columns(pl.col("flag").fill_null(""))
    found = zeropoints.filter(pl.col("flag") != "")
    if not found.height:
        return None
    raised = found["flag"].str.split(",").explode().value_counts().sort("count", "flag", descending=[True, False])
    meaning = {f.name: f.meaning for f in FLAGS}
    said = "; ".join(f"{name} ({n}): {meaning.get(name, 'unknown to this version')}" for name, n in raised.iter_rows())
    order = found.with_columns(pl.col("zeropoint_err").fill_null(math.inf).fill_nan(math.inf).alias("_err"))
    order = order.sort("_err", "node", descending=[True, False]).head(most)
    banded = any(material.bands)
    keys = [c for c in ("exposure_id", *(["band"] if banded else []), "detector") if c in order.columns]
    rows = [
        [*(str(row[k]) for k in keys), fixed(row["zeropoint"], 4), number(mmag(row["zeropoint_err"])),
         count(row["n_stars"]), fixed(row["quality"], 2), row["flag"].replace(",", ", ")]
        for row in order.iter_rows(named=True)
    ]  # fmt: skip
    k = len(keys)
    shown = f"The {order.height} most uncertain of {found.height}. " if found.height > order.height else ""
    return Table(
        f"Flagged exposures: {count(found.height)} of {count(zeropoints.height)}",
        [*keys, "zero-point (mag)", "error (mmag)", "stars", "quality", "flags"],
        rows,
        f"{shown}{said}.",
        frozenset(range(k, k + 4)),
        fold=len(rows) > 12,
    )


def variables(material: Material, most: int = 15) -> Table | None:
    """Stars most likely to vary."""
    names = material.stars.collect_schema().names()
    if not {"variability_probability", "chi2_dof"} <= set(names):
        return None
    probable = material.stars.filter(pl.col("variability_probability").is_finite())
    above = (pl.col("variability_probability") > 0.9).sum().alias("likely")
    likely, known_stars = probable.select(above, pl.len()).collect(engine="streaming").row(0)
    known = pl.when(pl.col("chi2_dof").is_finite()).then(pl.col("chi2_dof")).otherwise(None).alias("_chi2")
    order = [pl.col("variability_probability").round(3), pl.col("_chi2"), pl.col("star_id")]
    foremost = probable.filter(pl.col("variability_probability") > 0.5).with_columns(known)
    foremost = foremost.sort(order, descending=[True, True, False], nulls_last=True).head(most)
    top = foremost.collect(engine="streaming")
    if not top.height:
        return None
    place = [c for c in ("ra", "dec") if c in top.columns]
    band = ["band"] if any(material.bands) else []
    rows = [
        [str(row["star_id"]), *(str(row[b]) for b in band), fixed(row["mag"], 3), number(mmag(row["mag_err"])),
         count(row["n_used"]), number(row["chi2_dof"]), fixed(row["variability_probability"], 3),
         *(fixed(row[c], 5) for c in place)]
        for row in top.iter_rows(named=True)
    ]  # fmt: skip
    k = 1 + len(band)
    return Table(
        "Stars that seem to vary",
        ["star_id", *band, "mag", "error (mmag)", "used", "χ² / dof", "P(variable)", *(f"{c} (deg)" for c in place)],
        rows,
        f"{count(likely)} of {count(known_stars)} stars with two measurements or more have a probability above "
        "0.9; these are the foremost. They have little weight in the zero-points.",
        frozenset(range(k, k + 5 + len(place))),
    )


def terms(material: Material) -> Table | None:
    """Fitted terms other than those of extinction and of the star flat, which have figures and a file."""
    frame = material.terms
    if not {"name", "band", "value", "err"} <= set(frame.columns):
        return None
    name = pl.col("name").cast(pl.String)
    frame = frame.filter(~name.str.starts_with("extinction"), name != FLAT).head(40)
    if not frame.height:
        return None
    rows = [
        [_said(row), str(row["band"] or "all"), fixed(row["value"], 4), fixed(row["err"], 4)]
        for row in frame.iter_rows(named=True)
    ]
    return Table(
        "Other fitted terms",
        ["term", "band", "value (mag)", "error (mag)"],
        rows,
        "Magnitudes per unit of what the term multiplies; all of them are in terms.ecsv.",
        frozenset({2, 3}),
    )


def _said(row: dict[str, Any]) -> str:
    return " ".join(filter(None, (str(row["name"]).replace("_", " "), str(row.get("detector") or ""))))


def weak(rows: list[list[str]]) -> Table | None:
    """Groups of exposures that hang by a thread."""
    if not rows:
        return None
    return Table(
        "Hanging by a thread",
        ["stars across", "exposures", "band", "which"],
        rows,
        "Groups of exposures that these few stars alone tie to the rest of their component: one wrong star moves them "
        "all. Another exposure that overlaps both sides would help most.",
        frozenset({0, 1}),
        fold=len(rows) > 8,
    )
