"""Seventy-seven stars of M3 through one night: RR Lyrae among them, and theoretical errors that are too small."""

import polars as pl
import pytest

from calib import Config, calibrate

pytestmark = pytest.mark.needs_realdata


@pytest.fixture(scope="module")
def frame(m3):
    """With the scatter of each star about the ensemble, found without calib: frame medians of differences."""
    about = m3.with_columns(d=pl.col("mag_inst") - pl.col("mag_inst").median().over("star_id"))
    about = about.with_columns(d=pl.col("d") - pl.col("d").median().over("exposure_id"))
    scatter = (pl.col("d").quantile(0.84) - pl.col("d").quantile(0.16)).over("star_id") / 2.0
    return about.with_columns(scatter=scatter).with_columns(
        rr_lyrae=pl.col("scatter") > 3.0 * pl.col("mag_err_total").median().over("star_id")
    )


def solve(m3, errors):
    columns = {"mag": "mag_inst", "mag_err": errors}
    return calibrate(m3.select("star_id", "exposure_id", "band", "mag_inst", errors, "x", "y"),
                     config=Config(columns=columns))  # fmt: skip


@pytest.fixture(scope="module")
def theoretical(m3):
    return solve(m3, "mag_err")


@pytest.fixture(scope="module")
def total(m3):
    return solve(m3, "mag_err_total")


@pytest.mark.parametrize("errors", ["theoretical", "total"])
def test_rr_lyrae_are_flagged_and_few_others(frame, request, errors):
    stars = request.getfixturevalue(errors).frames["stars"]
    known = set(frame.filter("rr_lyrae")["star_id"])
    assert 7 <= len(known) <= 12
    flagged = set(stars.filter(pl.col("variability_probability") > 0.9)["star_id"])
    assert known <= flagged
    assert len(flagged) <= 14


def per_star(solution, m3):
    """Medians over the stars that do not vary, of squares over those of both kinds of error."""
    varying = solution.frames["stars"].filter(pl.col("variability_probability") > 0.5)["star_id"].to_list()
    values = pl.concat(
        [solution.measurement_frame().select("residual", "weight"), m3.select("star_id", "mag_err", "mag_err_total")],
        how="horizontal",
    )
    quiet = values.filter(~pl.col("star_id").is_in(varying))
    columns = {}
    for kind in ("mag_err", "mag_err_total"):
        columns[f"scatter {kind}"] = (pl.col("residual") ** 2 / pl.col(kind) ** 2).mean()
        columns[f"noise {kind}"] = (1.0 / pl.col("weight") / pl.col(kind) ** 2).median()
    return quiet.group_by("star_id").agg(**columns).drop("star_id").median().row(0, named=True)


def test_theoretical_errors_are_found_too_small_by_the_right_factor(theoretical, m3):
    """The noise that weighs them has 3.2 times their square, which is the data's chi-square per degree of freedom."""
    found = per_star(theoretical, m3)
    assert 0.85 < (found["noise mag_err"] / 3.2) ** 0.5 < 1.15
    assert 0.85 < (found["scatter mag_err"] / 3.2) ** 0.5 < 1.15
    assert theoretical.diagnostics["model"]["error_scale"]["open"] > 1.3


def test_total_errors_are_found_large_enough(total, m3):
    found = per_star(total, m3)
    assert 0.7 < found["scatter mag_err_total"] < 1.1  # 0.9 by the data's own account
    assert total.diagnostics["model"]["error_scale"]["open"] < 1.05


@pytest.mark.parametrize("errors", ["theoretical", "total"])
def test_held_out_stars_prefer_robust(request, errors):
    scores = request.getfixturevalue(errors).diagnostics["scores"]
    assert scores["robust"]["score"] < scores["wls"]["score"]
