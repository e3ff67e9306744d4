"""A flux that backgrounds leave in apertures: found where it is, not found where it is not, taken off every row."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.problem import Problem
from calib.solve.background import FAINTEST, faintness, shows
from calib.solve.methods import refit
from calib.solve.normal import Topology
from calib.solve.robust import absolute_start
from calib.solve.select import design_of, robust_fit
from calib.solve.split import halves
from calib.tables import read_measurements

ROBUST = Config(method="robust", score=False)
ZERO_FLUX = 3.631e12


def survey(seed, background=300.0, n_exposures=30, n_stars=400, offset=0.0):
    """Table of a survey in flux with backgrounds of so many nJy (standard deviation); zero-points and backgrounds."""
    rng = np.random.default_rng(seed)
    exposure = np.repeat(np.arange(n_exposures), n_stars // 2)
    star = np.concatenate([rng.choice(n_stars, n_stars // 2, replace=False) for _ in range(n_exposures)])
    magnitude = rng.uniform(17, 22, n_stars)
    z, left = rng.normal(0, 0.3, n_exposures), background * rng.normal(size=n_exposures)
    truth = ZERO_FLUX * 10 ** (-0.4 * (magnitude[star] + offset))
    sigma = np.hypot(0.004 * truth, 500.0)
    flux = truth + left[exposure] + sigma * rng.normal(size=star.size)
    mag = -2.5 * np.log10(np.maximum(flux, 1.0) / ZERO_FLUX) - z[exposure]
    frame = pl.DataFrame(
        {"star_id": star, "exposure_id": exposure, "mag": mag, "mag_err": 2.5 / np.log(10) * sigma / truth}
    )
    return frame, z, left


def errors(solution, z):
    table = solution.frames["zeropoints"]
    gap = table["zeropoint"].to_numpy() - z[table["exposure_id"]]
    return gap - gap.mean(), table["zeropoint_err"].to_numpy()


def test_backgrounds_are_found_and_zeropoints_freed_of_them():
    ratio, pulls, correlation = [], [], []
    for seed in range(8):
        frame, z, left = survey(seed)
        solution = calibrate(frame, config=ROBUST)
        assert "background" in solution.frames["zeropoints"].columns
        gap, stated = errors(solution, z)
        without, _ = errors(calibrate(frame, config=Config(method="robust", score=False, background="off")), z)
        ratio.append(gap.std() / without.std())
        pulls.append(gap / stated)
        found = solution.frames["zeropoints"]["background"].to_numpy()
        correlation.append(np.corrcoef(found, left)[0, 1])
        slope = np.polyfit(left - left.mean(), found - found.mean(), 1)[0]
        assert slope == pytest.approx(1.0, abs=0.25)  # in nJy, as the magnitudes are on the scale of the truth
    assert np.median(ratio) < 0.75
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)
    assert min(correlation) > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_where_there_is_none_none_is_carried(seed):
    frame, _, _ = survey(seed, background=0.0)
    solution = calibrate(frame, config=ROBUST)
    assert "background" not in solution.frames["zeropoints"].columns
    assert not any("background" in trial["terms"] and trial["carried"] for trial in solution.diagnostics["terms_tried"])


@pytest.mark.parametrize("seed", range(4))
def test_a_slope_with_magnitude_is_no_background(seed):
    """The magnitude equation of plates: zero-points stay those of the mean star."""
    frame, z, _ = survey(seed, background=0.0)
    node = frame["exposure_id"].to_numpy()
    level = (frame["mag"] + z[node]).to_numpy()
    star = frame["star_id"].to_numpy()
    magnitude = (np.bincount(star, level) / np.maximum(np.bincount(star), 1))[star]
    slope = 0.01 * np.random.default_rng(seed).normal(size=z.size)
    frame = frame.with_columns(mag=pl.col("mag") + slope[node] * (magnitude - magnitude.mean()))
    solution = calibrate(frame, config=ROBUST)
    assert "background" not in solution.frames["zeropoints"].columns
    forced = calibrate(frame, config=Config(method="robust", score=False, background="on"))
    rms = [np.std(errors(s, z)[0]) for s in (solution, forced)]
    assert rms[0] < 0.8 * rms[1]


def test_it_can_be_asked_for_and_refused():
    frame, _, _ = survey(1)
    refused = calibrate(frame, config=Config(method="robust", score=False, background="off"))
    assert "background" not in refused.frames["zeropoints"].columns
    quiet, _, _ = survey(1, background=0.0)
    asked = calibrate(quiet, config=Config(method="robust", score=False, background="on"))
    assert np.isfinite(asked.frames["zeropoints"]["background"].to_numpy()).all()


def test_measurements_and_apply_take_it_off():
    frame, z, _ = survey(2)
    solution = calibrate(frame, config=ROBUST)
    table = solution.measurements
    plain = calibrate(frame, config=Config(method="robust", score=False, background="off")).measurements
    faint = frame["mag_err"].to_numpy() > np.quantile(frame["mag_err"], 0.8)
    exposure = frame["exposure_id"].to_numpy()[faint]

    def spread(values):
        residual = np.asarray(values["residual"].value)[faint]
        return np.std(np.bincount(exposure, residual) / np.bincount(exposure))

    assert spread(table) < 0.5 * spread(plain)
    again, _ = Applier(solution)(read_measurements(frame))
    np.testing.assert_allclose(again["calibrated_mag"].to_numpy(), table["calibrated_mag"].value, atol=1e-6)


def test_faintness_does_not_know_a_components_scale():
    """Fields that share no star have scales of their own; the faint end is each one's own."""
    one, _, _ = survey(3)
    other, _, _ = survey(4, offset=3.0)
    both = pl.concat([one, other.with_columns(pl.col("star_id") + 10_000, pl.col("exposure_id") + 1000)])
    problem = Problem.of(read_measurements(both), ROBUST)
    plain = design_of(problem, 0)
    g = faintness(problem, absolute_start(plain, problem.m, problem.err, Topology(plain)))
    first = problem.graph.exposure < 30
    assert np.quantile(g[first], 0.84) == pytest.approx(1.0, abs=0.02)
    assert np.quantile(g[~first], 0.84) == pytest.approx(1.0, abs=0.02)
    assert g.max() <= FAINTEST


def test_a_half_of_the_stars_is_solved_with_it():
    frame, _, left = survey(5)
    problem = Problem.of(read_measurements(frame), ROBUST)
    fit, _ = robust_fit(problem, ROBUST)
    assert fit.design.faintness is not None
    for half in halves(problem, 0):
        again = refit(half, fit, ROBUST)
        assert again.design.faintness is not None
        assert np.corrcoef(again.estimate.theta[:30, -1], left)[0, 1] > 0.8


def test_residuals_show_it_before_it_is_tried():
    """Always where it is; where it is not, about as often as a normal is beyond one standard deviation."""
    shown = {300.0: 0, 0.0: 0}
    for background in shown:
        for seed in range(10):
            problem = Problem.of(read_measurements(survey(seed, background, n_stars=200)[0]), ROBUST)
            fit, _ = robust_fit(problem, Config(method="robust", score=False, background="off"))
            plain = design_of(problem, 0)
            start = absolute_start(plain, problem.m, problem.err, Topology(plain))
            shown[background] += shows(fit, faintness(problem, start))
    assert shown[300.0] == 10
    assert shown[0.0] <= 5
