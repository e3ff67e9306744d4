"""The night model against the dense sum of squares it stands for."""

import numpy as np
import pytest

from calib.model.jitter import JITTER_GRID
from calib.solve.nights import USUAL_DRIFT, USUAL_EXTINCTION, USUAL_SEEING_SLOPE, LevelPriors, NightLevels

FIRST = 20


@pytest.fixture(
    params=[(timed, block) for timed in (False, True) for block in (1, 2, 3, 6)],
    ids=lambda p: f"{'timed' if p[0] else 'untimed'}-{p[1]}",
)
def levels(request):
    """Two bands, nights of 6, 5, 4 and 1 exposures, one without airmass, one without a night, one without a time."""
    band = np.array([0] * 11 + [1] * 7, np.int32)
    night = np.array([1] * 6 + [2] * 4 + [-1] + [1] * 5 + [2, 1])
    rng = np.random.default_rng(0)
    airmass = rng.uniform(1.0, 2.0, band.size)
    airmass[17] = np.nan
    mjd = 60_000.0 + night + rng.uniform(0.0, 0.3, band.size)
    mjd[2] = np.nan
    seeing = rng.normal(0, 0.2, band.size)
    timed, block = request.param
    return NightLevels.of(band, night, airmass, seeing, FIRST, mjd if timed else None, block)


