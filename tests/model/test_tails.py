"""Tails of the noise against scipy's normals, Fisher's information by quadrature, and samples of known shape."""

from itertools import pairwise

import numpy as np
import pytest
from numba import njit
from scipy.integrate import quad
from scipy.stats import norm
from scipy.stats import t as student

from calib.model.tails import (
    BINS,
    CONTAMINANT,
    CONTAMINATIONS,
    LARGEST_LOG,
    MULTIPLES,
    USUAL,
    Tails,
    look,
    tail_histogram,
)

SHARES = [USUAL, np.array([0.9, 0.04, 0.01, 0.04, 0.009, 0.001]), np.array([0.5, 0.3, 0.15, 0.04, 0.005, 0.005])]


def density(shares, t):
    return sum(q * norm.pdf(t, scale=np.sqrt(a)) for q, a in zip(shares, MULTIPLES, strict=True))


def weight(shares, t):
    """Minus the derivative of the log density, over t."""
    return sum(q * norm.pdf(t, scale=np.sqrt(a)) / a for q, a in zip(shares, MULTIPLES, strict=True)) / density(
        shares, t
    )


@njit
def looked_at(tables, level, column, y):
    out = np.empty(y.size)
    for i in range(y.size):
        out[i] = look(tables, level, column, y[i])
    return out


def looked(table, column, y):
    return looked_at(table[None], 0, column, y)


@pytest.mark.parametrize("shares", SHARES)
def test_tables_are_the_mixture(shares):
    t = np.r_[0.0, np.geomspace(1e-3, 1e3, 400)]
    table = Tails(shares).table
    np.testing.assert_allclose(looked(table, 0, t**2), np.log(density(shares, t)), atol=2e-5)
    np.testing.assert_allclose(looked(table, 1, t**2), weight(shares, t), rtol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 9, 12])
@pytest.mark.parametrize("shares", SHARES)
def test_contamination_is_a_mixture_with_the_contaminant(shares, level):
    t = np.r_[0.0, np.geomspace(1e-3, 1e3, 400)]
    contaminant = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.4])
    mixed = (1 - CONTAMINATIONS[level]) * np.asarray(shares) + CONTAMINATIONS[level] * contaminant
    tables = Tails(shares, contaminant).tables
    np.testing.assert_allclose(looked_at(tables, level, 0, t**2), np.log(density(mixed, t)), atol=5e-5)
    np.testing.assert_allclose(looked_at(tables, level, 1, t**2), weight(mixed, t), rtol=3e-4)
    np.testing.assert_allclose(Tails(shares, contaminant).contaminated(CONTAMINATIONS[level]).shares, mixed, rtol=1e-12)


@pytest.mark.parametrize("shares", SHARES)
def test_share_beyond_three_scales(shares):
    inside = quad(lambda t: density(shares, t), -3, 3, points=[-1, 0, 1])[0]
    assert Tails(shares).beyond == pytest.approx(1 - inside, abs=1e-6)


def test_beyond_the_table_is_its_end():
    table = Tails().table
    assert looked(table, 1, np.array([1e15]))[0] == pytest.approx(looked(table, 1, np.array([1e10]))[0])


