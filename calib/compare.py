"""Two sets of zero-points held against each other: offsets, rms, pulls and coverage, component by component."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables.errors import InputError, count

Array = NDArray[np.float64]

WORST = 5
"""Exposures named as the worst of a component."""
_KEYS = ("exposure_id", "band", "detector")


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes
    ----------
    label
        The folder or file.
    frame
        exposure_id, zeropoint, and where known band, detector, zeropoint_err, component, anchored.
    solution
        Whether it is a solution; any other table is taken to be on an absolute scale.
    """

    label: str
    frame: pl.DataFrame
    solution: bool


def read_side(path: str | os.PathLike[str]) -> Side:
    """Read a solution folder, a simulated survey's folder (its truth), or a table of exposure_id and zeropoint.

    Raises
    ------
    InputError
        It is none of these.
    """
    from calib.tables.solution_tables import read_any

    home = Path(path)
    solution = (home / "zeropoints.parquet").is_file()
    if solution:
        frame = read_any(home / "zeropoints.parquet")
    else:
        truth = home / "truth_exposures.parquet"
        frame = read_any(truth if truth.is_file() else path)
    missing = [c for c in ("exposure_id", "zeropoint") if c not in frame.columns]
    if missing:
        raise InputError(
            f"{path}: no column {' and '.join(missing)}; it has {', '.join(frame.columns)}; give a folder that calib "
            "solve wrote, or a table of exposure_id, zeropoint and, if it has them, band, detector, zeropoint_err"
        )
    solution = solution or "anchored" in frame.columns
    wanted = [c for c in (*_KEYS, "zeropoint", "zeropoint_err", "component", "anchored") if c in frame.columns]
    frame = frame.select(wanted)
    for name in ("zeropoint", "zeropoint_err"):
        if name in frame.columns:
            number = frame[name].cast(pl.Float64, strict=False)
            bad = number.null_count() - frame[name].null_count()
            if bad:
                raise InputError(f"{path}: {name} is no number in {count(bad, 'row')}; give mag")
            frame = frame.with_columns(number.fill_null(np.nan))
    for name in ("exposure_id", "band", "detector"):
        if name in frame.columns and frame[name].null_count():
            raise InputError(f"{path}: {name} is null in {count(frame[name].null_count(), 'row')}; fill or drop them")
        if name in frame.columns and frame[name].dtype.is_float():
            whole = frame[name].cast(pl.Int64, strict=False)
            if (frame[name] == whole).fill_null(False).all():
                frame = frame.with_columns(whole)
    return Side(str(path), frame, solution)


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Compare zero-points; differences are a - b.

    The mean difference of each pair of components is removed, since a relative scale has no zero of its own, unless
    both are on an absolute scale: anchored, or a table that is no solution. Stated errors of both sides are added in
    quadrature, as of independent solutions; where both come from the same measurements pulls come out too small.

    Parameters
    ----------
    a, b
        From `read_side`.

    Returns
    -------
    dict
        a, b, n_a, n_b, n_matched, n_only_a, n_only_b, n_unsolved, components (a list), all, notes. Magnitudes in mag.

    Raises
    ------
    InputError
        No exposure is in both, or rows cannot be told apart by what both have.
    """
    joined = _matched(a, b)
    both = joined.filter(pl.col("_a").is_not_null() & pl.col("_b").is_not_null())
    if not both.height:
        raise InputError(
            f"{a.label}: none of its {count(a.frame.height, 'exposure')} is in {b.label} (first: "
            f"{a.frame['exposure_id'][0]} there, {b.frame['exposure_id'][0]} here); give tables of the same exposures"
        )
    solved = both.filter(pl.col("zeropoint").is_finite() & pl.col("zeropoint_b").is_finite())
    components, parts = [], []
    for (component_a, component_b), part in solved.sort("_row").group_by("_ca", "_cb", maintain_order=True):
        made, difference, pull = _component(part)
        if part.height > 1 or made["absolute"]:
            parts.append((difference, pull))
        components.append({"component_a": component_a, "component_b": component_b, **made})
    difference = np.concatenate([p[0] for p in parts]) if parts else np.zeros(0)
    pull = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0)
    notes = _notes(solved, components)
    return {
        "a": a.label,
        "b": b.label,
        "n_a": a.frame.height,
        "n_b": b.frame.height,
        "n_matched": both.height,
        "n_only_a": int(joined["_b"].null_count()),
        "n_only_b": int(joined["_a"].null_count()),
        "n_unsolved": both.height - solved.height,
        "components": components,
        "all": _statistics(difference, pull),
        "notes": notes,
    }


def _matched(a: Side, b: Side) -> pl.DataFrame:
    """All rows of both, side by side where they are of one exposure."""
    left, right = a.frame, b.frame
    keys = [c for c in _KEYS if c in left.columns and c in right.columns]
    # a table without bands may say so by an empty column
    if "band" in keys and any((f["band"].cast(pl.String) == "").all() for f in (left, right)):
        keys.remove("band")
    for key in keys:
        if left[key].dtype != right[key].dtype:
            text = [f[key].cast(pl.String) for f in (left, right)]
            left, right = left.with_columns(text[0]), right.with_columns(text[1])
    for side, frame in ((a, left), (b, right)):
        repeated = int(frame.select(keys).is_duplicated().sum())
        if repeated and (side is b or right.select(keys).is_duplicated().any()):
            raise InputError(
                f"{side.label}: {count(repeated, 'row')} share {', '.join(keys)}; give one row per exposure, or put "
                "the table with more rows per exposure first"
            )
    left = left.with_columns(pl.int_range(pl.len()).alias("_row"), pl.lit(True).alias("_a"))
    right = right.with_columns(pl.lit(True).alias("_b"))
    for name in ("zeropoint_err", "component", "anchored"):
        if name not in left.columns:
            left = left.with_columns(_absent(name, a.solution))
        if name not in right.columns:
            right = right.with_columns(_absent(name, b.solution))
    joined = left.join(right, on=keys, how="full", suffix="_b", coalesce=True)
    band = pl.col("band").cast(pl.String) if "band" in joined.columns else pl.lit("")
    return joined.with_columns(
        pl.col("component").fill_null(-1).alias("_ca"),
        pl.col("component_b").fill_null(-1).alias("_cb"),
        band.fill_null("").alias("band"),
    )


def _absent(name: str, solution: bool) -> pl.Expr:
    if name == "zeropoint_err":
        return pl.lit(0.0).alias(name)
    if name == "component":
        return pl.lit(-1, pl.Int64).alias(name)
    return pl.lit(not solution).alias(name)


def _component(part: pl.DataFrame) -> tuple[dict[str, Any], Array, Array]:
    """Statistics of one pair of components, its differences and its pulls."""
    difference = part["zeropoint"].to_numpy() - part["zeropoint_b"].to_numpy()
    variance = np.nan_to_num(part["zeropoint_err"].to_numpy()) ** 2
    variance = variance + np.nan_to_num(part["zeropoint_err_b"].to_numpy()) ** 2
    absolute = bool(part["anchored"].all() and part["anchored_b"].all())
    offset = 0.0 if absolute else float(difference.mean())
    left = difference - offset
    with np.errstate(divide="ignore", invalid="ignore"):
        pull = np.where(variance > 0, left / np.sqrt(variance), np.nan)
    worst = np.argsort(-np.abs(left), kind="stable")[:WORST]
    names = part["exposure_id"].to_list()
    detector = part["detector"].to_list() if "detector" in part.columns else None
    made = {
        "band": ",".join(sorted({str(x) for x in part["band"]})),
        "absolute": absolute,
        "offset_mag": float(difference.mean()),
        **_statistics(left, pull),
        "worst": [
            {"exposure_id": names[i], "band": part["band"][int(i)]}
            | ({} if detector is None else {"detector": detector[i]})
            | {"difference_mag": float(left[i]), "pull": _finite(pull[i])}
            for i in worst
        ],
    }
    return made, left, pull


def _statistics(difference: Array, pull: Array) -> dict[str, Any]:
    known = np.abs(pull[np.isfinite(pull)])
    n = difference.size
    return {
        "n": n,
        "rms_mag": _finite(np.sqrt(np.mean(difference**2))) if n else None,
        "robust_rms_mag": _finite(1.4826 * np.median(np.abs(difference - np.median(difference)))) if n else None,
        "pull_std": _finite(np.sqrt(np.mean(known**2))) if known.size else None,
        "coverage_68": _finite(np.mean(known < 1.0)) if known.size else None,
        "coverage_95": _finite(np.mean(known < 1.96)) if known.size else None,
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _notes(solved: pl.DataFrame, components: list[dict[str, Any]]) -> list[str]:
    """What looks wrong with the comparison itself."""
    notes = []
    group = solved.group_by("_ca", "_cb").agg(
        pl.len().alias("n"),
        (pl.col("zeropoint") - pl.col("zeropoint_b")).var().alias("minus"),
        (pl.col("zeropoint") + pl.col("zeropoint_b")).var().alias("plus"),
    )
    turned = group.filter((pl.col("n") > 2) & (pl.col("plus") < 0.1 * pl.col("minus"))).height
    if turned:
        notes.append(
            f"in {count(turned, 'component')} the two have opposite signs: one subtracts its zero-points; "
            "here calibrated magnitude = mag + zeropoint"
        )
    single = sum(c["n"] == 1 and not c["absolute"] for c in components)
    if single:
        notes.append(f"{count(single, 'component')} of a single exposure say nothing and are not in the total")
    return notes


def write_json(comparison: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a comparison as JSON, whole or not at all."""
    from calib.tables.json_out import to_json
    from calib.tables.write import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(to_json(comparison), encoding="utf-8")


