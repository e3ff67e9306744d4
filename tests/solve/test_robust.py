"""The robust solve: least squares where all is well, unmoved where it is not, and errors that hold."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib.config import Config
from calib.model.noise import NoiseModel, weigh
from calib.model.problem import Problem
from calib.model.tails import CONTAMINATIONS, Tails
from calib.simulate import PRESETS, simulate
from calib.solve.methods import solve_robust, solve_wls
from calib.solve.normal import NormalEquations, Prior, Topology
from calib.solve.robust import LEAST_INFORMATION, _ScoringStep, absolute_start, stated_spread
from calib.solve.select import design_of
from calib.tables import read_measurements

PLAIN = Config(surface="off", seeing_response="off", extinction="off", score=False)


def zeropoints(solved):
    half = solved.half()
    return half.zeropoint, half.error


def solve(survey, problem_of, method=solve_robust, change=None, **given):
    frame, truth = survey(**given)
    if change is not None:
        frame = change(frame)
    z, error = zeropoints(method(problem_of(frame), PLAIN))
    return z, error, truth["r"], frame


@pytest.mark.parametrize("seed", range(3))
def test_ideal_data_are_solved_as_by_least_squares(survey, problem_of, seed):
    z, error, truth, _ = solve(survey, problem_of, seed=seed)
    plain, plain_error, _, _ = solve(survey, problem_of, solve_wls, seed=seed)
    assert np.abs(z - plain).max() < 1.0 * plain_error.mean()
    np.testing.assert_allclose(error.mean(), plain_error.mean(), rtol=0.2)
    assert np.sqrt(np.mean((z - truth) ** 2)) < 2 * plain_error.mean()


def test_pulls_and_coverage_over_many_surveys(survey, problem_of):
    pulls = []
    for seed in range(40):
        z, error, truth, _ = solve(survey, problem_of, seed=100 + seed, n_stars=80, scale=1.5, floor=0.006, dof=5)
        pulls.append((z - truth) / error)
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.1
    assert 0.85 < pulls.std() < 1.12
    assert 0.64 < np.mean(np.abs(pulls) < 1) < 0.77
    assert 0.92 < np.mean(np.abs(pulls) < 1.96) < 0.985


def test_outliers_do_not_move_it(survey, problem_of):
    def spoil(frame):
        rng = np.random.default_rng(7)
        wrong = rng.random(frame.height) < 0.08
        return frame.with_columns(mag=pl.col("mag") + np.where(wrong, rng.uniform(0.2, 4.0, frame.height), 0.0))

    clean, error, truth, _ = solve(survey, problem_of, seed=3)
    z, spoilt_error, _, _ = solve(survey, problem_of, seed=3, change=spoil)
    plain, _, _, _ = solve(survey, problem_of, solve_wls, seed=3, change=spoil)
    rms = [np.sqrt(np.mean((x - truth) ** 2)) for x in (clean, z, plain)]
    assert rms[1] < 2.5 * rms[0]
    assert rms[1] < 0.1 * rms[2]
    assert rms[1] < 2 * spoilt_error.mean()


@pytest.mark.parametrize("wrong", [0.05, 0.1])
def test_far_outliers_cost_no_good_measurement(survey, problem_of, wrong):
    """The error scale stays that of the rest, and zero-points those of a solve that knows each outlier."""
    frame, truth = survey(seed=16, n_exposures=20, n_stars=800, visits=8, err=(0.005, 0.06), scale=1.5, floor=0.004)
    rng = np.random.default_rng(17)
    bad = rng.random(frame.height) < wrong
    spoilt = frame.with_columns(mag=pl.col("mag") + np.where(bad, rng.normal(0, 1.0, frame.height), 0.0))
    fit = solve_robust(problem_of(spoilt), PLAIN).fit
    assert np.sqrt(fit.noise.survey_scale2[0]) == pytest.approx(1.5, rel=0.08)
    known = frame.filter(~bad).with_columns(mag_err=(1.5**2 * pl.col("mag_err") ** 2 + 0.004**2) ** 0.5)
    bound, _ = zeropoints(solve_wls(problem_of(known), PLAIN))
    assert np.std(fit.estimate.theta[:20, 0] - truth["r"]) < 1.1 * np.std(bound - truth["r"])


@pytest.mark.parametrize(("share", "seed"), [(0.35, 0), (0.6, 1), (0.6, 2)])
def test_exposures_mostly_of_other_stars_are_where_the_rest_lie(survey, problem_of, share, seed):
    """Wrong matches, brighter than the stars looked for, in two of twenty exposures; clipping's trap too."""
    frame, truth = survey(seed=seed, n_exposures=20, n_stars=900, visits=8, err=(0.005, 0.06))
    rng = np.random.default_rng(30 + seed)
    wrong = frame["exposure_id"].is_in(frame["exposure_id"].unique().sort()[[3, 11]]).to_numpy()
    wrong &= rng.random(frame.height) < share
    spoilt = frame.with_columns(mag=pl.col("mag") - np.where(wrong, rng.gumbel(0.3, 0.8, frame.height), 0.0))
    solved = solve_robust(problem_of(spoilt), PLAIN)
    z, error = zeropoints(solved)
    known, known_error = zeropoints(solve_robust(problem_of(frame.filter(~wrong)), PLAIN))
    np.testing.assert_allclose(z, known, atol=1.5 * known_error.max())
    assert np.abs((z - truth["r"]) / error).max() < 3.5
    assert (error < 2.0 * known_error).all()
    told = CONTAMINATIONS[solved.fit.noise.level]
    assert told[[3, 11]] == pytest.approx(share, abs=0.15)
    assert np.count_nonzero(told) == 2
    assert np.sqrt(solved.fit.noise.excess.max()) < 0.02