@pytest.mark.parametrize("shares", SHARES)
def test_information_is_fishers(shares):
    def mean(f):
        edges = [0, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
        return 2.0 * sum(quad(lambda t: f(t) * density(shares, t), a, b)[0] for a, b in pairwise(edges))

    location = mean(lambda t: (t * weight(shares, t)) ** 2)
    assert Tails(shares).information == pytest.approx(location / mean(lambda t: weight(shares, t)), rel=1e-4)
    scale = mean(lambda t: (t**2 * weight(shares, t) - 1.0) ** 2) / 2.0
    assert Tails(shares).scale_information == pytest.approx(scale, rel=1e-4)


def test_a_normal_loses_nothing():
    tails = Tails.normal()
    assert tails.is_normal
    assert tails.information == tails.scale_information == 1.0
    y = np.array([0.0, 1.0, 30.0])
    np.testing.assert_allclose(looked(tails.table, 1, y), 1.0)
    np.testing.assert_allclose(looked(tails.table, 0, y), norm.logpdf(np.sqrt(y)), atol=1e-5)


def histogram(t, counts=None):
    at = np.minimum(np.log1p(t**2) / LARGEST_LOG, 0.999999) * (BINS - 1)
    k, counts = at.astype(int), np.ones(t.size) if counts is None else counts
    return np.bincount(k, counts * (k + 1 - at), BINS) + np.bincount(k + 1, counts * (at - k), BINS)


def test_shares_of_a_contaminated_normal_are_learned():
    rng = np.random.default_rng(1)
    t = rng.normal(size=40_000) * np.where(rng.random(40_000) < 0.06, 16.0, 1.0)
    learned = Tails()
    for _ in range(5):
        learned = learned.learned(histogram(t), np.zeros(BINS))
    assert learned.shares[0] == pytest.approx(0.94, abs=0.01)
    assert learned.shares[3] == pytest.approx(0.06, abs=0.01)
    assert learned.shares.sum() == pytest.approx(1.0)


def test_what_contaminates_is_learned_from_the_contaminated():
    rng = np.random.default_rng(4)
    t = rng.normal(size=20_000) * np.where(rng.random(20_000) < 0.4, rng.choice([16.0, 64.0], 20_000), 1.0)
    learned = Tails().learned(histogram(rng.normal(size=20_000)), histogram(t))
    assert learned.shares[0] > 0.98
    np.testing.assert_allclose(learned.contaminant, [0, 0, 0, 0.5, 0.5, 0], atol=0.03)
    assert learned.contaminant.sum() == pytest.approx(1.0)


def test_a_students_density_is_nearly_reached():
    rng = np.random.default_rng(2)
    scale = 0.8  # the least multiple is one: heavier tails take a narrower core
    learned = Tails()
    for _ in range(10):
        learned = learned.learned(histogram(rng.standard_t(4, 200_000) / scale), np.zeros(BINS))
    t = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
    found = density(learned.shares, t / scale) / scale
    np.testing.assert_allclose(found, student.pdf(t, 4), rtol=0.15)


def test_few_measurements_keep_the_usual_tails():
    learned = Tails().learned(histogram(np.zeros(3)), histogram(np.zeros(3)))
    np.testing.assert_allclose(learned.shares, USUAL, atol=0.05)
    np.testing.assert_allclose(learned.contaminant, CONTAMINANT, atol=0.05)


def test_histogram_counts_what_is_free():
    star_ptr = np.array([0, 2, 5])
    d2, base = np.array([0.0, 1.0, 2.0, 3.0, 1e12]), np.ones(5, np.float32)
    free, u = np.array([1.0, 0.5, 1.0, 1.0, 0.25], np.float32), np.array([0.0, 1.0])
    node, level = np.array([0, 1, 0, 1, 2]), np.zeros(3, np.int8)
    found = tail_histogram(star_ptr, node, level, base, d2, free, u, 1)
    np.testing.assert_allclose(found[0], histogram(np.sqrt(d2 / np.array([1, 1, 2, 2, 2])), free))
    assert not found[1].any()
    every_other = tail_histogram(star_ptr, node, level, base, d2, free, u, 2)
    assert every_other.sum() == pytest.approx(2 * 1.5)
    level[1] = 3  # what is contaminated says nothing of the usual tails
    apart = tail_histogram(star_ptr, node, level, base, d2, free, u, 1)
    np.testing.assert_allclose(apart[0], histogram(np.sqrt(d2 / np.array([1, 1, 2, 2, 2])), free * [1, 0, 1, 0, 1]))
    np.testing.assert_allclose(apart.sum(0), found[0])
