"""Stated errors: what a Student-t's weights cost, and the bootstrap by star that checks them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import t as student

from calib.config import Config
from calib.model.noise import NoiseModel
from calib.solve.methods import solve_robust, solve_wls
from calib.solve.posterior import stated_spread, wild_bootstrap

PLAIN = Config(surface="off", seeing_response="off", extinction="off", score=False)


def model(nu):
    noise = NoiseModel.start(np.zeros(2, np.int32), np.ones(1))
    noise.dof = nu
    return noise


@pytest.mark.parametrize("nu", [1.5, 3.0, 4.0, 10.0, 50.0])
def test_information_is_fishers(nu):
    def score(x):
        return (nu + 1) * x / (nu + x * x)

    fisher = quad(lambda x: score(x) ** 2 * student.pdf(x, nu), -np.inf, np.inf)[0]
    weight = quad(lambda x: (nu + 1) / (nu + x * x) * student.pdf(x, nu), -np.inf, np.inf)[0]
    assert model(nu).information == pytest.approx(fisher / weight, rel=1e-6)


def test_a_normal_loses_nothing():
    assert model(np.inf).information == 1.0


def test_the_fit_rests_where_reweighting_rests_and_states_the_variance_of_the_lighter_weights(survey, problem_of):
    fit = solve_robust(problem_of(survey(seed=1)[0]), replace(PLAIN, tolerance=1e-6, max_passes=200)).fit
    information = fit.noise.information
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


def ratio(problem, draws=400):
    solved = solve_wls(problem, PLAIN)
    eq = solved.equations
    drawn = wild_bootstrap(eq, solved.fit.estimate, solved.spread, np.asarray(eq.w, float), 5, draws)
    return np.median(drawn / solved.spread.node[:, 0, 0])


def test_bootstrap_agrees_with_errors_that_are_right(survey, problem_of):
    ratios = [ratio(problem_of(survey(seed=s, n_stars=400)[0])) for s in range(4)]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_bootstrap_sees_errors_that_are_too_small(survey, problem_of):
    assert ratio(problem_of(survey(seed=3, n_stars=400, scale=2.0)[0])) == pytest.approx(4.0, rel=0.2)


def test_bootstrap_sees_what_a_stars_residuals_share(survey, problem_of):
    frame, _ = survey(seed=2, n_stars=400)
    rng = np.random.default_rng(1)
    # each star is faint by its own amount in the first exposures: its residuals agree with each other
    star, node = frame["star_id"].to_numpy(), frame["exposure_id"].to_numpy()
    own = rng.normal(0, 0.03, 400)
    correlated = frame.with_columns(mag=frame["mag"].to_numpy() + own[star] * np.where(node < 6, 0.5, -0.5))
    independent = frame.with_columns(mag=frame["mag"].to_numpy() + rng.normal(0, 0.015, star.size))
    with_correlation, without = ratio(problem_of(correlated)), ratio(problem_of(independent))
    assert without > 1.2
    solved = solve_wls(problem_of(correlated), PLAIN)
    assert (solved.inflation > 1.2).all()
    assert with_correlation > 1.3


def test_the_same_seed_draws_the_same(survey, problem_of):
    problem = problem_of(survey(seed=4)[0])
    a, b = solve_wls(problem, PLAIN), solve_wls(problem, PLAIN)
    np.testing.assert_array_equal(a.inflation, b.inflation)
    assert a.bootstrap_ratio == b.bootstrap_ratio
