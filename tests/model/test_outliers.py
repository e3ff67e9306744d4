"""Outlier probabilities against Bayes' theorem written out with scipy, and against outliers that were drawn."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from calib.model.noise import NoiseModel
from calib.model.outliers import outlier_probability
from calib.model.tails import MULTIPLES, USUAL, Tails

SHARES = np.array([0.9, 0.04, 0.01, 0.04, 0.009, 0.001])


def noise_of(shares, level=0):
    noise = NoiseModel.start(np.zeros(1, np.int32), np.ones(1))
    noise.tails, noise.level = Tails(shares), np.full(1, level)
    return noise


def star(values, s2, more, noise=None, u=0.0):
    """Probabilities of one star's measurements under a weighted mean, whose exposures' errors are ``more``."""
    w = 1.0 / (s2 + u + more)
    prediction = np.full(w.size, 1.0 / w.sum()) + more
    residual = values - (w * values).sum() / w.sum()
    return outlier_probability(
        noise or noise_of(SHARES), np.array([0, w.size]), np.zeros(w.size, np.int32), s2, np.array([u]), residual,
        prediction, w,
    )  # fmt: skip


def by_bayes(values, s2, more, shares=SHARES):
    """Over all choices of a multiple for each; differences are free of the star's magnitude, which is any."""
    far, norm_ = np.zeros(values.size), 0.0
    for choice in product(range(MULTIPLES.size), repeat=values.size):
        k = np.array(choice)
        variance = MULTIPLES[k] * s2 + more
        covariance = np.diag(variance[1:]) + variance[0]
        p = np.prod(shares[k]) * multivariate_normal.pdf(values[1:] - values[0], np.zeros(values.size - 1), covariance)
        norm_ += p
        far += p * (MULTIPLES[k] > 9)
    return far / norm_


@pytest.mark.parametrize(
    "values", [[0.0, 0.02], [0.0, 0.3], [0.0, 0.01, 0.5], [0.0, 0.06, -0.05], [0.0, 0.0, 0.0], [0.2, 0.0, -0.4]]
)
def test_few_measurements_are_gone_through_together(values):
    values = np.array(values)
    s2, more = np.array([0.01, 0.02, 0.03])[: values.size] ** 2, np.array([0.0, 0.005, 0.01])[: values.size] ** 2
    np.testing.assert_allclose(star(values, s2, more), by_bayes(values, s2, more), rtol=2e-3, atol=1e-9)


def test_many_are_asked_one_by_one_what_the_others_predict():
    rng = np.random.default_rng(3)
    values, s2, u = rng.normal(0.0, 0.02, 9), rng.uniform(0.01, 0.03, 9) ** 2, 0.004**2
    values[4] += 0.2
    more = np.full(9, 0.003**2)
    found = star(values, s2, more, u=u)
    for i in range(9):
        others = np.arange(9) != i
        # the weighted mean of the others, as the prediction without its own part says it
        w, prediction = 1.0 / (s2 + u + more), 1.0 / (1.0 / (s2 + u + more)).sum() + more[i]
        left = prediction / (1.0 - w[i] * prediction)
        residual = values[i] - (w * values).sum() / w.sum()
        d = residual / (1.0 - w[i] * prediction)
        p = SHARES * norm.pdf(d, scale=np.sqrt(MULTIPLES * (s2[i] + u) + left))
        assert found[i] == pytest.approx(p[MULTIPLES > 9].sum() / p.sum(), rel=1e-5)
        # and nearly the plain way
        mean = (w * values)[others].sum() / w[others].sum()
        p = SHARES * norm.pdf(values[i] - mean, scale=np.sqrt(MULTIPLES * (s2[i] + u) + 1.0 / w[others].sum()))
        assert found[i] == pytest.approx(p[MULTIPLES > 9].sum() / p.sum(), abs=0.03)
    assert found[4] > 0.99
    assert found.argmax() == 4


def test_an_only_measurement_keeps_the_shares():
    assert star(np.zeros(1), np.full(1, 0.01**2), np.zeros(1))[0] == pytest.approx(SHARES[MULTIPLES > 9].sum())
    contaminated = star(np.zeros(1), np.full(1, 0.01**2), np.zeros(1), noise_of(SHARES, 12))
    assert contaminated[0] == pytest.approx(0.4 * SHARES[MULTIPLES > 9].sum() + 0.6, abs=1e-6)


def test_of_two_that_disagree_neither_is_known_to_be_right():
    found = star(np.array([0.0, 0.4]), np.full(2, 0.01**2), np.zeros(2))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert 0.5 < found[0] < 0.65


@pytest.mark.parametrize("visits", [2, 3, 5, 12])
def test_as_many_are_outliers_as_is_said(visits):
    rng = np.random.default_rng(visits)
    n = 20000
    k = rng.choice(MULTIPLES.size, (n, visits), p=SHARES)
    y = rng.normal(0.0, 0.01 * np.sqrt(MULTIPLES[k]))
    # weights as the robust solve's: of what it expects to be right
    w = 1.0 / (1e-4 * np.clip(MULTIPLES[k], 1, 1e9))
    mean = (w * y).sum(1) / w.sum(1)
    residual, prediction = (y - mean[:, None]).ravel(), np.repeat(1.0 / w.sum(1), visits)
    found = outlier_probability(
        noise_of(SHARES), np.arange(0, n * visits + 1, visits), np.zeros(n * visits, np.int32),
        np.full(n * visits, 1e-4), np.zeros(n), residual, prediction, w.ravel(),
    )  # fmt: skip
    truth = (MULTIPLES[k] > 9).ravel()
    for low, high in ((0.0, 0.01), (0.01, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.0001)):
        inside = (found >= low) & (found < high)
        if inside.sum() > 100:
            expected = found[inside].mean()
            assert truth[inside].mean() == pytest.approx(
                expected, abs=4.0 * np.sqrt(expected * (1 - expected) / inside.sum()) + 0.02
            )


def test_without_tails_outliers_are_the_usual():
    noise = noise_of(SHARES)
    noise.tails = Tails.normal()
    assert star(np.zeros(1), np.full(1, 0.01**2), np.zeros(1), noise)[0] == pytest.approx(USUAL[MULTIPLES > 9].sum())


def test_what_is_linked_to_nothing_is_told_by_the_shares():
    found = outlier_probability(
        noise_of(SHARES), np.array([0, 2, 6]), np.zeros(6, np.int32), np.full(6, 1e-4), np.zeros(2),
        np.r_[0.0, 0.0, np.full(4, np.nan)], np.full(6, np.nan), np.r_[0.0, 0.0, np.ones(4)],
    )  # fmt: skip
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[2:], SHARES[MULTIPLES > 9].sum(), rtol=1e-5)
