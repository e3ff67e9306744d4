"""Stated errors: what a Student-t's weights cost, and the bootstrap by star that checks them."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import t as student

from calib.config import Config
from calib.solve.methods import solve_robust, solve_wls
from calib.solve.posterior import information_loss, stated_spread, wild_bootstrap

PLAIN = Config(surface="off", seeing_response="off", extinction="off", score=False)


@pytest.mark.parametrize("nu", [1.5, 3.0, 4.0, 10.0, 50.0])
def test_information_loss_is_fishers(nu):
    def score(x):
        return (nu + 1) * x / (nu + x * x)

    fisher = quad(lambda x: score(x) ** 2 * student.pdf(x, nu), -np.inf, np.inf)[0]
    weight = quad(lambda x: (nu + 1) / (nu + x * x) * student.pdf(x, nu), -np.inf, np.inf)[0]
    assert information_loss(SimpleNamespace(dof=nu)) == pytest.approx(fisher / weight, rel=1e-6)


def test_a_normal_loses_nothing():
    assert information_loss(SimpleNamespace(dof=np.inf)) == 1.0


def test_stated_spread_is_that_of_the_lighter_weights(survey, problem_of):
    fit = solve_robust(problem_of(survey(seed=1)[0]), PLAIN).fit
    equations, spread = stated_spread(fit)
    loss = information_loss(fit.noise)
    np.testing.assert_allclose(equations.w, fit.equations.w * loss)
    np.testing.assert_allclose(spread.node[:, 0, 0], fit.spread.node[:, 0, 0] / loss, rtol=1e-9)


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
