"""Tables of how the run went: methods, terms, components, rows, inputs."""

from __future__ import annotations

import math
from typing import Any

from calib.report.text import Table, count, fixed, mmag, number, percent
from calib.tables.reasons import UNUSED_REASONS


def scores(run: dict[str, Any]) -> Table | None:
    """Methods on held-out stars."""
    tried: dict[str, Any] = run.get("scores") or {}
    if not tried:
        return None
    rows = []
    for name, s in tried.items():
        rms = s.get("rms_difference_mag")
        rows.append(
            [
                name, number(s.get("score"), 4), number(None if rms is None else 1e3 * rms), number(s.get("pull_std")),
                percent(s.get("coverage_68")), percent(s.get("coverage_95")), count(s.get("n_exposures") or 0),
            ]
        )  # fmt: skip
    chosen = list(tried).index(run["method"]) if run.get("method") in tried else -1
    return Table(
        "Methods on held-out stars",
        ["method", "score", "rms (mmag)", "pull sd", "within 1σ", "within 1.96σ", "exposures"],
        rows,
        "Two random halves of the stars are solved apart and compared. The score is the negative log-likelihood of "
        "their difference, smaller is better; true errors have a pull sd of 1, and 68 and 95 % within 1 and 1.96. Bold "
        "is the method of this solution.",
        frozenset(range(1, 7)),
        chosen,
    )


def held_out_nights(run: dict[str, Any]) -> Table | None:
    """Stars of halves of the nights."""
    split: dict[str, Any] = run.get("held_out_nights") or {}
    if not split:
        return None
    rms = split.get("rms_difference_mag")
    rows = [
        [share, number(split.get(f"errors_{key}")), normal, number(split.get(f"inflation_{key}"))]
        for share, key, normal in (("68 %", "68", "0.99"), ("95 %", "95", "1.96"))
    ]
    return Table(
        "Stars on held-out nights",
        ["of the stars", "within (stated errors)", "a normal needs", "errors times"],
        rows,
        f"{count(split.get('n_nights') or 0)} nights are parted in two at random and each half is solved alone; "
        f"{count(split.get('n_stars') or 0)} stars are in both and not known to vary, their magnitudes differ by "
        f"{number(None if rms is None else 1e3 * rms)} mmag rms over √2. Errors of a whole night are in this "
        "difference, where halves of the stars share them. Well above one in the last column: something changes from "
        "night to night that the errors do not hold.",
        frozenset(range(1, 4)),
    )


def terms_tried(run: dict[str, Any]) -> Table | None:
    """Local terms with the evidence of each."""
    tried = [t for t in run.get("terms_tried") or [] if isinstance(t, dict)]
    evidence = [t.get("log_evidence") for t in tried]
    known = [e for e in evidence if isinstance(e, int | float) and math.isfinite(e)]
    if not known:
        return None
    first = known[0]
    rows = [
        [str(t.get("terms", "")), fixed(e - first, 1) if isinstance(e, int | float) else "–"]
        for t, e in zip(tried, evidence, strict=True)
    ]
    return Table(
        "Local terms tried",
        ["terms", "gain in log evidence"],
        rows,
        "Logarithm of the marginal likelihood over that of the first; what earned its place is "
        "carried (bold); – is what the factor had no room for. A surface "
        "is a smooth pattern across the field of one exposure; a background is a flux that its sky subtraction "
        "left in every aperture, a slope with magnitude one that plates have, a nonlinearity a loss that grows with a "
        "star's light; a seeing response is a star that "
        "changes with the seeing, as blends do, the given one or a latent one that residuals show; "
        "detectors' offsets and colours are what each detector adds in every exposure alike.",
        frozenset({1}),
        next((i for i, t in enumerate(tried) if t.get("carried")), -1),
    )


def unused(run: dict[str, Any]) -> Table | None:
    """Rows that were not used, by reason."""
    counts: dict[str, Any] = run.get("counts") or {}
    meaning = {r.name: r.description.replace("`", "") for r in UNUSED_REASONS}
    rows = [
        [name, count(n), meaning.get(name, "")]
        for name, n in counts.items()
        if name not in ("usable", "rows") and isinstance(n, int) and n > 0
    ]
    if not rows:
        return None
    return Table(
        "Rows not used",
        ["reason", "rows", "meaning"],
        rows,
        "Nothing is dropped silently: each is in measurements.parquet with used = false.",
        frozenset({1}),
    )


