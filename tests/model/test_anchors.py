"""The offset by reference stars: right where a third of them are wrong, and with errors that hold."""

import numpy as np
import polars as pl
import pytest

from calib.model.anchors import DOF, _student, anchor, match, robust_mean, shown_along


def test_equal_and_right_references_give_their_mean():
    values = np.array([0.1, 0.2, 0.3, 0.2, 0.15, 0.25])
    mean, excess, weight = robust_mean(values, np.full(6, 0.1**2))
    assert mean == pytest.approx(0.2, abs=1e-6)
    assert excess == 0.0
    assert weight.sum() == pytest.approx(1.0)


def test_one_and_two_references():
    mean, excess, weight = robust_mean(np.array([0.7]), np.array([0.01]))
    assert (mean, excess) == (0.7, 0.0)
    np.testing.assert_array_equal(weight, [1.0])
    mean, excess, weight = robust_mean(np.array([0.0, 1.0]), np.array([1.0, 4.0]))
    assert mean == pytest.approx(0.2)  # two cannot say which is wrong: the weighted mean
    assert excess == 0.0
    np.testing.assert_allclose(weight, [0.8, 0.2])


@pytest.mark.parametrize("seed", range(5))
def test_a_third_of_wrong_references_move_it_little(seed):
    rng = np.random.default_rng(seed)
    variance = rng.uniform(0.005, 0.02, 60) ** 2
    values = 2.5 + rng.normal(0, np.sqrt(variance))
    values[:18] += rng.uniform(0.2, 3.0, 18)  # all to one side
    mean, _, weight = robust_mean(values, variance)
    assert mean == pytest.approx(2.5, abs=0.012)
    assert weight[:18].sum() < 0.2
    assert weight.sum() == pytest.approx(1.0)


def test_scatter_is_found():
    rng = np.random.default_rng(6)
    variance = np.full(400, 0.005**2)
    values = rng.standard_t(3, 400) * np.hypot(0.005, 0.02)
    _, excess, _ = robust_mean(values, variance)
    assert np.sqrt(excess) == pytest.approx(0.02, rel=0.15)
    _, none, _ = robust_mean(rng.standard_t(3, 400) * 0.005, variance)
    assert np.sqrt(none) < 0.003


def test_order_and_shift_change_nothing():
    rng = np.random.default_rng(7)
    values, variance = rng.normal(0, 0.03, 30), rng.uniform(0.01, 0.03, 30) ** 2
    mean, excess, weight = robust_mean(values, variance)
    order = rng.permutation(30)
    again = robust_mean(values[order] + 5.0, variance[order])
    assert again[0] == pytest.approx(mean + 5.0, abs=1e-8)
    assert again[1] == pytest.approx(excess, rel=1e-4)
    np.testing.assert_allclose(again[2], weight[order], rtol=1e-4)


def stars(n, bands=("r",)):
    ids = np.repeat(np.arange(n), len(bands))
    return pl.DataFrame({"star_id": ids, "band": pl.Series(list(bands) * n, dtype=pl.Enum(list(bands)))})


@pytest.mark.parametrize(("n", "scatter"), [(6, 0.0), (25, 0.0), (25, 0.03)])
def test_stated_variance_holds(n, scatter):
    rng = np.random.default_rng(n)
    pulls = []
    for _ in range(300):
        err, own = rng.uniform(0.005, 0.02, n), rng.uniform(0.002, 0.01, n)
        mag = rng.normal(18, 1, n)
        truth = mag + 0.4 + rng.normal(0, scatter, n) + rng.normal(0, err)
        reference = pl.DataFrame({"star_id": np.arange(n), "mag": truth, "mag_err": err})
        found = anchor(stars(n), mag + rng.normal(0, own), own**2, np.zeros(n, np.int32), 1, reference)
        pulls.append((found.offset[0] - 0.4) / np.sqrt(found.variance[0]))
    spread = np.std(pulls)
    assert abs(np.mean(pulls)) < 0.2
    # too large a variance where all is normal: the Student-t pays for what did not happen
    assert 0.75 < spread < 1.2
    assert np.mean(np.abs(pulls) < 1.96) > 0.92


def test_each_component_has_its_offset():
    mag = np.full(9, 18.0)
    component = np.array([0, 0, 0, 1, 1, 1, 2, 2, -1], np.int32)
    reference = pl.DataFrame(
        {"star_id": [0, 1, 2, 4, 8], "mag": [18.1, 18.1, 18.1, 20.0, 30.0], "mag_err": [0.01] * 5}
    )
    found = anchor(stars(9), mag, np.full(9, 1e-4), component, 3, reference)
    np.testing.assert_allclose(found.offset, [0.1, 2.0, 0.0], atol=1e-9)
    np.testing.assert_array_equal(found.anchored, [True, True, False])
    np.testing.assert_allclose(np.bincount(component[:8], found.weight[:8]), [1, 1, 0])
    np.testing.assert_array_equal(np.isfinite(found.tension), [1, 1, 1, 0, 1, 0, 0, 0, 0])
    assert found.variance[1] == pytest.approx(2e-4)
    assert found.variance[2] == 0.0


def test_without_references_nothing_is_anchored():
    for reference in (None, pl.DataFrame({"star_id": [], "mag": [], "mag_err": []}, schema_overrides={"star_id": int})):
        found = anchor(stars(3), np.zeros(3), np.ones(3), np.zeros(3, np.int32), 1, reference)
        assert not found.anchored.any()
        assert np.isnan(found.tension).all()


def test_references_are_matched_by_band_where_they_have_one():
    table = stars(2, ("g", "r"))
    named = pl.DataFrame({"star_id": [0, 1], "band": ["g", "r"], "mag": [15.0, 16.0], "mag_err": [0.1, 0.2]})
    mag, err = match(table, named)
    np.testing.assert_array_equal(mag, [15.0, np.nan, np.nan, 16.0])
    np.testing.assert_array_equal(err, [0.1, np.nan, np.nan, 0.2])
    any_band, _ = match(table, named.with_columns(band=pl.lit("")))
    np.testing.assert_array_equal(any_band, [15.0, 15.0, 16.0, 16.0])
    twice, _ = match(table, pl.concat([named, named.with_columns(pl.col("mag") + 1)]))
    np.testing.assert_array_equal(twice, mag)  # the first counts


def test_the_density_is_that_of_student():
    from scipy.stats import t

    x = np.linspace(-30, 30, 61)
    np.testing.assert_allclose(_student(x), t.pdf(x, DOF), rtol=1e-12)


def test_references_lie_along_a_pattern_as_far_as_they_do():
    rng = np.random.default_rng(5)
    n = 400
    component = np.repeat([2, 7], n // 2)
    patterns = rng.normal(0, 0.01, (n, 2)) + 0.03 * component[:, None]  # levels of components are their own
    err = rng.uniform(0.003, 0.01, n)
    noise = 1.3 * err * rng.normal(size=n)
    gap = noise + 4.0 * patterns[:, 0] - np.where(component == 2, 0.1, 0.3)
    gap[rng.random(n) < 0.1] += 0.3
    found = shown_along(gap, gap / err, component, patterns[:, 0])
    assert found == pytest.approx(4.0, abs=0.2)
    for pattern in patterns.T:
        assert not shown_along(noise, noise / err, component, pattern)
        # noise lies along these many times, and says nothing
        assert not shown_along(noise, noise / err, component, 1e-3 * pattern)
    few = slice(0, 5)
    assert not shown_along(gap[few], gap[few] / err[few], component[few], patterns[few, 0])
