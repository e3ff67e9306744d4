"""Zero-points that hang on a measurement that nothing checks: their errors are those of the noise with its tails."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib import calibrate
from calib.config import Config
from calib.model.problem import Problem
from calib.model.tails import MULTIPLES, Tails
from calib.solve import unchecked
from calib.solve.methods import solve_robust
from calib.solve.robust import stated_spread
from calib.solve.unchecked import unchecked_variance
from calib.tables import read_measurements

CONFIG = Config(method="robust", score=False)
SIGMA = 0.01


def noise(rng, size):
    """One in twenty is sixteen times as wide."""
    return SIGMA * rng.normal(size=size) * np.where(rng.random(size) < 0.05, 16.0, 1.0)


def survey(rng, lone=0, parts=1, bridges=0, stars=40, exposures=10):
    """Parts of some exposures of the same stars, ``bridges`` stars of the first seen once in every other part.

    ``lone`` more exposures have one star of the first part each. All zero-points are zero.
    """
    star, exposure = [], []
    for part in range(parts):
        s, e = np.meshgrid(np.arange(stars), np.arange(exposures), indexing="ij")
        star.append(1000 * part + s.ravel())
        exposure.append(1000 * part + e.ravel())
        star.append(np.arange(bridges) if part else np.zeros(0, int))
        exposure.append(np.full(star[-1].size, 1000 * part))
    star.append(np.arange(lone))
    exposure.append(100 + np.arange(lone))
    table = pl.DataFrame({"star_id": np.concatenate(star), "exposure_id": np.concatenate(exposure)})
    mag = 15.0 + 0.01 * (table["star_id"].to_numpy() % 1000) + noise(rng, table.height)
    return table.with_columns(mag=mag, mag_err=np.full(table.height, SIGMA))


def solved(table):
    problem = Problem.of(read_measurements(table), CONFIG)
    return problem, solve_robust(problem, CONFIG)


def lone_nodes(problem):
    return np.flatnonzero(problem.nodes["exposure_id"].to_numpy() >= 100)


def test_pulls_of_exposures_with_one_star():
    pulls, before = [], []
    for seed in range(8):
        problem, done = solved(survey(np.random.default_rng(seed), lone=40, exposures=80))
        at = lone_nodes(problem)
        half, own = done.half(), unchecked_variance(done.fit, done.equations, done.spread).about_mean
        pulls.append(half.zeropoint[at] / np.sqrt(half.error[at] ** 2 + own[at]))
        before.append(half.zeropoint[at] / half.error[at])
    assert np.std(before) > 2.5
    assert 0.7 < np.std(pulls) < 1.1  # below one by the excess noise that exposures might have, which these have not


def test_it_is_the_variance_of_the_noise_where_nothing_else_is_known():
    problem, done = solved(survey(np.random.default_rng(3), lone=1))
    fit = done.fit
    i = int(np.flatnonzero(problem.graph.exposure == lone_nodes(problem)[0])[0])
    s2 = fit.noise.base(problem.graph.exposure[i : i + 1], fit.err[i : i + 1])[0]
    s2 += fit.weighted.variability[problem.graph.star()[i]]
    row, excess = unchecked._excess(fit, done.equations, done.spread.prediction)
    assert row.tolist() == [i]
    v = done.spread.prediction[i]
    assert excess[0] + v == pytest.approx(s2 * float(fit.noise.tails.shares @ MULTIPLES), rel=1e-3)
    own, anchored = unchecked_variance(fit, done.equations, done.spread)
    size = own.size
    at = lone_nodes(problem)[0]
    assert own[at] == pytest.approx(excess[0] * (1.0 - 1.0 / size) ** 2, rel=1e-6)
    np.testing.assert_allclose(np.delete(own, at), excess[0] / size**2, rtol=1e-6)  # by the mean that is held at zero
    assert anchored[at] == pytest.approx(excess[0], rel=1e-6)
    assert np.delete(anchored, at).max() < 1e-12 * excess[0]


def test_the_only_star_between_two_parts_is_felt_by_both():
    problem, done = solved(survey(np.random.default_rng(4), parts=2, bridges=1))
    own = unchecked_variance(done.fit, done.equations, done.spread).about_mean
    assert own.min() > 0.9 * own.max() > SIGMA**2 / 4
    problem, done = solved(survey(np.random.default_rng(4), parts=2, bridges=12))
    assert unchecked_variance(done.fit, done.equations, done.spread).about_mean.max() < 0.01 * own.max()


def test_references_hold_what_the_mean_would_move():
    table = survey(np.random.default_rng(7), lone=1)
    stars = pl.DataFrame({"star_id": np.arange(1, 40)}).with_columns(
        mag=15.0 + 0.01 * pl.col("star_id"), mag_err=pl.lit(0.001)
    )
    free = calibrate(table, config=CONFIG).frames["zeropoints"]
    anchored = calibrate(table, reference=stars, config=CONFIG).frames["zeropoints"]
    assert anchored["anchored"].all()
    err = [z.sort("exposure_id")["zeropoint_err"].to_numpy() for z in (free, anchored)]
    assert err[0][-1] > 5.0 * SIGMA
    assert err[1][-1] > 5.0 * SIGMA
    assert err[0][:-1].min() > 0.5 * err[0][-1] / len(err[0])
    assert err[1][:-1].max() < 0.5 * err[0][:-1].min()


def test_nothing_where_all_is_checked_or_noise_has_no_tails():
    rng = np.random.default_rng(5)
    _, done = solved(survey(rng))
    assert not unchecked_variance(done.fit, done.equations, done.spread).about_mean.any()
    _, done = solved(survey(rng, lone=3))
    normal = replace(done.fit, noise=replace(done.fit.noise, tails=Tails.normal()))
    assert unchecked_variance(done.fit, done.equations, done.spread).about_mean.any()
    assert not any(v.any() for v in unchecked_variance(normal, done.equations, done.spread))


def test_a_star_whose_other_measurement_is_bad_leaves_its_exposures_checked():
    table = survey(np.random.default_rng(8), stars=30)
    pair = pl.DataFrame({"star_id": [900, 900], "exposure_id": [0, 1], "mag": [16.0, 19.0], "mag_err": [SIGMA, 1.0]})
    problem, done = solved(pl.concat([table, pair]))
    star = problem.graph.star() == problem.stars["star_id"].to_list().index(900)
    assert (done.equations.w * done.spread.prediction)[star].max() > unchecked.UNCHECKED
    assert not unchecked_variance(done.fit, done.equations, done.spread).about_mean.any()


def test_moves_are_those_of_the_whole_solve(sample_with_terms):
    fit = sample_with_terms
    equations, _ = stated_spread(fit)
    rows = np.array([0, 7, fit.design.n_measurements - 1])
    moves = unchecked._moves(equations, rows)
    for k, i in enumerate(rows):
        one = np.zeros(fit.design.n_measurements)
        one[i] = 1.0
        expected = equations.response_to(one)[: fit.design.n_nodes, 0]
        np.testing.assert_allclose(moves[:, k], expected, atol=1e-12)


def test_beyond_the_most_only_their_own_exposure_feels_them(monkeypatch):
    problem, done = solved(survey(np.random.default_rng(6), lone=9))
    whole = unchecked_variance(done.fit, done.equations, done.spread).about_mean
    monkeypatch.setattr(unchecked, "MOST", 4)
    monkeypatch.setattr(unchecked, "AT_ONCE", 3)
    some = unchecked_variance(done.fit, done.equations, done.spread).about_mean
    at = lone_nodes(problem)
    np.testing.assert_allclose(some[at], whole[at], rtol=0.15)
    others = np.setdiff1d(np.arange(whole.size), at)
    assert (some[others] < whole[others]).all()


@pytest.fixture(scope="module")
def sample_with_terms():
    from calib.simulate import SurveySpec, simulate
    from calib.solve.select import robust_fit

    made = simulate(SurveySpec(n_exposures=16, stars_per_exposure=25, nights=3, visits=4, fov_deg=0.8), 5)
    config = Config(method="robust", score=False, surface="plane", seeing_response="on")
    problem = Problem.of(read_measurements(made.measurements, exposures=made.exposures), config)
    return robust_fit(problem, config)[0]
