"""The mixture of responses against numerical integration, and what it makes of simulated stars."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import norm

from calib.model.blends import SPIKE, TAILS, BlendPrior, shortest_half


def panels(a, b, breaks, n=12):
    """Gauss-Legendre nodes and weights on pieces between the breaks, each cut in eight."""
    edges = np.unique([a, b, *(x for x in breaks if a < x < b)])
    cut = np.linspace(0, 1, 9)
    edges = np.unique(edges[:-1, None] + np.diff(edges)[:, None] * cut)
    node, weight = np.polynomial.legendre.leggauss(n)
    middle, half = 0.5 * (edges[1:] + edges[:-1])[:, None], 0.5 * np.diff(edges)[:, None]
    return (middle + half * node).ravel(), (half * weight).ravel()


def densities(prior):
    """Each component's share times its density, and where it lives."""
    out = [(lambda b: prior.shares[0] * norm.pdf(b, 0, SPIKE), -np.inf, np.inf)]
    for k, sign in enumerate([-1.0] * TAILS.size + [1.0] * TAILS.size):
        tau, share = TAILS[k % TAILS.size], prior.shares[1 + k]
        low, high = (-np.inf, 0.0) if sign < 0 else (0.0, np.inf)
        out.append((lambda b, t=tau, s=share: s / t * np.exp(-abs(b) / t), low, high))
    return out


CAVITIES = [(0.0, 0.003), (-0.02, 0.005), (0.05, 0.01), (-0.3, 0.02), (0.001, 0.2), (0.0, 10.0)]
EDGES = np.concatenate([SPIKE * np.r_[-8:9], np.outer([-30, -8, -2, 2, 8, 30], TAILS).ravel()])


@pytest.mark.parametrize(("m", "s"), CAVITIES)
def test_components_are_their_integrals(m, s):
    prior = BlendPrior(1)
    log_z, mean, variance = (x[0] for x in prior._components(np.array([m]), np.array([s**2])))
    for k, (density, low, high) in enumerate(densities(prior)):
        reach = 14 * max(s, SPIKE)
        a, b = max(low, min(m, 0.0) - reach), min(high, max(m, 0.0) + reach)
        x, weight = panels(a, b, [*(m + s * np.r_[-6:7]), *EDGES])
        value = weight * density(x) * norm.pdf(x, m, s)
        evidence = value.sum()
        if evidence < 1e-60:
            assert log_z[k] < -130
            continue
        first = (value * x).sum() / evidence
        assert log_z[k] == pytest.approx(np.log(evidence), rel=1e-6, abs=1e-6)
        assert mean[k] == pytest.approx(first, rel=1e-5, abs=1e-7)
        assert variance[k] == pytest.approx((value * (x - first) ** 2).sum() / evidence, rel=1e-4, abs=1e-12)


def posterior(prior, data, noise2):
    """What a solve would return for stars seen with this noise under the prior's sites."""
    precision = 1 / noise2 + prior.precision
    return (data / noise2 + prior.precision * prior.mean) / precision, 1 / precision


def settle(truth, noise, seed=0, passes=30):
    rng = np.random.default_rng(seed)
    data = truth + rng.normal(0, noise)
    prior = BlendPrior(truth.size)
    for _ in range(passes):
        prior.observe(*posterior(prior, data, noise**2))
    return prior, posterior(prior, data, noise**2)


def test_single_stars_stay_at_zero_and_blends_keep_their_response():
    rng = np.random.default_rng(1)
    blended = rng.random(2000) < 0.15
    truth = np.where(blended, -rng.exponential(0.03, 2000), 0.0)
    noise = rng.uniform(0.001, 0.004, 2000)
    prior, (b, variance) = settle(truth, noise)
    assert prior.shares[0] == pytest.approx(0.85, abs=0.04)
    assert prior.shares[1 + TAILS.size :].sum() < 0.02  # none fades
    assert np.sqrt((b[~blended] ** 2).mean()) < 8e-4
    clear = truth < -0.02
    np.testing.assert_allclose(b[clear], truth[clear], atol=5 * 0.004)
    pull = (b - truth) / np.sqrt(variance)
    assert np.sqrt((pull[clear] ** 2).mean()) == pytest.approx(1.0, abs=0.2)
    assert abs(b.mean() - truth.mean()) < 2e-4  # no common response is made up
    assert prior.gain > 100


