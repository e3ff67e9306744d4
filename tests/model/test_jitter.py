"""Sites of the jitter against a dense computation of the mixture's moments, and scatters of simulated nights."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from calib.model.jitter import CALM, JITTER_GRID, LOOSE, MULTIPLES, JitterPrior


def prior(n_nights=3, each=4, seed=0):
    rng = np.random.default_rng(seed)
    made = JitterPrior(np.repeat(np.arange(n_nights), each).astype(np.int32), n_nights)
    made.shares = rng.dirichlet(np.ones(JITTER_GRID.size))
    made.multiples = rng.dirichlet(np.ones(MULTIPLES.size))
    made.kinds = rng.dirichlet(np.ones(2))
    made.precision = rng.uniform(1e3, 1e5, made.group.size)
    made.mean = rng.normal(0, 0.01, made.group.size)
    return made


def cavity_and_posterior(made, rng):
    """What all else says of every jitter, and that together with the sites."""
    m, v = rng.normal(0, 0.02, made.group.size), rng.uniform(0.001, 0.02, made.group.size) ** 2
    variance = 1.0 / (1.0 / v + made.precision)
    return m, v, variance * (m / v + made.precision * made.mean), variance


def test_sites_have_the_moments_of_the_mixture():
    rng = np.random.default_rng(1)
    made = prior()
    m, v, value, variance = cavity_and_posterior(made, rng)
    prior_of_night = np.log(made.kinds)[:, None] + np.log(made.shares)
    multiples = np.log(np.stack([CALM, made.multiples]))[:, None, :]
    made.observe(value, variance)
    tau = np.multiply.outer(JITTER_GRID, MULTIPLES)
    total = v[:, None, None, None] + tau
    log_p = multiples + norm.logpdf(m[:, None, None, None], scale=np.sqrt(total))  # exposure, kind, grid, multiple
    night = prior_of_night + np.stack([logsumexp(log_p[made.group == g], axis=3).sum(0) for g in range(3)])
    posterior = np.exp(night - logsumexp(night, axis=(1, 2), keepdims=True))
    np.testing.assert_allclose(made.posterior, posterior.sum(1), rtol=1e-8, atol=1e-12)
    share = posterior[made.group][..., None] * np.exp(log_p - logsumexp(log_p, axis=3, keepdims=True))
    at = m[:, None, None, None] * tau / total
    mean = (share * at).sum((1, 2, 3))
    var = (share * (at**2 + v[:, None, None, None] * tau / total)).sum((1, 2, 3)) - mean**2
    found = 1.0 / (1.0 / v + made.precision)
    np.testing.assert_allclose(found * (m / v + made.precision * made.mean), mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found, np.minimum(var, v / (1.0 + 1e-6)), rtol=1e-6)


def test_half_a_step_is_half_the_way_in_precision_and_in_precision_times_mean():
    rng = np.random.default_rng(4)
    whole, half, start = prior(), prior(), prior()
    _, _, value, variance = cavity_and_posterior(start, rng)
    whole.observe(value, variance)
    half.observe(value, variance, 0.5)
    np.testing.assert_allclose(half.precision, (whole.precision + start.precision) / 2)
    np.testing.assert_allclose(
        half.precision * half.mean, (whole.precision * whole.mean + start.precision * start.mean) / 2
    )
    assert half.log_sites == whole.log_sites  # of the sites that the estimate was made with


def test_sites_integrate_to_the_mixture():
    """The logarithms of the scaled sites at the estimate, against the evidence of the cavities."""
    rng = np.random.default_rng(2)
    made = prior(n_nights=1, each=5, seed=3)
    old, old_mean = made.precision.copy(), made.mean.copy()
    m, v, value, variance = cavity_and_posterior(made, rng)
    prior_of_night = np.log(made.kinds)[:, None] + np.log(made.shares)
    multiples = np.log(np.stack([CALM, made.multiples]))[:, None, :]
    made.observe(value, variance)
    tau = np.multiply.outer(JITTER_GRID, MULTIPLES)
    each = norm.logpdf(m[:, None, None, None], scale=np.sqrt(v[:, None, None, None] + tau))
    evidence = logsumexp(prior_of_night + logsumexp(multiples + each, axis=3).sum(0))
    with_cavity = norm.logpdf(m, old_mean, np.sqrt(v + 1 / old))
    expected = evidence - with_cavity.sum() + norm.logpdf(value, old_mean, 1 / np.sqrt(old)).sum()
    assert made.log_sites == pytest.approx(expected, rel=1e-9)


def learned(scatter, seed, n_nights=40, each=12, error=0.004, outlying=0.0):
    """Jitters of known scatter seen with this error, nights on their own: sites and shares at rest."""
    rng = np.random.default_rng(seed)
    made = JitterPrior(np.repeat(np.arange(n_nights), each).astype(np.int32), n_nights)
    n = made.group.size
    jitter = scatter * rng.normal(size=n) * np.where(rng.random(n) < outlying, 16.0, 1.0)
    seen = jitter + error * rng.normal(size=n)
    for _ in range(40):
        variance = 1.0 / (1.0 / error**2 + made.precision)
        made.observe(variance * (seen / error**2 + made.precision * made.mean), variance)
        made.update()
    variance = 1.0 / (1.0 / error**2 + made.precision)
    return made, jitter, seen, variance * (seen / error**2 + made.precision * made.mean), np.sqrt(variance)


@pytest.mark.parametrize("scatter", [0.002, 0.004, 0.03])
@pytest.mark.parametrize("outlying", [0.0, 0.15])
def test_scatter_below_the_error_is_found_and_errors_are_true(scatter, outlying):
    made, jitter, seen, estimate, error = learned(scatter, 7, outlying=outlying)
    found = np.exp(0.5 * (made.posterior @ np.log(JITTER_GRID)).mean())
    assert found == pytest.approx(scatter, rel=0.3)
    pull = (estimate - jitter) / error
    assert pull.std() == pytest.approx(1.0, abs=0.1)
    alone = np.sqrt(np.mean((seen - jitter) ** 2))
    assert np.sqrt(np.mean((estimate - jitter) ** 2)) < 1.01 * alone
    if outlying == 0.0 and scatter < alone:
        assert np.sqrt(np.mean((estimate - jitter) ** 2)) < 0.75 * alone


def test_exposures_that_a_cloud_moved_are_let_go():
    made, jitter, _, _, _ = learned(0.003, 9, error=0.001, outlying=0.1)
    moved = np.abs(jitter) > 0.03
    assert moved.any()
    assert made.precision[moved].max() < 0.05 * np.median(made.precision[~moved])
    assert made.multiples[1:].sum() == pytest.approx(0.1, abs=0.06)


def test_calm_nights_keep_their_scatter_beside_unsettled_ones():
    rng = np.random.default_rng(11)
    n_nights, each, error = 24, 30, 0.001
    unsettled = np.arange(n_nights) % 2 == 1
    made = JitterPrior(np.repeat(np.arange(n_nights), each).astype(np.int32), n_nights)
    moved = unsettled[made.group] & (rng.random(made.group.size) < 0.25)
    jitter = 0.0015 * rng.normal(size=made.group.size) * np.where(moved, 10.0, 1.0)
    seen = jitter + error * rng.normal(size=jitter.size)
    for _ in range(40):
        variance = 1.0 / (1.0 / error**2 + made.precision)
        made.observe(variance * (seen / error**2 + made.precision * made.mean), variance)
        made.update()
    found = np.exp(0.5 * (made.posterior @ np.log(JITTER_GRID)))
    assert np.median(found[~unsettled]) == pytest.approx(0.0015, rel=0.1)
    assert made.kinds[1] == pytest.approx(0.5, abs=0.15)
    assert made.multiples[1:].sum() == pytest.approx(0.25, abs=0.1)
    pull = (variance * (seen / error**2 + made.precision * made.mean) - jitter) / np.sqrt(variance)
    assert pull[~unsettled[made.group]].std() == pytest.approx(1.0, abs=0.05)


def test_before_any_look_it_is_loose():
    made = JitterPrior(np.zeros(3, np.int32), 1)
    np.testing.assert_array_equal(made.precision, LOOSE)
    np.testing.assert_array_equal(made.mean, 0.0)
    assert made.posterior is None