def rows(h, n_all):
    """Residuals of the model as rows over all coefficients: of exposures, of nights' levels, slopes and drifts.

    Coefficient c of node or hub i stands at i K + c; those of a band, or of a night, fill one hub after the other.
    """
    K = h.block
    exposure = np.zeros((h.node.size, n_all * K))
    level, slope, drift = np.zeros((3, h.n_groups, n_all * K))
    each = 3 if h.drifts else 2
    of_band, of_night = -(-3 // K), -(-each // K)
    band = (FIRST + of_band * np.arange(h.n_bands)) * K
    night = (FIRST + of_band * h.n_bands + of_night * np.arange(h.n_groups)) * K
    for i, (e, g) in enumerate(zip(h.node, h.group, strict=True)):
        b = band[h.band[g]]
        exposure[i, [e * K, night[g], night[g] + 1, b + 2]] = 1.0, -1.0, h.airmass[i], -h.seeing[i]
        if h.drifts:
            exposure[i, night[g] + 2] = h.path[i]
    for g in range(h.n_groups):
        level[g, [night[g], band[h.band[g]]]] = 1.0, -1.0
        slope[g, [night[g] + 1, band[h.band[g]] + 1]] = 1.0, -1.0
        if h.drifts:
            drift[g, night[g] + 2] = 1.0
    return exposure, level, slope, drift


def test_who_hangs_on_a_night(levels):
    assert levels.n_groups == 3
    assert levels.n_bands == 2
    np.testing.assert_array_equal(levels.node, np.r_[0:10, 11:16])
    np.testing.assert_array_equal(levels.band, [0, 0, 1])
    of_night = 3 if levels.drifts else 2
    assert levels.n_unknowns == 3 * 2 + of_night * 3
    assert levels.n_hubs == {1: 6 + 3 * of_night, 2: 4 + 3 * (of_night - 1)}.get(levels.block, 5)
    assert (levels.row < levels.column).all()
    assert levels.column.max() == FIRST + levels.n_hubs - 1


def test_no_night_is_large_enough():
    band, night = np.zeros(4, np.int32), np.array([1, 1, 2, 2])
    assert NightLevels.of(band, night, np.ones(4), np.zeros(4), 4) is None
    assert NightLevels.of(band, np.ones(4, int), np.full(4, np.nan), np.zeros(4), 4) is None


def test_hours_are_about_the_middle_of_the_night():
    night, mjd = np.repeat([0, 1], 4), np.array([0.0, 0.1, 0.2, np.nan, 5.0, 5.1, 5.3, 5.4]) + 60_000
    h = NightLevels.of(np.zeros(8, np.int32), night, np.full(8, 2.0), np.zeros(8), 8, mjd)
    np.testing.assert_allclose(h.path, 2.0 * np.array([-2.4, 0.0, 2.4, 0.0, -4.8, -2.4, 2.4, 4.8]), atol=1e-6)
    assert h.drifts
    run_of_nights = mjd + 2 * np.array([0, 0, 1, 1] * 2)  # whatever is called a night
    for untold in (None, np.full(8, np.nan), np.full(8, 60_000.0), run_of_nights):
        assert not NightLevels.of(np.zeros(8, np.int32), night, np.full(8, 2.0), np.zeros(8), 8, untold).drifts


def observed(levels, rng, n_all):
    """Priors that have seen a random estimate, with its dense covariance."""
    K = levels.block
    root = rng.normal(size=(n_all * K, n_all * K)) * 0.005
    covariance, theta = root @ root.T, rng.normal(0, 0.03, n_all * K)
    block = covariance.reshape(n_all, K, n_all, K)
    own, pairs = block[np.arange(n_all), :, np.arange(n_all)], levels.pairs
    between = block[pairs.row, pairs.of_row, pairs.column, pairs.of_column]
    priors = LevelPriors(levels)
    priors.jitter.shares = rng.dirichlet(np.ones(JITTER_GRID.size))
    priors.observe(theta.reshape(n_all, K), own, between)
    return priors, theta, covariance


@pytest.mark.parametrize("seen", [False, True])
def test_quadratic_form_is_the_sum_of_squares(levels, seen):
    n_all = FIRST + levels.n_hubs
    rng = np.random.default_rng(1)
    priors = observed(levels, rng, n_all)[0] if seen else LevelPriors(levels)
    form = priors.quadratic(n_all)
    K, pairs = levels.block, levels.pairs
    blocks = np.zeros((n_all, K, n_all, K))
    blocks[np.arange(n_all), :, np.arange(n_all)] = form.diagonal
    np.add.at(blocks, (pairs.row, pairs.of_row, pairs.column, pairs.of_column), form.pair)
    np.add.at(blocks, (pairs.column, pairs.of_column, pairs.row, pairs.of_row), form.pair)
    Q, rhs = blocks.reshape(n_all * K, n_all * K), form.rhs.ravel()
    exposure, level, slope, drift = rows(levels, n_all)
    lam, mu = priors.jitter.precision, priors.jitter.mean
    la = priors.level.precision(*priors.last["level"]) if seen else 1 / priors.level.scale
    lk = priors.slope.precision(*priors.last["slope"]) if seen else 1 / priors.slope.scale
    ld = priors.drift.precision(*priors.last["drift"]) if seen and levels.drifts else 1 / priors.drift.scale
    mean, width = USUAL_EXTINCTION

    def squares(x):
        hubs = x[FIRST * K :][: levels.n_bands * K * -(-3 // K)].reshape(levels.n_bands, -1)
        usual = ((hubs[:, 1] - mean) ** 2).sum() / width**2 + (hubs[:, 2] ** 2).sum() / USUAL_SEEING_SLOPE**2
        nights = (la * (level @ x) ** 2).sum() + (lk * (slope @ x) ** 2).sum() + (ld * (drift @ x) ** 2).sum()
        return (lam * (exposure @ x - mu) ** 2).sum() + nights + usual

    constant = squares(np.zeros(n_all * K))
    for _ in range(5):
        x = rng.normal(size=n_all * K)
        assert x @ Q @ x - 2 * rhs @ x + constant == pytest.approx(squares(x), rel=1e-10)
    assert np.linalg.eigvalsh(Q).min() > -1e-8 * np.abs(Q).max()


def test_observed_squares_and_variances_are_dense(levels):
    n_all = FIRST + levels.n_hubs
    priors, theta, covariance = observed(levels, np.random.default_rng(2), n_all)
    names = ("jitter", "level", "slope", "drift") if levels.drifts else ("jitter", "level", "slope")
    assert set(priors.last) == set(names)
    for name, row in zip(names, rows(levels, n_all), strict=False):
        square, variance = priors.last[name]
        np.testing.assert_allclose(square, (row @ theta) ** 2, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(variance, np.einsum("ij,jk,ik->i", row, covariance, row), rtol=1e-9, atol=1e-12)


def test_photometric_nights_are_told_from_cloudy_ones():
    rng = np.random.default_rng(3)
    n_nights, each = 12, 15
    night = np.repeat(np.arange(n_nights), each)
    n = night.size
    airmass = rng.uniform(1, 2, n)
    h = NightLevels.of(np.zeros(n, np.int32), night, airmass, np.zeros(n), n)
    cloudy = np.arange(n_nights) % 3 == 0
    theta = np.zeros((n + h.n_hubs, 1))
    jitter = np.where(cloudy[night], 0.2, 0.002) * rng.normal(size=n)
    theta[h.slope(np.arange(n_nights))] = 0.12
    theta[h.band_hub(1, np.zeros(1, np.int32))] = 0.12
    theta[:n, 0] = jitter - 0.12 * (airmass - 1)
    priors = LevelPriors(h)
    for _ in range(30):
        priors.observe(theta, np.full((*theta.shape, 1), 1e-8), np.zeros(h.row.size))
        priors.update()
    scatter = np.sqrt(np.exp(priors.jitter.posterior @ np.log(JITTER_GRID)))
    assert scatter[cloudy].min() > 0.06
    assert scatter[~cloudy].max() < 0.004
    tight = priors.jitter.precision.reshape(n_nights, each)
    assert np.median(tight[~cloudy]) > 100 * np.median(tight[cloudy])
    assert priors.jitter.shares.sum() == pytest.approx(1.0)
    assert np.isfinite(priors.log_density())


def test_one_cloud_on_a_clear_night_is_let_go():
    h = NightLevels.of(np.zeros(12, np.int32), np.zeros(12, int), np.ones(12), np.zeros(12), 12)
    theta = np.zeros((12 + h.n_hubs, 1))
    theta[:12, 0] = np.random.default_rng(4).normal(0, 0.002, 12)
    theta[5] = -0.4
    priors = LevelPriors(h)
    priors.observe(theta, np.full((*theta.shape, 1), 1e-8), np.zeros(h.row.size))
    assert priors.jitter.precision[5] < 1e-3 * np.median(priors.jitter.precision)


@pytest.mark.parametrize("drift", [0.0, 0.006])
def test_the_drift_of_extinction_is_found_where_there_is_one(drift):
    rng = np.random.default_rng(5)
    n_nights, each = 10, 20
    night = np.repeat(np.arange(n_nights), each)
    hours, airmass = rng.uniform(0.0, 8.0, night.size), rng.uniform(1.0, 2.0, night.size)
    h = NightLevels.of(np.zeros(night.size, np.int32), night, airmass, np.zeros(night.size), night.size, hours / 24)
    truth = drift * rng.normal(size=n_nights)
    theta = np.zeros((night.size + h.n_hubs, 1))
    theta[h.node, 0] = 0.001 * rng.normal(size=night.size)
    theta[h.drift(np.arange(n_nights))] = truth
    theta[: night.size, 0] -= truth[night] * h.path
    priors = LevelPriors(h)
    for _ in range(30):
        priors.observe(theta, np.full((*theta.shape, 1), 1e-9), np.zeros(h.row.size))
        priors.update()
    if drift:
        assert priors.drift.scale**0.5 == pytest.approx(truth.std(), rel=0.5)
    else:
        assert priors.drift.scale < 0.5 * USUAL_DRIFT**2
    assert h.jitter(theta).std() == pytest.approx(0.001, rel=0.2)