def components(run: dict[str, Any], most: int = 30) -> Table | None:
    """Components with what sets their scale."""
    found: list[dict[str, Any]] = [c for c in run.get("components") or [] if isinstance(c, dict)]
    if not found:
        return None
    lonely = sum(c.get("n_exposures", 0) == 1 for c in found)
    linked = sorted((c for c in found if c.get("n_exposures", 0) != 1), key=lambda c: -c.get("n_exposures", 0))
    banded = any(c.get("band") for c in found)
    anchored = any(c.get("anchored") for c in found)
    extra = ["references", "offset (mag)", "scatter (mmag)", "tension", "discrepant"] if anchored else []
    rows = []
    for c in linked[:most]:
        row = [str(c.get("component", "")), *([str(c.get("band", ""))] if banded else [])]
        row += [count(c.get("n_exposures") or 0), count(c.get("n_stars") or 0), str(c.get("gauge", ""))]
        if anchored:
            offset = fixed(c.get("offset_mag"), 4)
            if c.get("offset_err_mag") is not None:
                offset += f" ± {fixed(c['offset_err_mag'], 4)}"
            row += [str(c.get("n_reference", "–")), offset, number(mmag(c.get("reference_scatter_mag")))]
            row += [number(c.get("reference_tension")), str(c.get("n_discrepant_reference", "–"))]
        rows.append(row)
    said = "Zero-points can be compared within a component; between components only where both are tied to references."
    if len(linked) > most:
        said += f" The largest {most} of {len(linked)}."
    if lonely:
        said += f" {count(lonely)} more hold one exposure only, which nothing ties."
    if anchored:
        said += " Tension is the rms of the references about the solution in their errors: well above 1, they disagree."
    k = 2 if banded else 1
    numeric = {k, k + 1} | set(range(k + 3, k + 3 + len(extra)))
    columns = ["component", *(["band"] if banded else []), "exposures", "stars", "gauge", *extra]
    return Table("Components", columns, rows, said, frozenset(numeric), fold=len(rows) > 12) if rows else None


def course(run: dict[str, Any]) -> Table | None:
    """Convergence, timings and memory."""
    rows = []
    convergence: dict[str, Any] = run.get("convergence") or {}
    if "converged" in convergence:
        change = convergence.get("change_in_sigma")
        answer = "yes" if convergence["converged"] else "no"
        rows.append(["converged", f"{answer}, after {convergence.get('passes', '?')} passes"])
        if change is not None:
            rows.append(["last change of a zero-point, in its errors", number(change, 2)])
    if convergence.get("bootstrap_ratio") is not None:
        rows.append(["bootstrap by star over the errors of the noise model", number(convergence["bootstrap_ratio"])])
    for component, factor in list((convergence.get("inflation") or {}).items())[:8]:
        rows.append([f"errors inflated in component {component}, by", number(factor)])
    model: dict[str, Any] = run.get("model") or {}
    for key, text, scale, unit in (("floor_mag", "floor", 1e3, " mmag"), ("error_scale", "error scale", 1.0, "")):
        for band, value in list((model.get(key) or {}).items())[:12]:
            known = isinstance(value, int | float) and math.isfinite(value)
            rows.append([f"{text}{f', band {band}' if band else ''}", number(scale * value) + unit if known else "–"])
    if model.get("tail_shares"):
        beyond = sum(share for scale, share in model["tail_shares"].items() if float(scale.split()[0]) > 3)
        rows.append(["measurements whose noise is more than three times the model's (%)", number(100 * beyond)])
    if model.get("variable_share") is not None:
        rows.append(["share of stars that vary", percent(model["variable_share"])])
    timings = {k: v for k, v in (run.get("timings") or {}).items() if isinstance(v, int | float)}
    rows += [[f"time: {stage}", f"{seconds:.2f} s"] for stage, seconds in timings.items()]
    if timings:
        rows.append(["time: all", f"{sum(timings.values()):.2f} s"])
    if run.get("peak_memory_mb"):
        rows.append(["peak memory", f"{run['peak_memory_mb']:.0f} MB"])
    return Table("The run", ["", ""], rows, "", frozenset({1})) if rows else None


def inputs(run: dict[str, Any]) -> Table | None:
    """Input files with rows and checksums."""
    rows = []
    for entry in run.get("inputs") or []:
        columns = entry.get("columns") or {}
        renamed = [f"{name} ← {own}" for name, own in columns.items() if name != own]
        rows.append(
            [str(entry.get("path", "")), count(entry.get("rows") or 0), str(entry.get("sha256") or "–"),
             ", ".join(renamed) if renamed else "as named"]
        )  # fmt: skip
    return Table("Inputs", ["table", "rows", "SHA-256", "columns"], rows, "", frozenset({1})) if rows else None
