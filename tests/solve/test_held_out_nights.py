"""Halves of the nights share no exposure, and what a night does to its stars is found in their difference."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.model.problem import Problem
from calib.simulate import SurveySpec, simulate
from calib.solve.held_out_nights import LEAST_STARS, compare_stars, conformal, night_halves
from calib.tables import read_measurements

SPEC = SurveySpec(n_exposures=60, stars_per_exposure=80, nights=12, visits=10, fov_deg=0.8)


def test_the_order_statistic_holds_its_share_of_what_comes_next():
    assert conformal(np.array([3.0, 1.0, 2.0]), 0.5) == 2.0  # of rank ceil(4 * 0.5)
    assert conformal(np.arange(1.0, 100.0), 0.95) == 95.0
    assert conformal(np.arange(10.0), 0.95) == np.inf  # ten do not tell what holds 95 %
    rng = np.random.default_rng(1)
    held = [rng.exponential() <= conformal(rng.exponential(size=40), 0.68) for _ in range(4000)]
    assert 0.66 < np.mean(held) < 0.72  # between 0.68 and 0.68 + 1/41, by 0.007


def problem_of(survey):
    return Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), Config())


def test_every_night_is_in_one_half():
    problem = problem_of(simulate(SPEC, 3))
    first, second = night_halves(problem, 0)
    assert not set(first.nodes["exposure_id"]) & set(second.nodes["exposure_id"])
    assert not set(first.night.tolist()) & set(second.night.tolist())
    assert first.m.size + second.m.size == problem.m.size
    again = night_halves(problem, 0)[0]
    np.testing.assert_array_equal(again.night, first.night)
    few = problem_of(simulate(SurveySpec(n_exposures=12, stars_per_exposure=30, nights=3, visits=4), 3))
    assert night_halves(few, 0) is None


def stars(rng, n, sigma, stated=None, shift=0.0):
    truth = np.linspace(14, 20, n)
    return pl.DataFrame(
        {"star_id": np.arange(n), "band": "r", "mag": truth + shift + sigma * rng.standard_normal(n),
         "variance": np.full(n, (stated or sigma) ** 2), "component": np.arange(n) % 2}
    )  # fmt: skip


def test_true_errors_come_back_as_true_and_small_ones_as_small():
    rng = np.random.default_rng(2)
    true = compare_stars(stars(rng, 4000, 0.01, shift=0.3), stars(rng, 4000, 0.02, shift=-0.1), 8)
    assert true.inflation_68 == pytest.approx(1.0, abs=0.05)
    assert true.inflation_95 == pytest.approx(1.0, abs=0.05)
    assert true.rms_difference_mag == pytest.approx(np.sqrt((0.01**2 + 0.02**2) / 2), rel=0.05)
    small = compare_stars(stars(rng, 4000, 0.02, stated=0.01), stars(rng, 4000, 0.02, stated=0.01), 8)
    assert small.inflation_68 == pytest.approx(2.0, rel=0.05)
    assert compare_stars(stars(rng, LEAST_STARS - 1, 0.01), stars(rng, LEAST_STARS - 1, 0.01), 8) is None


def test_a_run_tells_of_what_changes_from_night_to_night():
    survey = simulate(SPEC, 4)
    config = Config(method="robust", surface="off", seeing_response="off", max_passes=20)
    good = calibrate(survey.measurements, survey.exposures, config=config)
    told = good.diagnostics["held_out_nights"]
    assert told["n_nights"] == 12
    assert 0.8 < told["inflation_68"] < 1.25
    assert not any("night to night" in w for w in good.diagnostics["warnings"])
    # each star has another magnitude in each half of the nights, by 60 mmag
    night = survey.measurements.join(survey.exposures.select("exposure_id", "night"), on="exposure_id", how="left")
    first = night_halves(problem_of(survey), config.seed)[0].night
    side = night["night"].is_in(np.unique(first).tolist()).to_numpy()
    moved = 0.06 * np.random.default_rng(5).standard_normal(night["star_id"].n_unique())
    of_star = moved[night["star_id"].rank("dense").to_numpy() - 1]
    changed = survey.measurements.with_columns(mag=pl.col("mag") + pl.Series(np.where(side, of_star, 0.0)))
    bad = calibrate(changed, survey.exposures, config=config).diagnostics
    assert bad["held_out_nights"]["inflation_68"] > 1.5
    assert any("night to night" in w for w in bad["warnings"])