@pytest.mark.parametrize("level", [6, 12])
def test_steps_come_nearer_where_noise_is_wider_than_its_scale(survey, problem_of, level):
    """Tails of magnitudes without noise: a few measurements that fit exactly, and all others in a wide normal."""
    problem = problem_of(survey(seed=21, n_exposures=8)[0])
    design = design_of(problem, 0)
    topology, prior = Topology(design), Prior.none(design)
    graph = problem.graph
    noise = NoiseModel.start(problem.band, np.ones(1), floor=0.0)
    noise.excess[:], noise.level[:] = 0.0, level
    noise.tails = Tails(np.array([0.195, 0.004, 0.001, 0.79998, 1e-5, 1e-5]))
    err = problem.err * np.float32(0.05)
    m = problem.m + np.where(graph.exposure == 3, 0.3, 0.0)
    found = NormalEquations(design, problem.m, 1.0 / problem.err.astype(float) ** 2, prior, topology).estimate()
    residual = found.residual + np.where(graph.exposure == 3, 0.3, 0.0)
    off = []
    for _ in range(12):
        w = weigh(noise, graph.star_ptr, graph.exposure, err, residual**2).w
        estimate = _ScoringStep(design, m, w, residual, noise.information, prior, topology).estimate()
        residual = estimate.residual
        off.append(abs(np.mean(residual[graph.exposure == 3])))
    assert off[-1] < 0.02
    assert max(off) < 0.3


def test_steps_of_ordinary_noise_are_as_long_as_its_information_says():
    few, many = (0.95, 0.04, 8e-3, 1.5e-3, 3e-4, 2e-4), (0.8, 0.12, 0.05, 0.02, 8e-3, 2e-3)
    ordinary = [Tails(np.array(shares)) for shares in (few, many)]
    information = [tails.contaminated(share).information for tails in ordinary for share in CONTAMINATIONS]
    assert min(information) > 0.6 > LEAST_INFORMATION


def add_group(frame, seed=0, n=5, offset=1.8):
    """An exposure of n stars of its own offset, far from all others."""
    rng = np.random.default_rng(seed)
    means = frame.group_by("star_id", maintain_order=True).agg(pl.col("mag").mean()).head(n)
    own = pl.DataFrame(
        {
            "star_id": means["star_id"],
            "exposure_id": [999] * n,
            "band": ["r"] * n,
            "mag": means["mag"] + offset + rng.normal(0, 0.01, n),
            "mag_err": [0.01] * n,
        }
    )
    return pl.concat([frame, own.select(frame.columns)])


@pytest.mark.parametrize("offset", [1.8, -1.8, 6.0])
def test_a_small_group_far_off_is_kept(survey, problem_of, offset):
    z, error, truth, _ = solve(survey, problem_of, seed=4, change=lambda f: add_group(f, offset=offset))
    relative = z[-1] - z[:-1].mean()
    assert relative == pytest.approx(-offset, abs=0.12)  # the stars' own means are of zero-points that scatter by 0.1
    assert error[-1] < 0.05
    moved = z[:-1] - z[:-1].mean() - truth
    assert np.sqrt(np.mean(moved**2)) < 2 * error[:-1].mean()


def test_the_start_keeps_the_group_too(survey, problem_of):
    frame, _ = survey(seed=5)
    problem = problem_of(add_group(frame))
    design = design_of(problem, 0)
    start = absolute_start(design, problem.m, problem.err, Topology(design))
    mine = problem.graph.exposure == 12
    assert np.abs(start.residual[mine]).max() < 0.1


