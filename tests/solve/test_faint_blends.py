"""What blends too faint to be seen one by one do to zero-points, and how much of it is taken back."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib import Config
from calib.model.problem import Problem
from calib.simulate import PRESETS, simulate
from calib.solve.methods import solve_robust
from calib.tables import read_measurements

SPEC = replace(PRESETS["ordinary"], n_exposures=70, stars_per_exposure=150.0, nights=8, blend_fraction=0.45)


@pytest.fixture(scope="module")
def solved():
    survey = simulate(SPEC, 501)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), Config())
    truth = problem.nodes.join(
        survey.truth_exposures.select("exposure_id", "zeropoint"), on="exposure_id", how="left", maintain_order="left"
    )
    return solve_robust(problem, Config(seeing_response="on")), problem, truth["zeropoint"].to_numpy()


def test_zeropoints_are_moved_by_the_common_response_alone(solved):
    answer, problem, _ = solved
    common, n = answer.fit.terms.response.common, problem.n_exposures
    assert common < 0  # neighbours' light makes stars brighter as the seeing worsens
    plain = answer.equations.centred(answer.fit.estimate.theta)[:n, 0]
    moved = answer.half().zeropoint - plain
    np.testing.assert_allclose(moved, common * (problem.response - problem.response.mean()), atol=1e-12)


def test_errors_hold_what_is_taken_away_and_where_zero_is_unsettled(solved):
    answer, problem, _ = solved
    prior, n = answer.fit.terms.response, problem.n_exposures
    assert 0 < prior.unsettled < abs(prior.common)  # most stars are single: a spike
    expected = np.hypot(prior.common, prior.unsettled) * problem.response
    np.testing.assert_allclose(answer.fit.common_response_error[:n], expected, rtol=1e-12)


def test_less_of_the_seeing_is_left_in_the_zeropoints(solved):
    answer, problem, truth = solved
    half, n = answer.half(), problem.n_exposures
    plain = answer.equations.centred(answer.fit.estimate.theta)[:n, 0]
    h, w = problem.response, half.error**-2

    def slope(z):
        return np.polyfit(h, z - truth, 1, w=np.sqrt(w))[0]

    assert slope(plain) > 3e-4
    assert abs(slope(half.zeropoint)) < 0.7 * slope(plain)


def test_without_responses_nothing_moves(solved):
    _, problem, _ = solved
    answer = solve_robust(problem, Config(seeing_response="off"))
    np.testing.assert_array_equal(answer.fit.faint_blends, 0.0)
    np.testing.assert_array_equal(answer.fit.common_response_error, 0.0)


def test_calibrated_magnitudes_stay_where_they_were(solved):
    """Zero-points and responses move against each other: star and residual add up to the calibrated magnitude."""
    from calib import calibrate

    survey = simulate(SPEC, 501)
    solution = calibrate(survey.measurements, exposures=survey.exposures, config=Config(method="robust", score=False))
    stars = solution.frames["stars"].select("star_id", star="mag")
    rows = (
        pl.concat(
            [
                survey.measurements.select("star_id"),
                solution.measurement_frame().select("calibrated_mag", "residual", "used"),
            ],
            how="horizontal",
        )
        .join(stars, on="star_id", how="left", maintain_order="left")
        .filter("used")
    )
    gap = (rows["calibrated_mag"] - rows["star"] - rows["residual"]).to_numpy()
    assert np.abs(gap).max() < 2e-6
