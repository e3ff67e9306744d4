"""Clouds of made-up nights, and one night against a brute-force integral."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from calib import workers
from calib.model import conditions
from calib.model.conditions import clouds

SIGMA = 0.002


def nights(seed=1, n_nights=30, n=12, cloudy=0.4, cloud=0.1, walk=0.01):
    """(y, night, true cloud): levels that walk, some nights with clouds that come and go."""
    rng = np.random.default_rng(seed)
    level = np.cumsum(walk * rng.normal(size=n_nights))
    night = np.repeat(np.arange(n_nights), n)
    lost = np.zeros(night.size)
    for g in np.flatnonzero(rng.random(n_nights) < cloudy):
        inside = night == g
        covered = rng.random(inside.sum()) < 0.6
        lost[inside] = covered * rng.exponential(cloud * np.exp(0.5 * rng.normal()), inside.sum())
    y = level[night] - lost + SIGMA * rng.normal(size=night.size)
    return y, night, lost


def solved(y, night, chain=None):
    n_nights = int(night.max()) + 1
    return clouds(y, np.full(y.size, 0.5 * SIGMA**2), night, np.zeros(n_nights, int) if chain is None else chain)


def area_under_curve(score, truth):
    rank = np.empty(score.size)
    rank[np.argsort(score, kind="stable")] = np.arange(1, score.size + 1)
    n1 = truth.sum()
    return (rank[truth].sum() - n1 * (n1 + 1) / 2) / (n1 * (~truth).sum())


def test_clouds_are_told_from_clear_sky_with_honest_errors():
    found, truth = [], []
    for seed in range(4):
        y, night, lost = nights(seed)
        out = solved(y, night)
        found.append(np.c_[out.cloud, out.cloud_err, out.photometric])
        truth.append(lost)
    (cloud, err, clear), truth = np.concatenate(found).T, np.concatenate(truth)
    assert area_under_curve(clear, truth == 0) > 0.97
    cloudy = truth > 0
    pull = (cloud - truth)[cloudy] / err[cloudy]
    assert 0.8 < np.sqrt(np.mean(pull**2)) < 1.25
    # what is said to be clear so often is
    for low, high in ((0.0, 0.2), (0.8, 1.0)):
        inside = (clear >= low) & (clear <= high)
        assert np.mean(truth[inside] == 0) == pytest.approx(clear[inside].mean(), abs=0.05)


@pytest.mark.parametrize("veil", [0.05, 0.2])
def test_an_overcast_night_is_as_uncertain_as_its_veil(veil):
    """Nothing of the night shows its level but the nights around it, and their walk is wide."""
    pulls, shallow = [], []
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        y, night, lost = nights(seed, n_nights=20, cloudy=0.2)
        here = night == 9
        y[here] += lost[here]
        lost[here] = veil + 0.03 * rng.exponential(1.0, here.sum())
        y[here] -= lost[here]
        out = solved(y, night)
        pulls.append((out.cloud - lost)[here] / out.cloud_err[here])
        shallow.append(out.photometric[here].max())
    assert np.sqrt(np.mean(np.square(pulls))) < 1.5
    assert np.median(shallow) < 0.1


def test_a_night_of_clouds_is_held_against_its_neighbours():
    y, night, _ = nights(5, cloudy=0.0, walk=0.001)  # none strays by three of its errors: of those nobody is so sure
    lost = 0.08 + np.random.default_rng(5).exponential(0.1, 12)
    y[night == 10] -= lost
    out = solved(y, night)
    assert np.all(np.abs(out.cloud[night == 10] - lost) < 3.0 * out.cloud_err[night == 10])
    assert out.cloud[night == 10] == pytest.approx(lost, abs=0.03)
    assert np.all(out.photometric[night == 10] < 0.1)
    assert np.all(out.photometric[night != 10] > 0.9)


def test_shift_and_order_change_nothing():
    y, night, _ = nights(2)
    out = solved(y, night)
    moved = solved(y + 23.0, night)
    np.testing.assert_allclose(moved.cloud, out.cloud, atol=1e-6)
    np.testing.assert_allclose(moved.level, out.level + 23.0, atol=1e-6)
    order = np.random.default_rng(1).permutation(y.size)
    mixed = solved(y[order], night[order])
    np.testing.assert_allclose(mixed.photometric, out.photometric[order], atol=1e-9)


def test_chains_are_apart_and_unknown_is_nan():
    y, night, _ = nights(4, n_nights=12)
    y[5] = np.nan
    two = solved(np.r_[y, y - 3.0], np.r_[night, night + 12], np.repeat([0, 1], 12))
    np.testing.assert_allclose(two.cloud[: y.size], two.cloud[y.size :], atol=1e-6)
    assert np.isnan([two.cloud[5], two.cloud_err[5], two.photometric[5]]).all()
    assert np.isfinite(np.delete(two.cloud, [5, 5 + y.size])).all()


def test_runs_of_nights_change_nothing(monkeypatch):
    y, night, _ = nights(6, n_nights=40)
    whole = solved(y, night)
    monkeypatch.setattr(conditions, "EXPOSURES", 20)
    for threads in (1, 2, 3):
        with workers.working(threads):
            assert (len(workers.shared(np.arange(y.size), conditions.EXPOSURES)) > 4) == (threads > 1)
            found = solved(y, night)
        for name, value in vars(whole).items():
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_one_night_against_brute_force():
    y = np.array([0.0, 0.001, -0.002, -0.06, -0.2])
    v = np.full(5, SIGMA**2)
    shares = np.zeros((conditions.CLEAR_GRID.size, conditions.CLOUD_GRID.size)) + 1e-300
    shares[2, 3] = 1.0
    p, tau = conditions.CLEAR_GRID[2], conditions.CLOUD_GRID[3]
    out = np.zeros((5, 3))
    at = (np.array([0, 5]), y, v, np.array([0.0]), np.array([0.05**2]), np.array([0.0]), np.array([1e-6]), 0.0)
    _, moments, _ = conditions._nights(*at, shares, conditions.CLEAR_GRID, conditions.CLOUD_GRID, out, True)

    def clear(u):
        return (1 - conditions.STRAY) * norm.pdf(u, 0, SIGMA) + conditions.STRAY * norm.pdf(
            u, 0, SIGMA * conditions.STRAY_SCALE
        )

    def cloudy(u, power=0):
        c = np.linspace(0, 1.0, 4001)
        f = np.exp(-c / tau) / tau * norm.pdf(u - c, 0, SIGMA) * c**power
        return np.trapezoid(f, c)

    def weight(a, skip=None, term=None):
        value = norm.pdf(a, 0, 0.05)
        for i, yi in enumerate(y):
            value *= term(a - yi) if i == skip else p * clear(a - yi) + (1 - p) * cloudy(a - yi)
        return value

    grid = np.linspace(-0.02, 0.03, 401)
    total = np.trapezoid([weight(a) for a in grid], grid)
    mean = np.trapezoid([a * weight(a) for a in grid], grid) / total
    assert moments[0, 0] == pytest.approx(mean, abs=5e-5)
    for i in range(5):
        none = np.trapezoid([weight(a, i, lambda u: p * clear(u)) for a in grid], grid) / total
        lost = np.trapezoid([weight(a, i, lambda u: (1 - p) * cloudy(u, 1)) for a in grid], grid) / total
        assert out[i, 2] == pytest.approx(none, abs=0.01)
        assert out[i, 0] == pytest.approx(lost, abs=2e-4)
    whole, _ = quad(lambda u: np.exp(conditions._clear(u, SIGMA**2)), -0.1, 0.1, points=[0])
    assert whole == pytest.approx(1, abs=1e-3)