def test_without_blends_there_is_no_gain_to_speak_of():
    noise = np.full(1500, 0.003)
    prior, (b, _) = settle(np.zeros(1500), noise)
    assert prior.gain < 5.0
    assert prior.shares[0] > 0.9
    assert np.sqrt((b**2).mean()) < 3e-4


def test_sites_reproduce_the_posteriors_moments():
    # one star: cavity times site has the mean and variance of cavity times mixture
    prior = BlendPrior(3)
    data, noise2 = np.array([-0.05, 0.0, 0.01]), np.array([0.004, 0.002, 0.01]) ** 2
    log_z, means, variances = prior._components(data, noise2)
    share = np.exp(log_z - np.logaddexp.reduce(log_z, axis=1, keepdims=True))
    mean = (share * means).sum(1)
    var = (share * (variances + means**2)).sum(1) - mean**2
    prior.observe(*posterior(prior, data, noise2))
    value, variance = posterior(prior, data, noise2)
    np.testing.assert_allclose(value, mean, rtol=1e-6, atol=1e-9)
    ordinary = 1 / var - 1 / noise2 > 1e-3 / noise2
    assert ordinary.any()
    np.testing.assert_allclose(variance[ordinary], var[ordinary], rtol=1e-6)
    assert (prior.precision > 0).all()


def test_stars_that_know_nothing_take_the_prior():
    rng = np.random.default_rng(2)
    noise = np.full(500, 0.002)
    truth = np.where(rng.random(500) < 0.2, -0.02, 0.0)
    prior, _ = settle(truth, noise)
    value, variance = posterior(prior, truth, noise**2)
    value[:5], variance[:5] = prior.mean[:5], 1 / prior.precision[:5]  # their measurements said nothing
    value[5], variance[5] = np.nan, np.nan
    shares = prior.shares.copy()
    prior.observe(value, variance)
    expected = -(shares[1 : 1 + TAILS.size] @ TAILS) + shares[1 + TAILS.size :] @ TAILS
    second = shares[0] * SPIKE**2 + 2 * shares[1:].reshape(2, -1).sum(0) @ TAILS**2
    np.testing.assert_allclose(prior.mean[:6], expected, rtol=0.02)
    np.testing.assert_allclose(1 / prior.precision[:6], second - expected**2, rtol=0.02)
    assert np.isfinite(prior.mean).all()
    assert prior.shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_the_shortest_half_is_that_of_all_halves(n):
    values = np.random.default_rng(n).exponential(1.0, n)
    halves = [np.ptp(part) for part in combinations(np.sort(values), (n + 1) // 2)] if n < 10 else None
    ordered = np.sort(values)
    runs = [np.ptp(ordered[i : i + (n + 1) // 2]) for i in range(n // 2 + 1)]
    assert shortest_half(values) == pytest.approx(min(halves or runs))


@pytest.mark.parametrize(("smear", "low", "high"), [(0.0, 0.0, 2 * SPIKE), (3e-3, 1e-3, 3e-3)])
def test_the_place_of_zero_is_unsettled_without_a_spike(smear, low, high):
    rng = np.random.default_rng(2)
    value = rng.normal(0.0, smear, 400)
    prior = BlendPrior(400)
    for _ in range(30):
        variance = 1.0 / (1.0 / 2e-4**2 + prior.precision)
        prior.observe(variance * (value / 2e-4**2 + prior.precision * prior.mean), variance)
    assert low <= prior.unsettled <= high


def test_no_star_at_all():
    prior = BlendPrior(0)
    prior.observe(np.zeros(0), np.zeros(0))
    assert prior.unsettled == 0.0
    assert prior.gain == 0.0
    assert np.isfinite(prior.common)


def test_a_fading_star_mirrors_a_brightening_one():
    a, b = BlendPrior(2), BlendPrior(2)
    for prior in (a, b):
        prior.shares = np.r_[0.8, np.full(2 * TAILS.size, 0.2 / (2 * TAILS.size))]
    value, variance = np.array([0.03, -0.004]), np.full(2, 4e-6)
    a.observe(value, variance)
    b.observe(-value, variance)
    np.testing.assert_allclose(a.mean, -b.mean, rtol=1e-9)
    np.testing.assert_allclose(a.precision, b.precision, rtol=1e-9)
