"""A seeing that nobody wrote down shows in blended stars, and in nothing else."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.problem import Problem
from calib.solve import select
from calib.solve.latent import latent_seeing
from calib.solve.methods import refit
from calib.solve.select import robust_fit, subset
from calib.tables import read_measurements

ROBUST = Config(method="robust", score=False)
OFF = Config(method="robust", score=False, seeing_response="off")


def field(seed, blended=0.2, gradient=0.0, n_exposures=60, n_stars=400):
    """One field again and again, 5 mmag of noise; blended stars brighten with the seeing, all with a drifting flat."""
    rng = np.random.default_rng(seed)
    star, exposure = (a.ravel() for a in np.meshgrid(np.arange(n_stars), np.arange(n_exposures), indexing="ij"))
    seeing, slope = rng.normal(0, 1, n_exposures), rng.normal(0, gradient, n_exposures)
    response = np.where(rng.random(n_stars) < blended, -rng.exponential(0.012, n_stars), 0.0)
    place, magnitude = rng.uniform(-1, 1, n_stars), rng.uniform(14, 18, n_stars)
    z = rng.normal(0, 0.05, n_exposures)
    mag = magnitude[star] - z[exposure] + response[star] * seeing[exposure] + slope[exposure] * place[star]
    mag += rng.normal(0, 5e-3, star.size)
    frame = pl.DataFrame({"star_id": star, "exposure_id": exposure, "mag": mag, "mag_err": 5e-3})
    return frame, z - z.mean(), seeing


def plain_fit(frame):
    return robust_fit(Problem.of(read_measurements(frame), OFF), OFF)[0]


@pytest.mark.parametrize("seed", range(3))
def test_blends_show_the_seeing_and_its_sign(seed):
    frame, _, seeing = field(seed)
    found = latent_seeing(plain_fit(frame))
    assert np.corrcoef(found, seeing)[0, 1] > 0.9
    assert found.mean() == pytest.approx(0.0, abs=0.05)
    assert found.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("how", [{"blended": 0.0}, {"blended": 0.0, "gradient": 0.01}, {"n_exposures": 8}])
def test_nothing_shows_without_blends_or_with_few_visits(how):
    frame, _, _ = field(5, **how)
    assert latent_seeing(plain_fit(frame)) is None
    solution = calibrate(frame, config=ROBUST)
    assert "latent_seeing" not in solution.frames["zeropoints"].columns


def test_blends_show_beside_a_drifting_flat_field():
    frame, _, seeing = field(6, gradient=0.006)
    assert np.corrcoef(latent_seeing(plain_fit(frame)), seeing)[0, 1] > 0.8


def test_zero_points_gain_by_it():
    ratio = []
    for seed in range(10, 16):
        frame, z, _ = field(seed)
        rms = [
            np.std(calibrate(frame, config=config).frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy() - z)
            for config in (ROBUST, OFF)
        ]
        ratio.append(rms[0] / rms[1])
    assert max(ratio) < 0.9
    assert np.median(ratio) < 0.65


def test_a_solution_holds_it_and_apply_uses_it():
    frame, _, _ = field(20)
    solution = calibrate(frame, config=ROBUST)
    assert solution.diagnostics["model"]["seeing_scale"] is None
    assert solution.diagnostics["terms_tried"][-1]["terms"] == "no surface + response to a latent seeing"
    assert [t["carried"] for t in solution.diagnostics["terms_tried"]] == [False, True]
    assert solution.frames["zeropoints"]["latent_seeing"].std() == pytest.approx(1.0, abs=0.05)
    again, _ = Applier(solution)(read_measurements(frame))
    np.testing.assert_allclose(
        again["calibrated_mag"].to_numpy(), solution.measurements["calibrated_mag"].value, atol=1e-6
    )


def test_a_part_of_the_stars_answers_to_the_seeing_of_the_whole():
    frame, _, _ = field(21)
    problem = Problem.of(read_measurements(frame), ROBUST)
    whole, _ = robust_fit(problem, ROBUST)
    half = refit(subset(problem, problem.graph.star() % 2 == 0), whole, ROBUST)
    np.testing.assert_array_equal(half.design.response, whole.design.response)


def test_a_large_survey_asks_all_its_residuals(monkeypatch):
    frame, _, seeing = field(24, blended=0.1, n_exposures=120)
    problem = Problem.of(read_measurements(frame), ROBUST)
    monkeypatch.setattr(select, "PART_MEASUREMENTS", 24_000)
    found, trials = robust_fit(problem, ROBUST)
    assert found.design.n_measurements == frame.height
    assert np.corrcoef(found.design.response, seeing)[0, 1] > 0.9
    assert trials[-1].response


def test_a_given_seeing_is_used_as_it_is():
    frame, _, seeing = field(22)
    given = pl.DataFrame({"exposure_id": np.arange(60), "seeing": np.sqrt(2.0 + 0.4 * np.clip(seeing, -3, 3))})
    solution = calibrate(frame, exposures=given, config=ROBUST)
    assert "latent_seeing" not in solution.frames["zeropoints"].columns
    assert solution.diagnostics["model"]["seeing_response"]


@pytest.mark.parametrize("n_stars", [1, 2, 3])
def test_a_component_of_a_few_stars_shows_nothing(n_stars):
    frame, _, _ = field(4, n_exposures=20, n_stars=100)
    own = frame.filter(pl.col("star_id") < n_stars).with_columns(pl.col("star_id", "exposure_id") + 1000)
    other = calibrate(pl.concat([frame, own]), config=ROBUST).frames["zeropoints"].filter(pl.col("exposure_id") >= 1000)
    assert other.height == 20
    assert other["zeropoint"].is_finite().all()
    if "latent_seeing" in other.columns:
        assert (other["latent_seeing"] == 0.0).all()
