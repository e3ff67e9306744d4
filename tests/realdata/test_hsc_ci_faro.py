"""Instrumental magnitudes of a few Subaru visits against the pipeline's zero-point of every visit and detector."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate

pytestmark = pytest.mark.needs_realdata


@pytest.fixture(scope="module")
def solution(hsc):
    return calibrate(hsc.drop("zp_pipeline"), config=Config(columns={"mag": "mag_inst"}))


def against_pipeline(solution, hsc, band):
    pipeline = hsc.group_by("exposure_id", "band").agg(pl.col("zp_pipeline").mean())
    found = solution.frames["zeropoints"].join(pipeline, on=["exposure_id", "band"]).filter(pl.col("band") == band)
    assert found["component"].n_unique() == 1
    difference = (found["zeropoint"] - found["zp_pipeline"]).to_numpy()
    return difference - difference.mean(), found["zeropoint_err"].to_numpy()


def test_i_band_agrees_with_the_pipeline(solution, hsc):
    difference, err = against_pipeline(solution, hsc, "HSC-I")
    assert difference.size == 9
    assert np.sqrt(np.mean(difference**2)) < 0.0065
    # the pipeline is good to about ten millimagnitudes a detector: where ours are smaller, its errors are in too
    assert np.mean((difference / np.hypot(err, 0.005)) ** 2) < 2.0


def test_held_out_stars_call_the_errors_honest(solution):
    score = solution.diagnostics["scores"][solution.diagnostics["method"]]
    assert score["n_exposures"] == 16
    assert score["pull_std"] < 1.3


def test_saturated_stars_are_calibrated_and_not_used(solution, hsc):
    values = solution.measurement_frame().filter(hsc["flag"])
    assert values.height > 0
    assert not values["used"].any()
    assert values["calibrated_mag"].is_finite().all()
    assert solution.diagnostics["counts"]["flagged"] == values.height


def test_galaxies_and_saturated_stars_do_not_break_the_robust_solve(hsc):
    """Without flags: nearly saturated stars are off by tenths; the robust solve stays near, least squares does not."""
    frame = hsc.with_columns(flag=pl.lit(False))
    bare = Config(columns={"mag": "mag_inst"}, score=False, method="robust")
    difference, _ = against_pipeline(calibrate(frame.drop("zp_pipeline"), config=bare), hsc, "HSC-I")
    assert np.sqrt(np.mean(difference**2)) < 0.0065
