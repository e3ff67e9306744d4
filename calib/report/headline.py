"""What the page opens with: key figures, and warnings in plain words."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

import numpy as np
import polars as pl

from calib.report.material import Material
from calib.report.text import count, number


def survey_name(run: dict[str, Any]) -> str:
    """File name of the first input without its ending, or what there is to say."""
    inputs = run.get("inputs") or []
    path = str(inputs[0].get("path", "")) if inputs else ""
    if not path or path.startswith("the "):
        return "Photometric calibration"
    name = PurePath(path).name
    return name.split(".")[0] if "*" not in name else PurePath(path).parent.name or name


def headline(material: Material) -> dict[str, Any]:
    """Key figures and the sentence that opens the page."""
    run, zeropoints = material.run, material.zeropoints
    err = material.column("zeropoint_err")
    err = err[np.isfinite(err)] * 1e3
    counts = run.get("counts") or {}
    rows = counts.get("rows", material.n_rows)
    solved = int(np.isfinite(material.column("zeropoint")).sum())
    exposures = zeropoints["exposure_id"].n_unique()
    bands = [b for b in sorted(material.bands) if b]
    tiles = [
        ("exposures", count(exposures), f"{count(solved)} zero-points solved"),
        ("stars", count(material.n_stars), _repeated(material)),
        ("measurements", count(rows), _share(counts.get("usable"), rows)),
    ]
    if bands:
        tiles.append(("bands", " ".join(bands) if len(bands) < 9 else str(len(bands)), "solved together"))
    if err.size:
        high = float(np.quantile(err, 0.95))
        tiles.append(("error, mmag", number(float(np.median(err))), f"median; 95 % below {number(high)}"))
    components = run.get("components") or []
    linked = [c for c in components if c.get("n_exposures", 0) > 1]
    anchored = sum(bool(c.get("anchored")) for c in linked)
    scale = (
        "no scale" if not linked
        else "absolute scale" if anchored == len(linked)
        else "relative scale" if anchored == 0
        else f"{anchored} of {len(linked)} anchored"
    )  # fmt: skip
    tiles.append(("components", count(len(linked)), scale))
    return {
        "name": survey_name(run),
        "tiles": tiles,
        "method": str(run.get("method", "")),
        "reason": str(run.get("method_reason", "")),
        "version": str(run.get("version", "")),
    }


def _repeated(material: Material) -> str:
    median = material.stars.filter(pl.col("n_used") > 0).select(pl.col("n_used").median()).collect().item()
    return "" if median is None else f"measured {number(float(median), 2)} times, median"


def _share(used: Any, rows: Any) -> str:
    if not rows or used is None:
        return ""
    return "all used" if used == rows else f"{100.0 * used / rows:.1f} % used"


def warnings(material: Material) -> list[str]:
    """The run's warnings, and what held-out stars say against the errors."""
    run = material.run
    said = [str(w) for w in run.get("warnings") or []]
    score = (run.get("scores") or {}).get(run.get("method")) or {}
    spread, n = score.get("pull_std"), score.get("n_exposures", 0)
    if isinstance(spread, int | float) and math.isfinite(spread) and n >= 30:
        # the standard deviation of n pulls is itself uncertain by 1 / sqrt(2 n)
        doubt = 3.0 / math.sqrt(2.0 * n)
        if spread > 1.15 + doubt:
            said.append(
                f"errors look too small: two halves of the stars differ by {spread:.2f} times what their errors allow"
            )
        elif spread < 0.85 - doubt:
            said.append(f"errors look too large: two halves of the stars differ by only {spread:.2f} of their errors")
    if not np.isfinite(material.column("zeropoint")).any():
        said.append("no zero-point could be solved: no two exposures share a star")
    return [w[:1].upper() + w[1:] + ("" if w.endswith((".", "!", "?")) else ".") for w in said]