def text(comparison: dict[str, Any]) -> str:
    """Return the comparison as a reader wants it, mmag."""
    c = comparison
    lines = [
        f"a  {c['a']}: {count(c['n_a'], 'zero-point')}",
        f"b  {c['b']}: {count(c['n_b'], 'zero-point')}",
        f"{c['n_matched']:,} in both, {c['n_only_a']:,} only in a, {c['n_only_b']:,} only in b"
        + (f", {c['n_unsolved']:,} without a zero-point in one of them" if c["n_unsolved"] else ""),
        "",
        "difference a - b, mmag; pull is the difference over its stated error",
        f"{'component':<12}{'band':<8}{'n':>7}{'offset':>12}{'rms':>9}{'robust':>9}{'pull sd':>9}"
        f"{'in 68':>8}{'in 95':>8}",
    ]
    for row in c["components"]:
        label = "/".join(str(x) if x >= 0 else "-" for x in (row["component_a"], row["component_b"]))
        offset = f"{1000 * row['offset_mag']:.2f}" + ("" if row["absolute"] else "*")
        lines.append(f"{label:<12}{row['band']:<8}{row['n']:>7,}{offset:>12}{_row(row)}")
    lines.append(f"{'all':<12}{'':<8}{c['all']['n']:>7,}{'':>12}{_row(c['all'])}")
    if not all(row["absolute"] for row in c["components"]):
        lines.append("* removed: the scale of one of the two is relative")
    worst = sorted(
        (w for row in c["components"] if row["n"] > 1 or row["absolute"] for w in row["worst"]),
        key=lambda w: -abs(w["difference_mag"]),
    )[:WORST]
    lines += ["", "worst exposures"]
    for w in worst:
        where = " ".join(str(w[k]) for k in _KEYS if w.get(k) not in (None, ""))
        pull = "" if w["pull"] is None else f"   pull {w['pull']:.1f}"
        lines.append(f"  {where:<28}{1000 * w['difference_mag']:>10.2f} mmag{pull}")
    return "\n".join([*lines, *(f"note: {n}" for n in c["notes"])])


def _row(row: dict[str, Any]) -> str:
    def cell(value: float | None, scale: float, digits: int, width: int, unit: str = "") -> str:
        return f"{'-' if value is None else f'{scale * value:.{digits}f}{unit}':>{width}}"

    return (
        cell(row["rms_mag"], 1000, 2, 9) + cell(row["robust_rms_mag"], 1000, 2, 9) + cell(row["pull_std"], 1, 2, 9)
        + cell(row["coverage_68"], 100, 1, 8, "%") + cell(row["coverage_95"], 100, 1, 8, "%")
    )  # fmt: skip
