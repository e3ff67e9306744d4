"""One night of 36 fields that share no star, tied by their catalogue: extinction in V, R and I."""

import polars as pl
import pytest

from calib import Config, calibrate

pytestmark = pytest.mark.needs_realdata

EXTINCTION = {"V": 0.134, "R": 0.097, "I": 0.087}
"""mag per airmass, from the night's own reduction."""


@pytest.fixture(scope="module")
def solution(photrix):
    measurements, reference = photrix
    config = Config(columns={"mag": "mag_inst"}, extinction="on")
    return calibrate(measurements, reference=reference, config=config)


@pytest.mark.parametrize("band", sorted(EXTINCTION))
def test_extinction(solution, band):
    terms = solution.frames["terms"].filter((pl.col("name") == "extinction") & (pl.col("band") == band))
    value, err = terms["value"].item(), terms["err"].item()
    assert abs(value - EXTINCTION[band]) < 2.5 * err
    if band == "V":
        assert abs(value - EXTINCTION[band]) < 0.02
        assert err < 0.02


def test_the_catalogue_ties_the_fields_and_stays_out_of_the_answer(solution, photrix):
    measurements, _ = photrix
    zeropoints = solution.frames["zeropoints"]
    assert set(zeropoints["exposure_id"]) == set(measurements["exposure_id"])
    assert zeropoints.height == measurements.select("exposure_id", "band").unique().height
    tied = zeropoints.filter(pl.col("anchored"))
    assert tied.height >= zeropoints.height - 1  # one exposure holds two stars, none in the catalogue
    assert tied.group_by("band").agg(pl.col("component").n_unique())["component"].to_list() == [1, 1, 1]
    values = solution.measurement_frame()
    assert values.height == measurements.height
    assert not values.filter(measurements["flag"])["used"].any()


def test_thick_cloud_is_seen(solution):
    """Some exposures lost up to six magnitudes; their stars agree on it, and so does the solution."""
    zeropoints = solution.frames["zeropoints"]
    clear = zeropoints.filter(pl.col("band") == "V")["zeropoint"].median()
    cloudy = zeropoints.filter(pl.col("exposure_id").is_in(["QZ Aql-0001-V.fts", "V1804 Cyg-0001-V.fts"]))
    assert (clear - cloudy["zeropoint"] > 5.5).all()
    assert (cloudy["zeropoint_err"] < 0.2).all()


def test_held_out_stars_prefer_the_method_with_the_term(solution):
    run = solution.diagnostics
    assert run["method"] != "wls"
    assert run["scores"]["robust"]["score"] < run["scores"]["wls"]["score"]
    assert run["scores"]["robust"]["pull_std"] < 1.3
