"""Shrinkage priors against scipy's multivariate Student-t and simulated groups."""

import numpy as np
import pytest
from scipy.stats import multivariate_t, norm

from calib.model.priors import SMALLEST, GroupPrior


@pytest.mark.parametrize("size", [1, 2, 3])
def test_log_density_is_scipys(size):
    rng = np.random.default_rng(size)
    prior = GroupPrior(size, 2.3e-5, dof=3.0)
    x = rng.normal(0, 0.01, (8, size))
    expected = multivariate_t(np.zeros(size), 2.3e-5 * np.eye(size), df=3.0).logpdf(x)
    np.testing.assert_allclose(prior.log_density((x**2).sum(1)), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 3])
def test_precision_is_the_expected_one(size):
    # E[lambda | x] / S with lambda ~ Gamma(nu / 2, nu / 2), integrated on a grid
    prior = GroupPrior(size, 4e-6, dof=5.0)
    square = np.array([0.0, 4e-6, 1e-4])
    lam = np.linspace(1e-4, 30, 200_001)[:, None]
    density = (0.5 * (5.0 + size) - 1) * np.log(lam) - 0.5 * lam * (5.0 + square / 4e-6)
    density = np.exp(density - density.max(0))
    expected = (lam * density).sum(0) / density.sum(0) / 4e-6
    np.testing.assert_allclose(prior.precision(square, np.zeros(3)), expected, rtol=1e-4)


def test_precision_falls_with_the_group_and_its_doubt():
    prior = GroupPrior(2, 1e-6)
    p = prior.precision(np.array([0.0, 1e-6, 1e-4]), np.zeros(3))
    assert (np.diff(p) < 0).all()
    assert (prior.precision(np.array([0.0, 1e-6, 1e-4]), np.full(3, 1e-6)) < p).all()


def learn(prior, data, noise2, passes=200):
    """Groups seen with a known noise: posterior under the prior's precision, then a step."""
    square, variance = np.zeros(len(data)), np.full(len(data), prior.size * prior.scale)
    informed = np.ones(len(data), bool)
    for _ in range(passes):
        precision = prior.precision(square, variance)[:, None]
        share = 1 / noise2 / (1 / noise2 + precision)
        square = ((share * data) ** 2).sum(1)
        variance = prior.size / (1 / noise2 + precision[:, 0])
        prior.update(square, variance, informed)
    return (share * data), prior


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("start", [1e-7, 1e-3])
def test_scale_of_normal_groups_is_found(size, start):
    rng = np.random.default_rng(size)
    truth, noise = 0.006, 0.004
    data = rng.normal(0, np.hypot(truth, noise), (1500, size))
    _, prior = learn(GroupPrior(size, start), data, noise**2)
    assert prior.dof >= 10.0
    assert np.sqrt(prior.scale) == pytest.approx(truth, rel=0.1)


def test_heavy_tails_are_found():
    rng = np.random.default_rng(4)
    size, nu, scale = 2, 2.0, 0.005
    groups = scale * rng.normal(size=(2000, size)) / np.sqrt(rng.gamma(nu / 2, 2 / nu, (2000, 1)))
    data = groups + rng.normal(0, 0.001, groups.shape)
    _, prior = learn(GroupPrior(size, 1e-6), data, 0.001**2)
    assert 1.5 <= prior.dof <= 3.0
    assert np.sqrt(prior.scale) == pytest.approx(scale, rel=0.15)


def test_where_nothing_varies_the_term_goes():
    rng = np.random.default_rng(5)
    data = rng.normal(0, 0.005, (800, 2))
    shrunk, prior = learn(GroupPrior(2, 1e-5), data, 0.005**2)
    assert np.sqrt(prior.scale) < 1.5e-3
    assert np.sqrt((shrunk**2).mean()) < 5e-4
    _, none = learn(GroupPrior(2, 1e-5), 0.5 * data, 0.005**2)  # less scatter than the noise alone
    assert none.scale < 1e-7


def test_one_wild_group_keeps_its_own_and_spoils_no_other():
    rng = np.random.default_rng(6)
    data = rng.normal(0, np.hypot(0.003, 0.002), (200, 2))
    data[17] = 0.3, -0.2
    shrunk, prior = learn(GroupPrior(2, 1e-5), data, 0.002**2)
    assert np.sqrt(prior.scale) == pytest.approx(0.003, rel=0.25)
    np.testing.assert_allclose(shrunk[17], data[17], rtol=0.01)


def test_groups_without_data_say_nothing():
    a, b = GroupPrior(2, 1e-5), GroupPrior(2, 1e-5)
    rng = np.random.default_rng(7)
    square, variance = rng.uniform(0, 1e-4, 30), rng.uniform(0, 1e-5, 30)
    a.update(square[:20], variance[:20], np.ones(20, bool))
    square[20:] = 1.0
    b.update(square, variance, np.arange(30) < 20)
    assert a == b
    b.update(square, variance, np.zeros(30, bool))
    assert a == b


def test_belief_holds_a_kind_with_few_groups():
    prior = GroupPrior(1, 1e-3, strength=2.0, usual=1e-4)
    for _ in range(200):  # a group that its data do not determine at all
        prior.update(np.zeros(1), np.full(1, prior.scale), np.ones(1, bool))
    assert prior.scale == pytest.approx(1e-4, rel=0.05)
    assert prior.scale > SMALLEST


def test_groups_that_are_alike_are_normal():
    rng = np.random.default_rng(8)
    data = rng.normal(0, np.hypot(0.003, 0.002), (400, 2))
    shrunk, prior = learn(GroupPrior(2, 1e-5, alike=True), data, 0.002**2)
    assert np.sqrt(prior.scale) == pytest.approx(0.003, rel=0.1)
    precision = prior.precision(1e3 * (shrunk**2).sum(1), np.full(400, 1e-6))
    np.testing.assert_array_equal(precision, 1.0 / prior.scale)
    expected = norm(0, np.sqrt(prior.scale)).logpdf(shrunk).sum(1)
    np.testing.assert_allclose(prior.log_density((shrunk**2).sum(1)), expected, rtol=1e-10)
