"""Surveys: their equation, their noise, their determinism, and that troubles have the strength asked for."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from calib.simulate import PRESETS, SpecError, Survey, SurveySpec, simulate

COLUMNS = ["star_id", "exposure_id", "band", "mag", "mag_err", "x", "y", "ra", "dec", "color"]


@cache
def survey(preset: str) -> Survey:
    return simulate(PRESETS[preset], 7)


def joined(survey: Survey) -> pl.DataFrame:
    rows = pl.concat([survey.measurements, survey.truth_measurements], how="horizontal")
    rows = rows.join(survey.truth_stars.rename({"mag": "true_mag"}).drop("color"), on=["star_id", "band"], how="left")
    return rows.join(survey.truth_exposures, on=["exposure_id", "band"], how="left")


@pytest.mark.parametrize("preset", PRESETS)
def test_the_equation_holds_row_by_row(preset: str) -> None:
    rows = joined(survey(preset))
    made = rows["true_mag"] - rows["zeropoint"] + rows["systematic"] + rows["outlier_offset"] + rows["noise"]
    assert rows.height == survey(preset).measurements.height
    np.testing.assert_allclose(made, rows["mag"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_whole_and_of_benchmark_size(preset: str) -> None:
    made, spec = survey(preset), PRESETS[preset]
    for frame in (made.measurements, made.exposures, made.truth_exposures, made.truth_stars, made.truth_measurements):
        assert sum(frame.null_count().row(0)) == 0
        numbers = frame.select(pl.selectors.float())
        assert np.isfinite(numbers.to_numpy()).all()
    assert 10_000 <= made.measurements.height <= 100_000
    assert made.exposures.height == made.truth_exposures.height == spec.n_exposures
    assert set(COLUMNS) <= set(made.measurements.columns)
    assert (made.measurements["mag_err"] > 0).all()
    assert made.measurements["exposure_id"].is_sorted() is False
    assert made.truth_exposures["cloud"].min() >= 0
    assert made.truth_exposures["photometric"].any()
    side = 4096 if spec.n_detectors == 1 else 2048
    assert made.measurements.select((pl.col("x", "y") >= 0).all() & (pl.col("x", "y") <= side).all()).to_numpy().all()


@pytest.mark.parametrize("preset", PRESETS)
def test_noise_has_the_standard_deviation_it_claims(preset: str) -> None:
    rows = joined(survey(preset))
    bright = rows.filter((pl.col("mag_err") * pl.col("error_scale")) < 0.04)
    pull = (bright["noise"] / bright["sigma"]).to_numpy()
    assert abs(pull.std() - 1) < 4 / np.sqrt(2 * len(pull)) + 0.005
    assert (rows["sigma_total"] >= rows["sigma"]).all()
    photon = (rows["sigma"] ** 2 - rows["floor"] ** 2 - rows["excess_noise"] ** 2).sqrt()
    scale = (photon / rows["mag_err"] / rows["error_scale"]).to_numpy()
    # reported errors are those of the flux seen, so they agree only in the middle
    assert abs(np.median(scale) - 1) < 1e-3
    assert np.median(np.abs(scale - 1)) < 0.05


def test_errors_are_understated_as_asked() -> None:
    scale = survey("understated").truth_exposures["error_scale"].median()
    assert 1.9 < scale < 4.1
    assert 0.99 < survey("clean").truth_exposures["error_scale"].median() < 1.11


def test_outliers_and_variables_come_in_the_fraction_asked_for() -> None:
    dirty = survey("dirty")
    assert 0.06 < dirty.truth_measurements["outlier"].mean() < 0.11
    assert 0.07 < dirty.truth_stars["variable"].mean() < 0.13
    assert (dirty.truth_measurements["outlier"] == (dirty.truth_measurements["outlier_offset"] != 0)).all()
    assert 0 < dirty.measurements["flag"].mean() < 0.1


def test_same_seed_same_survey_and_another_seed_another() -> None:
    spec = replace(PRESETS["demo"], n_exposures=24, nights=4)
    first, again, other = simulate(spec, 3), simulate(spec, 3), simulate(spec, 4)
    assert_frame_equal(first.measurements, again.measurements, check_exact=True)
    assert_frame_equal(first.truth_stars, again.truth_stars, check_exact=True)
    assert not np.isin(first.truth_exposures["zeropoint"], other.truth_exposures["zeropoint"]).any()


def test_truth_stars_are_the_measured_ones_once_a_band() -> None:
    made = survey("ccds")
    stars = made.truth_stars
    assert not stars.select("star_id", "band").is_duplicated().any()
    assert set(stars["star_id"]) == set(made.measurements["star_id"])
    assert set(made.measurements["detector"]) == set(range(16))


def test_columns_are_withheld() -> None:
    spec = SurveySpec(n_exposures=20, nights=3, drop=("x", "y", "ra", "dec", "seeing"))
    made = simulate(spec, 1)
    assert made.measurements.columns == ["star_id", "exposure_id", "band", "mag", "mag_err", "color"]
    assert made.exposures.columns == ["exposure_id", "mjd", "night", "airmass", "sky", "exptime"]
    bare = simulate(replace(spec, drop=("exposures",)), 1)
    assert bare.exposures.columns == ["exposure_id"]


def test_number_of_stars_over_the_footprint() -> None:
    spec = SurveySpec(n_exposures=60, nights=4, n_stars=3000, density_contrast=0.0, poor_exposures=0.0)
    assert 2400 < simulate(spec, 1).truth_stars.height < 3300


def test_negative_seed_is_refused() -> None:
    with pytest.raises(SpecError, match="seed"):
        simulate(PRESETS["demo"], -1)


def test_poor_exposures_keep_few_stars() -> None:
    made = simulate(SurveySpec(n_exposures=40, nights=4, poor_exposures=1.0), 1)
    counts = made.measurements.group_by("exposure_id").len()["len"]
    assert counts.max() <= 15


def test_positions_agree_between_visits() -> None:
    rows = survey("ordinary").measurements
    honest = rows.filter(~survey("ordinary").truth_measurements["outlier"])
    spread = honest.group_by("star_id").agg(pl.col("dec").std()).drop_nulls()["dec"]
    assert spread.max() * 3600 < 0.3