@pytest.mark.parametrize(("scale", "floor"), [(1.0, 0.004), (2.5, 0.01), (0.6, 0.005)])
def test_variances_are_learned(survey, problem_of, scale, floor):
    frame, _ = survey(seed=6, n_exposures=20, n_stars=800, visits=8, err=(0.002, 0.06), scale=scale, floor=floor)
    fit = solve_robust(problem_of(frame), PLAIN).fit
    assert fit.converged
    assert np.sqrt(fit.noise.survey_scale2[0]) == pytest.approx(scale, rel=0.08)
    assert np.sqrt(fit.noise.floor[0]) == pytest.approx(floor, rel=0.2)
    assert fit.noise.tails.shares[0] > 0.97


def test_an_exposure_shifted_moves_by_that_alone(survey, problem_of):
    def shift(frame):
        return frame.with_columns(mag=pl.col("mag") + 0.25 * (pl.col("exposure_id") == 3))

    z, error, _, _ = solve(survey, problem_of, seed=8)
    shifted, again, _, _ = solve(survey, problem_of, seed=8, change=shift)
    expected = np.full(12, 0.25 / 12)
    expected[3] -= 0.25
    np.testing.assert_allclose(shifted - z, expected, atol=0.02 * error.mean())
    np.testing.assert_allclose(again, error, rtol=0.02)


def test_order_of_rows_changes_nothing(survey, problem_of):
    z, error, _, _ = solve(survey, problem_of, seed=9)
    mixed, again, _, _ = solve(survey, problem_of, seed=9, change=lambda f: f.sample(fraction=1, shuffle=True, seed=1))
    np.testing.assert_allclose(mixed, z, atol=1e-6)
    np.testing.assert_allclose(again, error, rtol=0.25)  # the bootstrap draws other signs


def test_the_fit_rests_where_reweighting_rests_and_states_the_variance_of_the_lighter_weights(survey, problem_of):
    fit = solve_robust(problem_of(survey(seed=1)[0]), replace(PLAIN, tolerance=1e-6, max_passes=200)).fit
    (information,) = np.unique(fit.noise.information)
    assert information < 1.0
    equations, spread = stated_spread(fit)
    assert spread is fit.spread
    np.testing.assert_allclose(equations.w, fit.equations.w * information)
    np.testing.assert_allclose(fit.equations.spread().node[:, 0, 0], spread.node[:, 0, 0] * information, rtol=1e-9)
    # least squares with the expected weights has its minimum where the scoring steps came to rest
    reweighted = fit.equations.estimate()
    sigma = np.sqrt(spread.node[:, 0, 0].max())
    np.testing.assert_allclose(
        fit.equations.centred(reweighted.theta), fit.equations.centred(fit.estimate.theta), atol=1e-3 * sigma
    )
    np.testing.assert_allclose(reweighted.residual, fit.estimate.residual, atol=1e-3 * sigma)


def test_exposures_do_not_run_in_circles_between_their_own_noise_and_their_night():
    # with whole steps this survey needs ten passes more, and larger ones never end
    survey = simulate(replace(PRESETS["dirty"], n_exposures=60), 2)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), Config(instrument="off"))
    fit = solve_robust(problem, Config(instrument="off")).fit
    assert fit.converged
    assert fit.passes <= 16


@pytest.mark.soak
def test_weights_that_change_sides_come_to_rest():
    # of this survey a few measurements changed sides for ever, two by two, before weights went half the way
    survey = simulate(PRESETS["cloudy"], 3)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), Config())
    assert solve_robust(problem, Config()).fit.converged


def test_scales_that_nothing_feels_do_not_keep_a_fit_from_its_end(monkeypatch):
    """Zero-points and errors are those of a fit that waits until every scale stands still."""
    survey = simulate(PRESETS["clean"], 41)
    config = Config(surface="quadratic", instrument="off", magnitude_term="off", seeing_response="off")
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    fit = solve_robust(problem, config).fit
    monkeypatch.setattr("calib.solve.robust.DEAF", 0.0)
    patient = solve_robust(problem, config).fit
    assert fit.passes <= patient.passes - 5
    n = problem.n_exposures
    sigma, patient_sigma = (np.sqrt(f.spread.node[:n, 0, 0]) for f in (fit, patient))
    moved = fit.equations.centred(fit.estimate.theta)[:n, 0] - patient.equations.centred(patient.estimate.theta)[:n, 0]
    assert np.sqrt(np.mean((moved / sigma) ** 2)) < 0.05
    assert np.sqrt(np.mean(np.log(sigma / patient_sigma) ** 2)) < 0.005
    np.testing.assert_allclose(sigma, patient_sigma, rtol=0.05)
