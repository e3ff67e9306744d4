"""What a solution does not have is absent from its page; nothing crashes."""

from __future__ import annotations

import math
import re

import polars as pl
import pytest

from calib.report import write_report


def without(kind, *columns):
    def change(tables, run):
        tables[kind] = tables[kind].drop(columns)

    return change


def without_key(*keys):
    def change(tables, run):
        for key in keys:
            del run[key]

    return change


def setting(kind, **values):
    def change(tables, run):
        tables[kind] = tables[kind].with_columns(**{name: pl.lit(v) for name, v in values.items()})

    return change


def one_exposure(tables, run):
    for kind in ("zeropoints", "measurements"):
        tables[kind] = tables[kind].filter(pl.col("exposure_id") == 0)
    run["components"] = run["components"][:1]


def no_rows(tables, run):
    for kind in ("zeropoints", "measurements", "stars"):
        tables[kind] = tables[kind].head(0)


def all_nan(tables, run):
    for kind in ("zeropoints", "stars", "measurements", "terms"):
        floats = [c for c in tables[kind].columns if tables[kind][c].dtype.is_float()]
        tables[kind] = tables[kind].with_columns(pl.lit(math.nan).cast(tables[kind][c].dtype).alias(c) for c in floats)


def all_null(tables, run):
    for kind in ("zeropoints", "stars", "measurements"):
        floats = [c for c in tables[kind].columns if tables[kind][c].dtype.is_float()]
        tables[kind] = tables[kind].with_columns(pl.lit(None).cast(tables[kind][c].dtype).alias(c) for c in floats)


def unused(tables, run):
    tables["measurements"] = tables["measurements"].with_columns(pl.lit(False).alias("used"))
    tables["zeropoints"] = tables["zeropoints"].with_columns(n_measurements=pl.lit(0), n_stars=pl.lit(0))


def one_band(tables, run):
    for kind in ("zeropoints", "stars", "measurements"):
        tables[kind] = tables[kind].filter(pl.col("band") == "g")


def nameless_band(tables, run):
    one_band(tables, run)
    tables["zeropoints"] = tables["zeropoints"].with_columns(band=pl.lit(""))
    tables["stars"] = tables["stars"].with_columns(band=pl.lit(""))
    tables["measurements"] = tables["measurements"].drop("band")
    run["model"]["floor_mag"] = {"": 0.003}


def wls_only(tables, run):
    run["method"] = "wls"
    run["scores"] = {"wls": run["scores"]["wls"]}
    run["terms_tried"] = []
    run["model"]["floor_mag"] = {"g": 0.0, "r": 0.0}
    tables["zeropoints"] = tables["zeropoints"].with_columns(excess_noise=pl.lit(0.0), error_scale=pl.lit(1.0))


def nan_scores(tables, run):
    for score in run["scores"].values():
        for key in ("score", "rms_difference_mag", "pull_std", "coverage_68", "coverage_95"):
            score[key] = math.nan
        score["pull_histogram"]["counts"] = [0] * 48
        score["n_exposures"] = 0
    run["terms_tried"] = [{"terms": "plane", "log_evidence": math.nan}]


def few_times(tables, run):
    known = pl.when(pl.col("exposure_id") < 3).then(pl.col("mjd")).otherwise(None)
    tables["zeropoints"] = tables["zeropoints"].with_columns(mjd=known)


def one_night(tables, run):
    tables["zeropoints"] = tables["zeropoints"].with_columns(mjd=60000.0 + 0.01 * pl.col("exposure_id"))


def many_nights(tables, run):
    tables["zeropoints"] = tables["zeropoints"].with_columns(mjd=60000.0 + 3.0 * pl.col("exposure_id"))


def one_time(tables, run):
    tables["zeropoints"] = tables["zeropoints"].with_columns(mjd=pl.lit(60000.0))


def around_the_pole(tables, run):
    tables["zeropoints"] = tables["zeropoints"].with_columns(
        ra=(355.0 + pl.col("exposure_id")) % 360.0, dec=pl.lit(89.0)
    )


def detectors(tables, run):
    parts = {
        kind: [tables[kind].with_columns(detector=pl.lit(d)) for d in ("a", "b")]
        for kind in ("zeropoints", "measurements")
    }
    for kind, frames in parts.items():
        tables[kind] = pl.concat(frames)


def anchored(tables, run):
    run["components"][0] |= {
        "anchored": True, "gauge": "reference stars", "n_reference": 5, "offset_mag": 25.1, "offset_err_mag": 0.002,
        "reference_scatter_mag": 0.01, "reference_tension": 1.3, "n_discrepant_reference": 1,
    }  # fmt: skip


def drop(kind):
    def change(tables, run):
        del tables[kind]

    return change


def empty_terms(tables, run):
    tables["terms"] = tables["terms"].head(0)


def empty_run(tables, run):
    run.clear()


def together(*changes):
    def change(tables, run):
        for each in changes:
            each(tables, run)

    return change


NO_TIME = together(without("zeropoints", "mjd"), setting("zeropoints", flag=""), without_key("scores"))
BARE = together(
    without("zeropoints", "ra", "dec"), few_times, drop("terms"), without("measurements", "outlier_probability")
)
PLAIN = together(one_night, without("zeropoints", "surface_x", "surface_y"), nan_scores)
NO_MODEL = together(many_nights, without("stars", "ra", "dec"), without_key("model"))
WLS = together(one_time, wls_only, without("stars", "variability_probability"))
POLE = together(around_the_pole, without("measurements", "residual"), without_key("warnings"))

CASES = {
    "no time, flag, score": (
        NO_TIME,
        "in order of",
        ["Flagged exposures", "Methods on held-out stars", "Pulls between"],
    ),
    "few times, no position, terms": (BARE, "lie together", ["Exposures on the sky", "Extinction by night"]),
    "one night, no surface, NaN scores": (PLAIN, "hours since MJD", ["Mean surface", "Pulls between", "Local terms"]),
    "many nights, no star position, no model": (NO_MODEL, ">MJD<", ["Residuals on the sky"]),
    "one time, wls only, no variability": (WLS, "wls, chosen", ["Stars that seem to vary", "Local terms"]),
    "pole, no residual, no warning": (POLE, "No warnings.", ["Residuals", "Weights"]),
    "no measurements file": (together(drop("measurements"), empty_terms), None, ["The exposure graph", "Extinction"]),
    "no measurement used": (unused, None, ["The exposure graph"]),
    "band without a name": (nameless_band, "all exposures", []),
    "one exposure": (one_exposure, None, ["The exposure graph"]),
    "no rows": (no_rows, "No zero-point could be solved", ["Zero-points in time"]),
    "all NaN": (all_nan, "No zero-point could be solved", ["Zero-points in time", "Errors of the zero-points"]),
    "all null": (all_null, "No zero-point could be solved", ["Zero-points in time", "Errors of the zero-points"]),
    "detectors, anchored": (together(detectors, anchored), "25.1000 ± 0.0020", []),
    "empty run.json": (empty_run, None, ["Methods", "Components", "Inputs"]),
}


@pytest.mark.parametrize("case", CASES)
def test_absent_not_broken(make, case):
    change, words, absent = CASES[case]
    text = write_report(make(change)).read_text(encoding="utf-8")
    assert words is None or words in text
    titles = re.findall(r"<(?:h3|summary)>([^<]*)<", text)
    for title in absent:
        assert not [t for t in titles if t.startswith(title)], titles
    said = re.sub(r"<style>.*?</style>|<pre>.*?</pre>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(nan|NaN|None|inf)\b", said)
